//! What the end-to-end tests share: a lab to run in, and tunnels between its hosts. The tests
//! themselves are in `e2e/` and `alloc.rs`; `structure.rs` tests the source tree.
#![allow(clippy::unwrap_used)]

pub mod device;
pub mod place;
pub mod suite;
pub mod tap;
pub mod tunnel;
