//! Calls on a tun queue's descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads one frame, virtio header included, into `frame`; returns its length.
///
/// # Errors
/// `WouldBlock` when the queue is empty; EBADFD when the device is gone.
pub fn read(queue: BorrowedFd<'_>, frame: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its whole length.
    let len = unsafe { libc::read(queue.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}
