//! A peer as workers see it: its endpoint, its sessions, its figures, what its timers wait for.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use super::sessions::{Live, SessionTable};
use crate::packet::endpoint::Endpoint;
use crate::wire::wireguard::keys::PublicKey;

/// One peer.
pub struct Peer {
    /// Who it is.
    pub key: PublicKey,
    /// Where it is; none until somebody said or it spoke.
    pub endpoint: ArcSwapOption<Endpoint>,
    /// The interface that the route to it leads to, as of the last change of routes; 0 if not asked
    /// since it was last seen at another address.
    way_out: AtomicU32,
    /// The session that seals what we send.
    pub current: ArcSwapOption<Live>,
    others: Mutex<Others>,
    /// One more than the index of the latest session; 0 if there was none.
    latest: AtomicU64,
    /// What its timers wait for.
    pub activity: Activity,
    /// Control has been told that a session is wanted and has not finished with it.
    pub session_wanted: AtomicBool,
    /// Bytes of everything authenticated that came from it, as on the wire.
    pub received_bytes: AtomicU64,
    /// Bytes of everything sent to it, as on the wire.
    pub sent_bytes: AtomicU64,
}

/// Sessions that only receive: the one before, and one that the initiator has not confirmed yet.
#[derive(Default)]
struct Others {
    previous: Option<Arc<Live>>,
    next: Option<Arc<Live>>,
}

impl Peer {
    /// A peer of whom nothing is known but its key.
    #[must_use]
    pub fn new(key: PublicKey) -> Self {
        Self {
            key,
            endpoint: ArcSwapOption::empty(),
            way_out: AtomicU32::new(0),
            current: ArcSwapOption::empty(),
            others: Mutex::default(),
            latest: AtomicU64::new(0),
            activity: Activity::default(),
            session_wanted: AtomicBool::new(false),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }

    /// Somebody says that it is at `to`.
    pub fn place_at(&self, to: SocketAddr) {
        self.way_out.store(0, Ordering::Relaxed);
        self.endpoint.store(Some(Arc::new(Endpoint::from(to))));
    }

    /// It has proved to be at `from`. Packets leave from the address it wrote to, unless the route
    /// to it leads elsewhere. `spare` is as [`roam`](Self::roam) wants it.
    #[inline]
    pub fn heard_at(&self, mut from: Endpoint, spare: &mut Option<Arc<Endpoint>>) {
        let current = self.endpoint.load();
        let moved = current.as_ref().is_none_or(|current| current.to.ip() != from.to.ip());
        if moved {
            self.way_out.store(0, Ordering::Relaxed);
        } else if is_astray(&from, self.way_out.load(Ordering::Relaxed)) {
            from.source = None;
        }
        let same = current.as_ref().is_some_and(|current| **current == from);
        drop(current);
        if !same {
            self.roam(from, spare);
        }
    }

    /// The route to `to` leads to the interface `way_out`; 0 is unknown. A source address of
    /// another one is forgotten.
    pub fn leads_to(&self, to: SocketAddr, way_out: u32) {
        let current = self.endpoint.load_full();
        let Some(endpoint) = current.as_ref().filter(|current| current.to == to) else { return };
        self.way_out.store(way_out, Ordering::Relaxed);
        if is_astray(endpoint, way_out) {
            self.forget_source(**endpoint);
        }
    }

    /// What goes to `endpoint` is not to leave from its source any more: the kernel picks one.
    pub fn forget_source(&self, endpoint: Endpoint) {
        let current = self.endpoint.load_full();
        if current.as_ref().is_some_and(|current| **current == endpoint) {
            // Unless it has just been heard somewhere else.
            let without = Some(Arc::new(Endpoint::from(endpoint.to)));
            self.endpoint.compare_and_swap(&current, without);
        }
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer is at `to` from now on. The memory for that is `spare`'s, which takes over that of
    /// the endpoint before: a worker allocates only if another still reads what it has as a spare.
    pub fn roam(&self, to: Endpoint, spare: &mut Option<Arc<Endpoint>>) {
        let mut place = spare.take().unwrap_or_else(|| Arc::new(to));
        match Arc::get_mut(&mut place) {
            Some(place) => *place = to,
            None => place = Arc::new(to),
        }
        *spare = self.endpoint.swap(Some(place));
    }

    /// Takes up a session that we initiated: it seals from now on.
    pub fn install_initiated(&self, live: Arc<Live>, sessions: &SessionTable) {
        let mut others = self.others();
        self.latest.store(u64::from(live.session.local_index) + 1, Ordering::Relaxed);
        sessions.insert(Arc::clone(&live));
        let current = self.current.swap(Some(live));
        // As drivers/net/wireguard/noise.c `add_new_keypair`: an unconfirmed next session is the
        // younger one, so it is what late packets may still need.
        let previous = match others.next.take() {
            Some(next) => {
                forget(current, sessions);
                Some(next)
            }
            None => current,
        };
        forget(std::mem::replace(&mut others.previous, previous), sessions);
    }

    /// Takes up a session that the peer initiated: it receives, and seals once confirmed.
    pub fn install_responded(&self, live: Arc<Live>, sessions: &SessionTable) {
        let mut others = self.others();
        self.latest.store(u64::from(live.session.local_index) + 1, Ordering::Relaxed);
        sessions.insert(Arc::clone(&live));
        forget(others.next.replace(live), sessions);
        forget(others.previous.take(), sessions);
    }

    /// The first authenticated packet on `live` has arrived: if it is the next session, it seals
    /// from now on. True if so.
    pub fn confirm(&self, live: &Arc<Live>, sessions: &SessionTable) -> bool {
        let mut others = self.others();
        if !others.next.as_ref().is_some_and(|next| Arc::ptr_eq(next, live)) {
            return false;
        }
        let next = others.next.take();
        let current = self.current.swap(next);
        forget(std::mem::replace(&mut others.previous, current), sessions);
        true
    }

    /// The index of its latest session, be it over or not: all of a peer's go to one worker.
    #[must_use]
    pub fn latest_index(&self) -> Option<u32> {
        u32::try_from(self.latest.load(Ordering::Relaxed).checked_sub(1)?).ok()
    }

    /// Forgets every session; their keys are wiped when the batches under way have ended.
    pub fn clear_sessions(&self, sessions: &SessionTable) {
        let mut others = self.others();
        forget(self.current.swap(None), sessions);
        forget(others.next.take(), sessions);
        forget(others.previous.take(), sessions);
    }

    /// Forgets sessions made before `oldest_ms`.
    pub fn clear_sessions_before(&self, oldest_ms: u64, sessions: &SessionTable) {
        let mut others = self.others();
        let is_old = |live: &Arc<Live>| live.session.created_ms < oldest_ms;
        if self.current.load().as_ref().is_some_and(is_old) {
            forget(self.current.swap(None), sessions);
        }
        if others.next.as_ref().is_some_and(is_old) {
            forget(others.next.take(), sessions);
        }
        if others.previous.as_ref().is_some_and(is_old) {
            forget(others.previous.take(), sessions);
        }
    }
}

/// Whether packets to `endpoint` would be bound to another interface than the one to it.
#[inline]
fn is_astray(endpoint: &Endpoint, way_out: u32) -> bool {
    way_out != 0 && endpoint.source.is_some_and(|source| source.interface != way_out)
}

fn forget(live: Option<Arc<Live>>, sessions: &SessionTable) {
    if let Some(live) = live {
        sessions.remove(live.session.local_index);
    }
}

/// What has passed lately, in milliseconds of the device's clock; 0 is never or nothing.
///
/// Written by workers with plain stores: of two that write at once either may win, which moves a
/// timer by a few microseconds.
#[derive(Default)]
pub struct Activity {
    /// First data sent since something authenticated last arrived.
    pub unanswered_since_ms: AtomicU64,
    /// First data received since something was last sent.
    pub owed_since_ms: AtomicU64,
    /// Anything authenticated sent.
    pub sent_ms: AtomicU64,
    /// Anything authenticated received.
    pub received_ms: AtomicU64,
    /// When more than single packets came or went last.
    busy_ms: AtomicU64,
    /// When something came or went last, times two, plus one if it went.
    last: AtomicU64,
    /// Control is watching the timers; whoever finds it unset tells control.
    pub watched: AtomicBool,
}

/// How long nothing but single packets must have come and gone.
const QUIET_MS: u64 = 100;

impl Activity {
    /// Something was sent to the peer; `data` if it carries a packet. True if control must be told.
    #[inline]
    pub fn sent(&self, now_ms: u64, data: bool) -> bool {
        set(&self.sent_ms, now_ms);
        set(&self.owed_since_ms, 0);
        if data && self.unanswered_since_ms.load(Ordering::Relaxed) == 0 {
            self.unanswered_since_ms.store(now_ms, Ordering::SeqCst);
        }
        data && self.wants_watching()
    }

    /// Something authenticated arrived; `data` if it carries a packet. True if control must be
    /// told.
    #[inline]
    pub fn received(&self, now_ms: u64, data: bool) -> bool {
        set(&self.received_ms, now_ms);
        set(&self.unanswered_since_ms, 0);
        if data && self.owed_since_ms.load(Ordering::Relaxed) == 0 {
            self.owed_since_ms.store(now_ms, Ordering::SeqCst);
        }
        data && self.wants_watching()
    }

    /// Something authenticated has come at once, `single` if it is one message. Whether the peer is
    /// quiet: for a while single packets have come and gone in turn, or with a pause in between.
    #[inline]
    pub fn comes(&self, now_ms: u64, single: bool) -> bool {
        self.is_quiet(now_ms, single, 0)
    }

    /// Something is to be sent at once, `single` if it is one packet. Whether the peer is quiet.
    #[inline]
    pub fn goes(&self, now_ms: u64, single: bool) -> bool {
        self.is_quiet(now_ms, single, 1)
    }

    #[inline]
    fn is_quiet(&self, now_ms: u64, single: bool, way: u64) -> bool {
        let busy_ms = self.busy_ms.load(Ordering::Relaxed);
        if busy_ms == now_ms {
            return false;
        }
        let last = self.last.load(Ordering::Relaxed);
        set(&self.last, now_ms << 1 | way);
        // One that the other way has answered has arrived; so has one of some time ago.
        if !single || (last & 1 == way && now_ms.saturating_sub(last >> 1) <= 1) {
            set(&self.busy_ms, now_ms);
            return false;
        }
        now_ms.saturating_sub(busy_ms) > QUIET_MS
    }

    #[inline]
    fn wants_watching(&self) -> bool {
        // SeqCst, as the stores before it: see `protocol`, where the reverse is done.
        !self.watched.load(Ordering::SeqCst) && !self.watched.swap(true, Ordering::AcqRel)
    }
}

/// Stores only what differs: the line stays shared between cores.
#[inline]
fn set(time: &AtomicU64, ms: u64) {
    if time.load(Ordering::Relaxed) != ms {
        time.store(ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_quiet_while_packets_come_and_go_singly() {
        let at = Activity::default();
        let mut now_ms = 1_000;
        assert!(at.goes(now_ms, true), "nothing ever came");
        for _ in 0..1_000 {
            assert!(at.comes(now_ms, true) && at.goes(now_ms, true), "one answers the other");
        }
        assert!(at.comes(now_ms, true));
        assert!(!at.comes(now_ms + 1, true), "two in a row");
        now_ms += 1 + QUIET_MS;
        assert!(!at.goes(now_ms, true), "just now");
        now_ms += 1;
        assert!(at.comes(now_ms, true));
        for _ in 0..3 {
            now_ms += 2;
            assert!(at.goes(now_ms, true), "unanswered, but no more than now and then");
        }
        assert!(!at.comes(now_ms, false) && !at.goes(now_ms, true), "several at once");
        now_ms += QUIET_MS + 1;
        assert!(at.comes(now_ms, true));
    }
    use crate::packet::endpoint::Source;

    fn endpoint(to: &str, interface: u32) -> Endpoint {
        let source = Some(Source { address: "192.0.2.1".parse().unwrap(), interface });
        Endpoint { to: to.parse().unwrap(), source }
    }

    #[test]
    fn a_source_sticks_as_long_as_its_interface_is_the_way() {
        let peer = Peer::new(PublicKey::from_bytes([1; 32]));
        let now = || peer.endpoint.load().as_ref().map(|endpoint| **endpoint);
        let first = endpoint("192.0.2.2:1", 3);
        peer.heard_at(first, &mut None);
        assert_eq!(now(), Some(first));
        peer.leads_to(first.to, 3);
        assert_eq!(now(), Some(first), "the same way");
        peer.leads_to("192.0.2.9:1".parse().unwrap(), 4);
        assert_eq!(now(), Some(first), "of somewhere else");
        peer.leads_to(first.to, 4);
        let sourceless = Some(Endpoint::from(first.to));
        assert_eq!(now(), sourceless);
        // What is still under way by the old one does not bring it back.
        peer.heard_at(first, &mut None);
        assert_eq!(now(), sourceless);
        peer.heard_at(endpoint("192.0.2.2:2", 4), &mut None);
        assert_eq!(now(), Some(endpoint("192.0.2.2:2", 4)));
        // Of another address of the peer nothing is known yet.
        peer.heard_at(endpoint("192.0.2.7:1", 3), &mut None);
        assert_eq!(now(), Some(endpoint("192.0.2.7:1", 3)));
        peer.leads_to("192.0.2.7:1".parse().unwrap(), 0);
        assert_eq!(now(), Some(endpoint("192.0.2.7:1", 3)), "no route to ask");
        peer.leads_to("192.0.2.7:1".parse().unwrap(), 5);
        peer.place_at(first.to);
        peer.heard_at(first, &mut None);
        assert_eq!(now(), Some(first), "said anew");
    }
}
