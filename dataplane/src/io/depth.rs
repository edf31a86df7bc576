//! How many slots to lend to one multishot operation.
//!
//! A provided-buffer ring is used in turn, so every lent slot is touched before the first one is
//! touched again: 128 slots of super-packets would be 8 MiB of memory written once and never
//! found in the cache. Small packets need that depth, large ones need it small. So the bytes in
//! play are bounded, not the slots: what is not lent waits on a stack, the warmest on top.

use super::Slot;

/// Bytes in play at which a file's slots are enough: they stay in a core's second-level cache
/// together with the send slots that are filled from them.
const BYTES_IN_PLAY: usize = 128 * 1024;
/// Slots lent at least, whatever the size.
const SLOTS_MIN: usize = 2;
/// Weight of the past in the average length: 7 of 8 parts.
const PAST_SHIFT: u32 = 3;

/// The slots of one file that are not lent, and how large what it delivers has been lately.
#[derive(Debug)]
pub(super) struct Depth {
    spare: Vec<Slot>,
    average_len: usize,
}

impl Depth {
    /// For a file with `slots` slots, all of them lent for a start.
    pub(super) fn new(slots: usize) -> Self {
        Self { spare: Vec::with_capacity(slots), average_len: 0 }
    }

    /// Notes the length of something delivered.
    #[inline]
    pub(super) fn delivered(&mut self, len: usize) {
        self.average_len =
            self.average_len - (self.average_len >> PAST_SHIFT) + (len >> PAST_SHIFT);
    }

    /// Slots that should be lent now.
    #[inline]
    pub(super) fn wanted(&self) -> usize {
        (BYTES_IN_PLAY / self.average_len.max(1)).max(SLOTS_MIN)
    }

    /// Keeps a slot that came back.
    #[inline]
    pub(super) fn keep(&mut self, slot: Slot) {
        self.spare.push(slot);
    }

    /// A slot to lend when `lent` are lent already.
    #[inline]
    pub(super) fn next(&mut self, lent: usize) -> Option<Slot> {
        if lent < self.wanted() { self.spare.pop() } else { None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ring::memory::Pool;

    #[test]
    fn small_packets_get_all_slots_and_large_ones_few() {
        let mut depth = Depth::new(4);
        assert!(depth.wanted() > 128);
        for _ in 0..64 {
            depth.delivered(62_000);
        }
        assert_eq!(depth.wanted(), SLOTS_MIN);
        for _ in 0..64 {
            depth.delivered(100);
        }
        assert!(depth.wanted() > 128);
    }

    #[test]
    fn the_slot_kept_last_goes_first() {
        let (_pool, slots) = Pool::new(3, 64).unwrap();
        let mut depth = Depth::new(3);
        slots.into_iter().for_each(|slot| depth.keep(slot));
        assert_eq!(depth.next(0).unwrap().index(), 2);
        assert_eq!(depth.next(1).unwrap().index(), 1);
        for _ in 0..64 {
            depth.delivered(65_000);
        }
        assert!(depth.next(SLOTS_MIN).is_none());
        assert!(depth.next(SLOTS_MIN - 1).is_some());
        assert!(depth.next(0).is_none());
    }
}
