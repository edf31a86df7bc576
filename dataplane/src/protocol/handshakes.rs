//! Handshakes: whom we call, whom we answer, and what an answer leads to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::timers::{Attempt, REKEY_TIMEOUT_MS};
use super::{Output, Protocol};
use crate::packet::endpoint::Endpoint;
use crate::table::event::HandshakeMessage;
use crate::table::sessions::Live;
use crate::wire::wireguard::cookie::{COOKIE_LIFE_MS, Checker};
use crate::wire::wireguard::handshake::{Initiator, Responder};
use crate::wire::wireguard::keys::PublicKey;
use crate::wire::wireguard::messages::{
    COOKIE_REPLY_LEN, INITIATION_LEN, Kind, RESPONSE_LEN, kind, receiver,
};
use crate::wire::wireguard::session::{Session, TransportKeys};
use crate::wire::wireguard::timestamp::Timestamp;

/// Initiations of one peer closer together than this are a flood (50 a second).
const INITIATION_GAP_MS: u64 = 20;
/// When two initiations cross, one is enough: the end with the greater key does not answer within
/// this time of its first one. With two sessions each end would be an initiator, at each rekey
/// they would cross again, and each time what is under way on the older session would be lost.
/// An end that does not get through answers from its second initiation on.
const CROSSING_MS: u64 = 1_000;

impl Protocol {
    /// Starts a handshake unless one is under way or was a moment ago. A new wish for a session
    /// gives a handshake under way all its tries again.
    pub(super) fn initiate(&mut self, key: &PublicKey, out: &mut impl Output) {
        let now_ms = self.shared.clock.now_ms();
        let Some(state) = self.peers.get_mut(key) else { return };
        if let Some((_, attempt)) = &mut state.handshake {
            attempt.retries = 0;
            return;
        }
        let recently = state.initiated_ms > 0 && now_ms < state.initiated_ms + REKEY_TIMEOUT_MS;
        if recently || !self.send_initiation(key, false, out) {
            // Whoever wants a session asks again with the next packet.
            if let Some(state) = self.peers.get(key) {
                state.peer.session_wanted.store(false, Ordering::Release);
            }
        }
    }

    /// Sends an initiation; false if that cannot be: no key of ours, no endpoint, link down.
    pub(super) fn send_initiation(
        &mut self,
        key: &PublicKey,
        again: bool,
        out: &mut impl Output,
    ) -> bool {
        let (now_ms, now) = (self.shared.clock.now_ms(), (self.wall)());
        let jitter_ms = self.next_jitter_ms();
        let (Some(state), Some(identity)) = (self.peers.get_mut(key), &self.identity) else {
            return false;
        };
        let Some(endpoint) = state.peer.endpoint.load().as_ref().map(|endpoint| **endpoint) else {
            return false;
        };
        let mut retries = 0;
        if let Some((old, attempt)) = state.handshake.take() {
            self.shared.sessions.remove(old.local_index);
            self.handshakes.remove(&old.local_index);
            retries = attempt.retries + u32::from(again);
        }
        if !self.up {
            return false;
        }
        let Some(index) = self.shared.sessions.reserve(state.peer.latest_index()) else {
            // Not with every packet that asks.
            state.initiated_ms = now_ms;
            return false;
        };
        // The peer takes only what is later than the last: a clock that was set back must not
        // keep us out until it has caught up.
        let timestamp = Timestamp::from_unix(now).max(state.stamped.next());
        let started = Initiator::start_as(identity, key, &state.psk, index, timestamp);
        let Some((initiator, mut message)) = started else {
            self.shared.sessions.remove(index);
            return false;
        };
        state.stamped = timestamp;
        state.stamper.stamp(&mut message, now_ms);
        let attempt = Attempt { sent_ms: now_ms, retries, jitter_ms };
        state.handshake = Some((initiator, attempt));
        state.initiated_ms = now_ms;
        state.peer.activity.sent(now_ms, false);
        state.peer.sent_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
        self.handshakes.insert(index, *key);
        out.send(endpoint, &message);
        true
    }

    /// Ends the handshake under way without a session: what waits for it is dropped.
    pub(super) fn give_up(&mut self, key: &PublicKey, out: &mut impl Output) {
        self.drop_handshake(key);
        if let Some(state) = self.peers.get(key) {
            state.peer.session_wanted.store(false, Ordering::Release);
            // What was sent meanwhile on an old session is given up with it, or it would start the
            // next ninety seconds at once.
            state.peer.activity.unanswered_since_ms.store(0, Ordering::Relaxed);
        }
        self.look_through_staged(out);
    }

    /// Has workers look through the packets that wait.
    pub(super) fn look_through_staged(&mut self, out: &mut impl Output) {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
        out.wake_workers();
    }

    /// Ends the handshake under way, if there is one.
    pub(super) fn drop_handshake(&mut self, key: &PublicKey) {
        let Some(state) = self.peers.get_mut(key) else { return };
        if let Some((initiator, _)) = state.handshake.take() {
            self.shared.sessions.remove(initiator.local_index);
            self.handshakes.remove(&initiator.local_index);
        }
    }

    /// Forgets everything but the configuration.
    pub(super) fn forget_sessions(&mut self, key: &PublicKey) {
        self.drop_handshake(key);
        let Some(state) = self.peers.get_mut(key) else { return };
        state.peer.clear_sessions(&self.shared.sessions);
        (state.initiated_ms, state.session_made_ms) = (0, 0);
        let activity = &state.peer.activity;
        activity.unanswered_since_ms.store(0, Ordering::Relaxed);
        activity.owed_since_ms.store(0, Ordering::Relaxed);
        // Whoever is to hear from us every so often hears from us at once.
        activity.sent_ms.store(0, Ordering::Relaxed);
        activity.received_ms.store(0, Ordering::Relaxed);
        activity.watched.store(false, Ordering::Release);
        state.peer.session_wanted.store(false, Ordering::Release);
    }

    /// Takes a message that a worker has found to be for us.
    pub(super) fn handshake_message(&mut self, message: &HandshakeMessage, out: &mut impl Output) {
        let Some(bytes) = message.bytes.get(..message.len) else { return };
        if !self.up {
            return;
        }
        match kind(bytes) {
            Some(Kind::CookieReply) => {
                if let Some(reply) = bytes.first_chunk() {
                    self.cookie_reply(reply);
                }
            }
            Some(Kind::Initiation) if self.is_welcome(message, bytes, out) => {
                if let Some(initiation) = bytes.first_chunk() {
                    self.initiation(initiation, message.from, out);
                }
            }
            Some(Kind::Response) if self.is_welcome(message, bytes, out) => {
                if let Some(response) = bytes.first_chunk() {
                    self.response(response, message.from, out);
                }
            }
            _ => {}
        }
    }

    /// Under load only who has proved its address is worth computing for, and not too often.
    fn is_welcome(
        &mut self,
        message: &HandshakeMessage,
        bytes: &[u8],
        out: &mut impl Output,
    ) -> bool {
        if !self.shared.under_load.load(Ordering::Relaxed) {
            return true;
        }
        let now_ms = self.shared.clock.now_ms();
        let from = message.from.to;
        // Before anything is compared with it: no cookie outlives its secret.
        if now_ms >= self.secret_ms + COOKIE_LIFE_MS {
            self.publish_checker();
        }
        let checker = self.shared.checker.load_full();
        if checker.is_some_and(|checker| checker.mac2_valid(bytes, from)) {
            return self.limiter.allow(from.ip(), now_ms);
        }
        let mut nonce = [0; 24];
        if getrandom::fill(&mut nonce).is_ok()
            && let Some(checker) = self.shared.checker.load().as_ref()
            && let Some(reply) = checker.reply(bytes, from, nonce)
        {
            out.send(message.from, &reply);
        }
        false
    }

    /// Lets workers check messages to our present key, with a new secret behind the cookies.
    pub(super) fn publish_checker(&mut self) {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        let random = getrandom::fill(secret.as_mut_slice()).is_ok();
        let identity = self.identity.as_ref().filter(|_| random);
        let checker = identity.map(|identity| Arc::new(Checker::new(identity.public(), &secret)));
        self.shared.checker.store(checker);
        self.secret_ms = self.shared.clock.now_ms();
    }

    fn cookie_reply(&mut self, reply: &[u8; COOKIE_REPLY_LEN]) {
        let now_ms = self.shared.clock.now_ms();
        let Some(index) = receiver(reply) else { return };
        let initiated = self.handshakes.get(&index).copied();
        let answered = || {
            let live = self.shared.sessions.get(index)?;
            live.as_ref().map(|live| live.peer.key)
        };
        let Some(key) = initiated.or_else(answered) else { return };
        if let Some(state) = self.peers.get_mut(&key) {
            state.stamper.take_reply(reply, now_ms);
        }
    }

    fn initiation(
        &mut self,
        initiation: &[u8; INITIATION_LEN],
        from: Endpoint,
        out: &mut impl Output,
    ) {
        let now_ms = self.shared.clock.now_ms();
        let Some(identity) = &self.identity else { return };
        let Some(responder) = Responder::read_as(identity, initiation) else { return };
        let key = responder.peer;
        let Some(state) = self.peers.get_mut(&key) else { return };
        let flood = state.consumed_ms > 0 && now_ms < state.consumed_ms + INITIATION_GAP_MS;
        if responder.timestamp <= state.timestamp || flood {
            return;
        }
        (state.timestamp, state.consumed_ms) = (responder.timestamp, now_ms);
        let fresh = state.handshake.as_ref().is_some_and(|(_, attempt)| {
            attempt.retries == 0 && now_ms < attempt.sent_ms + CROSSING_MS
        });
        if fresh && *identity.public() > key {
            return;
        }
        let remote_index = responder.remote_index;
        let Some(index) = self.shared.sessions.reserve(state.peer.latest_index()) else { return };
        let Some((keys, mut message)) = responder.respond(&state.psk, index) else {
            self.shared.sessions.remove(index);
            return;
        };
        state.stamper.stamp(&mut message, now_ms);
        let made = self.make_session(&key, &keys, index, remote_index, false);
        let Some(state) = self.peers.get_mut(&key).filter(|_| made) else { return };
        heard_from(state, from, now_ms, initiation.len());
        state.peer.activity.sent(now_ms, false);
        state.peer.sent_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
        out.send(from, &message);
        self.look_at(&key, out);
    }

    fn response(&mut self, response: &[u8; RESPONSE_LEN], from: Endpoint, out: &mut impl Output) {
        let (now_ms, now) = (self.shared.clock.now_ms(), (self.wall)());
        let Some(index) = receiver(response) else { return };
        let Some(key) = self.handshakes.get(&index).copied() else { return };
        let Some(state) = self.peers.get_mut(&key) else { return };
        let Some((initiator, _)) = &mut state.handshake else { return };
        let Some((keys, remote_index)) = initiator.finish(response) else { return };
        state.handshake = None;
        self.handshakes.remove(&index);
        if !self.make_session(&key, &keys, index, remote_index, true) {
            return;
        }
        if let Some(state) = self.peers.get_mut(&key) {
            state.last_handshake = Some(now);
            heard_from(state, from, now_ms, response.len());
        }
        // The peer uses the session when it has heard from us on it.
        self.keepalive(&key, out);
        self.session_usable(&key, out);
    }

    fn make_session(
        &mut self,
        key: &PublicKey,
        keys: &TransportKeys,
        index: u32,
        remote_index: u32,
        initiator: bool,
    ) -> bool {
        let (now_ms, jitter_ms) = (self.shared.clock.now_ms(), self.next_jitter_ms());
        let sessions = &self.shared.sessions;
        let session = Session::new(keys, index, remote_index, initiator, now_ms);
        let (Some(session), Some(state)) = (session, self.peers.get_mut(key)) else {
            sessions.remove(index);
            return false;
        };
        state.jitter_ms = jitter_ms;
        let live = Arc::new(Live { session, peer: Arc::clone(&state.peer) });
        if initiator {
            state.peer.install_initiated(live, sessions);
        } else {
            state.peer.install_responded(live, sessions);
        }
        state.session_made_ms = now_ms;
        true
    }

    /// Packets that wait for this peer may go.
    pub(super) fn session_usable(&mut self, key: &PublicKey, out: &mut impl Output) {
        if let Some(state) = self.peers.get(key) {
            state.peer.session_wanted.store(false, Ordering::Release);
        }
        self.look_through_staged(out);
        self.look_at(key, out);
    }
}

/// An authentic handshake message of `len` bytes has come: the peer is where it came from.
fn heard_from(state: &super::peers::PeerState, from: Endpoint, now_ms: u64, len: usize) {
    state.peer.heard_at(from, &mut None);
    state.peer.activity.received(now_ms, false);
    state.peer.received_bytes.fetch_add(len as u64, Ordering::Relaxed);
}
