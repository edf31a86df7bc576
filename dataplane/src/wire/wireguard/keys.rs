//! Keys: 32 bytes each, written in base64 (`wg`, configuration files) or hex (UAPI).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x25519_dalek::{PublicKey as DalekPublic, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of every key.
pub const KEY_LEN: usize = 32;

/// Why a text is no key. The text is not repeated: it may be most of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 of 32 bytes.
    #[error("not a key: 44 characters of base64 are wanted, as `ringtun genkey` prints")]
    Base64,
    /// Not hex of 32 bytes.
    #[error("not a key: 64 hexadecimal digits are wanted")]
    Hex,
}

/// A peer's identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

/// Our identity; wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_LEN]);

/// The optional symmetric key of a pair of peers, all zero when there is none; wiped when dropped.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; KEY_LEN]);

macro_rules! written_as_text {
    ($key:ident) => {
        impl $key {
            /// Reads 44 characters of base64.
            ///
            /// # Errors
            /// [`KeyError::Base64`] for anything else.
            pub fn from_base64(text: &str) -> Result<Self, KeyError> {
                // One byte more than a key, so that a longer text is seen to be longer.
                let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
                match STANDARD.decode_slice(text, bytes.as_mut_slice()) {
                    Ok(KEY_LEN) => Ok(Self::from_bytes(*bytes.first_chunk().unwrap_or(&[0; 32]))),
                    _ => Err(KeyError::Base64),
                }
            }

            /// Reads 64 hexadecimal digits.
            ///
            /// # Errors
            /// [`KeyError::Hex`] for anything else.
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                let mut bytes = Zeroizing::new([0; KEY_LEN]);
                let (pairs, rest) = text.as_bytes().as_chunks::<2>();
                if pairs.len() != KEY_LEN || !rest.is_empty() {
                    return Err(KeyError::Hex);
                }
                for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
                    *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
                }
                Ok(Self::from_bytes(*bytes))
            }

            /// The key in base64.
            #[must_use]
            pub fn to_base64(&self) -> Zeroizing<String> {
                Zeroizing::new(STANDARD.encode(self.0))
            }

            /// The key in lower-case hexadecimal digits.
            #[must_use]
            pub fn to_hex(&self) -> Zeroizing<String> {
                let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n & 15)]);
                let digits = self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]);
                let mut text = Zeroizing::new(String::with_capacity(KEY_LEN * 2));
                text.extend(digits);
                text
            }

            /// Its bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }
        }
    };
}

written_as_text!(PublicKey);
written_as_text!(PrivateKey);
written_as_text!(PresharedKey);

fn hex_digit(digit: u8) -> Result<u8, KeyError> {
    let value = char::from(digit).to_digit(16).ok_or(KeyError::Hex)?;
    u8::try_from(value).map_err(|_| KeyError::Hex)
}

impl PublicKey {
    /// From its bytes; any 32 bytes are a public key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }
}

impl PrivateKey {
    /// From its bytes, clamped (RFC 7748 section 5).
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; KEY_LEN]) -> Self {
        bytes[0] &= 248;
        bytes[31] = bytes[31] & 127 | 64;
        Self(bytes)
    }

    /// A new one from the kernel's random numbers.
    ///
    /// # Errors
    /// The kernel's, when it has none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self::from_bytes(*bytes))
    }

    /// The public key that belongs to it.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(DalekPublic::from(&StaticSecret::from(self.0)).to_bytes())
    }
}

impl PresharedKey {
    /// From its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// A new one from the kernel's random numbers.
    ///
    /// # Errors
    /// The kernel's, when it has none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(*bytes))
    }

    /// All zero: there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0 == [0; KEY_LEN]
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_none() { "PresharedKey(none)" } else { "PresharedKey(hidden)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `wg genkey | tee /dev/stderr | wg pubkey`.
    const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    const PUBLIC: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

    #[test]
    fn the_public_key_is_the_one_wg_makes() {
        let private = PrivateKey::from_base64(PRIVATE).unwrap();
        assert_eq!(private.public().to_string(), PUBLIC);
        assert_eq!(private.to_base64().as_str(), PRIVATE);
        assert_eq!(PrivateKey::from_hex(&private.to_hex()).unwrap().as_bytes(), private.as_bytes());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for text in ["", "x", &PUBLIC[..43], &format!("{PUBLIC}="), &PUBLIC.replace('=', "A")] {
            assert_eq!(PublicKey::from_base64(text), Err(KeyError::Base64), "{text}");
        }
        for text in ["", "0", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
            assert_eq!(PublicKey::from_hex(text), Err(KeyError::Hex), "{text}");
        }
        let private = PrivateKey::from_base64(PRIVATE).unwrap();
        assert_eq!(format!("{private:?}"), "PrivateKey(hidden)");
    }
}
