//! The seam against a second implementation, and against primitives that do wrong.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};

use super::*;

/// A primitive with something wrong, or nothing.
struct Second(Wrong);

#[derive(PartialEq)]
enum Wrong {
    Nothing,
    Text,
    Tag,
    Refuses,
}

impl Second {
    fn stream(&self, key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) -> Tag {
        let cipher = ChaCha20Poly1305::new(key.into());
        cipher.encrypt_in_place_detached(nonce.into(), b"", text).unwrap().into()
    }
}

impl Primitive for Second {
    fn seal(&self, key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) -> Option<Tag> {
        let mut tag = self.stream(key, nonce, text);
        match self.0 {
            Wrong::Nothing => {}
            Wrong::Text => text.iter_mut().skip(1_419).for_each(|byte| *byte ^= 1),
            Wrong::Tag => tag[15] ^= 0x80,
            Wrong::Refuses => return None,
        }
        Some(tag)
    }

    fn open(&self, key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) -> Option<Tag> {
        let sealed = text.to_vec();
        // A stream cipher: sealed again it is the text; its tag is that of the sealed bytes.
        self.stream(key, nonce, text);
        let tag = self.stream(key, nonce, &mut text.to_vec());
        (sealed.len() == text.len() && self.0 != Wrong::Refuses).then_some(tag)
    }
}

#[test]
fn the_self_test_passes_what_is_right_and_nothing_else() {
    assert_eq!(self_test(&Second(Wrong::Nothing)), Ok(()));
    let refused = |wrong| self_test(&Second(wrong)).unwrap_err();
    assert_eq!(refused(Wrong::Text), "it seals to other bytes than ring (1420 bytes)");
    assert_eq!(refused(Wrong::Tag), "it seals to other bytes than ring (0 bytes)");
    assert_eq!(refused(Wrong::Refuses), "it seals to other bytes than ring (0 bytes)");
}

#[test]
fn another_library_opens_what_ring_seals_and_the_reverse() {
    let key = Key::new(&[7; 32]).unwrap();
    let other = Aead::Other(Box::new(Second(Wrong::Nothing)));
    for (one, another) in [(&Aead::Ring, &other), (&other, &Aead::Ring)] {
        for len in [0, 1, SHORT_MAX, SHORT_MAX + 1, 1_420] {
            let mut text = vec![3; len];
            let tag = one.seal(&key, 5, &mut text).unwrap();
            text.extend_from_slice(&tag);
            assert!(another.open(&key, 5, &mut text));
            assert_eq!(text[..len], vec![3; len]);
        }
    }
}

#[test]
fn what_is_not_authentic_is_wiped() {
    let key = Key::new(&[7; 32]).unwrap();
    let other = Aead::Other(Box::new(Second(Wrong::Nothing)));
    for len in [100, 1_420] {
        let mut sealed = vec![3; len];
        let tag = other.seal(&key, 5, &mut sealed).unwrap();
        sealed.extend_from_slice(&tag);
        for at in [0, len - 1, len, len + 15] {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(!other.open(&key, 5, &mut damaged));
            assert_eq!(damaged[..len], vec![0; len]);
        }
        assert!(!other.open(&key, 6, &mut sealed.clone()), "another counter");
        assert!(!other.open(&key, 5, &mut sealed[..15]), "shorter than a tag");
    }
}

#[test]
fn what_another_library_refuses_is_not_authentic_but_short_texts_are_rings() {
    let key = Key::new(&[7; 32]).unwrap();
    let refuses = Aead::Other(Box::new(Second(Wrong::Refuses)));
    for len in [0, SHORT_MAX, SHORT_MAX + 1] {
        let short = len <= SHORT_MAX;
        let mut sealed = vec![3; len];
        assert_eq!(refuses.seal(&key, 5, &mut sealed.clone()).is_some(), short);
        let tag = Aead::Ring.seal(&key, 5, &mut sealed).unwrap();
        sealed.extend_from_slice(&tag);
        assert_eq!(refuses.open(&key, 5, &mut sealed), short);
        assert_eq!(sealed[..len], vec![if short { 3 } else { 0 }; len]);
    }
}

#[test]
fn a_wiped_key_is_the_zero_key() {
    let mut key = Key::new(&[7; 32]).unwrap();
    key.wipe();
    assert_eq!(*key.bytes, [0; 32]);
    let sealed = |key: &Key| {
        let mut text = *b"text";
        (Aead::Ring.seal(key, 1, &mut text), text)
    };
    assert_eq!(sealed(&key), sealed(&Key::new(&[0; 32]).unwrap()));
}
