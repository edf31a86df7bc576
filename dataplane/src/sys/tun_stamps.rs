//! When each packet came into a tun queue, as the kernel notes it.
//!
//! A program attached to the device (`TUNSETFILTEREBPF`, Linux 4.16) sees every packet on its way
//! into a queue (drivers/net/tun.c, `tun_net_xmit`). It lets all of them pass, and writes the time
//! of each (`CLOCK_MONOTONIC`) into a ring of [`STAMPS`] for its queue, in memory that is shared
//! with us. Packets that the full queue drops afterwards have been noted as well. Needs Linux 5.12
//! (an atomic addition that returns), and CAP_BPF or CAP_SYS_ADMIN over the machine, unless
//! `kernel.unprivileged_bpf_disabled` is 0.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::bpf::{self, Instruction, op};

/// Times kept for each queue, a power of two: as many packets as a queue holds by default (1,000;
/// tun's own default is 500, linux/if_tun.h `TUN_READQ_SIZE`).
pub const STAMPS: u16 = 1024;
/// Where they begin, a cache line behind the number of packets noted.
const FIRST: u8 = 64;
/// Bytes for each queue.
const QUEUE_LEN: usize = FIRST as usize + STAMPS as usize * mem::size_of::<u64>();
/// `_IOR('T', 225, int)`, linux/if_tun.h; libc has none.
const TUNSETFILTEREBPF: libc::Ioctl = 0x8004_54e1_u32 as libc::Ioctl;

/// Registers: 6 the packet, 7 its queue's part of the map, 8 the packet's number.
fn program(map: i32) -> Vec<Instruction> {
    const LOOKUP: i32 = 1;
    const KTIME: i32 = 5;
    // `struct __sk_buff`: len, pkt_type, mark, queue_mapping.
    const QUEUE_MAPPING: i16 = 12;
    vec![
        op(0xbf, 6, 1, 0, 0),
        // The key, on the stack.
        op(0x61, 0, 6, QUEUE_MAPPING, 0),
        op(0x63, 10, 0, -4, 0),
        op(0xbf, 2, 10, 0, 0),
        op(0x07, 2, 0, 0, -4),
        // R1 = the map, in two halves; 1 says that it is a descriptor's number.
        op(0x18, 1, 1, 0, map),
        op(0, 0, 0, 0, 0),
        op(0x85, 0, 0, 0, LOOKUP),
        // A queue that came after us: the end.
        op(0x15, 0, 0, 8, 0),
        op(0xbf, 7, 0, 0, 0),
        // R8 = the count before, which is one more now.
        op(0xb7, 8, 0, 0, 1),
        op(0xdb, 7, 8, 0, 1),
        op(0x57, 8, 0, 0, i32::from(STAMPS) - 1),
        op(0x67, 8, 0, 0, 3),
        op(0x0f, 7, 8, 0, 0),
        op(0x85, 0, 0, 0, KTIME),
        op(0x7b, 7, 0, FIRST.into(), 0),
        // The whole packet passes.
        op(0x61, 0, 6, 0, 0),
        op(0x95, 0, 0, 0, 0),
    ]
}

/// The times of all queues of a device, noted as long as this lives.
#[derive(Debug)]
pub struct TunStamps {
    device: Arc<OwnedFd>,
    base: NonNull<u8>,
    len: usize,
    queues: u16,
}

// SAFETY: what is mapped is only read, by atomic loads; the kernel writes it.
unsafe impl Send for TunStamps {}
// SAFETY: as above.
unsafe impl Sync for TunStamps {}

impl TunStamps {
    /// From now on the device that `device` is a queue of notes when packets come to the first
    /// `queues` of its queues.
    ///
    /// # Errors
    /// EPERM without the right to load programs; EINVAL or EACCES from a kernel without what they
    /// take.
    pub fn attach(device: Arc<OwnedFd>, queues: u16) -> io::Result<Self> {
        let map = bpf::array(QUEUE_LEN, queues)?;
        let len = QUEUE_LEN * usize::from(queues);
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        let none = std::ptr::null_mut();
        // SAFETY: a new mapping, of a descriptor of ours, has no preconditions.
        let base = unsafe { libc::mmap(none, len, protection, flags, map.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // Unmapped again when what follows fails.
        let stamps = Self { device, base, len, queues };
        let program = bpf::load(&program(map.as_raw_fd()))?;
        bpf::attach(stamps.device.as_fd(), TUNSETFILTEREBPF, Some(&program))?;
        Ok(stamps)
    }

    /// How many packets have been noted on their way into `queue`; 0 if there is no such queue.
    #[must_use]
    pub fn noted(&self, queue: u16) -> u64 {
        self.word(queue, 0)
    }

    /// When the packet with this number, from 0, came to `queue`: nanoseconds of
    /// [`monotonic_ns`](super::clock::monotonic_ns). Of a later one if [`STAMPS`] have come since,
    /// and 0 if it has not come.
    #[must_use]
    pub fn came_ns(&self, queue: u16, number: u64) -> u64 {
        let slot = usize::try_from(number % u64::from(STAMPS)).unwrap_or(0);
        self.word(queue, usize::from(FIRST) + slot * mem::size_of::<u64>())
    }

    /// The word at `offset` within the part of `queue`.
    fn word(&self, queue: u16, offset: usize) -> u64 {
        if queue >= self.queues || offset >= QUEUE_LEN {
            return 0;
        }
        let at = usize::from(queue) * QUEUE_LEN + offset;
        // SAFETY: `at` is a multiple of 8 below the length of the mapping.
        let word = unsafe { self.base.add(at) }.cast::<AtomicU64>();
        // SAFETY: the mapping is readable, lives as long as `self`, and everybody else's accesses
        // are single words too; a relaxed load of a word is a plain one, which is all that memory
        // not writable for us allows.
        let word = unsafe { word.as_ref() }.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        word
    }
}

impl Drop for TunStamps {
    fn drop(&mut self) {
        // A device that others keep has no more use for it. One that is gone has no program either.
        let _ = bpf::attach(self.device.as_fd(), TUNSETFILTEREBPF, None);
        // SAFETY: base and len are those of our own mmap, and references into it end with `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
