//! How changes to a device are carried out, and what can be read of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::config::{AllowedIpUpdate, DeviceUpdate, DeviceView, PeerUpdate, PeerView, UpdateError};
use super::peers::PeerState;
use super::{Identity, Output, Protocol};
use crate::table::Table;
use crate::table::allowed_ips::AllowedIps;
use crate::wire::wireguard::keys::{PrivateKey, PublicKey};

/// Peers of one device at most: each may have four indexes in the session table.
pub(super) const PEERS_MAX: usize = 1 << 16;
/// How long workers may take to let go of an old table: a batch takes microseconds.
const SWITCH_WAIT: Duration = Duration::from_secs(1);
const SWITCH_POLL: Duration = Duration::from_micros(50);

impl Protocol {
    /// Applies `update` in order, all of it, and publishes the result once. What it returns without
    /// error is in force for every batch that starts from now on; no worker uses the old table any
    /// more.
    ///
    /// # Errors
    /// The first entry that cannot be applied; entries before it are applied.
    pub fn update(
        &mut self,
        update: DeviceUpdate,
        out: &mut impl Output,
    ) -> Result<(), UpdateError> {
        if let Some(private_key) = update.private_key {
            self.set_private_key(private_key, out);
        }
        let (mut table_changed, mut removed) = (false, false);
        if update.replace_peers {
            removed = self.peers.len() > 0;
            table_changed = removed;
            self.peers.keys().iter().for_each(|key| self.remove_peer(key));
        }
        let mut result = Ok(());
        let mut changed = Vec::new();
        for peer in update.peers {
            let key = peer.public_key;
            removed |= peer.remove && self.peers.get(&key).is_some();
            match self.update_peer(peer) {
                Ok(changes) => table_changed |= changes,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            changed.push(key);
        }
        if table_changed {
            self.publish_table();
        }
        if removed {
            // What waits for them goes with them.
            self.look_through_staged(out);
        }
        // What a changed peer may want at once, a keepalive, is found out by the next polls.
        let now_ms = self.shared.clock.now_ms();
        changed.iter().for_each(|key| self.peers.schedule(key, Some(now_ms)));
        result
    }

    fn set_private_key(&mut self, private_key: Option<PrivateKey>, out: &mut impl Output) {
        let same = match (&self.identity, &private_key) {
            (Some(old), Some(new)) => old.private.as_bytes() == new.as_bytes(),
            (old, new) => old.is_none() && new.is_none(),
        };
        if same {
            return;
        }
        self.identity = private_key.map(|private| Identity { public: private.public(), private });
        if let Some(own) = self.identity.as_ref().map(|identity| identity.public)
            && self.peers.get(&own).is_some()
        {
            // Nobody is a peer of itself.
            self.remove_peer(&own);
            self.publish_table();
        }
        for key in self.peers.keys() {
            self.forget_sessions(&key);
        }
        self.publish_checker();
        self.look_through_staged(out);
    }

    /// Applies changes to one peer; true if the table has to be published.
    fn update_peer(&mut self, update: PeerUpdate) -> Result<bool, UpdateError> {
        let key = update.public_key;
        let exists = self.peers.get(&key).is_some();
        let is_self = self.identity.as_ref().is_some_and(|identity| identity.public == key);
        if update.remove {
            self.remove_peer(&key);
            return Ok(exists);
        }
        if is_self || (update.update_only && !exists) {
            return Ok(false);
        }
        if !exists && self.peers.len() >= PEERS_MAX {
            return Err(UpdateError::TooManyPeers { max: PEERS_MAX });
        }
        let state = self.peers.get_or_add(key);
        if let Some(psk) = update.preshared_key {
            state.psk = psk;
        }
        if let Some(to) = update.endpoint {
            state.peer.place_at(to);
        }
        if let Some(seconds) = update.persistent_keepalive_s {
            state.keepalive_s = seconds;
        }
        let mut changed = !exists;
        if update.replace_allowed_ips {
            for prefix in std::mem::take(&mut state.allowed_ips) {
                self.owners.remove(&prefix);
                changed = true;
            }
        }
        for allowed in update.allowed_ips {
            changed |= self.change_allowed_ip(key, allowed);
        }
        Ok(changed)
    }

    fn change_allowed_ip(&mut self, key: PublicKey, update: AllowedIpUpdate) -> bool {
        let prefix = update.prefix;
        let owner = self.owners.get(&prefix).copied();
        match (update.remove, owner == Some(key)) {
            (true, true) => {
                self.owners.remove(&prefix);
                self.peers.get_mut(&key).is_some_and(|state| state.allowed_ips.remove(&prefix))
            }
            (false, false) => {
                if let Some(old) = owner.and_then(|owner| self.peers.get_mut(&owner)) {
                    old.allowed_ips.remove(&prefix);
                }
                self.owners.insert(prefix, key);
                self.peers.get_mut(&key).is_some_and(|state| state.allowed_ips.insert(prefix))
            }
            _ => false,
        }
    }

    /// Removes a peer with everything that is known of it; the table is published later.
    fn remove_peer(&mut self, key: &PublicKey) {
        self.forget_sessions(key);
        let Some(state) = self.peers.remove(key) else { return };
        for prefix in &state.allowed_ips {
            self.owners.remove(prefix);
        }
        // A worker that still has it in hand finds nowhere to send to.
        state.peer.endpoint.store(None);
    }

    /// Publishes peers and allowed IPs, and waits until no worker uses the old ones.
    fn publish_table(&mut self) {
        let mut states: Vec<&PeerState> = self.peers.iter().collect();
        states.sort_by_key(|state| state.sequence);
        let prefixes = (0..).zip(&states).flat_map(|(place, state)| {
            state.allowed_ips.iter().map(move |prefix| (*prefix, place))
        });
        let allowed_ips = AllowedIps::new(prefixes);
        let peers = states.iter().map(|state| Arc::clone(&state.peer)).collect();
        let old = self.shared.table.swap(Arc::new(Table { allowed_ips, peers }));
        let deadline = Instant::now() + SWITCH_WAIT;
        while Arc::strong_count(&old) > 1 && Instant::now() < deadline {
            thread::sleep(SWITCH_POLL);
        }
    }

    /// The device as it is now.
    #[must_use]
    pub fn view(&self) -> DeviceView {
        let mut states: Vec<&PeerState> = self.peers.iter().collect();
        states.sort_by_key(|state| state.sequence);
        let peers = states.into_iter().map(view_of).collect();
        DeviceView {
            private_key: self.identity.as_ref().map(|identity| identity.private.clone()),
            peers,
        }
    }
}

fn view_of(state: &PeerState) -> PeerView {
    let peer = &state.peer;
    PeerView {
        public_key: peer.key,
        preshared_key: state.psk.clone(),
        endpoint: peer.endpoint.load().as_ref().map(|endpoint| endpoint.to),
        persistent_keepalive_s: state.keepalive_s,
        last_handshake: state.last_handshake,
        received_bytes: peer.received_bytes.load(Ordering::Relaxed),
        sent_bytes: peer.sent_bytes.load(Ordering::Relaxed),
        allowed_ips: state.allowed_ips.iter().copied().collect(),
    }
}
