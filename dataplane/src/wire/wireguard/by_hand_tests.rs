//! The handshake computed by hand from the whitepaper (sections 5.4.1 to 5.4.5), as either end,
//! against ours: both must come to the same keys.

use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, Payload};
use x25519_dalek::{PublicKey as DalekPublic, StaticSecret};

use super::cookie::{Checker, Stamper};
use super::handshake::{Initiator, Responder};
use super::keys::{PresharedKey, PrivateKey, PublicKey};
use super::messages::{INITIATION_LEN, RESPONSE_LEN};
use super::timestamp::Timestamp;

type Bytes = [u8; 32];

fn hash(parts: &[&[u8]]) -> Bytes {
    let mut state = Blake2s256::new();
    parts.iter().for_each(|part| Digest::update(&mut state, part));
    state.finalize().into()
}

/// RFC 2104 with BLAKE2s, whose block is 64 bytes.
fn hmac(key: &Bytes, parts: &[&[u8]]) -> Bytes {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        block
    };
    let inner = pad(0x36);
    let inner = [&[&inner[..]], parts].concat();
    hash(&[&pad(0x5c), &hash(&inner)])
}

fn kdf<const N: usize>(chaining: &Bytes, input: &[u8]) -> [Bytes; N] {
    let secret = hmac(chaining, &[input]);
    let mut out = [[0; 32]; N];
    let mut last: Vec<u8> = Vec::new();
    for (number, out) in (1u8..).zip(&mut out) {
        *out = hmac(&secret, &[&last, &[number]]);
        last = out.to_vec();
    }
    out
}

fn dh(secret: &Bytes, public: &[u8]) -> Bytes {
    let public: Bytes = public.try_into().unwrap();
    StaticSecret::from(*secret).diffie_hellman(&DalekPublic::from(public)).to_bytes()
}

fn public(secret: &Bytes) -> Bytes {
    DalekPublic::from(&StaticSecret::from(*secret)).to_bytes()
}

fn seal(key: &Bytes, msg: &[u8], aad: &Bytes) -> Vec<u8> {
    ChaCha20Poly1305::new(key.into()).encrypt(&[0; 12].into(), Payload { msg, aad }).unwrap()
}

fn open(key: &Bytes, msg: &[u8], aad: &Bytes) -> Vec<u8> {
    ChaCha20Poly1305::new(key.into()).decrypt(&[0; 12].into(), Payload { msg, aad }).unwrap()
}

/// Chaining key and hash, which both ends carry along.
struct State {
    chaining: Bytes,
    hash: Bytes,
}

impl State {
    fn new(responder: &Bytes) -> Self {
        let chaining = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        let hashed = hash(&[&chaining, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        Self { chaining, hash: hash(&[&hashed, responder]) }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_ephemeral(&mut self, public: &[u8]) {
        [self.chaining] = kdf(&self.chaining, public);
        self.mix_hash(public);
    }

    fn mix_key(&mut self, shared: &Bytes) -> Bytes {
        let [chaining, key] = kdf(&self.chaining, shared);
        self.chaining = chaining;
        key
    }

    fn mix_psk(&mut self, psk: &Bytes) -> Bytes {
        let [chaining, tau, key] = kdf(&self.chaining, psk);
        self.chaining = chaining;
        self.mix_hash(&tau);
        key
    }
}

const STATIC: [Bytes; 2] = [[0x40; 32], [0x48; 32]];
const EPHEMERAL: Bytes = [0x50; 32];

fn now() -> Timestamp {
    Timestamp::from_unix(Duration::from_secs(1_800_000_000))
}

/// An initiation from `STATIC[0]` to `STATIC[1]`, without MACs, and the state after it.
fn initiation_by_hand() -> (State, [u8; INITIATION_LEN]) {
    let responder = public(&STATIC[1]);
    let mut state = State::new(&responder);
    let mut message = [0; INITIATION_LEN];
    message[..8].copy_from_slice(&[1, 0, 0, 0, 0x11, 0x22, 0x33, 0x44]);
    message[8..40].copy_from_slice(&public(&EPHEMERAL));
    state.mix_ephemeral(&public(&EPHEMERAL));
    let key = state.mix_key(&dh(&EPHEMERAL, &responder));
    message[40..88].copy_from_slice(&seal(&key, &public(&STATIC[0]), &state.hash));
    state.mix_hash(&message[40..88]);
    let key = state.mix_key(&dh(&STATIC[0], &responder));
    message[88..116].copy_from_slice(&seal(&key, &now().0, &state.hash));
    state.mix_hash(&message[88..116]);
    (state, message)
}

fn psks() -> [Bytes; 2] {
    [[0; 32], [0x99; 32]]
}

#[test]
fn we_answer_who_computes_by_hand() {
    for psk in psks() {
        let (mut state, initiation) = initiation_by_hand();
        let ours = PrivateKey::from_bytes(STATIC[1]);
        let responder = Responder::read(&ours, &initiation).unwrap();
        assert_eq!(responder.peer.as_bytes(), &public(&STATIC[0]));
        assert_eq!((responder.timestamp, responder.remote_index), (now(), 0x4433_2211));
        let (keys, response) =
            responder.respond(&PresharedKey::from_bytes(psk), 0x8877_6655).unwrap();
        assert_eq!(response[..8], [2, 0, 0, 0, 0x55, 0x66, 0x77, 0x88]);
        assert_eq!(response[8..12], initiation[4..8]);
        state.mix_ephemeral(&response[12..44]);
        state.mix_key(&dh(&EPHEMERAL, &response[12..44]));
        state.mix_key(&dh(&STATIC[0], &response[12..44]));
        let key = state.mix_psk(&psk);
        assert!(open(&key, &response[44..60], &state.hash).is_empty());
        let [first, second] = kdf(&state.chaining, &[]);
        assert!(*keys.receive == first && *keys.send == second);
    }
}

#[test]
fn who_computes_by_hand_answers_us() {
    for psk in psks() {
        let (ours, theirs) = (PrivateKey::from_bytes(STATIC[0]), public(&STATIC[1]));
        let preshared = PresharedKey::from_bytes(psk);
        let theirs = PublicKey::from_bytes(theirs);
        let started = Initiator::start(&ours, &theirs, &preshared, 0x4433_2211, now());
        let (mut initiator, initiation) = started.unwrap();
        assert_eq!(initiation[..8], [1, 0, 0, 0, 0x11, 0x22, 0x33, 0x44]);
        let mut state = State::new(theirs.as_bytes());
        let ephemeral = &initiation[8..40];
        state.mix_ephemeral(ephemeral);
        let key = state.mix_key(&dh(&STATIC[1], ephemeral));
        assert_eq!(open(&key, &initiation[40..88], &state.hash), public(&STATIC[0]));
        state.mix_hash(&initiation[40..88]);
        let key = state.mix_key(&dh(&STATIC[1], &public(&STATIC[0])));
        assert_eq!(open(&key, &initiation[88..116], &state.hash), now().0);
        state.mix_hash(&initiation[88..116]);

        let mut response = [0; RESPONSE_LEN];
        response[..8].copy_from_slice(&[2, 0, 0, 0, 0x55, 0x66, 0x77, 0x88]);
        response[8..12].copy_from_slice(&initiation[4..8]);
        response[12..44].copy_from_slice(&public(&EPHEMERAL));
        state.mix_ephemeral(&public(&EPHEMERAL));
        state.mix_key(&dh(&EPHEMERAL, ephemeral));
        state.mix_key(&dh(&EPHEMERAL, &public(&STATIC[0])));
        let key = state.mix_psk(&psk);
        response[44..60].copy_from_slice(&seal(&key, &[], &state.hash));
        let (keys, remote_index) = initiator.finish(&response).unwrap();
        assert_eq!(remote_index, 0x8877_6655);
        let [first, second] = kdf(&state.chaining, &[]);
        assert!(*keys.send == first && *keys.receive == second);
    }
}

#[test]
fn macs_and_cookies_are_those_of_the_whitepaper() {
    let mac = |key: &[u8], parts: &[&[u8]]| -> [u8; 16] {
        let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).unwrap();
        parts.iter().for_each(|part| Update::update(&mut mac, part));
        mac.finalize_fixed().into()
    };
    let theirs = public(&STATIC[1]);
    let (_, mut message) = initiation_by_hand();
    let mut stamper = Stamper::new(&PublicKey::from_bytes(theirs));
    stamper.stamp(&mut message, 0);
    let mac1 = mac(&hash(&[b"mac1----", &theirs]), &[&message[..116]]);
    assert_eq!((&message[116..132], &message[132..]), (&mac1[..], &[0; 16][..]));

    let (secret, from) = ([0x66; 32], "192.0.2.9:258".parse().unwrap());
    let checker = Checker::new(&PublicKey::from_bytes(theirs), &secret);
    assert!(checker.mac1_valid(&message));
    // Source address and port, big endian, as on the wire.
    let cookie = mac(&secret, &[&[192, 0, 2, 9], &[1, 2]]);
    let reply = checker.reply(&message, from, [0x24; 24]).unwrap();
    let cipher = chacha20poly1305::XChaCha20Poly1305::new(&hash(&[b"cookie--", &theirs]).into());
    let sealed = cipher.encrypt(&[0x24; 24].into(), Payload { msg: &cookie, aad: &mac1 }).unwrap();
    assert_eq!((&reply[8..32], &reply[32..]), (&[0x24; 24][..], &sealed[..]));
    assert!(stamper.take_reply(&reply, 0));
    stamper.stamp(&mut message, 0);
    assert_eq!(message[132..], mac(&cookie, &[&message[..132]]));
    assert!(checker.mac2_valid(&message, from));
}
