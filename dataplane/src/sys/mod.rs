//! One function per system call the rest of ringtun needs: the unsafe edge towards the kernel, and
//! towards the one library that may be loaded.
#![allow(unsafe_code)]

mod bpf;
pub mod clock;
pub mod datagram;
pub mod epoll;
pub mod event;
pub mod host;
pub mod inherited;
pub mod ipsec_mb;
pub mod namespace;
pub mod process;
pub mod resolver;
pub mod reuseport;
pub mod steer;
pub mod tun;
pub mod tun_stamps;

use std::io;

/// Turns a libc return value into a result.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
