//! The system calls of host set-up: tun ioctls, socket options that socket2 does not know, poll,
//! namespaces and process figures.
//!
//! In: borrowed descriptors and plain values. Out: `io::Result` with the kernel's errno. Every
//! function is one call; none keeps a pointer or a descriptor after it returns.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// `TUN_F_*` bits that let the kernel hand over unfinished checksums and TCP super-packets.
pub const TUN_OFFLOAD_TSO: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
/// `TUN_F_*` bits for UDP super-packets (Linux 6.2); the kernel takes both or neither.
pub const TUN_OFFLOAD_USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
/// The tun flag of a device that outlives its descriptors.
pub const TUN_FLAG_PERSIST: u16 = 0x0800;

/// Index of the dropped-packets figure in `SO_MEMINFO`'s array.
const MEMINFO_DROPS: usize = 8;
const MEMINFO_WORDS: usize = 9;

/// Sets which super-packets the kernel may hand over on a tun device (`TUNSETOFFLOAD`).
///
/// The mask belongs to the device, not to the descriptor.
pub fn tun_set_offload(fd: BorrowedFd<'_>, mask: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value; no memory is handed over.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, mask as usize) };
    check(result).map(drop)
}

/// The name and the flags of the device behind a tun descriptor (`TUNGETIFF`).
///
/// `EBADFD` means that the device is gone.
pub fn tun_interface(fd: BorrowedFd<'_>) -> io::Result<(String, u16)> {
    // SAFETY: ifreq is plain old data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // SAFETY: TUNGETIFF writes at most one ifreq, and `request` outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) };
    check(result)?;
    // SAFETY: TUNGETIFF fills ifru_flags; any bit pattern is a valid c_short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let name: Vec<u8> =
        request.ifr_name.iter().map(|c| c.to_ne_bytes()[0]).take_while(|byte| *byte != 0).collect();
    Ok((String::from_utf8_lossy(&name).into_owned(), flags.cast_unsigned()))
}

/// Sets an `int` socket option.
pub fn set_socket_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_u32::<c_int>(),
        )
    };
    check(result).map(drop)
}

/// Reads an `int` socket option.
pub fn socket_option(fd: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of_u32::<c_int>();
    // SAFETY: both pointers are to locals that outlive the call, and `len` is the room in `value`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len)
    };
    check(result).map(|_| value)
}

/// Datagrams that the kernel dropped at this socket because its buffer was full (`SO_MEMINFO`).
pub fn socket_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut words = [0u32; MEMINFO_WORDS];
    let mut len = size_of_u32::<[u32; MEMINFO_WORDS]>();
    // SAFETY: both pointers are to locals that outlive the call, and `len` is the room in `words`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    check(result).map(|_| words[MEMINFO_DROPS])
}

/// Waits until one of `fds` is readable (or in error) and tells which; no timeout means for ever.
///
/// An interrupted wait returns as if nothing was ready.
pub fn poll_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let timeout_ms =
        timeout.map_or(-1, |wait| c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX));
    // SAFETY: the pointer and the count describe `polled`, which outlives the call.
    let result =
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
    match check(result) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(polled.iter().map(|one| one.revents != 0).collect()),
    }
}

/// Moves this process into namespaces of its own (`CLONE_NEW*` flags).
///
/// A new user namespace is only given to a process with one thread.
pub fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: unshare takes flags by value and touches no memory of ours.
    let result = unsafe { libc::unshare(flags) };
    check(result).map(drop)
}

/// CPU time of this process so far, user and system, in microseconds.
pub fn process_cpu_us() -> io::Result<(u64, u64)> {
    // SAFETY: rusage is plain old data for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a local that outlives the call.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    check(result)?;
    let micros = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000
            + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    Ok((micros(usage.ru_utime), micros(usage.ru_stime)))
}

/// The size of a memory page in bytes.
#[must_use]
pub fn page_size() -> u64 {
    // SAFETY: sysconf takes its argument by value.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

const fn size_of_u32<T>() -> libc::socklen_t {
    assert!(size_of::<T>() <= 64);
    #[expect(clippy::cast_possible_truncation, reason = "at most 64, asserted above")]
    {
        size_of::<T>() as libc::socklen_t
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn poll_tells_which_descriptor_is_ready() {
        let (quiet, _keep) = std::io::pipe().unwrap();
        let (ready, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let which = poll_readable(&[quiet.as_fd(), ready.as_fd()], None).unwrap();
        assert_eq!(which, [false, true]);
    }

    #[test]
    fn poll_times_out() {
        let (quiet, _keep) = std::io::pipe().unwrap();
        let which = poll_readable(&[quiet.as_fd()], Some(Duration::from_millis(1))).unwrap();
        assert_eq!(which, [false]);
    }

    #[test]
    fn socket_options_round_trip() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        set_socket_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, 0).unwrap();
        let value = socket_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER).unwrap();
        assert_eq!(value, libc::IP_PMTUDISC_DONT);
        assert_eq!(socket_drops(socket.as_fd()).unwrap(), 0);
    }

    #[test]
    fn a_socket_is_no_tun() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(tun_interface(socket.as_fd()).is_err());
    }
}
