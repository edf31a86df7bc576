//! The handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, by snow (sections 5.4.2 to 5.4.5).
//!
//! Messages come and go without their MACs: see [`super::cookie`]. A message that is not authentic
//! leaves the state as it was (snow restores its checkpoint), so forged ones end nothing.
//!
//! Public keys of small order are refused, static and ephemeral, as the kernel does (its
//! `curve25519` fails on an all-zero result). A handshake is overwritten when it is dropped: what
//! snow holds at its end would give the session's keys away long after those were erased.

use std::sync::Arc;

use snow::HandshakeState;
use zeroize::Zeroizing;

use super::identity::Identity;
use super::keys::{PresharedKey, PrivateKey, PublicKey};
use super::messages::{INITIATION_LEN, RESPONSE_LEN};
use super::noise::{builder, wipe};
use super::session::TransportKeys;
use super::timestamp::Timestamp;

/// The token `psk` stands at the end of the second message.
const PSK_PLACE: u8 = 2;
/// Where the Noise message lies in an initiation and in a response.
const INITIATION_NOISE: std::ops::Range<usize> = 8..116;
const RESPONSE_NOISE: std::ops::Range<usize> = 12..60;

/// A handshake that we started.
pub struct Initiator {
    /// The index by which the peer will address us.
    pub local_index: u32,
    noise: HandshakeState,
}

impl Initiator {
    /// As [`start_as`](Self::start_as), with a key that is used once.
    #[must_use]
    pub fn start(
        ours: &PrivateKey,
        theirs: &PublicKey,
        psk: &PresharedKey,
        local_index: u32,
        now: Timestamp,
    ) -> Option<(Self, [u8; INITIATION_LEN])> {
        let ours = Arc::new(Identity::new(ours.clone()));
        Self::start_as(&ours, theirs, psk, local_index, now)
    }

    /// Starts a handshake; the message's MAC fields are zero. `None` if the peer's key is of small
    /// order.
    #[must_use]
    pub fn start_as(
        ours: &Arc<Identity>,
        theirs: &PublicKey,
        psk: &PresharedKey,
        local_index: u32,
        now: Timestamp,
    ) -> Option<(Self, [u8; INITIATION_LEN])> {
        let mut noise = builder(ours)?
            .remote_public_key(theirs.as_bytes())
            .ok()?
            .psk(PSK_PLACE, psk.as_bytes())
            .ok()?
            .build_initiator()
            .ok()?;
        let mut message = [0; INITIATION_LEN];
        message[0] = 1;
        message[4..8].copy_from_slice(&local_index.to_le_bytes());
        let len = noise.write_message(&now.0, &mut message[INITIATION_NOISE]).ok()?;
        let whole = len == INITIATION_NOISE.len();
        let started = Self { local_index, noise };
        whole.then_some((started, message))
    }

    /// Ends it with the peer's response: transport keys and the index by which to address the
    /// peer. `None` leaves the handshake as it was: a forged response must not end it.
    #[must_use]
    pub fn finish(&mut self, response: &[u8; RESPONSE_LEN]) -> Option<(TransportKeys, u32)> {
        if self.noise.is_handshake_finished() {
            return None;
        }
        let mut payload = [0; RESPONSE_LEN];
        self.noise.read_message(&response[RESPONSE_NOISE], &mut payload).ok()?;
        let remote_index = super::messages::sender(response)?;
        let (send, receive) = self.noise.dangerously_get_raw_split();
        Some((TransportKeys { send: send.into(), receive: receive.into() }, remote_index))
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
    noise: HandshakeState,
}

impl Responder {
    /// As [`read_as`](Self::read_as), with a key that is used once.
    #[must_use]
    pub fn read(ours: &PrivateKey, initiation: &[u8; INITIATION_LEN]) -> Option<Self> {
        Self::read_as(&Arc::new(Identity::new(ours.clone())), initiation)
    }

    /// Reads an initiation; `None` if it is not for us or not authentic.
    #[must_use]
    pub fn read_as(ours: &Arc<Identity>, initiation: &[u8; INITIATION_LEN]) -> Option<Self> {
        let mut noise = builder(ours)?.build_responder().ok()?;
        let mut payload = Zeroizing::new([0; INITIATION_LEN]);
        let len = noise.read_message(&initiation[INITIATION_NOISE], payload.as_mut_slice()).ok()?;
        let timestamp = Timestamp(payload.get(..len)?.try_into().ok()?);
        let peer = PublicKey::from_bytes(noise.get_remote_static()?.try_into().ok()?);
        let remote_index = super::messages::sender(initiation)?;
        Some(Self { peer, timestamp, remote_index, noise })
    }

    /// Answers it; the message's MAC fields are zero.
    #[must_use]
    pub fn respond(
        mut self,
        psk: &PresharedKey,
        local_index: u32,
    ) -> Option<(TransportKeys, [u8; RESPONSE_LEN])> {
        self.noise.set_psk(usize::from(PSK_PLACE), psk.as_bytes()).ok()?;
        let mut message = [0; RESPONSE_LEN];
        message[0] = 2;
        message[4..8].copy_from_slice(&local_index.to_le_bytes());
        message[8..12].copy_from_slice(&self.remote_index.to_le_bytes());
        let len = self.noise.write_message(&[], &mut message[RESPONSE_NOISE]).ok()?;
        let (receive, send) = self.noise.dangerously_get_raw_split();
        let keys = TransportKeys { send: send.into(), receive: receive.into() };
        (len == RESPONSE_NOISE.len()).then_some((keys, message))
    }
}

impl Drop for Initiator {
    fn drop(&mut self) {
        wipe(&mut self.noise);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        wipe(&mut self.noise);
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
