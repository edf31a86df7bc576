//! Which worker has connected a socket to which endpoint.
//!
//! Of two sockets that are connected to one endpoint the kernel would choose, so only one worker
//! may. Another one that has reason to asks for it, and the holder gives it up if it does nothing
//! but listen to the peer. None of this is on a packet's way: a holder looks at a flag of its own,
//! and that only when it has long sent nothing to whom it hears.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Those of all workers of an engine.
#[derive(Debug, Default)]
pub struct Claims {
    /// What each worker has, by address family.
    held: Mutex<Box<[Held]>>,
    /// When another worker has asked for what it has; 0 if none has.
    asked_ms: Box<[AtomicU64]>,
}

/// So long it counts: an answer takes its time to come.
const ASKED_MS: u64 = 5_000;

type Held = [Option<Way>; 2];

/// Where a socket is connected to, and from which of our addresses.
pub(super) type Way = (SocketAddr, IpAddr);

impl Claims {
    /// For so many workers, which have nothing yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            held: Mutex::new(vec![Held::default(); workers].into()),
            asked_ms: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether `worker` may connect that way, instead of what of that family it had before. Whoever
    /// has it already is asked to give it up. Not while another worker is at it.
    pub(super) fn take(&self, worker: u16, way: Way, now_ms: u64) -> bool {
        let (worker, family) = (usize::from(worker), usize::from(way.0.is_ipv6()));
        let Ok(mut held) = self.held.try_lock() else { return false };
        let holder = held.iter().position(|held| held[family] == Some(way));
        if let Some(holder) = holder.filter(|&holder| holder != worker) {
            self.asked_ms[holder].store(now_ms, Ordering::Relaxed);
            return false;
        }
        let Some(mine) = held.get_mut(worker) else { return false };
        mine[family] = Some(way);
        true
    }

    /// Whether another worker has just asked for something that `worker` has.
    #[inline]
    pub(super) fn is_asked(&self, worker: u16, now_ms: u64) -> bool {
        let asked_ms = self.asked_ms.get(usize::from(worker));
        let asked_ms = asked_ms.map_or(0, |asked_ms| asked_ms.load(Ordering::Relaxed));
        asked_ms > 0 && now_ms.saturating_sub(asked_ms) <= ASKED_MS
    }

    /// Gives up what `worker` has of a family if its socket can be parked, by `park`; false if not,
    /// or while another worker is at it.
    pub(super) fn release(&self, worker: u16, ipv6: bool, park: impl FnOnce() -> bool) -> bool {
        let worker = usize::from(worker);
        let Ok(mut held) = self.held.try_lock() else { return false };
        let Some(mine) = held.get_mut(worker).filter(|_| park()) else { return false };
        mine[usize::from(ipv6)] = None;
        self.asked_ms[worker].store(0, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_has_an_endpoint_until_it_gives_it_up() {
        let claims = Claims::new(2);
        let way = |to: &str, from: &str| (to.parse().unwrap(), from.parse().unwrap());
        let first = way("192.0.2.1:1", "192.0.2.9");
        let second = way("192.0.2.2:1", "192.0.2.9");
        let ipv6 = way("[2001:db8::1]:1", "2001:db8::9");
        let take = |worker, way| claims.take(worker, way, 1_000);
        assert!(take(0, first) && take(0, first) && take(0, ipv6) && !claims.is_asked(0, 1_000));
        assert!(!take(1, first) && claims.is_asked(0, 1_000 + ASKED_MS));
        assert!(!claims.is_asked(0, 1_001 + ASKED_MS) && !claims.is_asked(1, 1_000));
        assert!(!claims.release(0, false, || false) && !take(1, first), "it could not be parked");
        assert!(claims.release(0, false, || true) && !claims.is_asked(0, 1_000));
        assert!(take(1, first) && !take(0, first) && !take(1, ipv6));
        assert!(take(0, way("192.0.2.1:1", "192.0.2.8")), "from another address of ours");
        assert!(take(1, second) && take(0, first), "one of a family");
        assert!(!take(2, second) && !take(2, way("192.0.2.3:1", "192.0.2.9")), "no such worker");
        assert!(!claims.release(2, false, || true) && !claims.is_asked(2, 1_000));
    }
}
