//! Tun writes in flight: a header of our own and a gather list into receive slots.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::memory::Pool;

/// Tun writes in flight at most.
pub const WRITES_MAX: u16 = 256;
/// Bytes of header one write can carry: virtio header, IP and TCP header with all options.
pub const HEAD_MAX: usize = 10 + 40 + 60 + 18;
/// Gathered stretches in one write.
pub const PIECES_MAX: usize = 64;

/// In this order what a lone packet needs lies in as few cache lines as it can.
#[repr(C)]
struct Gather {
    packets: u32,
    bytes: u32,
    vector_count: u32,
    /// Bytes of the first slot in front of the first stretch.
    room: u32,
    slot_count: usize,
    head: [u8; HEAD_MAX],
    vectors: [libc::iovec; PIECES_MAX + 1],
    /// The distinct receive slots the vectors point into, in order.
    slots: [u16; PIECES_MAX],
}

/// The pool of writes. All its memory is made at start and does not move.
pub struct WritePool {
    gathers: Box<[Gather]>,
    free: Vec<u16>,
    received: Pool,
}

// SAFETY: the raw pointers inside point into the pool's own box and the mapping `received` keeps.
unsafe impl Send for WritePool {}

impl WritePool {
    /// An idle pool of writes that gather from slots of `received`.
    #[must_use]
    pub fn new(received: Pool) -> Self {
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let gathers = (0..WRITES_MAX)
            .map(|_| Gather {
                head: [0; HEAD_MAX],
                vectors: [vector; PIECES_MAX + 1],
                vector_count: 0,
                room: 0,
                slots: [0; PIECES_MAX],
                slot_count: 0,
                packets: 0,
                bytes: 0,
            })
            .collect();
        Self { gathers, free: (0..WRITES_MAX).collect(), received }
    }

    /// Whether a write can be prepared now.
    #[inline]
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Prepares a write of `head` followed by `pieces` (slot, offset, length), which carries
    /// `packets` wire packets of `bytes` bytes; `None` when every write is in flight or a piece
    /// lies outside its slot.
    pub fn prepare(
        &mut self,
        head: &[u8],
        pieces: impl ExactSizeIterator<Item = (u16, u32, u32)>,
        packets: u32,
        bytes: u32,
    ) -> Option<u16> {
        if head.len() > HEAD_MAX || pieces.len() > PIECES_MAX {
            return None;
        }
        let &index = self.free.last()?;
        let gather = &mut self.gathers[usize::from(index)];
        gather.head[..head.len()].copy_from_slice(head);
        gather.vectors[0] =
            libc::iovec { iov_base: gather.head.as_mut_ptr().cast(), iov_len: head.len() };
        gather.slot_count = 0;
        let mut count = 1;
        for (slot, offset, len) in pieces {
            let address = self.received.address(slot, offset, len)?;
            gather.vectors[count] = libc::iovec { iov_base: address.cast(), iov_len: len as usize };
            if count == 1 {
                gather.room = offset;
            }
            count += 1;
            if gather.slots[..gather.slot_count].last() != Some(&slot) {
                gather.slots[gather.slot_count] = slot;
                gather.slot_count += 1;
            }
        }
        gather.vector_count = u32::try_from(count).ok()?;
        (gather.packets, gather.bytes) = (packets, bytes);
        self.free.pop();
        Some(index)
    }

    /// The receive slots a prepared write points into.
    #[inline]
    #[must_use]
    pub fn slots(&self, index: u16) -> &[u16] {
        let gather = &self.gathers[usize::from(index)];
        &gather.slots[..gather.slot_count]
    }

    /// Wire packets and bytes a prepared write carries.
    #[inline]
    #[must_use]
    pub fn carries(&self, index: u16) -> (u32, u32) {
        let gather = &self.gathers[usize::from(index)];
        (gather.packets, gather.bytes)
    }

    #[inline]
    pub(super) fn vectors(&self, index: u16) -> (*const libc::iovec, u32) {
        let gather = &self.gathers[usize::from(index)];
        (gather.vectors.as_ptr(), gather.vector_count)
    }

    /// Never frees what a write in flight points at: for a kernel that does not let go.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.gathers));
        std::mem::forget(self.received.clone());
    }

    /// Gives a write back once the kernel is done with it.
    pub fn finish(&mut self, index: u16) {
        debug_assert!(!self.free.contains(&index), "write {index} finished twice");
        self.free.push(index);
    }

    /// Writes a prepared write now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write_now(&self, index: u16, queue: BorrowedFd<'_>) -> io::Result<usize> {
        let (vectors, count) = self.vectors(index);
        // SAFETY: the vectors point into our own head and into slots of a mapping that
        // `received` keeps alive; all were filled by `prepare`.
        let written =
            unsafe { libc::writev(queue.as_raw_fd(), vectors, i32::try_from(count).unwrap_or(0)) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// Writes a prepared write now, when no other one, and nobody else, wants anything of the slots
    /// that it points into: what lies in front of a single stretch gives way to the head, and the
    /// kernel has one piece of memory to look at.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write_last(&mut self, index: u16, queue: BorrowedFd<'_>) -> io::Result<usize> {
        let gather = &self.gathers[usize::from(index)];
        let [head, stretch, ..] = gather.vectors;
        if gather.vector_count != 2 || (gather.room as usize) < head.iov_len {
            return self.write_now(index, queue);
        }
        let first = stretch.iov_base.cast::<u8>().wrapping_sub(head.iov_len);
        // SAFETY: the stretch begins `room` bytes behind the start of its slot, so these
        // `iov_len <= room` bytes lie in the slot as well, of which nobody wants anything.
        unsafe { std::ptr::copy_nonoverlapping(gather.head.as_ptr(), first, head.iov_len) };
        let len = head.iov_len + stretch.iov_len;
        // SAFETY: head and stretch, side by side in a slot of a mapping that `received` keeps.
        let written = unsafe { libc::write(queue.as_raw_fd(), first.cast(), len) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}
