//! A device for tests: what is set can be read back. It knows no more of WireGuard than that.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

use super::{Device, DeviceStatus};
use crate::protocol::config::{AllowedIpUpdate, DeviceUpdate, DeviceView, PeerUpdate, PeerView};
use crate::table::allowed_ips::Prefix;
use crate::wire::wireguard::keys::{PresharedKey, PublicKey};

/// A device that remembers.
#[derive(Default)]
pub(super) struct Fake(Mutex<State>);

#[derive(Default)]
struct State {
    private_key: Option<crate::wire::wireguard::keys::PrivateKey>,
    listen_port: u16,
    fwmark: u32,
    peers: Vec<PeerView>,
    get_fails: Option<i32>,
    forgets_allowed_ips: bool,
}

impl Fake {
    /// Port 1 is taken, for tests.
    pub(super) const TAKEN_PORT: u16 = 1;

    /// Gives the peer at `place` some history.
    pub(super) fn with_peer(&self, place: usize, change: impl FnOnce(&mut PeerView)) {
        change(&mut self.0.lock().unwrap().peers[place]);
    }

    /// From now on `get` fails.
    pub(super) fn fail_get(&self, errno: i32) {
        self.0.lock().unwrap().get_fails = Some(errno);
    }

    /// From now on allowed IPs are not kept.
    pub(super) fn forget_allowed_ips(&self) {
        self.0.lock().unwrap().forgets_allowed_ips = true;
    }
}

impl Device for Fake {
    fn get(&self) -> Result<DeviceStatus, i32> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(errno) = state.get_fails {
            return Err(errno);
        }
        let view = DeviceView {
            private_key: state.private_key.clone(),
            peers: state.peers.iter().map(copy).collect(),
            refused_handshakes: 0,
        };
        Ok(DeviceStatus { view, listen_port: state.listen_port, fwmark: state.fwmark })
    }

    fn set(&self, update: DeviceUpdate) -> Result<(), i32> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if update.listen_port == Some(Self::TAKEN_PORT) {
            return Err(libc::EADDRINUSE);
        }
        if let Some(key) = update.private_key {
            state.private_key = key;
        }
        state.listen_port = update.listen_port.unwrap_or(state.listen_port);
        state.fwmark = update.fwmark.unwrap_or(state.fwmark);
        if update.replace_peers {
            state.peers.clear();
        }
        for mut peer in update.peers {
            if state.forgets_allowed_ips {
                peer.allowed_ips.clear();
            }
            state.set_peer(peer);
        }
        Ok(())
    }
}

impl State {
    fn set_peer(&mut self, update: PeerUpdate) {
        let key = update.public_key;
        let place = self.peers.iter().position(|peer| peer.public_key == key);
        if update.remove || (update.update_only && place.is_none()) {
            self.peers.retain(|peer| peer.public_key != key);
            return;
        }
        for AllowedIpUpdate { prefix, remove } in &update.allowed_ips {
            let others = self.peers.iter_mut().filter(|peer| peer.public_key != key && !remove);
            others.for_each(|peer| peer.allowed_ips.retain(|other| other != prefix));
        }
        let place = place.unwrap_or_else(|| {
            self.peers.push(peer(key));
            self.peers.len() - 1
        });
        let peer = &mut self.peers[place];
        if let Some(preshared_key) = update.preshared_key {
            peer.preshared_key = preshared_key;
        }
        peer.endpoint = update.endpoint.or(peer.endpoint);
        peer.persistent_keepalive_s =
            update.persistent_keepalive_s.unwrap_or(peer.persistent_keepalive_s);
        if update.replace_allowed_ips {
            peer.allowed_ips.clear();
        }
        for AllowedIpUpdate { prefix, remove } in update.allowed_ips {
            peer.allowed_ips.retain(|other| *other != prefix);
            peer.allowed_ips.extend((!remove).then_some(prefix));
        }
        peer.allowed_ips.sort();
    }
}

/// A peer of whom nothing is known but its key.
pub(super) fn peer(public_key: PublicKey) -> PeerView {
    PeerView {
        public_key,
        preshared_key: PresharedKey::default(),
        endpoint: None,
        persistent_keepalive_s: 0,
        last_handshake: None,
        received_bytes: 0,
        sent_bytes: 0,
        allowed_ips: Vec::new(),
    }
}

fn copy(peer: &PeerView) -> PeerView {
    PeerView {
        preshared_key: peer.preshared_key.clone(),
        allowed_ips: peer.allowed_ips.clone(),
        ..*peer
    }
}

/// A prefix, from text.
pub(super) fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
}

/// A folder of the test's own.
pub(super) struct Dir(pub(super) PathBuf);

impl Dir {
    pub(super) fn new(test: &str) -> Self {
        let dir = env::temp_dir().join(format!("ringtun-uapi-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
