//! What workers tell control, over bounded channels: lost, and counted, when those are full.

use std::sync::Arc;

use super::peer::Peer;
use super::shares::Share;
use crate::packet::endpoint::Endpoint;
use crate::wire::wireguard::messages::HANDSHAKE_LEN_MAX;

/// One piece of news.
#[expect(clippy::large_enum_variant, reason = "no allocation on the way of a handshake flood")]
pub enum Event {
    /// A handshake message whose length, type and MAC1 are right, or a cookie reply to an index of
    /// ours.
    Handshake(HandshakeMessage),
    /// Packets wait for a session with this peer, or the one there is has grown old.
    SessionWanted(Arc<Peer>),
    /// The first packet has arrived on a session that the peer initiated: it may be used.
    Confirmed(Arc<Peer>),
    /// The peer's timers have something to wait for again.
    Activity(Arc<Peer>),
}

/// A handshake message as it arrived.
pub struct HandshakeMessage {
    /// Who sent it, and to which of our addresses.
    pub from: Endpoint,
    /// Its part of the queue, if its sender has proved its address.
    pub share: Option<Share>,
    /// Bytes of the message.
    pub len: usize,
    /// The message, then zeroes.
    pub bytes: [u8; HANDSHAKE_LEN_MAX],
}
