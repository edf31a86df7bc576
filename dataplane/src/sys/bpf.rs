//! Programs for the kernel, put together by hand (bpf(2), Documentation/bpf/standardization).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// `BPF_MAP_CREATE`, see bpf(2).
const MAP_CREATE: libc::c_int = 0;
/// `BPF_PROG_LOAD`.
const PROG_LOAD: libc::c_int = 5;
const SOCKET_FILTER: u32 = 1;
const ARRAY: u32 = 2;
/// `BPF_F_MMAPABLE`, Linux 5.5.
const MMAPABLE: u32 = 1 << 10;

/// One instruction, as linux/bpf.h lays it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    pub(super) code: u8,
    /// Destination in the lower half, source in the upper one.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

pub(super) const fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

/// The front of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The front of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// `bpf(command, attributes)`, which makes a descriptor.
///
/// # Safety
/// `T` is the front of `union bpf_attr` for `command`, and what it points at is valid.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let (at, len) = (&raw const *attributes, mem::size_of::<T>());
    // SAFETY: the kernel reads `len` bytes at `at`, and what they point at, which the caller
    // answers for.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, at, len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = libc::c_int::try_from(result).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Loads a program that runs on packets.
///
/// # Errors
/// EPERM without CAP_BPF or CAP_SYS_ADMIN over the machine; EINVAL or EACCES if the kernel does
/// not take it.
pub(super) fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = ProgLoad {
        prog_type: SOCKET_FILTER,
        insn_cnt: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        insns: instructions.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the attributes are those of this command, and point at the instructions and a static
    // string, which outlive the call.
    unsafe { bpf(PROG_LOAD, &attributes) }
}

/// An array of `entries` values of `len` bytes each, a multiple of 8, that can be mapped.
///
/// # Errors
/// As [`load`]; ENOMEM.
pub(super) fn array(len: usize, entries: u16) -> io::Result<OwnedFd> {
    let attributes = MapCreate {
        map_type: ARRAY,
        key_size: 4,
        value_size: u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?,
        max_entries: entries.into(),
        map_flags: MMAPABLE,
    };
    // SAFETY: the attributes are those of this command, and point at nothing.
    unsafe { bpf(MAP_CREATE, &attributes) }
}

/// Gives the device of `queue` a program, or takes its own away, by one of tun's ioctls that take
/// an int.
///
/// # Errors
/// The kernel's.
pub(super) fn attach(
    queue: BorrowedFd<'_>,
    request: libc::Ioctl,
    program: Option<&OwnedFd>,
) -> io::Result<()> {
    // drivers/net/tun.c, `tun_set_ebpf`: -1 is none.
    let number = program.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: the request reads one int, and `number` outlives the call. The device takes a
    // reference of its own to the program.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), request, &raw const number) }).map(drop)
}
