//! Who is who: peers, their allowed IPs, their sessions by index.
//!
//! Control writes, workers read, without a lock: the table of peers and allowed IPs is an
//! immutable snapshot behind one pointer, sessions lie in slots that are swapped one by one.
//! A worker loads what it needs for a batch and keeps nothing beyond it, so whatever is replaced
//! is gone when the batches under way have ended.

pub mod allowed_ips;
pub mod clock;
pub mod event;
pub mod peer;
pub mod sessions;
pub mod shares;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::wire::wireguard::cookie::Checker;
use allowed_ips::AllowedIps;
use clock::Clock;
use peer::Peer;
use sessions::SessionTable;

/// Peers and allowed IPs as they were at one moment.
#[derive(Default)]
pub struct Table {
    /// Allowed IPs by longest match; the values are places in `peers`.
    pub allowed_ips: AllowedIps,
    /// Every peer.
    pub peers: Vec<Arc<Peer>>,
}

/// What control and the workers of one device share.
pub struct Shared {
    /// The current table.
    pub table: ArcSwap<Table>,
    /// Sessions by the index that we gave them.
    pub sessions: SessionTable,
    /// Checks MAC1 and MAC2 of handshake messages to us; none without a private key.
    pub checker: ArcSwapOption<Checker>,
    /// Handshake messages need a valid MAC2.
    pub under_load: AtomicBool,
    /// Grows when a session has become usable or a handshake was given up: workers look through
    /// the packets that wait.
    pub generation: AtomicU64,
    /// MTU of the tun device: padding does not exceed it.
    pub mtu: AtomicU32,
    /// Time as the protocol sees it.
    pub clock: Clock,
}
