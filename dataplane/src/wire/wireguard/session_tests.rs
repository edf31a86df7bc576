//! Sessions against each other, against another implementation of the AEAD, and damaged.

use chacha20poly1305::aead::{Aead as _, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce as OtherNonce};
use proptest::prelude::*;

use super::*;

fn keys(send: u8, receive: u8) -> TransportKeys {
    TransportKeys { send: Zeroizing::new([send; 32]), receive: Zeroizing::new([receive; 32]) }
}

fn pair() -> (Session, Session) {
    let ours = Session::new(&keys(1, 2), 10, 20, true, 0).unwrap();
    let theirs = Session::new(&keys(2, 1), 20, 10, false, 0).unwrap();
    (ours, theirs)
}

fn message(plain: &[u8]) -> Vec<u8> {
    let mut message = vec![0xaa; 16];
    message.extend_from_slice(plain);
    message.extend_from_slice(&[0xbb; 16]);
    message
}

#[test]
fn what_one_seals_the_other_opens() {
    let (ours, theirs) = pair();
    for len in [0, 1, 16, 1420, 65_000] {
        let plain: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let counter = ours.reserve(1).unwrap();
        let mut sealed = message(&plain);
        ours.seal(&Aead::Ring, counter, &mut sealed);
        assert_eq!(sealed[..8], [4, 0, 0, 0, 20, 0, 0, 0]);
        assert_eq!(theirs.open(&Aead::Ring, &mut sealed), Some(counter));
        assert_eq!(sealed[16..sealed.len() - 16], plain);
    }
}

#[test]
fn the_bytes_are_those_of_another_implementation() {
    let (ours, _) = pair();
    let mut sealed = message(b"a packet, not padded");
    ours.seal(&Aead::Ring, 0x0102_0304_0506_0708, &mut sealed);
    let other = ChaCha20Poly1305::new(&[1; 32].into());
    let nonce: [u8; 12] = [0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
    let expected = other.encrypt(&OtherNonce::from(nonce), &b"a packet, not padded"[..]).unwrap();
    assert_eq!(sealed[16..], expected);
    assert_eq!(sealed[8..16], [8, 7, 6, 5, 4, 3, 2, 1]);
}

#[test]
fn counters_end_before_the_limit() {
    let (ours, _) = pair();
    assert_eq!((ours.reserve(64), ours.reserve(1)), (Some(0), Some(64)));
    ours.next_counter.store(REJECT_AFTER_MESSAGES - 10, Ordering::Relaxed);
    assert_eq!(ours.reserve(10), None);
    assert_eq!(ours.reserve(9), Some(REJECT_AFTER_MESSAGES - 10));
    assert_eq!(ours.reserve(1), None);
    assert_eq!(ours.reserve(u64::MAX), None);
}

#[test]
fn a_counter_at_the_limit_is_not_opened() {
    let (ours, theirs) = pair();
    for (counter, opened) in [(REJECT_AFTER_MESSAGES - 1, true), (REJECT_AFTER_MESSAGES, false)] {
        let mut sealed = message(b"");
        ours.seal(&Aead::Ring, counter, &mut sealed);
        assert_eq!(theirs.open(&Aead::Ring, &mut sealed).is_some(), opened);
    }
}

#[test]
fn a_batch_admits_each_counter_once() {
    let (ours, _) = pair();
    let mut admission = ours.admission();
    assert!(admission.admit(5) && admission.admit(4) && !admission.admit(5));
}

proptest! {
    #[test]
    fn a_damaged_message_does_not_open(
        len in 0usize..300, byte in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let (ours, theirs) = pair();
        let mut sealed = message(&vec![9; len]);
        ours.seal(&Aead::Ring, 3, &mut sealed);
        // Type and receiver are looked at elsewhere: all from the counter on is authentic.
        let at = 8 + byte.index(sealed.len() - 8);
        sealed[at] ^= 1 << bit;
        prop_assert_eq!(theirs.open(&Aead::Ring, &mut sealed), None);
    }

    #[test]
    fn noise_and_cut_messages_do_not_open(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (ours, theirs) = pair();
        prop_assert_eq!(theirs.open(&Aead::Ring, &mut bytes), None);
        let mut sealed = message(&bytes);
        ours.seal(&Aead::Ring, 3, &mut sealed);
        sealed.pop();
        prop_assert_eq!(theirs.open(&Aead::Ring, &mut sealed), None);
    }
}
