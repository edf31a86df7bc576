//! A provided-buffer ring: slots lent to the kernel for one multishot operation.
//!
//! One group serves one file: a ring shared by several receives has been seen to corrupt
//! (liburing #1447). Entry layout: `struct io_uring_buf_ring` in linux/io_uring.h.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{IoUring, types::BufRingEntry};

use super::memory::{Mapping, Slot};

/// Slots of one pool, each either lent to the kernel or out with whoever took it.
#[derive(Debug)]
pub(super) struct BufferGroup {
    entries: Mapping,
    mask: u16,
    tail: u16,
    /// Indexed by `slot index - first`; `Some` while the kernel has it.
    lent: Box<[Option<Slot>]>,
    first: u16,
    lent_count: usize,
}

impl BufferGroup {
    /// Registers an empty group `id` for `count` slots, the first of which has index `first`.
    pub(super) fn register(uring: &IoUring, id: u16, count: u16, first: u16) -> io::Result<Self> {
        let size = count.next_power_of_two();
        let entries = Mapping::new(usize::from(size) * size_of::<BufRingEntry>())?;
        // SAFETY: the entries stay mapped until this group is dropped, and Ring drops its groups
        // only after the kernel has let go of the ring.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                entries.base().as_ptr() as u64,
                size,
                id,
                0,
            )?;
        }
        let lent = (0..count).map(|_| None).collect();
        Ok(Self { entries, mask: size - 1, tail: 0, lent, first, lent_count: 0 })
    }

    /// Lends a slot; the kernel may write to it from the next [`publish`](Self::publish) on.
    pub(super) fn lend(&mut self, slot: Slot) {
        let Some(place) = self.lent.get_mut(usize::from(slot.index().wrapping_sub(self.first)))
        else {
            debug_assert!(false, "slot of another group");
            return;
        };
        let entries = self.entries.base().cast::<BufRingEntry>();
        // SAFETY: tail & mask < the ring's size, so the entry lies in the mapping.
        let mut entry = unsafe { entries.add(usize::from(self.tail & self.mask)) };
        // SAFETY: the entry is mapped, initialised, and not read by the kernel before publish.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(slot.address() as u64);
        entry.set_len(u32::try_from(slot.len()).unwrap_or(0));
        entry.set_bid(slot.index());
        *place = Some(slot);
        self.lent_count += 1;
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes everything lent so far visible to the kernel.
    pub(super) fn publish(&mut self) {
        let base = self.entries.base().cast::<BufRingEntry>();
        // SAFETY: base is the first entry of the ring, page aligned and initialised to zero.
        let tail = unsafe { BufRingEntry::tail(base.as_ptr()) };
        // SAFETY: the tail lies in our live mapping, is 2-byte aligned, and the kernel only
        // reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Takes back the slot that a completion names.
    pub(super) fn take(&mut self, index: u16) -> Option<Slot> {
        let slot = self.lent.get_mut(usize::from(index.wrapping_sub(self.first)))?.take()?;
        self.lent_count -= 1;
        Some(slot)
    }

    /// Slots the kernel has now.
    pub(super) fn lent_count(&self) -> usize {
        self.lent_count
    }
}
