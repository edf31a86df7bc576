//! What control alone knows of a peer, and when it has to look at it again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::timers::{Attempt, State};
use crate::table::allowed_ips::Prefix;
use crate::table::peer::Peer;
use crate::wire::wireguard::cookie::Stamper;
use crate::wire::wireguard::handshake::Initiator;
use crate::wire::wireguard::keys::{PresharedKey, PublicKey};
use crate::wire::wireguard::timestamp::Timestamp;

/// A peer's slow half.
pub(super) struct PeerState {
    pub(super) peer: Arc<Peer>,
    /// Counts up from peer to peer: the order they were added in.
    pub(super) sequence: u64,
    pub(super) psk: PresharedKey,
    pub(super) keepalive_s: u16,
    pub(super) allowed_ips: BTreeSet<Prefix>,
    pub(super) stamper: Stamper,
    pub(super) handshake: Option<(Initiator, Attempt)>,
    /// When the last initiation went out, also of a handshake that has ended.
    pub(super) initiated_ms: u64,
    /// The timestamp of that one.
    pub(super) stamped: Timestamp,
    /// The greatest timestamp of its initiations, and when the last one came.
    pub(super) timestamp: Timestamp,
    pub(super) consumed_ms: u64,
    pub(super) session_made_ms: u64,
    /// Drawn anew with each session, for [`State::jitter_ms`].
    pub(super) jitter_ms: u64,
    pub(super) last_handshake: Option<Duration>,
    /// Its entry in [`Peers::due`].
    due_ms: Option<u64>,
}

impl PeerState {
    fn new(key: PublicKey, sequence: u64) -> Self {
        Self {
            peer: Arc::new(Peer::new(key)),
            sequence,
            psk: PresharedKey::default(),
            keepalive_s: 0,
            allowed_ips: BTreeSet::new(),
            stamper: Stamper::new(&key),
            handshake: None,
            initiated_ms: 0,
            stamped: Timestamp::default(),
            timestamp: Timestamp::default(),
            consumed_ms: 0,
            session_made_ms: 0,
            jitter_ms: 0,
            last_handshake: None,
            due_ms: None,
        }
    }

    /// Where its timers stand.
    pub(super) fn timers(&self) -> State {
        let activity = &self.peer.activity;
        let (sent, received) = (&activity.sent_ms, &activity.received_ms);
        State {
            unanswered_since_ms: activity.unanswered_since_ms.load(Ordering::SeqCst),
            owed_since_ms: activity.owed_since_ms.load(Ordering::SeqCst),
            traffic_ms: sent.load(Ordering::Relaxed).max(received.load(Ordering::Relaxed)),
            session_made_ms: self.session_made_ms,
            attempt: self.handshake.as_ref().map(|(_, attempt)| *attempt),
            jitter_ms: self.jitter_ms,
            keepalive_ms: u64::from(self.keepalive_s) * 1_000,
        }
    }
}

/// All peers, and those that something is due for.
#[derive(Default)]
pub(super) struct Peers {
    by_key: HashMap<PublicKey, PeerState>,
    due: BTreeSet<(u64, PublicKey)>,
    added: u64,
}

impl Peers {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn get(&self, key: &PublicKey) -> Option<&PeerState> {
        self.by_key.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &PublicKey) -> Option<&mut PeerState> {
        self.by_key.get_mut(key)
    }

    /// The peer with this key, added if it is not there.
    pub(super) fn get_or_add(&mut self, key: PublicKey) -> &mut PeerState {
        let added = &mut self.added;
        self.by_key.entry(key).or_insert_with(|| {
            *added += 1;
            PeerState::new(key, *added)
        })
    }

    pub(super) fn remove(&mut self, key: &PublicKey) -> Option<PeerState> {
        let state = self.by_key.remove(key)?;
        if let Some(due_ms) = state.due_ms {
            self.due.remove(&(due_ms, *key));
        }
        Some(state)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PeerState> {
        self.by_key.values()
    }

    pub(super) fn keys(&self) -> Vec<PublicKey> {
        self.by_key.keys().copied().collect()
    }

    /// Has the peer looked at when the time comes; nothing more than once.
    pub(super) fn schedule(&mut self, key: &PublicKey, due_ms: Option<u64>) {
        let Some(state) = self.by_key.get_mut(key) else { return };
        if let Some(old_ms) = state.due_ms.take() {
            self.due.remove(&(old_ms, *key));
        }
        if let Some(due_ms) = due_ms {
            state.due_ms = Some(due_ms);
            self.due.insert((due_ms, *key));
        }
    }

    /// The first time at which somebody has to be looked at, and who.
    pub(super) fn first_due(&self) -> Option<(u64, PublicKey)> {
        self.due.first().copied()
    }
}
