//! The slow half of the WireGuard protocol: configuration, handshakes, timers.
//!
//! A state machine without I/O: messages, events and the time come in, datagrams to send and the
//! next time to be called come out. It runs on one thread of control's and writes what workers
//! read ([`crate::table`]).
//!
//! - [`config`]: what can be set and read; `update`: how it is carried out;
//! - `handshakes`: who is answered, and what an answer leads to;
//! - [`timers`]: when something is due; `peers`: whose turn it is.

pub mod config;
mod handshakes;
mod peers;
pub mod timers;
mod update;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::packet::endpoint::Endpoint;
use crate::table::Shared;
use crate::table::allowed_ips::Prefix;
use crate::table::event::Event;
use crate::wire::wireguard::aead::Aead;
use crate::wire::wireguard::identity::Identity;
use crate::wire::wireguard::keys::PublicKey;
use crate::wire::wireguard::limiter::Limiter;
use crate::wire::wireguard::messages::TRANSPORT_OVERHEAD;
use crate::wire::wireguard::session::{REJECT_AFTER_MS, REKEY_AFTER_MESSAGES, REKEY_AFTER_MS};
use peers::Peers;
use timers::due;

/// How long it stays "under load" after the queue of handshakes was last seen filling.
const LOAD_MS: u64 = 1_000;
/// The part of the queue that counts as filling.
const LOAD_PART: usize = 8;

/// Peers looked at before whoever calls may do something else: a handshake takes 0.1 ms, and
/// 10,000 peers may be due at once.
const LOOKS_MAX: usize = 64;

/// Indexes that all peers together need at most: each may have a session, the one before, one that
/// is not confirmed yet, and a handshake under way. A session table of this size refuses nobody.
pub const INDEXES_MAX: usize = 4 * update::PEERS_MAX;

/// What the state machine wants done.
pub trait Output {
    /// Send `datagram` to the peer at `to`. Never more than a handshake message or a keepalive.
    fn send(&mut self, to: Endpoint, datagram: &[u8]);
    /// A session with a peer has become usable, or was given up: workers should look through the
    /// packets that wait.
    fn wake_workers(&mut self);
    /// A peer has not answered an initiation: its endpoint may be out of date.
    fn unanswered(&mut self, _peer: &PublicKey) {}
}

/// The state of one device.
pub struct Protocol {
    shared: Arc<Shared>,
    /// Time since the Unix epoch.
    wall: Box<dyn Fn() -> Duration + Send>,
    identity: Option<Arc<Identity>>,
    peers: Peers,
    /// Whose each allowed IP is.
    owners: HashMap<Prefix, PublicKey>,
    /// Our handshakes under way by the index that we gave them.
    handshakes: HashMap<u32, PublicKey>,
    limiter: Limiter,
    /// The link is up: datagrams may go out.
    up: bool,
    loaded_until_ms: u64,
    /// When the secret behind the cookies was made.
    secret_ms: u64,
    /// State of the jitter's generator.
    jitter: u64,
}

impl Protocol {
    /// A device without keys or peers, its link down. `wall` tells the time since the Unix epoch.
    #[must_use]
    pub fn new(shared: Arc<Shared>, wall: impl Fn() -> Duration + Send + 'static) -> Self {
        Self {
            shared,
            wall: Box::new(wall),
            identity: None,
            peers: Peers::default(),
            owners: HashMap::new(),
            handshakes: HashMap::new(),
            limiter: Limiter::default(),
            up: false,
            loaded_until_ms: 0,
            secret_ms: 0,
            // Without random numbers the jitter is a fixed one.
            jitter: getrandom::u64().unwrap_or(1) | 1,
        }
    }

    /// What it shares with the workers.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The link went up or down. Down, every session and handshake is forgotten; up, peers with a
    /// persistent keepalive hear from us with the next polls.
    pub fn set_up(&mut self, up: bool) {
        if std::mem::replace(&mut self.up, up) == up {
            return;
        }
        let now_ms = self.shared.clock.now_ms();
        for key in self.peers.keys() {
            if !up {
                self.forget_sessions(&key);
            }
            self.peers.schedule(&key, up.then_some(now_ms));
        }
    }

    /// Tells how full the queue of handshake messages is: a part of it means load.
    pub fn note_queue(&mut self, len: usize, capacity: usize) {
        let now_ms = self.shared.clock.now_ms();
        if len >= (capacity / LOAD_PART).max(1) {
            self.loaded_until_ms = now_ms + LOAD_MS;
        }
        let loaded = now_ms < self.loaded_until_ms;
        if self.shared.under_load.load(Ordering::Relaxed) != loaded {
            self.shared.under_load.store(loaded, Ordering::Relaxed);
        }
    }

    /// Our address towards `to` is no longer ours: whoever is there is sent to from any.
    pub fn source_lost(&mut self, to: SocketAddr) {
        for state in self.peers.iter() {
            if state.peer.endpoint.load().as_ref().is_some_and(|endpoint| endpoint.to == to) {
                forget_source(state);
            }
        }
    }

    /// Takes news from a worker.
    pub fn event(&mut self, event: Event, out: &mut impl Output) {
        match event {
            Event::Handshake(message) => self.handshake_message(&message, out),
            Event::SessionWanted(peer) if self.knows(&peer) => {
                self.initiate(&peer.key, out);
                self.look_at(&peer.key, out);
            }
            Event::Confirmed(peer) if self.knows(&peer) => {
                let now = (self.wall)();
                if let Some(state) = self.peers.get_mut(&peer.key) {
                    state.last_handshake = Some(now);
                }
                // The peer's handshake has given us what ours was for.
                self.drop_handshake(&peer.key);
                self.session_usable(&peer.key, out);
            }
            Event::Activity(peer) if self.knows(&peer) => self.look_at(&peer.key, out),
            Event::SessionWanted(peer) => {
                // Removed meanwhile: nobody will try, and what waits is to go.
                peer.session_wanted.store(false, Ordering::Release);
                self.look_through_staged(out);
            }
            // Of a peer that has been removed meanwhile.
            _ => {}
        }
    }

    /// Does what is due, for a bounded number of peers; returns when to call again, in
    /// milliseconds of the device's clock.
    pub fn poll(&mut self, out: &mut impl Output) -> Option<u64> {
        let now_ms = self.shared.clock.now_ms();
        for _ in 0..LOOKS_MAX {
            match self.peers.first_due() {
                Some((due_ms, key)) if due_ms <= now_ms => self.look_at(&key, out),
                _ => break,
            }
        }
        self.peers.first_due().map(|(due_ms, _)| due_ms)
    }

    fn knows(&self, peer: &Arc<crate::table::peer::Peer>) -> bool {
        self.peers.get(&peer.key).is_some_and(|state| Arc::ptr_eq(&state.peer, peer))
    }

    /// Does what is due for one peer and sees to it that somebody looks again in time.
    fn look_at(&mut self, key: &PublicKey, out: &mut impl Output) {
        let now_ms = self.shared.clock.now_ms();
        let Some(state) = self.peers.get_mut(key) else { return };
        if !self.up {
            state.peer.activity.watched.store(false, Ordering::Release);
            return self.peers.schedule(key, None);
        }
        // From here on what workers note is looked at here, or, later, when they say so.
        let activity = &state.peer.activity;
        activity.watched.store(true, Ordering::Release);
        let due = due(&state.timers(), now_ms);
        if due.erase {
            state.session_made_ms = 0;
            state.peer.clear_sessions(&self.shared.sessions);
        }
        if due.initiate {
            activity.unanswered_since_ms.store(0, Ordering::Relaxed);
        }
        if due.initiate || due.retry {
            // Kernel timers.c, wg_expired_new_handshake and wg_expired_retransmit_handshake: the
            // way there may have changed as well.
            forget_source(state);
        }
        if due.give_up || due.retry {
            out.unanswered(key);
        }
        if due.give_up {
            self.give_up(key, out);
        }
        if due.retry && !self.send_initiation(key, true, out) {
            self.give_up(key, out);
        }
        if due.initiate {
            self.initiate(key, out);
        }
        if due.keepalive {
            self.keepalive(key, out);
        }
        self.look_again(key, now_ms);
    }

    fn look_again(&mut self, key: &PublicKey, now_ms: u64) {
        let Some(state) = self.peers.get_mut(key) else { return };
        let mut next_ms = due(&state.timers(), now_ms).next_ms;
        let watching = |state: &peers::PeerState| {
            let timers = state.timers();
            timers.unanswered_since_ms > 0 || timers.owed_since_ms > 0
        };
        if !watching(state) {
            // SeqCst here and in table/peer.rs: of a worker that notes something and looks at
            // `watched`, and this end, which does the reverse, one sees what the other wrote.
            state.peer.activity.watched.store(false, Ordering::SeqCst);
            // What came between the look and the store was told to nobody.
            if watching(state) {
                state.peer.activity.watched.store(true, Ordering::Release);
                next_ms = due(&state.timers(), now_ms).next_ms;
            }
        }
        // Something still due (a keepalive that could not be sent) is tried again in a while.
        let next_ms = next_ms.or_else(|| watching(state).then_some(now_ms + 1_000));
        self.peers.schedule(key, next_ms.map(|next| next.max(now_ms + 1)));
    }

    /// Sends an empty packet, or asks for the session that it needs.
    fn keepalive(&mut self, key: &PublicKey, out: &mut impl Output) {
        let now_ms = self.shared.clock.now_ms();
        let Some(state) = self.peers.get(key) else { return };
        state.peer.activity.owed_since_ms.store(0, Ordering::Relaxed);
        let current = state.peer.current.load();
        let usable = current
            .as_ref()
            .filter(|live| now_ms.saturating_sub(live.session.created_ms) < REJECT_AFTER_MS);
        let endpoint = state.peer.endpoint.load();
        let (Some(live), Some(endpoint)) = (usable, endpoint.as_ref()) else {
            drop((current, endpoint));
            // With nothing to send it by, only a persistent keepalive is worth a handshake.
            if self.peers.get(key).is_some_and(|state| state.keepalive_s > 0) {
                self.initiate(key, out);
            }
            return;
        };
        let Some(counter) = live.session.reserve(1) else { return };
        let mut message = [0; TRANSPORT_OVERHEAD];
        live.session.seal(&Aead::Ring, counter, &mut message);
        if self.up {
            out.send(**endpoint, &message);
            state.peer.activity.sent(now_ms, false);
            state.peer.sent_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
        }
        // As for data: with nothing but keepalives, the session would end before it is replaced.
        let age_ms = now_ms.saturating_sub(live.session.created_ms);
        let old = live.session.initiator && age_ms >= REKEY_AFTER_MS;
        if old || live.session.sent_count() >= REKEY_AFTER_MESSAGES {
            drop((current, endpoint));
            self.initiate(key, out);
        }
    }

    /// Milliseconds to add to a timer.
    fn next_jitter_ms(&mut self) -> u64 {
        // xorshift64 (Marsaglia 2003): jitter is no secret.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter % timers::JITTER_MAX_MS
    }
}

fn forget_source(state: &peers::PeerState) {
    let endpoint = state.peer.endpoint.load();
    if let Some(endpoint) = endpoint.as_ref().filter(|endpoint| endpoint.source.is_some()) {
        state.peer.endpoint.store(Some(Arc::new(Endpoint::from(endpoint.to))));
    }
}

#[cfg(test)]
mod behaviour_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
