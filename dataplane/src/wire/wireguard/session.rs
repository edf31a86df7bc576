//! One session: a pair of transport keys with its send counter and replay window (section 5.4.6).
//!
//! Sealing and opening work in place, on one message at a time, from any number of workers at
//! once; counters are reserved, and the replay window is locked, once a batch.
//!
//! Who does the work is the worker's choice (`aead`). Keys are overwritten when a session is
//! dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::aead::{Aead, Key};
use super::messages::{TAG_LEN, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD};
use super::replay::ReplayWindow;

/// A session with so many messages sent wants a new handshake.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Counters from here on are never used nor accepted.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// An initiator asks for a new session when it sends on one older than this.
pub const REKEY_AFTER_MS: u64 = 120_000;
/// Sessions older than this neither seal nor open (section 6.1).
pub const REJECT_AFTER_MS: u64 = 180_000;

/// Keys that a handshake ended with.
pub struct TransportKeys {
    /// Seals what we send.
    pub send: Zeroizing<[u8; 32]>,
    /// Opens what we receive.
    pub receive: Zeroizing<[u8; 32]>,
}

/// A session. Any number of workers may seal and open at once.
pub struct Session {
    /// The index by which the peer addresses us.
    pub local_index: u32,
    /// The index by which we address the peer.
    pub remote_index: u32,
    /// We initiated it.
    pub initiator: bool,
    /// When its keys were derived, on the device's clock.
    pub created_ms: u64,
    seal_key: Key,
    open_key: Key,
    next_counter: AtomicU64,
    replay: Mutex<ReplayWindow>,
}

/// Admits counters, with the replay window locked for a batch.
pub struct Admission<'a>(MutexGuard<'a, ReplayWindow>);

impl Session {
    /// A session that has carried nothing yet; `None` only if the AEAD refuses 32 bytes as a key.
    #[must_use]
    pub fn new(
        keys: &TransportKeys,
        local_index: u32,
        remote_index: u32,
        initiator: bool,
        created_ms: u64,
    ) -> Option<Self> {
        Some(Self {
            local_index,
            remote_index,
            initiator,
            created_ms,
            seal_key: Key::new(&keys.send)?,
            open_key: Key::new(&keys.receive)?,
            next_counter: AtomicU64::new(0),
            replay: Mutex::default(),
        })
    }

    /// Reserves `count` counters; returns the first, or `None` when the session has not so many
    /// left.
    #[inline]
    pub fn reserve(&self, count: u64) -> Option<u64> {
        // The look before the addition keeps the counter from ever wrapping: between two looks no
        // more than a few workers can add, each far less than is left above the limit.
        if self.sent_count() >= REJECT_AFTER_MESSAGES.checked_sub(count)? {
            return None;
        }
        let first = self.next_counter.fetch_add(count, Ordering::Relaxed);
        (first < REJECT_AFTER_MESSAGES - count).then_some(first)
    }

    /// Counters used so far.
    #[inline]
    #[must_use]
    pub fn sent_count(&self) -> u64 {
        self.next_counter.load(Ordering::Relaxed)
    }

    /// Makes `message` a transport message: its plaintext lies between the first 16 and the last
    /// 16 bytes, where header and tag are written. Shorter than 32 bytes: does nothing.
    #[inline]
    pub fn seal(&self, aead: &Aead, counter: u64, message: &mut [u8]) {
        let Some((header, rest)) = message.split_first_chunk_mut::<TRANSPORT_HEADER_LEN>() else {
            return;
        };
        let Some((packet, tag_place)) = rest.split_last_chunk_mut::<TAG_LEN>() else { return };
        header[..4].copy_from_slice(&4u32.to_le_bytes());
        header[4..8].copy_from_slice(&self.remote_index.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        match aead.seal(&self.seal_key, counter, packet) {
            Some(tag) => *tag_place = tag,
            // Only for more than 256 GiB; nothing readable must leave even then.
            None => message.fill(0),
        }
    }

    /// Opens a transport message in place: the plaintext then lies between its first 16 and last
    /// 16 bytes. Returns its counter, which is still to be [admitted](Admission::admit); `None`,
    /// with undefined bytes in between, if it is not authentic.
    #[inline]
    #[must_use]
    pub fn open(&self, aead: &Aead, message: &mut [u8]) -> Option<u64> {
        if message.len() < TRANSPORT_OVERHEAD {
            return None;
        }
        let (header, sealed) = message.split_first_chunk_mut::<TRANSPORT_HEADER_LEN>()?;
        let counter = u64::from_le_bytes(*header.last_chunk()?);
        if counter >= REJECT_AFTER_MESSAGES {
            return None;
        }
        aead.open(&self.open_key, counter, sealed).then_some(counter)
    }

    /// Locks the replay window for a batch.
    #[inline]
    pub fn admission(&self) -> Admission<'_> {
        Admission(self.replay.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Admission<'_> {
    /// Whether `counter` is new; it is not from then on.
    #[inline]
    pub fn admit(&mut self, counter: u64) -> bool {
        self.0.admit(counter)
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
