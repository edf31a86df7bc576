//! MAC1, MAC2 and cookies: who may make us compute (sections 5.3, 5.4.4 and 5.4.7).
//!
//! MAC1 shows that the sender knows our public key, MAC2 that it receives at the address it sends
//! from. A cookie is a MAC of that address and port under a secret of ours.

use std::net::{IpAddr, SocketAddr};

use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::PublicKey;
use super::messages::{COOKIE_REPLY_LEN, sender};

/// Cookies and the secret they are made of live so long.
pub const COOKIE_LIFE_MS: u64 = 120_000;
/// A cookie is not used for the last part of its life: the message must arrive within it.
const COOKIE_LATENCY_MS: u64 = 5_000;

const MAC_LEN: usize = 16;
/// Where the MACs begin, from the end of a message.
const MACS_LEN: usize = 2 * MAC_LEN;
const NONCE_LEN: usize = 24;

type MacState = Blake2sMac<U16>;
type MacBytes = [u8; MAC_LEN];

/// Checks the MACs of messages to us. Immutable: a new secret means a new checker.
pub struct Checker {
    mac1: MacState,
    secret: MacState,
    cipher: XChaCha20Poly1305,
}

impl Checker {
    /// For messages to `ours`, with `secret` to make cookies of.
    #[must_use]
    pub fn new(ours: &PublicKey, secret: &[u8; 32]) -> Self {
        Self {
            mac1: keyed(derive(b"mac1----", ours).as_slice()),
            secret: keyed(secret),
            cipher: XChaCha20Poly1305::new(&(*derive(b"cookie--", ours)).into()),
        }
    }

    /// Whether MAC1 of an initiation or response is right (constant time).
    #[must_use]
    pub fn mac1_valid(&self, message: &[u8]) -> bool {
        let Some((covered, mac1, _)) = parts(message) else { return false };
        mac(&self.mac1, &[covered]).ct_eq(mac1).into()
    }

    /// Whether MAC2 is right for a sender at this address and port (constant time). All-zero never
    /// is.
    #[must_use]
    pub fn mac2_valid(&self, message: &[u8], from: SocketAddr) -> bool {
        let Some((covered, mac1, mac2)) = parts(message) else { return false };
        if mac2 == &[0; MAC_LEN] {
            return false;
        }
        let cookie = self.cookie(from);
        mac(&keyed(&cookie), &[covered, mac1]).ct_eq(mac2).into()
    }

    /// The cookie reply to `message` (whose MAC1 is valid) from this address and port; `None` for a
    /// message too short to be a handshake's. `nonce` must be random.
    #[must_use]
    pub fn reply(
        &self,
        message: &[u8],
        from: SocketAddr,
        nonce: [u8; NONCE_LEN],
    ) -> Option<[u8; COOKIE_REPLY_LEN]> {
        let (_, mac1, _) = parts(message)?;
        let mut cookie = self.cookie(from);
        let tag =
            self.cipher.encrypt_in_place_detached(&XNonce::from(nonce), mac1, &mut cookie).ok()?;
        let mut reply = [0; COOKIE_REPLY_LEN];
        reply[0] = 3;
        reply[4..8].copy_from_slice(&sender(message)?.to_le_bytes());
        reply[8..32].copy_from_slice(&nonce);
        reply[32..48].copy_from_slice(&cookie);
        reply[48..].copy_from_slice(&tag);
        Some(reply)
    }

    fn cookie(&self, from: SocketAddr) -> MacBytes {
        let port = from.port().to_be_bytes();
        match from.ip().to_canonical() {
            IpAddr::V4(v4) => mac(&self.secret, &[&v4.octets(), &port]),
            IpAddr::V6(v6) => mac(&self.secret, &[&v6.octets(), &port]),
        }
    }
}

/// Adds MACs to messages to one peer, with its cookie while that is fresh.
pub struct Stamper {
    mac1: MacState,
    cipher: XChaCha20Poly1305,
    /// MAC1 of the last message, to which no cookie reply has been taken yet.
    outstanding: Option<MacBytes>,
    /// A cookie and when it came.
    cookie: Option<(Zeroizing<MacBytes>, u64)>,
}

impl Stamper {
    /// For messages to `theirs`.
    #[must_use]
    pub fn new(theirs: &PublicKey) -> Self {
        Self {
            mac1: keyed(derive(b"mac1----", theirs).as_slice()),
            cipher: XChaCha20Poly1305::new(&(*derive(b"cookie--", theirs)).into()),
            outstanding: None,
            cookie: None,
        }
    }

    /// Fills in MAC1, and MAC2 if there is a cookie not older than 120 s less 5 s; remembers MAC1,
    /// which a cookie reply refers to.
    pub fn stamp(&mut self, message: &mut [u8], now_ms: u64) {
        let Some(end) = message.len().checked_sub(MACS_LEN) else { return };
        let (covered, macs) = message.split_at_mut(end);
        let mac1 = mac(&self.mac1, &[covered]);
        macs[..MAC_LEN].copy_from_slice(&mac1);
        self.outstanding = Some(mac1);
        let life = COOKIE_LIFE_MS - COOKIE_LATENCY_MS;
        self.cookie.take_if(|(_, came_ms)| now_ms.saturating_sub(*came_ms) >= life);
        let mac2 = match &self.cookie {
            Some((cookie, _)) => mac(&keyed(cookie.as_slice()), &[covered, &mac1]),
            None => [0; MAC_LEN],
        };
        macs[MAC_LEN..].copy_from_slice(&mac2);
    }

    /// Takes a cookie reply; false if it is not an authentic answer to the last message stamped.
    pub fn take_reply(&mut self, reply: &[u8; COOKIE_REPLY_LEN], now_ms: u64) -> bool {
        let (Some(mac1), Some(nonce)) = (self.outstanding, reply[8..].first_chunk::<NONCE_LEN>())
        else {
            return false;
        };
        let mut cookie = Zeroizing::new([0; MAC_LEN]);
        cookie.copy_from_slice(&reply[32..48]);
        let tag = chacha20poly1305::Tag::clone_from_slice(&reply[48..]);
        let nonce = XNonce::from(*nonce);
        let opened =
            self.cipher.decrypt_in_place_detached(&nonce, &mac1, cookie.as_mut_slice(), &tag);
        if opened.is_err() {
            return false;
        }
        self.outstanding = None;
        self.cookie = Some((cookie, now_ms));
        true
    }
}

/// What MAC1 covers, MAC1, MAC2.
fn parts(message: &[u8]) -> Option<(&[u8], &MacBytes, &MacBytes)> {
    let (rest, mac2) = message.split_last_chunk()?;
    let (covered, mac1) = rest.split_last_chunk()?;
    Some((covered, mac1, mac2))
}

fn derive(label: &[u8; 8], key: &PublicKey) -> Zeroizing<[u8; 32]> {
    let hash = Blake2s256::new().chain_update(label).chain_update(key.as_bytes());
    Zeroizing::new(Digest::finalize(hash).into())
}

/// A MAC with its key taken in. Keys of 16 or 32 bytes are never refused.
fn keyed(key: &[u8]) -> MacState {
    <MacState as KeyInit>::new_from_slice(key)
        .unwrap_or_else(|_| <MacState as KeyInit>::new(&Default::default()))
}

fn mac(state: &MacState, parts: &[&[u8]]) -> MacBytes {
    let mut state = state.clone();
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

#[cfg(test)]
mod tests {
    use super::super::keys::PrivateKey;
    use super::super::messages::INITIATION_LEN;
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn key() -> PublicKey {
        PrivateKey::from_bytes([5; 32]).public()
    }

    fn stamped(stamper: &mut Stamper, now_ms: u64) -> [u8; INITIATION_LEN] {
        let mut message = [9; INITIATION_LEN];
        stamper.stamp(&mut message, now_ms);
        message
    }

    #[test]
    fn mac1_is_for_one_public_key() {
        let mut stamper = Stamper::new(&key());
        let mut message = stamped(&mut stamper, 0);
        let checker = Checker::new(&key(), &[1; 32]);
        let other = Checker::new(&PrivateKey::from_bytes([6; 32]).public(), &[1; 32]);
        assert!(checker.mac1_valid(&message) && !other.mac1_valid(&message));
        assert!(!checker.mac2_valid(&message, at("192.0.2.1:1")), "there is no cookie yet");
        message[0] ^= 1;
        assert!(!checker.mac1_valid(&message));
        assert!((0..40).all(|len| !checker.mac1_valid(&vec![0; len])));
    }

    #[test]
    fn a_cookie_is_for_one_address_and_port_and_for_a_time() {
        let checker = Checker::new(&key(), &[1; 32]);
        let mut stamper = Stamper::new(&key());
        let message = stamped(&mut stamper, 0);
        let reply = checker.reply(&message, at("192.0.2.1:1"), [4; 24]).unwrap();
        assert_eq!((reply[0], &reply[4..8]), (3, &message[4..8]));
        assert!(stamper.take_reply(&reply, 1_000));
        assert!(!stamper.take_reply(&reply, 1_000), "a reply counts once");
        let message = stamped(&mut stamper, 115_999);
        for (from, valid) in [
            ("192.0.2.1:1", true),
            ("[::ffff:192.0.2.1]:1", true),
            ("192.0.2.1:2", false),
            ("192.0.2.2:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            assert_eq!(checker.mac2_valid(&message, at(from)), valid, "{from}");
        }
        assert!(!Checker::new(&key(), &[2; 32]).mac2_valid(&message, at("192.0.2.1:1")));
        let message = stamped(&mut stamper, 116_000);
        assert!(!checker.mac2_valid(&message, at("192.0.2.1:1")), "the cookie is too old");
    }

    #[test]
    fn forged_replies_are_refused() {
        let checker = Checker::new(&key(), &[1; 32]);
        let mut stamper = Stamper::new(&key());
        assert!(!stamper.take_reply(&[3; COOKIE_REPLY_LEN], 0), "nothing was asked");
        let message = stamped(&mut stamper, 0);
        let reply = checker.reply(&message, at("192.0.2.1:1"), [4; 24]).unwrap();
        for byte in 8..COOKIE_REPLY_LEN {
            let mut forged = reply;
            forged[byte] ^= 0x10;
            assert!(!stamper.take_reply(&forged, 0), "byte {byte}");
        }
        stamped(&mut Stamper::new(&key()), 0);
        let later = checker.reply(&[8; INITIATION_LEN], at("192.0.2.1:1"), [4; 24]).unwrap();
        assert!(!stamper.take_reply(&later, 0), "an answer to another message");
        assert!(stamper.take_reply(&reply, 0));
    }
}
