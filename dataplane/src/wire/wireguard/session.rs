//! One session: a pair of transport keys with its send counter and replay window (section 5.4.6).

use zeroize::Zeroizing;

/// A session with so many messages sent wants a new handshake.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Counters from here on are never used nor accepted.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

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
}

/// Admits counters, with the replay window locked once for a batch.
pub struct Admission<'a>(#[expect(dead_code)] &'a Session);

impl Session {
    /// A session that has carried nothing yet.
    #[must_use]
    pub fn new(
        keys: TransportKeys,
        local_index: u32,
        remote_index: u32,
        initiator: bool,
        created_ms: u64,
    ) -> Self {
        let _ = keys;
        Self { local_index, remote_index, initiator, created_ms }
    }

    /// Reserves `count` counters; returns the first, or `None` when the session has none left.
    #[inline]
    pub fn reserve(&self, count: u64) -> Option<u64> {
        let _ = count;
        todo!()
    }

    /// Counters used so far.
    #[inline]
    #[must_use]
    pub fn sent_count(&self) -> u64 {
        todo!()
    }

    /// Makes `message` a transport message: its plaintext lies between the first 16 and the last
    /// 16 bytes, where header and tag are written. Shorter than 32 bytes: does nothing.
    #[inline]
    pub fn seal(&self, counter: u64, message: &mut [u8]) {
        let _ = (counter, message);
        todo!()
    }

    /// Opens a transport message in place: the plaintext then lies between its first 16 and last
    /// 16 bytes. Returns its counter, which is still to be [admitted](Admission::admit); `None`,
    /// with undefined bytes in between, if it is not authentic.
    #[inline]
    #[must_use]
    pub fn open(&self, message: &mut [u8]) -> Option<u64> {
        let _ = message;
        todo!()
    }

    /// Locks the replay window for a batch.
    #[inline]
    pub fn admission(&self) -> Admission<'_> {
        todo!()
    }
}

impl Admission<'_> {
    /// Whether `counter` is new; it is not from then on.
    #[inline]
    pub fn admit(&mut self, counter: u64) -> bool {
        let _ = counter;
        todo!()
    }
}
