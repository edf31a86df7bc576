//! End-to-end and structure tests of ringtun; the tests themselves are in `e2e/` and `structure.rs`.
