//! worker
pub mod counters;
