//! Which worker has connected a socket to which endpoint.
//!
//! Of two sockets that are connected to one endpoint the kernel would choose, so only one worker
//! may. Another one that has reason to asks for it, and the holder gives it up if it does nothing
//! but listen to the peer. None of this is on a packet's way: a holder looks at a flag of its own,
//! and that only when it has long sent nothing to whom it hears.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Those of all workers of an engine.
#[derive(Debug, Default)]
pub struct Claims {
    /// What each worker has, by address family.
    held: Mutex<Box<[Held]>>,
    /// Whether another worker wants what it has.
    asked: Box<[AtomicBool]>,
}

type Held = [Option<SocketAddr>; 2];

impl Claims {
    /// For so many workers, which have nothing yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            held: Mutex::new(vec![Held::default(); workers].into()),
            asked: (0..workers).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Whether `worker` may connect to `to`, instead of whom of that family it had before. Whoever
    /// has it already is asked to give it up. Not while another worker is at it.
    pub(super) fn take(&self, worker: u16, to: SocketAddr) -> bool {
        let (worker, family) = (usize::from(worker), usize::from(to.is_ipv6()));
        let Ok(mut held) = self.held.try_lock() else { return false };
        let holder = held.iter().position(|held| held[family] == Some(to));
        if let Some(holder) = holder.filter(|&holder| holder != worker) {
            self.asked[holder].store(true, Ordering::Relaxed);
            return false;
        }
        let Some(mine) = held.get_mut(worker) else { return false };
        mine[family] = Some(to);
        true
    }

    /// Whether another worker wants something that `worker` has, once.
    #[inline]
    pub(super) fn is_asked(&self, worker: u16) -> bool {
        let asked = self.asked.get(usize::from(worker));
        asked.is_some_and(|asked| {
            asked.load(Ordering::Relaxed) && asked.swap(false, Ordering::Relaxed)
        })
    }

    /// `worker` has no socket connected to `to` any more.
    pub(super) fn release(&self, worker: u16, to: SocketAddr) {
        let Ok(mut held) = self.held.lock() else { return };
        if let Some(mine) = held.get_mut(usize::from(worker)) {
            let mine = &mut mine[usize::from(to.is_ipv6())];
            *mine = mine.filter(|&it| it != to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_has_an_endpoint_until_it_gives_it_up() {
        let claims = Claims::new(2);
        let [first, second] = ["192.0.2.1:1", "192.0.2.2:1"].map(|to| to.parse().unwrap());
        let ipv6 = "[2001:db8::1]:1".parse().unwrap();
        assert!(claims.take(0, first) && claims.take(0, first) && claims.take(0, ipv6));
        assert!(!claims.is_asked(0));
        assert!(!claims.take(1, first));
        assert!(claims.is_asked(0) && !claims.is_asked(0) && !claims.is_asked(1));
        claims.release(0, second);
        assert!(!claims.take(1, first));
        claims.release(0, first);
        assert!(claims.take(1, first) && !claims.take(0, first) && !claims.take(1, ipv6));
        assert!(claims.take(1, second) && claims.take(0, first), "one of a family");
        assert!(!claims.take(2, ipv6) && !claims.is_asked(2), "there is no such worker");
    }
}
