//! Namespaces, mounts and child processes: the system calls the lab is made of.
//!
//! Every function is one call (or one ioctl) with its errno handed back unchanged; what an errno
//! means and what to do about it is said in `lab`. Nothing here keeps state.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Which namespaces [`unshare`] makes new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// A user namespace; only a single-threaded process may ask for one.
    pub user: bool,
    /// A network namespace.
    pub network: bool,
    /// A mount namespace.
    pub mount: bool,
}

/// Moves the calling thread into new namespaces.
///
/// # Errors
/// EPERM, ENOSPC or EUSERS where they are forbidden; EINVAL for a user namespace with threads.
pub fn unshare(new: Namespaces) -> io::Result<()> {
    let flag = |on: bool, flag: libc::c_int| if on { flag } else { 0 };
    let flags = flag(new.user, libc::CLONE_NEWUSER)
        | flag(new.network, libc::CLONE_NEWNET)
        | flag(new.mount, libc::CLONE_NEWNS);
    // SAFETY: takes no pointers; file descriptors and memory stay shared as before.
    check(unsafe { libc::unshare(flags) })
}

/// Moves the calling thread into the network namespace that `namespace` refers to.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN over it, EINVAL if it is no network namespace.
pub fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers, and the descriptor is borrowed for the length of the call.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Cuts this mount namespace off from the one it was copied from, in both directions.
///
/// # Errors
/// The errno of mount(2).
pub fn make_mounts_private() -> io::Result<()> {
    mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, None)
}

/// Mounts an empty tmpfs of at most `size_mib` MiB on `target`.
///
/// # Errors
/// The errno of mount(2).
pub fn mount_tmpfs(target: &Path, size_mib: u32) -> io::Result<()> {
    let options = format!("size={size_mib}m,mode=0755");
    mount(
        Some(Path::new("tmpfs")),
        target,
        Some("tmpfs"),
        libc::MS_NOSUID | libc::MS_NODEV,
        Some(&options),
    )
}

/// Makes `source` visible at `target`, which must exist.
///
/// # Errors
/// The errno of mount(2).
pub fn bind_mount(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None, libc::MS_BIND, None)
}

/// Detaches what is mounted on `target`.
///
/// # Errors
/// The errno of umount2(2).
pub fn unmount(target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: `target` is a NUL-terminated string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })
}

fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: libc::c_ulong,
    options: Option<&str>,
) -> io::Result<()> {
    let source = source.map(|path| CString::new(path.as_os_str().as_bytes())).transpose()?;
    let target = CString::new(target.as_os_str().as_bytes())?;
    let kind = kind.map(CString::new).transpose()?;
    let options = options.map(CString::new).transpose()?;
    let pointer = |s: &Option<CString>| s.as_ref().map_or(std::ptr::null(), |s| s.as_ptr());
    // SAFETY: each pointer is null or a NUL-terminated string that outlives the call; null is
    // allowed for the source, the type and the options of the calls made above.
    check(unsafe {
        libc::mount(
            pointer(&source),
            target.as_ptr(),
            pointer(&kind),
            flags,
            pointer(&options).cast(),
        )
    })
}

/// The effective user and group.
#[must_use]
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    // SAFETY: as above.
    let group = unsafe { libc::getegid() };
    (user, group)
}

/// Sends `signal` to the process `pid`.
///
/// The caller must know that `pid` is its own child and not yet reaped, so that the number cannot
/// have passed to another process.
///
/// # Errors
/// ESRCH if there is no such process.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    if pid <= 0 {
        // Zero and below address whole process groups.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes no pointers.
    check(unsafe { libc::kill(pid, signal) })
}

/// Sends `signal` to every process of the group that the child `leader` leads.
///
/// As with [`signal`], `leader` must not have been reaped: a zombie still holds the number.
///
/// # Errors
/// ESRCH if there is no such group.
pub fn signal_group(leader: u32, signal: i32) -> io::Result<()> {
    let group = libc::pid_t::try_from(leader).map_err(|_| io::ErrorKind::InvalidInput)?;
    if group <= 1 {
        // -1 would address every process there is.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes no pointers.
    check(unsafe { libc::kill(-group, signal) })
}

/// Whether the child `pid` has ended; leaves it to be reaped.
///
/// # Errors
/// ECHILD if it is no child of ours or was reaped before.
pub fn has_ended(pid: u32) -> io::Result<bool> {
    // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is writable for the length of the call.
    check(unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, options) })?;
    // SAFETY: waitid filled the fields of a child's end, or left the zeroes.
    Ok(unsafe { info.si_pid() } != 0)
}

/// Makes the child that `command` starts die (SIGKILL) with the *thread* that starts it.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let hook = move || {
        // SAFETY: prctl with integer arguments; async-signal-safe.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // SAFETY: takes nothing; async-signal-safe.
        let parent_now = unsafe { libc::getppid() };
        // The parent may have died before the line above: then nobody would send the signal.
        if u32::try_from(parent_now) == Ok(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec the hook only makes two async-signal-safe calls and builds
    // errors from numbers, which does not allocate.
    unsafe { command.pre_exec(hook) };
}

/// Moves the clock tick at which a sleeping thread wakes to 1 µs after its due time, instead of
/// the default 50 µs: what measures round trips must not add its own slack.
///
/// # Errors
/// The errno of prctl(2).
pub fn sleep_precisely() -> io::Result<()> {
    let slack_ns: libc::c_ulong = 1_000;
    // SAFETY: prctl with integer arguments.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns) })
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

const ETHTOOL_SGRO: u32 = 0x2c;
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// Offloads that ethtool has a question of its own for.
const OFFLOAD_QUESTIONS: [(&str, u32); 6] = [
    ("rx-checksum", 0x14),
    ("tx-checksum", 0x16),
    ("scatter-gather", 0x18),
    ("tso", 0x1e),
    ("gso", 0x23),
    ("gro", 0x2b),
];

/// Switches generic receive offload of `interface` in the network namespace of `socket`.
///
/// # Errors
/// EINVAL for a name that is too long, ENODEV, EPERM, EOPNOTSUPP.
pub fn set_receive_offload(
    socket: BorrowedFd<'_>,
    interface: &str,
    enabled: bool,
) -> io::Result<()> {
    ethtool(socket, interface, ETHTOOL_SGRO, u32::from(enabled)).map(|_| ())
}

/// Which offloads of `interface` in the network namespace of `socket` are on; those that it does
/// not know are left out.
///
/// # Errors
/// EINVAL for a name that is too long, ENODEV.
pub fn offloads(socket: BorrowedFd<'_>, interface: &str) -> io::Result<Vec<(&'static str, bool)>> {
    let mut found = Vec::new();
    for (name, question) in OFFLOAD_QUESTIONS {
        match ethtool(socket, interface, question, 0) {
            Ok(answer) => found.push((name, answer != 0)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// One question or order; returns the value that the kernel left.
fn ethtool(socket: BorrowedFd<'_>, interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = EthtoolValue { command, data };
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: `request` and the value it points to live through the call, and the kernel reads
    // and writes only `value` for the commands of this file.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) })?;
    Ok(value.data)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
