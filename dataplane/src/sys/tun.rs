//! Calls on a tun queue's descriptor.

use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::check;

/// The flags of a device of IP packets, without the four bytes of `struct tun_pi` before each.
pub const FLAG_TUN: u16 = 0x0001;
/// See [`FLAG_TUN`].
pub const FLAG_NO_PI: u16 = 0x1000;
/// A virtio header stands before each packet.
pub const FLAG_VNET_HDR: u16 = 0x4000;

/// Creates the device `name`, or attaches to it, with `FLAG_*` bits (`TUNSETIFF`).
///
/// # Errors
/// EBUSY or EINVAL if the name is taken, EPERM without CAP_NET_ADMIN.
pub fn open(name: &str, flags: u16) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain old data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = flags.cast_signed();
    // SAFETY: TUNSETIFF reads and writes one ifreq, and `request` outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(file.into())
}

/// Sets how many bytes stand before each packet (`TUNSETVNETHDRSZ`); for the whole device.
///
/// # Errors
/// The kernel's.
pub fn set_header_len(queue: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    let len = libc::c_int::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: TUNSETVNETHDRSZ reads one int, and `len` outlives the call.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const len) })
        .map(drop)
}

/// Lets calls on `file` return at once; holds for everybody who has this open file.
///
/// # Errors
/// The kernel's.
pub fn set_nonblocking(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fcntl takes its arguments by value.
    let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })
        .map(drop)
}

/// Whether the queue holds a packet, or will not do so any more.
#[must_use]
pub fn is_readable(queue: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: queue.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: poll reads and writes one pollfd of ours, and does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) != 0 }
}

/// Reads one frame, virtio header included, into `frame`; returns its length.
///
/// # Errors
/// `WouldBlock` when the queue is empty; EBADFD when the device is gone.
pub fn read(queue: BorrowedFd<'_>, frame: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its whole length.
    let len = unsafe { libc::read(queue.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}
