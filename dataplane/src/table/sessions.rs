//! Sessions by the index that we gave them: slots that workers read without a lock.
//!
//! An index is 32 random bits to whoever looks; its lower bits are the number of a free slot.

use std::sync::Arc;

use arc_swap::Guard;

use super::peer::Peer;
use crate::wire::wireguard::session::Session;

/// A session and whose it is.
pub struct Live {
    /// The session.
    pub session: Session,
    /// The peer.
    pub peer: Arc<Peer>,
}

/// All sessions of a device.
pub struct SessionTable {}

impl SessionTable {
    /// Room for `slots` sessions and handshakes under way, rounded up to a power of two.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let _ = slots;
        todo!()
    }

    /// Takes a random index whose slot is free, until it is [removed](Self::remove) or given up by
    /// [`release`](Self::release); `None` when the table is full.
    pub fn reserve(&self) -> Option<u32> {
        todo!()
    }

    /// Gives up a reserved index without a session.
    pub fn release(&self, index: u32) {
        let _ = index;
        todo!()
    }

    /// Puts a session at its reserved `local_index`.
    pub fn insert(&self, live: Arc<Live>) {
        let _ = live;
        todo!()
    }

    /// Forgets the session with this index and frees its slot.
    pub fn remove(&self, index: u32) {
        let _ = index;
        todo!()
    }

    /// The session with this index. Hold the guard for a batch, no longer.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Guard<Option<Arc<Live>>>> {
        let _ = index;
        todo!()
    }
}
