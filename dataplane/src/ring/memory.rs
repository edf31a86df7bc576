//! Packet memory: one mapping per pool, cut into slots that are owned like boxes.
//!
//! A [`Slot`] keeps its mapping alive, so no buffer can be unmapped while anything, the kernel
//! included, still holds a slot of it. Slots are made once, at start, and then only move: into a
//! buffer group (lent to the kernel), into a send or write in flight, and back.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// An anonymous mapping, unmapped when the last slot of it is gone.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory; who may touch which part is decided by Slot ownership.
unsafe impl Send for Mapping {}
// SAFETY: as above; Mapping itself hands out no references.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a fresh private anonymous mapping has no preconditions.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Huge pages spare TLB misses on 64 KiB copies; refusal costs nothing.
        // SAFETY: the range is the mapping just made; the advice changes no content.
        unsafe { libc::madvise(base, len, libc::MADV_HUGEPAGE) };
        // A child of this process (a hook, a demo) has no business with packet memory.
        // SAFETY: as above.
        unsafe { libc::madvise(base, len, libc::MADV_DONTFORK) };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of our own mmap, and no Slot is left to reach it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// One buffer of a pool, owned: readable and writable like a boxed slice, never freed alone.
#[derive(Debug)]
pub struct Slot {
    bytes: NonNull<u8>,
    len: usize,
    index: u16,
    _mapping: Arc<Mapping>,
}

// SAFETY: a Slot is the unique owner of its bytes.
unsafe impl Send for Slot {}

impl Slot {
    /// The slot's place in its pool.
    #[inline]
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    #[inline]
    pub(super) fn address(&self) -> *mut u8 {
        self.bytes.as_ptr()
    }
}

impl Deref for Slot {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies in the mapping this slot keeps alive, is initialised (anonymous
        // memory is zero), and belongs to this slot alone.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for Slot {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and &mut self makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
    }
}

/// The addresses of a pool's slots, to point the kernel at bytes of slots held elsewhere.
#[derive(Clone, Debug)]
pub struct Pool {
    mapping: Arc<Mapping>,
    slot_len: usize,
    count: usize,
}

impl Pool {
    /// Maps `count` slots of `slot_len` bytes each and hands them out.
    ///
    /// # Errors
    /// The kernel's, when it has no memory for the mapping.
    pub fn new(count: u16, slot_len: usize) -> io::Result<(Self, Vec<Slot>)> {
        let mapping = Arc::new(Mapping::new(usize::from(count) * slot_len)?);
        let slots = (0..count)
            .map(|index| {
                // SAFETY: index < count, so the offset stays inside the mapping.
                let bytes = unsafe { mapping.base().add(usize::from(index) * slot_len) };
                Slot { bytes, len: slot_len, index, _mapping: Arc::clone(&mapping) }
            })
            .collect();
        Ok((Self { mapping, slot_len, count: usize::from(count) }, slots))
    }

    /// Where `len` bytes at `offset` of slot `index` lie; `None` outside the pool.
    #[inline]
    pub(super) fn address(&self, index: u16, offset: u32, len: u32) -> Option<*mut u8> {
        let (index, offset, len) = (usize::from(index), offset as usize, len as usize);
        if index >= self.count || offset.checked_add(len)? > self.slot_len {
            return None;
        }
        // SAFETY: the checks above keep the offset inside the mapping.
        Some(unsafe { self.mapping.base().as_ptr().add(index * self.slot_len + offset) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_outlive_their_pool() {
        let (pool, mut slots) = Pool::new(4, 4096).unwrap();
        drop(pool);
        for slot in &mut slots {
            let fill = u8::try_from(slot.index()).unwrap() + 1;
            slot.fill(fill);
        }
        for slot in &slots {
            assert!(slot.iter().all(|&b| u16::from(b) == slot.index() + 1));
        }
    }

    #[test]
    fn addresses_outside_a_slot_are_refused() {
        let (pool, slots) = Pool::new(2, 100).unwrap();
        assert_eq!(pool.address(1, 90, 10), Some(slots[1].address().wrapping_add(90)));
        assert_eq!(pool.address(1, 91, 10), None);
        assert_eq!(pool.address(2, 0, 1), None);
        assert_eq!(pool.address(0, u32::MAX, 2), None);
    }
}
