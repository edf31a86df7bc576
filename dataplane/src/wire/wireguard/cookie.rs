//! MAC1, MAC2 and cookies: who may make us compute (sections 5.3 and 5.4.4, 5.4.7).

use std::net::SocketAddr;

use super::keys::PublicKey;
use super::messages::COOKIE_REPLY_LEN;

/// Cookies and the secret they are made of live so long.
pub const COOKIE_LIFE_MS: u64 = 120_000;

/// Checks the MACs of messages to us. Immutable: a new secret means a new checker.
pub struct Checker {}

impl Checker {
    /// For messages to `ours`, with `secret` to make cookies of.
    #[must_use]
    pub fn new(ours: &PublicKey, secret: [u8; 32]) -> Self {
        let _ = (ours, secret);
        Self {}
    }

    /// Whether MAC1 of an initiation or response is right (constant time).
    #[must_use]
    pub fn mac1_valid(&self, message: &[u8]) -> bool {
        let _ = message;
        todo!()
    }

    /// Whether MAC2 is right for a sender at this address and port (constant time). All-zero never
    /// is.
    #[must_use]
    pub fn mac2_valid(&self, message: &[u8], from: SocketAddr) -> bool {
        let _ = (message, from);
        todo!()
    }

    /// The cookie reply to `message` (whose MAC1 is valid) from this address and port; `None` for a
    /// message too short to be a handshake's. `nonce` must be random.
    #[must_use]
    pub fn reply(
        &self,
        message: &[u8],
        from: SocketAddr,
        nonce: [u8; 24],
    ) -> Option<[u8; COOKIE_REPLY_LEN]> {
        let _ = (message, from, nonce);
        todo!()
    }
}

/// Adds MACs to messages to one peer, with its cookie while that is fresh.
pub struct Stamper {}

impl Stamper {
    /// For messages to `theirs`.
    #[must_use]
    pub fn new(theirs: &PublicKey) -> Self {
        let _ = theirs;
        Self {}
    }

    /// Fills in MAC1, and MAC2 if there is a cookie not older than 120 s less 5 s
    /// (`COOKIE_SECRET_LATENCY`); remembers MAC1, which a cookie reply refers to.
    pub fn stamp(&mut self, message: &mut [u8], now_ms: u64) {
        let _ = (message, now_ms);
        todo!()
    }

    /// Takes a cookie reply; false if it is not an authentic answer to the last message stamped.
    pub fn take_reply(&mut self, reply: &[u8; COOKIE_REPLY_LEN], now_ms: u64) -> bool {
        let _ = (reply, now_ms);
        todo!()
    }
}
