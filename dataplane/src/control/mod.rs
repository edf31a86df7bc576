//! control
pub mod status;
