//! The answer to `get=1`.

use std::fmt::Write;

use zeroize::Zeroizing;

use super::DeviceStatus;
use crate::protocol::config::PeerView;

/// All lines of `status` but the closing `errno=0`. Holds secrets: wiped when dropped.
#[must_use]
pub fn status(status: &DeviceStatus) -> Zeroizing<String> {
    // Room for everything, so that no copy with secrets is left behind by growing.
    let peers = &status.view.peers;
    let lines: usize = peers.iter().map(|peer| 512 + peer.allowed_ips.len() * 64).sum();
    let mut text = Zeroizing::new(String::with_capacity(256 + lines));
    if let Some(private_key) = &status.view.private_key {
        line(&mut text, "private_key", private_key.to_hex().as_str());
    }
    line(&mut text, "listen_port", status.listen_port);
    if status.fwmark != 0 {
        line(&mut text, "fwmark", status.fwmark);
    }
    for view in peers {
        peer(&mut text, view);
    }
    text
}

fn peer(text: &mut String, peer: &PeerView) {
    line(text, "public_key", peer.public_key.to_hex().as_str());
    line(text, "preshared_key", peer.preshared_key.to_hex().as_str());
    line(text, "protocol_version", 1);
    if let Some(endpoint) = peer.endpoint {
        line(text, "endpoint", endpoint);
    }
    let last = peer.last_handshake.unwrap_or_default();
    line(text, "last_handshake_time_sec", last.as_secs());
    line(text, "last_handshake_time_nsec", last.subsec_nanos());
    line(text, "tx_bytes", peer.sent_bytes);
    line(text, "rx_bytes", peer.received_bytes);
    line(text, "persistent_keepalive_interval", peer.persistent_keepalive_s);
    for prefix in &peer.allowed_ips {
        line(text, "allowed_ip", prefix);
    }
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{key}={value}");
}
