//! End-to-end and structure tests of ringtun: see `e2e/` and `structure.rs`.
