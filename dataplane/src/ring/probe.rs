//! Finds out whether io_uring works here, by using it.
//!
//! Out: [`UringFeatures`], or a [`UringError`] that names the call, its errno and what to do.
//! A version number would lie both ways: distributions back-port features, and seccomp, sysctls and
//! security modules take them away. So each feature is exercised on a pipe or a loopback socket.
//! The memory the kernel may write to is leaked (a few pages, once per process): a request that is
//! still in flight when a probe's ring goes away can then never hit freed memory.

use std::io::{self, Write};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// What the io_uring of this machine can do beyond the floor that ringtun needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringFeatures {
    /// One request reads a descriptor until cancelled (`READ_MULTISHOT`, Linux 6.7).
    pub multishot_read: bool,
    /// One request receives messages until cancelled (`RECVMSG` multishot, Linux 6.0).
    pub multishot_recv: bool,
}

/// Why io_uring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    /// The kernel has no io_uring.
    #[error(
        "this kernel has no io_uring (io_uring_setup: ENOSYS): it is too old, built without it, or \
         a sandbox hides it; Linux 6.1 or later is needed"
    )]
    Missing,
    /// A sysctl forbids io_uring.
    #[error(
        "io_uring is disabled: sysctl kernel.io_uring_disabled is {value} ({}); allow it with \
         `sysctl kernel.io_uring_disabled=0`",
        if *.value == 1 { "privileged users only" } else { "for everybody" }
    )]
    Disabled {
        /// The sysctl's value: 1 or 2.
        value: u8,
    },
    /// Something else forbids io_uring.
    #[error(
        "io_uring_setup is refused ({error}) though no sysctl forbids it: likely a container's \
         seccomp profile or a security module; allow io_uring_setup, io_uring_enter and \
         io_uring_register in the profile"
    )]
    Forbidden {
        /// The kernel's answer.
        error: io::Error,
    },
    /// A set-up flag is unknown.
    #[error(
        "this kernel's io_uring lacks SINGLE_ISSUER or DEFER_TASKRUN (io_uring_setup: EINVAL); \
         Linux 6.1 or later is needed"
    )]
    TooOld,
    /// No memory for the ring.
    #[error(
        "io_uring_setup found no memory (ENOMEM): raise the locked-memory limit (`ulimit -l`) or \
         free memory"
    )]
    NoMemory,
    /// A step after set-up failed.
    #[error("io_uring is there but {step} failed: {error}")]
    Broken {
        /// Which step.
        step: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

const RING_ENTRIES: u32 = 8;
const BUFFERS: u16 = 4;
const BUFFER_LEN: u32 = 512;
const BUFFER_GROUP: u16 = 0;
/// Loopback and pipes answer at once; this only bounds a broken kernel.
const WAIT: Timespec = Timespec::new().nsec(200_000_000);

/// Tries io_uring as the workers use it.
pub fn uring() -> Result<UringFeatures, UringError> {
    let multishot_read = multishot_read()?;
    let multishot_recv = multishot_recv()?;
    Ok(UringFeatures { multishot_read, multishot_recv })
}

/// Builds a ring with the workers' flags and a small provided-buffer ring.
fn new_ring() -> Result<IoUring, UringError> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(RING_ENTRIES)
        .map_err(explain_setup)?;
    register_buffers(&ring)
        .map_err(|error| UringError::Broken { step: "registering a buffer ring", error })?;
    Ok(ring)
}

fn explain_setup(error: io::Error) -> UringError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => UringError::Missing,
        Some(libc::EINVAL) => UringError::TooOld,
        Some(libc::ENOMEM) => UringError::NoMemory,
        Some(libc::EPERM) => match disabled_by_sysctl() {
            Some(value) if value > 0 => UringError::Disabled { value },
            _ => UringError::Forbidden { error },
        },
        Some(libc::EACCES) => UringError::Forbidden { error },
        _ => UringError::Broken { step: "io_uring_setup", error },
    }
}

fn disabled_by_sysctl() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// One page, as the kernel wants a buffer ring aligned.
#[repr(C, align(4096))]
struct RingPage([u8; 4096]);

fn register_buffers(ring: &IoUring) -> io::Result<()> {
    let page: &'static mut RingPage = Box::leak(Box::new(RingPage([0; 4096])));
    let data: &'static mut [u8] =
        Box::leak(vec![0; usize::from(BUFFERS) * BUFFER_LEN as usize].into_boxed_slice());
    let base = page.0.as_mut_ptr().cast::<BufRingEntry>();
    // SAFETY: a page holds 256 entries of 16 bytes, all zero, which is a valid entry; nobody else
    // refers to them before they are registered.
    let entries = unsafe { std::slice::from_raw_parts_mut(base, usize::from(BUFFERS)) };
    for (id, entry) in (0..BUFFERS).zip(entries) {
        entry.set_addr(data.as_mut_ptr().addr() as u64 + u64::from(id) * u64::from(BUFFER_LEN));
        entry.set_len(BUFFER_LEN);
        entry.set_bid(id);
    }
    // SAFETY: the page is leaked, page-aligned and has room for BUFFERS (a power of two) entries.
    unsafe {
        ring.submitter().register_buf_ring_with_flags(base.addr() as u64, BUFFERS, BUFFER_GROUP, 0)
    }?;
    // SAFETY: `base` is the first, initialised entry of the page registered above.
    let tail = unsafe { BufRingEntry::tail(base) };
    // SAFETY: the tail is a live, aligned u16 that the kernel only reads.
    let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
    tail.store(BUFFERS, Ordering::Release);
    Ok(())
}

/// A pipe takes one byte twice; one request must deliver both.
fn multishot_read() -> Result<bool, UringError> {
    let mut ring = new_ring()?;
    let broken = |error| UringError::Broken { step: "reading a pipe", error };
    let (reader, mut writer) = io::pipe().map_err(broken)?;
    let request = opcode::ReadMulti::new(Fd(reader.as_raw_fd()), 0, BUFFER_GROUP).build();
    let result = two_completions(&mut ring, &request, || writer.write_all(b"x")).map_err(broken);
    drop(writer);
    result
}

/// A loopback socket receives two datagrams; one request must deliver both.
fn multishot_recv() -> Result<bool, UringError> {
    let mut ring = new_ring()?;
    let broken = |error| UringError::Broken { step: "receiving on a loopback socket", error };
    let socket = loopback_socket().map_err(broken)?;
    let to = socket.local_addr().map_err(broken)?;
    // Leaked like the buffers: the kernel reads it for as long as the request lives.
    // SAFETY: msghdr is plain old data for which all zeroes is a valid value.
    let message: &'static libc::msghdr = Box::leak(Box::new(unsafe { std::mem::zeroed() }));
    let fd: RawFd = socket.as_raw_fd();
    let request = opcode::RecvMsgMulti::new(Fd(fd), message, BUFFER_GROUP).build();
    two_completions(&mut ring, &request, || socket.send_to(b"x", to).map(drop)).map_err(broken)
}

fn loopback_socket() -> io::Result<UdpSocket> {
    UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0"))
}

/// Whether `request` stays armed over two `feed`s; false when the kernel refuses the request.
fn two_completions(
    ring: &mut IoUring,
    request: &squeue::Entry,
    mut feed: impl FnMut() -> io::Result<()>,
) -> io::Result<bool> {
    // SAFETY: the request's buffers and msghdr are leaked, and its descriptor is held open by the
    // kernel until the request ends, at the latest when the ring is dropped.
    let pushed = unsafe { ring.submission().push(request) };
    pushed.map_err(|_| io::Error::other("the submission queue of a new ring is full"))?;
    for _ in 0..2 {
        feed()?;
        let args = SubmitArgs::new().timespec(&WAIT);
        match ring.submitter().submit_with_args(1, &args) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => return Ok(false),
            Err(error) => return Err(error),
        }
        let Some(completion) = ring.completion().next() else { return Ok(false) };
        if completion.result() < 0 || !cqueue::more(completion.flags()) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_answers_either_way() {
        match uring() {
            Ok(features) => assert!(features.multishot_recv, "6.1 and later have it: {features:?}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn set_up_errors_name_their_cause() {
        let text = |errno| explain_setup(io::Error::from_raw_os_error(errno)).to_string();
        assert!(text(libc::ENOSYS).contains("no io_uring"));
        assert!(text(libc::EINVAL).contains("6.1"));
        assert!(text(libc::EACCES).contains("seccomp"));
        assert!(UringError::Disabled { value: 2 }.to_string().contains("for everybody"));
    }
}
