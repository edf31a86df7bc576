//! Descriptors that whoever started this process handed over by number.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::check;

/// A descriptor of our own for the open file behind `number`; neither is passed on to children.
///
/// The number itself stays open: somebody in this process may own it.
///
/// # Errors
/// EBADF if nothing is open there.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes its arguments by value and answers EBADF for a number that is not open.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the number is not -1 and was open just now; it is borrowed for this call only.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned()
}

/// Lets children that are started from now on inherit `fd`, under its number.
///
/// # Errors
/// The kernel's.
pub fn share(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fcntl takes its arguments by value.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_duplicate_outlives_the_number() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut duplicate = io::PipeWriter::from(duplicate(writer.as_raw_fd()).unwrap());
        drop(writer);
        duplicate.write_all(b"x").unwrap();
        drop(duplicate);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn what_is_not_open_is_refused() {
        for number in [-1, i32::MAX] {
            assert_eq!(duplicate(number).unwrap_err().raw_os_error(), Some(libc::EBADF));
        }
    }
}
