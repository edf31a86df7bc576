//! Shares of the queue of proven handshake messages: so many of one source may wait at once.
//!
//! Workers take a share for each message that they pass on, and it comes back when the message is
//! gone, wherever that happens. No lock and no allocation: a counter for each of a fixed number of
//! places, to which sources are spread by a keyed hash. Sources that meet in a place share it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::wire::wireguard::limiter::source_of;

/// Messages of one source that may wait: a burst of the limiter, and some that cross it.
pub const SHARE_MAX: u8 = 8;
/// Places; a power of two, several times the length of the queue.
const PLACES: usize = 4096;

/// How much of the queue each source has.
pub struct Shares {
    waiting: Box<[AtomicU8]>,
    hash: RandomState,
}

/// One message's share; given back when dropped.
pub struct Share {
    shares: Arc<Shares>,
    place: usize,
}

impl Shares {
    /// Nobody has any yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let waiting = (0..PLACES).map(|_| AtomicU8::new(0)).collect();
        Arc::new(Self { waiting, hash: RandomState::new() })
    }

    /// A share for a message from `from`; none when that source has all it may.
    #[must_use]
    pub fn take(self: &Arc<Self>, from: IpAddr) -> Option<Share> {
        let hash = self.hash.hash_one(source_of(from));
        let place = usize::try_from(hash % PLACES as u64).ok()?;
        let one_more = |count: u8| (count < SHARE_MAX).then_some(count + 1);
        let waiting = self.waiting.get(place)?;
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Share { shares: Arc::clone(self), place })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(waiting) = self.shares.waiting.get(self.place) {
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(shares: &Arc<Shares>, from: &str, count: usize) -> Vec<Share> {
        (0..count).map_while(|_| shares.take(from.parse().unwrap())).collect()
    }

    #[test]
    fn a_source_has_so_much_and_it_comes_back() {
        let shares = Shares::new();
        let mut held = take(&shares, "192.0.2.1", 20);
        assert_eq!(held.len(), usize::from(SHARE_MAX));
        held.truncate(5);
        held.extend(take(&shares, "192.0.2.1", 20));
        assert_eq!(held.len(), usize::from(SHARE_MAX));
        drop(held);
        assert!(shares.waiting.iter().all(|waiting| waiting.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let shares = Shares::new();
        let held: Vec<Share> = (0..100)
            .filter_map(|n| shares.take(format!("2001:db8::{n:x}").parse().unwrap()))
            .collect();
        assert_eq!(held.len(), usize::from(SHARE_MAX));
    }

    #[test]
    fn others_do_not_suffer() {
        let shares = Shares::new();
        let _greedy = take(&shares, "192.0.2.1", 20);
        // Of 256 others, one or the other may meet it in its place; not ten.
        let served = (0..=255).filter(|n| !take(&shares, &format!("10.0.0.{n}"), 1).is_empty());
        assert!(served.count() > 246);
    }
}
