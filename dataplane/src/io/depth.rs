//! How many slots to lend to one multishot operation.
//!
//! A provided-buffer ring is used in turn, so every lent slot is touched before the first one is
//! touched again: 128 slots of super-packets would be 8 MiB of memory written once and never
//! found in the cache. A flood of small packets needs that depth, large ones need it small. So the
//! bytes in play are bounded, not the slots: what is not lent waits on a stack, the warmest on top.
//!
//! Packets that come singly need no depth at all: with few slots lent they find those of a moment
//! ago, and an idle tunnel does not touch memory slot by slot until it has all of it. So there are
//! few at first, more as soon as a turn takes a good part of them, and fewer again after a while.

use super::Slot;

/// Bytes in play at which a file's slots are enough: they stay in a core's second-level cache
/// together with the send slots that are filled from them.
const BYTES_IN_PLAY: usize = 128 * 1024;
/// Slots lent at least, whatever the size.
const SLOTS_MIN: usize = 2;
/// Weight of the past in the average length: 7 of 8 parts.
const PAST_SHIFT: u32 = 3;
/// Slots lent at first, and while packets come singly.
const REACH_MIN: usize = 8;
/// A turn that takes a quarter of what is lent doubles it; one that takes a sixteenth is calm.
const BUSY_PART: usize = 4;
const CALM_PART: usize = 16;
/// Calm turns in a row that halve it.
const CALM_TURNS: u32 = 1_024;

/// The slots of one file that are not lent, and how large and how many what it delivers has been
/// lately.
#[derive(Debug)]
pub(super) struct Depth {
    spare: Vec<Slot>,
    average_len: usize,
    /// Slots that what comes at once may need.
    reach: usize,
    reach_max: usize,
    delivered: usize,
    calm: u32,
}

impl Depth {
    /// For a file with `slots`, none of them lent.
    pub(super) fn new(slots: Vec<Slot>) -> Self {
        let reach_max = slots.len();
        let reach = REACH_MIN.min(reach_max);
        Self { spare: slots, average_len: 0, reach, reach_max, delivered: 0, calm: 0 }
    }

    /// Notes the length of something delivered.
    #[inline]
    pub(super) fn delivered(&mut self, len: usize) {
        self.average_len =
            self.average_len - (self.average_len >> PAST_SHIFT) + (len >> PAST_SHIFT);
        self.delivered += 1;
    }

    /// Notes that every slot was taken when more came.
    pub(super) fn starved(&mut self) {
        self.reach = (self.reach * 2).min(self.reach_max);
    }

    /// Judges by what has been delivered since it was called last.
    #[inline]
    pub(super) fn adapt(&mut self) {
        let delivered = std::mem::take(&mut self.delivered);
        if delivered * BUSY_PART >= self.reach {
            self.starved();
            self.calm = 0;
        } else if delivered * CALM_PART >= self.reach || self.reach <= REACH_MIN {
            self.calm = 0;
        } else {
            self.calm += 1;
            if self.calm == CALM_TURNS {
                (self.reach, self.calm) = (self.reach / 2, 0);
            }
        }
    }

    /// Slots that should be lent now.
    #[inline]
    pub(super) fn wanted(&self) -> usize {
        (BYTES_IN_PLAY / self.average_len.max(1)).min(self.reach).max(SLOTS_MIN)
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

    fn depth(slots: u16) -> Depth {
        Depth::new(Pool::new(slots, 64).unwrap().1)
    }

    #[test]
    fn a_flood_of_small_packets_gets_all_slots_and_large_ones_few() {
        let mut depth = depth(128);
        assert_eq!(depth.wanted(), REACH_MIN);
        let mut turns = 0;
        while depth.wanted() < 128 {
            turns += 1;
            (0..depth.wanted() / 2).for_each(|_| depth.delivered(100));
            depth.adapt();
        }
        assert_eq!(turns, 4);
        (0..64).for_each(|_| depth.delivered(62_000));
        depth.adapt();
        assert_eq!(depth.wanted(), SLOTS_MIN);
        (0..64).for_each(|_| depth.delivered(100));
        assert_eq!(depth.wanted(), 128);
    }

    #[test]
    fn packets_that_come_singly_get_few_again() {
        let mut depth = depth(128);
        (0..9).for_each(|_| depth.starved());
        assert_eq!(depth.wanted(), 128);
        for _ in 0..CALM_TURNS * 4 {
            depth.delivered(100);
            depth.adapt();
        }
        // Of sixteen, one is a sixteenth.
        assert_eq!(depth.wanted(), 16);
        for _ in 0..CALM_TURNS * 4 {
            depth.adapt();
        }
        assert_eq!(depth.wanted(), REACH_MIN);
    }

    #[test]
    fn the_slot_kept_last_goes_first() {
        let mut depth = depth(3);
        assert_eq!(depth.next(0).unwrap().index(), 2);
        assert_eq!(depth.next(1).unwrap().index(), 1);
        assert!(depth.next(3).is_none());
        for _ in 0..64 {
            depth.delivered(65_000);
        }
        assert!(depth.next(SLOTS_MIN).is_none());
        assert!(depth.next(SLOTS_MIN - 1).is_some());
        assert!(depth.next(0).is_none());
    }
}
