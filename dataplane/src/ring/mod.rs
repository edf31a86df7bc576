//! The io_uring owner and the memory that in-flight operations use.
//!
//! In the order in which a packet meets them:
//!
//! - [`memory`]: mappings cut into owned slots;
//! - [`group`]: slots lent to the kernel for multishot reads and receives;
//! - [`receive`], [`receive_batch`]: what a receive slot holds, by io_uring and by `recvmmsg`;
//! - [`sends`], [`writes`]: what is on its way out;
//! - [`probe`]: what this kernel's io_uring can do, found by doing it;
//! - [`uring`]: the ring that owns all of it.
#![allow(unsafe_code)]

mod address;
mod group;
pub mod memory;
pub mod probe;
pub mod receive;
pub mod receive_batch;
pub mod sends;
pub mod uring;
pub mod writes;
