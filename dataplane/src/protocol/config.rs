//! What can be set and read of a device: the one shape behind UAPI, configuration files and flags.

use std::net::SocketAddr;
use std::time::Duration;

use crate::table::allowed_ips::Prefix;
use crate::wire::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

/// Changes to a device; what is `None` stays as it is.
#[derive(Default)]
pub struct DeviceUpdate {
    /// A new identity; `Some(None)` takes it away.
    pub private_key: Option<Option<PrivateKey>>,
    /// The port to receive on; 0 lets the kernel choose. Carried out by control, not the protocol.
    pub listen_port: Option<u16>,
    /// Mark of outgoing datagrams; 0 for none. Carried out by control.
    pub fwmark: Option<u32>,
    /// Remove all peers first.
    pub replace_peers: bool,
    /// Changes to peers, in order; a key may occur more than once.
    pub peers: Vec<PeerUpdate>,
}

/// Changes to one peer, which is added if it is not there.
pub struct PeerUpdate {
    /// Who.
    pub public_key: PublicKey,
    /// Remove it.
    pub remove: bool,
    /// Do nothing if it is not there.
    pub update_only: bool,
    /// Its preshared key; all zero for none.
    pub preshared_key: Option<PresharedKey>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive_s: Option<u16>,
    /// Remove its allowed IPs first.
    pub replace_allowed_ips: bool,
    /// Changes to its allowed IPs, in order.
    pub allowed_ips: Vec<AllowedIpUpdate>,
}

impl PeerUpdate {
    /// No changes to this peer but to add it.
    #[must_use]
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive_s: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// One allowed IP added, or taken from this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedIpUpdate {
    /// Which.
    pub prefix: Prefix,
    /// Take it away, if it is this peer's.
    pub remove: bool,
}

/// Why an update was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// More peers than the session table has room for.
    #[error("too many peers: at most {max}")]
    TooManyPeers {
        /// The bound.
        max: usize,
    },
}

/// A device as it is.
pub struct DeviceView {
    /// Its identity.
    pub private_key: Option<PrivateKey>,
    /// Its peers, in the order they were added.
    pub peers: Vec<PeerView>,
    /// Handshakes, of either end, that found the session table full.
    pub refused_handshakes: u64,
}

/// A peer as it is.
pub struct PeerView {
    /// Who.
    pub public_key: PublicKey,
    /// All zero for none.
    pub preshared_key: PresharedKey,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive_s: u16,
    /// Time of the last completed handshake, since the Unix epoch.
    pub last_handshake: Option<Duration>,
    /// Bytes received from it, as on the wire.
    pub received_bytes: u64,
    /// Bytes sent to it, as on the wire.
    pub sent_bytes: u64,
    /// Its allowed IPs, sorted.
    pub allowed_ips: Vec<Prefix>,
}
