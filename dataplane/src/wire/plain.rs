//! IP in UDP in the clear: the inner IP packet is the UDP payload, nothing else.
//!
//! What `ip fou` with ipproto 4 or 41 and the classic UDP tunnels speak. No secret protects it:
//! a datagram counts as the peer's when it comes from the peer's address and port, which anyone
//! on the path, and anyone who can forge a source address, can imitate.

use std::net::SocketAddr;

use crate::packet::ip::{InnerError, inner_packet};

/// Whether a datagram from `from` is the `peer`'s.
#[inline]
#[must_use]
pub fn is_from(peer: SocketAddr, from: SocketAddr) -> bool {
    // Scope and flow label may differ between what was configured and what arrives.
    peer.port() == from.port() && peer.ip() == from.ip()
}

/// The inner packet of one datagram, without whatever trails it.
///
/// # Errors
/// What makes it no IP packet.
#[inline]
pub fn open(datagram: &[u8]) -> Result<&[u8], InnerError> {
    inner_packet(datagram)
}
