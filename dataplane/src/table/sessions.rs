//! Sessions by the index that we gave them: slots that workers read without a lock.
//!
//! An index is 32 random bits to whoever looks; its lower bits are the number of a free slot. A
//! slot that is used again gets other upper bits, so a late message finds no stranger's session.
//!
//! With several workers, the lowest byte also says which of them receives on the session (the
//! kernel reads it, `sys::reuseport`): a peer's sessions stay with one worker, and new peers go to
//! the one that has fewest.

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

/// Which of several workers receives on the session with this index: the rule of the program in
/// `sys::reuseport` (held together by `control::sockets`' tests).
#[must_use]
pub(crate) fn worker_of(index: u32, workers: usize) -> usize {
    (index & 0xff) as usize % workers.max(1)
}

/// Slots of one worker.
#[derive(Default)]
struct Share {
    /// Those without an index.
    free: Vec<u32>,
    /// How many have one.
    taken: usize,
}

/// All sessions of a device.
pub struct SessionTable {
    slots: Box<[ArcSwapOption<Live>]>,
    /// One more than the index reserved for each slot; 0 for none. Written under the lock.
    reserved: Box<[AtomicU64]>,
    /// By worker. Only control looks here, and a worker once a session.
    shares: Mutex<Box<[Share]>>,
    /// How often there was none.
    refused: AtomicU64,
}

impl SessionTable {
    /// Room for `slots` sessions and handshakes under way, rounded up to a power of two, of one
    /// worker.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self::with_workers(slots, 1)
    }

    /// The same, spread over `workers`.
    #[must_use]
    pub fn with_workers(slots: usize, workers: usize) -> Self {
        let count = slots.clamp(SLOTS_MIN, SLOTS_MAX).next_power_of_two();
        let mut shares: Box<[_]> = (0..workers.max(1)).map(|_| Share::default()).collect();
        for slot in 0..u32::try_from(count).unwrap_or(0) {
            shares[worker_of(slot, workers)].free.push(slot);
        }
        Self {
            slots: (0..count).map(|_| ArcSwapOption::empty()).collect(),
            reserved: (0..count).map(|_| AtomicU64::new(0)).collect(),
            shares: Mutex::new(shares),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes a random index whose slot is free, until it is [removed](Self::remove): of the worker
    /// that has the index `beside`, or else of the one that has fewest. `None` when the table is
    /// full, which is counted, or the kernel has no random numbers. What is there already is never
    /// given up for it.
    pub fn reserve(&self, beside: Option<u32>) -> Option<u32> {
        let mut shares = self.shares();
        let same = beside.map(|index| worker_of(index, shares.len()));
        let same = same.filter(|&worker| !shares[worker].free.is_empty());
        let least = || {
            let with_room = (0..shares.len()).filter(|&worker| !shares[worker].free.is_empty());
            with_room.min_by_key(|&worker| shares[worker].taken)
        };
        let Some(worker) = same.or_else(least) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let share = &mut shares[worker];
        let random = getrandom::u64().ok()?;
        let count = u64::try_from(share.free.len()).ok()?;
        let place = usize::try_from((random & 0xffff_ffff).checked_rem(count)?).ok()?;
        let slot = share.free.swap_remove(place);
        share.taken += 1;
        let mask = u32::try_from(self.slots.len() - 1).ok()?;
        let index = u32::try_from(random >> 32).ok()? & !mask | slot;
        self.reserved[slot as usize].store(u64::from(index) + 1, Ordering::Release);
        Some(index)
    }

    /// Puts a session at its reserved `local_index`; without the reservation nothing happens.
    pub fn insert(&self, live: Arc<Live>) {
        let _lock = self.shares();
        let index = live.session.local_index;
        if self.is_reserved(index) {
            self.slots[self.slot(index)].store(Some(live));
        }
    }

    /// Gives up an index: forgets its session, if there is one, and frees its slot.
    pub fn remove(&self, index: u32) {
        let mut shares = self.shares();
        let slot = self.slot(index);
        if self.is_reserved(index) {
            self.reserved[slot].store(0, Ordering::Release);
            self.slots[slot].store(None);
            let worker = worker_of(index, shares.len());
            shares[worker].free.push(u32::try_from(slot).unwrap_or(0));
            shares[worker].taken -= 1;
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
        self.shares().iter().map(|share| share.taken).sum()
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

    fn shares(&self) -> MutexGuard<'_, Box<[Share]>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
