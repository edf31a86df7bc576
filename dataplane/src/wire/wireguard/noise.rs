//! What the handshake gives to snow, and how it takes it back: X25519 by `x25519-dalek` with keys
//! that wipe themselves, and a way to overwrite a handshake that has ended.
//!
//! A result of zero is an error here (drivers/net/wireguard/noise.c `mix_dh`): it is what a public
//! key of small order gives, whatever the secret. snow by itself goes on.

use std::hint::black_box;
use std::sync::Arc;

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::identity::Identity;
use super::keys::KEY_LEN;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// A handshake without keys, to write over one with keys.
const BLANK_PATTERN: &str = "Noise_NN_25519_ChaChaPoly_BLAKE2s";

/// Begins a handshake of WireGuard's.
pub(super) fn builder(ours: &Arc<Identity>) -> Option<Builder<'_>> {
    let params: NoiseParams = PATTERN.parse().ok()?;
    let resolver = Resolver { others: DefaultResolver, ours: Arc::clone(ours) };
    let builder = Builder::with_resolver(params, Box::new(resolver));
    builder.prologue(PROLOGUE).ok()?.local_private_key(ours.private().as_bytes()).ok()
}

/// Overwrites a handshake: its chaining key, of which the session's keys can be computed, its
/// preshared key, its private keys. `black_box` keeps the compiler from dropping the store.
pub(super) fn wipe(noise: &mut HandshakeState) {
    let params = BLANK_PATTERN.parse::<NoiseParams>();
    if let Some(blank) = params.ok().and_then(|params| Builder::new(params).build_responder().ok())
    {
        *noise = blank;
    }
    black_box(&*noise);
}

/// snow's own choices but for X25519.
struct Resolver {
    others: DefaultResolver,
    ours: Arc<Identity>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        self.others.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let x25519 = || Box::new(X25519::empty(&self.ours)) as _;
        matches!(choice, DHChoice::Curve25519).then(x25519)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.others.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        self.others.resolve_cipher(choice)
    }
}

/// A key pair; the secret is wiped when it is replaced or dropped.
struct X25519 {
    secret: StaticSecret,
    public: [u8; KEY_LEN],
    ours: Arc<Identity>,
    /// It is ours: some of it has been computed before.
    is_ours: bool,
}

impl X25519 {
    /// Zeroes, until snow sets or generates a secret.
    fn empty(ours: &Arc<Identity>) -> Self {
        let secret = StaticSecret::from([0; KEY_LEN]);
        Self { secret, public: [0; KEY_LEN], ours: Arc::clone(ours), is_ours: false }
    }

    fn take(&mut self, secret: &Zeroizing<[u8; KEY_LEN]>) {
        self.secret = StaticSecret::from(**secret);
        self.is_ours = secret.ct_eq(self.ours.private().as_bytes()).into();
        self.public = if self.is_ours {
            *self.ours.public().as_bytes()
        } else {
            PublicKey::from(&self.secret).to_bytes()
        };
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, secret: &[u8]) {
        if let Some(secret) = secret.first_chunk() {
            self.take(&Zeroizing::new(*secret));
        }
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        random.try_fill_bytes(secret.as_mut_slice())?;
        self.take(&secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs: &[u8; KEY_LEN] = theirs.first_chunk().ok_or(snow::Error::Dh)?;
        if self.is_ours {
            let shared = self.ours.diffie_hellman(theirs).ok_or(snow::Error::Dh)?;
            out.get_mut(..KEY_LEN).ok_or(snow::Error::Dh)?.copy_from_slice(shared.as_slice());
            return Ok(());
        }
        let shared = self.secret.diffie_hellman(&PublicKey::from(*theirs));
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out.get_mut(..KEY_LEN).ok_or(snow::Error::Dh)?.copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::wireguard::keys::PrivateKey;

    /// Every u-coordinate of small order, canonical or not: 0, 1, p − 1, the two of order 8, p and
    /// p + 1.
    const SMALL_ORDER: [&str; 7] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];

    #[test]
    fn points_of_small_order_are_refused_with_either_top_bit() {
        let identity = Arc::new(Identity::new(PrivateKey::from_bytes([7; KEY_LEN])));
        let mut out = [0; 64];
        // Another's, such as an ephemeral one, and our own.
        for secret in [PrivateKey::from_bytes([6; KEY_LEN]), identity.private().clone()] {
            let mut ours = X25519::empty(&identity);
            ours.set(secret.as_bytes());
            assert_eq!(ours.is_ours, secret.as_bytes() == identity.private().as_bytes());
            assert_eq!(ours.pubkey(), secret.public().as_bytes());
            for text in SMALL_ORDER {
                let mut point =
                    *crate::wire::wireguard::keys::PublicKey::from_hex(text).unwrap().as_bytes();
                for _ in 0..2 {
                    assert!(ours.dh(&point, &mut out).is_err(), "{text}");
                    point[31] ^= 0x80;
                }
            }
            let theirs = PrivateKey::from_bytes([8; KEY_LEN]).public();
            assert!(ours.dh(theirs.as_bytes(), &mut out).is_ok());
            assert!(ours.dh(&[9; 31], &mut out).is_err());
        }
    }

    #[test]
    fn a_wiped_handshake_holds_neither_secrets_nor_the_peer() {
        let ours = Arc::new(Identity::new(PrivateKey::from_bytes([0x5a; KEY_LEN])));
        let theirs = PrivateKey::from_bytes([0x3c; KEY_LEN]).public();
        let psk = [0x77; 32];
        let started = builder(&ours).unwrap().psk(2, &psk).unwrap();
        let mut noise =
            started.remote_public_key(theirs.as_bytes()).unwrap().build_initiator().unwrap();
        noise.write_message(&[1; 12], &mut [0; 200]).unwrap();
        let chaining = noise.dangerously_get_raw_split();
        assert!(noise.get_remote_static().is_some());
        wipe(&mut noise);
        assert!(noise.get_remote_static().is_none() && !noise.is_initiator());
        assert!(noise.dangerously_get_raw_split() != chaining);
    }
}
