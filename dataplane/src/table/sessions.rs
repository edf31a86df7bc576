//! Sessions by the index that we gave them: slots that workers read without a lock.
//!
//! An index is 32 random bits to whoever looks; its lower bits are the number of a free slot. A
//! slot that is used again gets other upper bits, so a late message finds no stranger's session.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwapOption, Guard};

use super::peer::Peer;
use crate::wire::wireguard::session::Session;

/// Fewest and most slots.
const SLOTS_MIN: usize = 1 << 10;
const SLOTS_MAX: usize = 1 << 20;

/// A session and whose it is.
pub struct Live {
    /// The session.
    pub session: Session,
    /// The peer.
    pub peer: Arc<Peer>,
}

/// All sessions of a device.
pub struct SessionTable {
    slots: Box<[ArcSwapOption<Live>]>,
    /// One more than the index reserved for each slot; 0 for none. Written under the lock.
    reserved: Box<[AtomicU64]>,
    /// Slots without an index. Only control looks here, and a worker once a session.
    free: Mutex<Vec<u32>>,
    /// How often there was none.
    refused: AtomicU64,
}

impl SessionTable {
    /// Room for `slots` sessions and handshakes under way, rounded up to a power of two.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let count = slots.clamp(SLOTS_MIN, SLOTS_MAX).next_power_of_two();
        let numbers = 0..u32::try_from(count).unwrap_or(0);
        Self {
            slots: (0..count).map(|_| ArcSwapOption::empty()).collect(),
            reserved: (0..count).map(|_| AtomicU64::new(0)).collect(),
            free: Mutex::new(numbers.collect()),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes a random index whose slot is free, until it is [removed](Self::remove); `None` when
    /// the table is full, which is counted, or the kernel has no random numbers. What is there
    /// already is never given up for it.
    pub fn reserve(&self) -> Option<u32> {
        let mut free = self.free();
        if free.is_empty() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        let random = getrandom::u64().ok()?;
        let count = u64::try_from(free.len()).ok()?;
        let place = usize::try_from((random & 0xffff_ffff).checked_rem(count)?).ok()?;
        let slot = free.swap_remove(place);
        let mask = u32::try_from(self.slots.len() - 1).ok()?;
        let index = u32::try_from(random >> 32).ok()? & !mask | slot;
        self.reserved[slot as usize].store(u64::from(index) + 1, Ordering::Release);
        Some(index)
    }

    /// Puts a session at its reserved `local_index`; without the reservation nothing happens.
    pub fn insert(&self, live: Arc<Live>) {
        let _lock = self.free();
        let index = live.session.local_index;
        if self.is_reserved(index) {
            self.slots[self.slot(index)].store(Some(live));
        }
    }

    /// Gives up an index: forgets its session, if there is one, and frees its slot.
    pub fn remove(&self, index: u32) {
        let mut free = self.free();
        let slot = self.slot(index);
        if self.is_reserved(index) {
            self.reserved[slot].store(0, Ordering::Release);
            self.slots[slot].store(None);
            free.push(u32::try_from(slot).unwrap_or(0));
        }
    }

    /// Whether this index is given out, to a session or a handshake under way.
    #[must_use]
    pub fn is_reserved(&self, index: u32) -> bool {
        self.reserved[self.slot(index)].load(Ordering::Acquire) == u64::from(index) + 1
    }

    /// How often an index was refused because all were given out.
    #[must_use]
    pub fn refused_count(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many indexes are given out.
    #[cfg(test)]
    pub(crate) fn reserved_count(&self) -> usize {
        self.slots.len() - self.free().len()
    }

    /// The session with this index. Hold the guard for a batch, no longer.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Guard<Option<Arc<Live>>>> {
        let live = self.slots[self.slot(index)].load();
        let same = live.as_ref().is_some_and(|live| live.session.local_index == index);
        same.then_some(live)
    }

    /// Always within `slots`, whose number is a power of two.
    #[inline]
    fn slot(&self, index: u32) -> usize {
        index as usize & (self.slots.len() - 1)
    }

    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
