//! Which AEAD the workers seal and open by: ring, or a library that is there.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::sys::ipsec_mb::{Library, LoadError, Manager};
use crate::wire::wireguard::aead::{Aead, KEY_LEN, NONCE_LEN, Primitive, Tag, self_test};

/// The AEAD of all workers of an engine.
#[derive(Clone, Debug, Default)]
pub enum AeadLibrary {
    /// The crate `ring`, which is always there.
    #[default]
    Ring,
    /// Intel's IPsec Multi-Buffer library.
    IpsecMb(Arc<Library>),
}

/// Why it is not IPsec-MB.
#[derive(Debug, thiserror::Error)]
pub enum AeadError {
    /// It cannot be had here.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It does not do what ring does.
    #[error("ipsec-mb {version} fails the self test: {problem}")]
    SelfTest {
        /// The library's version.
        version: &'static str,
        /// What differs.
        problem: String,
    },
    /// No memory for a manager.
    #[error("ipsec-mb cannot be set up: {0}")]
    Manager(#[from] io::Error),
}

impl AeadLibrary {
    /// IPsec-MB, if it is there, faster on this processor, and does what ring does.
    ///
    /// # Errors
    /// Which of these it is not.
    pub fn ipsec_mb() -> Result<Self, AeadError> {
        let library = Library::load()?;
        let version = library.version();
        let tested = self_test(&IpsecMb(library.manager()?));
        tested.map_err(|problem| AeadError::SelfTest { version, problem })?;
        Ok(Self::IpsecMb(library))
    }

    /// For one worker; nothing is allocated later.
    ///
    /// # Errors
    /// No memory.
    pub fn for_worker(&self) -> io::Result<Aead> {
        match self {
            Self::Ring => Ok(Aead::Ring),
            Self::IpsecMb(library) => Ok(Aead::Other(Box::new(IpsecMb(library.manager()?)))),
        }
    }
}

impl fmt::Display for AeadLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring => f.write_str("ring"),
            Self::IpsecMb(library) => write!(f, "ipsec-mb {} (AVX-512)", library.version()),
        }
    }
}

struct IpsecMb(Manager);

impl Primitive for IpsecMb {
    #[inline]
    fn seal(&self, key: &[u8; KEY_LEN], nonce: &[u8; NONCE_LEN], text: &mut [u8]) -> Option<Tag> {
        self.0.seal(key, nonce, text)
    }

    #[inline]
    fn open(&self, key: &[u8; KEY_LEN], nonce: &[u8; NONCE_LEN], text: &mut [u8]) -> Option<Tag> {
        self.0.open(key, nonce, text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use zeroize::Zeroizing;

    use super::*;
    use crate::wire::wireguard::aead::Key;
    use crate::wire::wireguard::session::{Session, TransportKeys};

    /// IPsec-MB for one worker; says so where there is none. Not by a macro, which the test
    /// harness would swallow.
    fn ipsec_mb() -> Option<Aead> {
        match AeadLibrary::ipsec_mb() {
            Ok(library) => Some(library.for_worker().unwrap()),
            Err(AeadError::Load(error)) => {
                let _ = writeln!(io::stderr(), "LEFT OUT, no ipsec-mb: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn it_seals_to_the_same_bytes_as_ring() {
        let Some(aead) = ipsec_mb() else { return };
        let key = Key::new(&[9; KEY_LEN]).unwrap();
        for len in (0..=1_500).chain([65_475]) {
            let counter = u64::MAX - len as u64;
            let plain: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let [mut ours, mut theirs] = [plain.clone(), plain.clone()];
            let tag = aead.seal(&key, counter, &mut ours).unwrap();
            assert_eq!(Some(tag), Aead::Ring.seal(&key, counter, &mut theirs), "{len}");
            assert!(ours == theirs, "{len}");
            ours.extend_from_slice(&tag);
            assert!(aead.open(&key, counter, &mut ours) && ours[..len] == plain, "{len}");
        }
    }

    #[test]
    fn a_wrong_tag_is_refused_and_the_text_wiped() {
        let Some(aead) = ipsec_mb() else { return };
        let key = Key::new(&[9; KEY_LEN]).unwrap();
        let mut sealed = vec![5; 1_420];
        let tag = Aead::Ring.seal(&key, 1, &mut sealed).unwrap();
        sealed.extend_from_slice(&tag);
        for bit in (0..sealed.len() * 8).step_by(77).chain([1_420 * 8, 1_436 * 8 - 1]) {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(!aead.open(&key, 1, &mut damaged), "{bit}");
            assert_eq!(damaged[..1_420], [0; 1_420]);
        }
    }

    #[test]
    fn workers_with_managers_of_their_own_share_a_session() {
        let Some(aead) = ipsec_mb() else { return };
        let key = |byte| Zeroizing::new([byte; 32]);
        let keys = TransportKeys { send: key(1), receive: key(1) };
        let session = Session::new(&keys, 1, 1, true, 0).unwrap();
        let work = |aead: Aead| {
            for _ in 0..2_000 {
                let mut message = vec![7; 1_452];
                let counter = session.reserve(1).unwrap();
                session.seal(&aead, counter, &mut message);
                assert_eq!(session.open(&aead, &mut message), Some(counter));
                assert_eq!(message[16..1_436], [7; 1_420]);
            }
        };
        thread::scope(|scope| {
            for aead in [aead, ipsec_mb().unwrap(), Aead::Ring] {
                scope.spawn(|| work(aead));
            }
        });
        assert_eq!(session.sent_count(), 6_000);
    }
}
