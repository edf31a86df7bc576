//! The handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, by snow (section 5.4).
//!
//! Messages come and go without their MACs: see [`super::cookie`].

use super::keys::{PresharedKey, PrivateKey, PublicKey};
use super::messages::{INITIATION_LEN, RESPONSE_LEN};
use super::session::TransportKeys;
use super::timestamp::Timestamp;

/// A handshake that we started.
pub struct Initiator {
    /// The index by which the peer will address us.
    pub local_index: u32,
}

impl Initiator {
    /// Starts a handshake; the message's MAC fields are zero.
    pub fn start(
        ours: &PrivateKey,
        theirs: &PublicKey,
        psk: &PresharedKey,
        local_index: u32,
        now: Timestamp,
    ) -> Option<(Self, [u8; INITIATION_LEN])> {
        let _ = (ours, theirs, psk, local_index, now);
        todo!()
    }

    /// Ends it with the peer's response: transport keys and the index by which to address the
    /// peer. `None` leaves the handshake as it was: a forged response must not end it.
    pub fn finish(&mut self, response: &[u8; RESPONSE_LEN]) -> Option<(TransportKeys, u32)> {
        let _ = response;
        todo!()
    }
}

/// An initiation that we received: authentic, not yet answered.
pub struct Responder {
    /// Who sent it.
    pub peer: PublicKey,
    /// When, by its own clock.
    pub timestamp: Timestamp,
    /// The index by which to address it.
    pub remote_index: u32,
}

impl Responder {
    /// Reads an initiation; `None` if it is not for us or not authentic.
    pub fn read(ours: &PrivateKey, initiation: &[u8; INITIATION_LEN]) -> Option<Self> {
        let _ = (ours, initiation);
        todo!()
    }

    /// Answers it; the message's MAC fields are zero.
    pub fn respond(
        self,
        psk: &PresharedKey,
        local_index: u32,
    ) -> Option<(TransportKeys, [u8; RESPONSE_LEN])> {
        let _ = (psk, local_index);
        todo!()
    }
}
