//! How changes to a device are carried out, and what can be read of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::config::{AllowedIpUpdate, DeviceUpdate, DeviceView, PeerUpdate, PeerView, UpdateError};
use super::peers::PeerState;
use super::{Output, Protocol};
use crate::table::Table;
use crate::table::allowed_ips::AllowedIps;
use crate::wire::wireguard::identity::Identity;
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
    /// As [`check`](Self::check): nothing is applied.
    pub fn update(
        &mut self,
        update: DeviceUpdate,
        out: &mut impl Output,
    ) -> Result<(), UpdateError> {
        self.check(&update)?;
        if let Some(private_key) = update.private_key {
            self.set_private_key(private_key, out);
        }
        let (mut table_changed, mut removed) = (false, false);
        if update.replace_peers {
            removed = self.peers.len() > 0;
            table_changed = removed;
            self.peers.keys().iter().for_each(|key| self.remove_peer(key));
        }
        let mut changed = Vec::new();
        for peer in update.peers {
            let key = peer.public_key;
            removed |= peer.remove && self.peers.get(&key).is_some();
            table_changed |= self.update_peer(peer);
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
        Ok(())
    }

    /// Whether `update` can be applied.
    ///
    /// # Errors
    /// It would make too many peers.
    pub fn check(&self, update: &DeviceUpdate) -> Result<(), UpdateError> {
        if self.fits(update, PEERS_MAX) {
            Ok(())
        } else {
            Err(UpdateError::TooManyPeers { max: PEERS_MAX })
        }
    }

    /// Whether there are never more than `max` peers while `update` is applied.
    fn fits(&self, update: &DeviceUpdate, max: usize) -> bool {
        let kept = if update.replace_peers { 0 } else { self.peers.len() };
        if kept + update.peers.len() <= max {
            return true;
        }
        // Near the bound it is played through, entry by entry.
        let mut keys: HashSet<PublicKey> =
            if kept == 0 { HashSet::new() } else { self.peers.keys().into_iter().collect() };
        let own = match &update.private_key {
            Some(new) => new.as_ref().map(PrivateKey::public),
            None => self.identity.as_ref().map(|identity| *identity.public()),
        };
        own.map(|own| keys.remove(&own));
        update.peers.iter().all(|peer| {
            let key = peer.public_key;
            if peer.remove {
                keys.remove(&key);
            } else if own != Some(key) && !peer.update_only {
                keys.insert(key);
            }
            keys.len() <= max
        })
    }

    fn set_private_key(&mut self, private_key: Option<PrivateKey>, out: &mut impl Output) {
        let same = match (&self.identity, &private_key) {
            (Some(old), Some(new)) => old.private().as_bytes() == new.as_bytes(),
            (old, new) => old.is_none() && new.is_none(),
        };
        if same {
            return;
        }
        self.identity = private_key.map(|private| Arc::new(Identity::new(private)));
        if let Some(own) = self.identity.as_ref().map(|identity| *identity.public())
            && self.peers.get(&own).is_some()
        {
            // Nobody is a peer of itself.
            self.remove_peer(&own);
            self.publish_table();
        }
        for key in self.peers.keys() {
            self.forget_sessions(&key);
            self.expect(key);
        }
        self.publish_checker();
        self.look_through_staged(out);
    }

    /// Applies changes to one peer; true if the table has to be published.
    fn update_peer(&mut self, update: PeerUpdate) -> bool {
        let key = update.public_key;
        let exists = self.peers.get(&key).is_some();
        let is_self = self.identity.as_ref().is_some_and(|identity| *identity.public() == key);
        if update.remove {
            self.remove_peer(&key);
            return exists;
        }
        if is_self || (update.update_only && !exists) {
            return false;
        }
        self.expect(key);
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
        changed
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

    /// What we share with a peer is worth keeping.
    fn expect(&self, key: PublicKey) {
        if let Some(identity) = &self.identity {
            identity.expect(key);
        }
    }

    /// Removes a peer with everything that is known of it; the table is published later.
    fn remove_peer(&mut self, key: &PublicKey) {
        self.forget_sessions(key);
        if let Some(identity) = &self.identity {
            identity.forget(key);
        }
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
            private_key: self.identity.as_ref().map(|identity| identity.private().clone()),
            peers,
            refused_handshakes: self.shared.sessions.refused_count(),
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

#[cfg(test)]
mod tests {
    use super::super::tests::World;
    use super::*;

    fn keys(numbers: &[u8]) -> Vec<PeerUpdate> {
        let key = |n: &u8| PrivateKey::from_bytes([*n; 32]).public();
        numbers.iter().map(|n| PeerUpdate::new(key(n))).collect()
    }

    #[test]
    fn what_would_be_too_many_peers_is_known_before_anything_is_done() {
        // One peer is there, with the key of 2; our own is that of 1.
        let protocol = &World::new([7, 7]).ends[0].protocol;
        let fits = |update: DeviceUpdate| protocol.fits(&update, 2);
        let adding = |numbers: &[u8]| DeviceUpdate { peers: keys(numbers), ..Default::default() };
        assert!(fits(adding(&[3])) && !fits(adding(&[3, 4])));
        assert!(fits(adding(&[1, 2, 3, 3, 2])), "known ones, doubled ones and ourselves");
        assert!(fits(DeviceUpdate { replace_peers: true, ..adding(&[3, 4]) }));
        assert!(!fits(DeviceUpdate { replace_peers: true, ..adding(&[3, 4, 5]) }));
        let private_key = Some(Some(PrivateKey::from_bytes([2; 32])));
        assert!(fits(DeviceUpdate { private_key, ..adding(&[3, 4]) }), "2 is nobody's peer now");
        let mut removing = adding(&[2, 3, 4]);
        removing.peers[0].remove = true;
        assert!(fits(removing));
        let mut late = adding(&[3, 4, 2]);
        late.peers[2].remove = true;
        assert!(!fits(late), "too late");
        let mut only = adding(&[3, 4]);
        only.peers[1].update_only = true;
        assert!(fits(only));
    }
}
