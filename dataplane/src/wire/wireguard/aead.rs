//! ChaCha20-Poly1305 behind one small seam: by ring, or by another library that was handed in.
//!
//! In: a key, a counter, a text to seal or open where it lies. Out: the same bytes whoever does the
//! work, and never a byte of a text that is not authentic. A [`Key`] holds what every AEAD needs,
//! since the workers that share a session may not use the same one; an [`Aead`] belongs to one
//! worker.

use std::hint::black_box;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::messages::TAG_LEN;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// Bytes of a nonce: four zeroes and the counter.
pub const NONCE_LEN: usize = 12;
/// Texts up to here are ring's in any case. Another library gains nothing on them while everything
/// is in the cache, and a packet that comes after a pause pays for its tables and for the
/// processor's wide registers, which sleep: 0.2 to 3 µs more than with ring.
const SHORT_MAX: usize = 256;
/// What [`self_test`] tries: every length up to a full packet, and two beyond.
const SELF_TEST_LENS: std::ops::RangeInclusive<usize> = 0..=1_500;
const SELF_TEST_LONG: [usize; 2] = [9_001, 65_000];

/// The primitive of another library, for the use of one worker.
///
/// It computes a tag and gives no verdict: whoever calls compares, and wipes what it must not show.
pub trait Primitive: Send {
    /// Encrypts `text` where it lies and returns its tag.
    fn seal(&self, key: &[u8; KEY_LEN], nonce: &[u8; NONCE_LEN], text: &mut [u8]) -> Option<Tag>;

    /// Decrypts `text` where it lies and returns the tag it ought to have come with.
    fn open(&self, key: &[u8; KEY_LEN], nonce: &[u8; NONCE_LEN], text: &mut [u8]) -> Option<Tag>;
}

/// What proves a text.
pub type Tag = [u8; TAG_LEN];

/// Who seals and opens for one worker.
#[derive(Default)]
pub enum Aead {
    /// The crate `ring`.
    #[default]
    Ring,
    /// Another library.
    Other(Box<dyn Primitive>),
}

/// A key for any [`Aead`], overwritten when dropped.
///
/// ring's `LessSafeKey` lies inline and does not wipe itself: it is replaced by a key of zeroes.
pub struct Key {
    ring: LessSafeKey,
    bytes: Zeroizing<[u8; KEY_LEN]>,
}

impl Key {
    /// `None` only if ring refuses 32 bytes as a key.
    #[must_use]
    pub fn new(bytes: &[u8; KEY_LEN]) -> Option<Self> {
        Some(Self { ring: ring_key(bytes)?, bytes: Zeroizing::new(*bytes) })
    }

    fn wipe(&mut self) {
        if let Some(zero) = ring_key(&[0; KEY_LEN]) {
            self.ring = zero;
        }
        // Keeps the compiler from dropping a store nobody reads.
        black_box(&self.ring);
        self.bytes.zeroize();
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Aead {
    /// Encrypts `text` where it lies; `None`, with no promise what `text` then holds, only for more
    /// than 256 GiB.
    #[inline]
    #[must_use]
    pub fn seal(&self, key: &Key, counter: u64, text: &mut [u8]) -> Option<Tag> {
        match self {
            Self::Other(other) if text.len() > SHORT_MAX => {
                other.seal(&key.bytes, &nonce(counter), text)
            }
            _ => {
                let nonce = Nonce::assume_unique_for_key(nonce(counter));
                let tag = key.ring.seal_in_place_separate_tag(nonce, Aad::empty(), text).ok()?;
                tag.as_ref().try_into().ok()
            }
        }
    }

    /// Decrypts `sealed`, a text and its tag, where it lies; false if it is not authentic, and then
    /// nothing of the text can be read there.
    #[inline]
    #[must_use]
    pub fn open(&self, key: &Key, counter: u64, sealed: &mut [u8]) -> bool {
        match self {
            Self::Other(other) if sealed.len() > SHORT_MAX + TAG_LEN => {
                open_by(&**other, &key.bytes, counter, sealed)
            }
            _ => {
                let nonce = Nonce::assume_unique_for_key(nonce(counter));
                key.ring.open_in_place(nonce, Aad::empty(), sealed).is_ok()
            }
        }
    }
}

#[inline]
fn open_by(other: &dyn Primitive, key: &[u8; KEY_LEN], counter: u64, sealed: &mut [u8]) -> bool {
    let Some((text, tag)) = sealed.split_last_chunk_mut::<TAG_LEN>() else { return false };
    let expected = other.open(key, &nonce(counter), text);
    // As one number: byte by byte it would cost as much as a tenth of the text.
    let number = |tag: &Tag| u128::from_le_bytes(*tag);
    let authentic = expected.is_some_and(|expected| number(&expected).ct_eq(&number(tag)).into());
    if !authentic {
        // It has been decrypted all the same.
        text.zeroize();
    }
    authentic
}

fn ring_key(bytes: &[u8; KEY_LEN]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, bytes).ok().map(LessSafeKey::new)
}

/// Four zero bytes and the counter.
#[inline]
fn nonce(counter: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// Compares `other` with ring, text by text; says what differs.
///
/// # Errors
/// What went wrong, in words, with the length of the text.
pub fn self_test(other: &dyn Primitive) -> Result<(), String> {
    SELF_TEST_LENS.chain(SELF_TEST_LONG).try_for_each(|len| {
        self_test_with(other, len).map_err(|problem| format!("{problem} ({len} bytes)"))
    })
}

fn self_test_with(other: &dyn Primitive, len: usize) -> Result<(), &'static str> {
    let byte = |i: usize| u8::try_from((i * 7 + len * 13) % 251).unwrap_or(0);
    let bytes: [u8; KEY_LEN] = std::array::from_fn(byte);
    let key = Key::new(&bytes).ok_or("ring refuses a key")?;
    let counter = 0x0123_4567_89ab_cdef ^ len as u64;
    // Texts begin at any place within a cache line, with a margin that must stay as it is.
    let (before, after) = (len % 64, 64);
    let mut memory: Vec<u8> = (0..before + len + TAG_LEN + after).map(byte).collect();
    let untouched = memory.clone();
    let place = before..before + len;
    let plain = untouched[place.clone()].to_vec();

    let mut expected = plain.clone();
    let tag = Aead::Ring.seal(&key, counter, &mut expected).ok_or("ring does not seal")?;
    let sealed = other.seal(&bytes, &nonce(counter), &mut memory[place.clone()]);
    if sealed != Some(tag) || memory[place.clone()] != expected {
        return Err("it seals to other bytes than ring");
    }
    memory[place.end..place.end + TAG_LEN].copy_from_slice(&tag);
    let whole = before..place.end + TAG_LEN;
    let damaged_at = (len * 31) % (len + TAG_LEN);
    let mut damaged = memory[whole.clone()].to_vec();
    damaged[damaged_at] ^= 1 << (len % 8);
    if open_by(other, &bytes, counter, &mut damaged) || damaged[..len].iter().any(|&b| b != 0) {
        return Err("it opens a damaged text");
    }
    if !open_by(other, &bytes, counter, &mut memory[whole.clone()]) {
        return Err("it does not open what ring has sealed");
    }
    if memory[place] != plain {
        return Err("it opens to another text");
    }
    let same = |range: std::ops::Range<usize>| memory[range.clone()] == untouched[range];
    if !same(0..before) || !same(whole.end..memory.len()) {
        return Err("it writes beside the text");
    }
    Ok(())
}

#[cfg(test)]
#[path = "aead_tests.rs"]
mod tests;
