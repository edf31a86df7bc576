//! Our key pair, and what it gives with the keys of our peers.
//!
//! Of the four Diffie-Hellmans of a handshake one, static with static, is the same each time. It is
//! computed with the first handshake of a peer and kept (the kernel's `precomputed_static_static`,
//! drivers/net/wireguard/noise.c), for those that are peers only: whoever knows our public key may
//! send us handshakes of as many keys as he likes. What is kept is worth as much as the private
//! key, lives no longer, and is overwritten like it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use x25519_dalek::{PublicKey as DalekPublic, StaticSecret};
use zeroize::Zeroizing;

use super::keys::{KEY_LEN, PrivateKey, PublicKey};

type Shared = Zeroizing<[u8; KEY_LEN]>;

/// Who we are.
pub struct Identity {
    private: PrivateKey,
    public: PublicKey,
    /// By peer; none until its first handshake.
    shared: Mutex<HashMap<PublicKey, Option<Shared>>>,
}

impl Identity {
    /// Without peers.
    #[must_use]
    pub fn new(private: PrivateKey) -> Self {
        Self { public: private.public(), private, shared: Mutex::default() }
    }

    /// The private key.
    #[must_use]
    pub fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// This one is a peer: what we share is kept from its first handshake on.
    pub fn expect(&self, peer: PublicKey) {
        self.lock().entry(peer).or_default();
    }

    /// This one is none any more.
    pub fn forget(&self, peer: &PublicKey) {
        self.lock().remove(peer);
    }

    /// X25519 of our private key and `theirs`; `None` for a key of small order.
    pub(super) fn diffie_hellman(&self, theirs: &[u8; KEY_LEN]) -> Option<Shared> {
        let key = PublicKey::from_bytes(*theirs);
        if let Some(Some(shared)) = self.lock().get(&key) {
            return Some(shared.clone());
        }
        let secret = StaticSecret::from(*self.private.as_bytes());
        let shared = secret.diffie_hellman(&DalekPublic::from(*theirs));
        if !shared.was_contributory() {
            return None;
        }
        let shared = Zeroizing::new(*shared.as_bytes());
        if let Some(kept) = self.lock().get_mut(&key) {
            *kept = Some(shared.clone());
        }
        Some(shared)
    }

    /// Peers whose shared secret is kept.
    #[cfg(test)]
    pub(crate) fn kept_count(&self) -> usize {
        self.lock().values().filter(|shared| shared.is_some()).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, Option<Shared>>> {
        // Nothing in between panics, and any state of the map is a good one.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_would_be_computed() {
        let [ours, theirs] = [1, 2].map(|n| PrivateKey::from_bytes([n; KEY_LEN]));
        let identity = Identity::new(ours.clone());
        let other = Identity::new(theirs.clone()).diffie_hellman(ours.public().as_bytes());
        identity.expect(theirs.public());
        assert_eq!(identity.kept_count(), 0, "not before the first handshake");
        for _ in 0..2 {
            assert_eq!(identity.diffie_hellman(theirs.public().as_bytes()), other);
            assert_eq!(identity.kept_count(), 1);
        }
        identity.expect(theirs.public());
        assert_eq!(identity.kept_count(), 1, "a peer that is set again keeps it");
        identity.forget(&theirs.public());
        assert_eq!(identity.kept_count(), 0);
        assert_eq!(identity.diffie_hellman(theirs.public().as_bytes()), other);
    }

    #[test]
    fn strangers_leave_nothing_behind() {
        let identity = Identity::new(PrivateKey::from_bytes([1; KEY_LEN]));
        for n in 2..100 {
            let stranger = PrivateKey::from_bytes([n; KEY_LEN]).public();
            assert!(identity.diffie_hellman(stranger.as_bytes()).is_some());
        }
        assert!(identity.lock().is_empty());
        identity.expect(PublicKey::from_bytes([0; KEY_LEN]));
        assert!(identity.diffie_hellman(&[0; KEY_LEN]).is_none(), "of small order");
        assert_eq!(identity.kept_count(), 0);
    }
}
