//! Sessions by the index that we gave them: slots that workers read without a lock.
//!
//! An index is 32 random bits to whoever looks; its lower bits are the number of a free slot. A
//! slot that is used again gets other upper bits, so a late message finds no stranger's session.

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
    book: Mutex<Book>,
}

/// Which indexes are given out. Only control looks here, and a worker once a session.
struct Book {
    free: Vec<u32>,
    /// The index reserved for each slot.
    reserved: Box<[Option<u32>]>,
}

impl SessionTable {
    /// Room for `slots` sessions and handshakes under way, rounded up to a power of two.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let count = slots.clamp(SLOTS_MIN, SLOTS_MAX).next_power_of_two();
        let numbers = 0..u32::try_from(count).unwrap_or(0);
        Self {
            slots: (0..count).map(|_| ArcSwapOption::empty()).collect(),
            book: Mutex::new(Book { free: numbers.collect(), reserved: vec![None; count].into() }),
        }
    }

    /// Takes a random index whose slot is free, until it is [removed](Self::remove); `None` when
    /// the table is full or the kernel has no random numbers.
    pub fn reserve(&self) -> Option<u32> {
        let mut book = self.book();
        let random = getrandom::u64().ok()?;
        let free = u64::try_from(book.free.len()).ok()?;
        let place = usize::try_from((random & 0xffff_ffff).checked_rem(free)?).ok()?;
        let slot = book.free.swap_remove(place);
        let mask = u32::try_from(self.slots.len() - 1).ok()?;
        let index = u32::try_from(random >> 32).ok()? & !mask | slot;
        book.reserved[slot as usize] = Some(index);
        Some(index)
    }

    /// Puts a session at its reserved `local_index`; without the reservation nothing happens.
    pub fn insert(&self, live: Arc<Live>) {
        let book = self.book();
        let index = live.session.local_index;
        if book.reserved[self.slot(index)] == Some(index) {
            self.slots[self.slot(index)].store(Some(live));
        }
    }

    /// Gives up an index: forgets its session, if there is one, and frees its slot.
    pub fn remove(&self, index: u32) {
        let mut book = self.book();
        let slot = self.slot(index);
        if book.reserved[slot] == Some(index) {
            book.reserved[slot] = None;
            self.slots[slot].store(None);
            book.free.push(u32::try_from(slot).unwrap_or(0));
        }
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

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
