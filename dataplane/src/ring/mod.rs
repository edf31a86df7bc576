//! The io_uring owner and the memory that in-flight operations use.
#![allow(unsafe_code)]

pub mod probe;
