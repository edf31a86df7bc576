//! eventfd(2): how other threads wake a worker.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// A non-blocking, close-on-exec eventfd with the count 0.
///
/// # Errors
/// The kernel's: no descriptors left.
pub fn create() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: fd is a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Wakes whoever waits for `event`.
pub fn signal(event: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // A full counter (EAGAIN) means the wake-up is already pending.
    // SAFETY: the buffer is 8 readable bytes.
    unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Takes back all signals so far.
pub fn clear(event: &OwnedFd) {
    let mut count = [0u8; 8];
    // SAFETY: the buffer is 8 writable bytes.
    unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}
