//! epoll(7) for the mmsg backend.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// Events one wait can return: more files than a worker has.
pub const EVENTS_MAX: usize = 8;
const EVENTS_MAX_INT: libc::c_int = 8;
const _: () = assert!(EVENTS_MAX_INT as usize == EVENTS_MAX);

/// A set of watched files, each with a token of the caller's.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    events: [libc::epoll_event; EVENTS_MAX],
}

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// The kernel's: no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: fd is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX] })
    }

    /// Watches `file` (level-triggered) for reading, and for writing if `writable`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(&self, file: BorrowedFd<'_>, token: u16, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, file, token, true, writable)
    }

    /// Changes what `file` is watched for.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change(
        &self,
        file: BorrowedFd<'_>,
        token: u16,
        readable: bool,
        writable: bool,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, file, token, readable, writable)
    }

    fn control(
        &self,
        operation: i32,
        file: BorrowedFd<'_>,
        token: u16,
        readable: bool,
        writable: bool,
    ) -> io::Result<()> {
        let read = if readable { libc::EPOLLIN } else { 0 };
        let write = if writable { libc::EPOLLOUT } else { 0 };
        let mut event =
            libc::epoll_event { events: (read | write).cast_unsigned(), u64: token.into() };
        // SAFETY: the event is a valid epoll_event for the duration of the call.
        let result = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), operation, file.as_raw_fd(), &raw mut event)
        };
        check(result).map(drop)
    }

    /// Waits for events, for `timeout_ms` or forever; returns the tokens with their event bits.
    ///
    /// # Errors
    /// The kernel's; an interrupted wait is no events.
    pub fn wait(
        &mut self,
        timeout_ms: Option<u32>,
    ) -> io::Result<impl Iterator<Item = (u16, u32)> + '_> {
        let timeout_ms = timeout_ms.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
        // SAFETY: the buffer holds EVENTS_MAX events.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS_MAX_INT,
                timeout_ms,
            )
        };
        let count = match check(count) {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(self.events[..count].iter().map(|event| {
            let (token, events) = (event.u64, event.events);
            (u16::try_from(token).unwrap_or(u16::MAX), events)
        }))
    }
}
