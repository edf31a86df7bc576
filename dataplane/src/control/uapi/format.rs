//! The answer to `get=1`.
//!
//! In: a [`DeviceStatus`]. Out: lines in the order of wireguard-go, to any writer, in pieces of at
//! most 32 KiB that are wiped once written: the private key is among them.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use zeroize::{Zeroize, Zeroizing};

use super::DeviceStatus;
use crate::protocol::config::PeerView;

const PIECE_LEN_MAX: usize = 32 << 10;
/// No line is longer: the longest is `preshared_key=` with 64 digits.
const LINE_LEN_MAX: usize = 128;

/// Writes everything about a device, and that this is all of it.
///
/// # Errors
/// The writer's.
pub fn write_status(status: &DeviceStatus, to: &mut impl io::Write) -> io::Result<()> {
    let text = Zeroizing::new(String::with_capacity(PIECE_LEN_MAX));
    let mut lines = Lines { text, to };
    if let Some(key) = &status.view.private_key {
        lines.line("private_key", key.to_hex().as_str())?;
    }
    if status.listen_port != 0 {
        lines.line("listen_port", status.listen_port)?;
    }
    if status.fwmark != 0 {
        lines.line("fwmark", status.fwmark)?;
    }
    for peer in &status.view.peers {
        write_peer(peer, &mut lines)?;
    }
    lines.line("errno", 0)?;
    lines.text.push('\n');
    lines.flush()
}

fn write_peer(peer: &PeerView, lines: &mut Lines<'_, impl io::Write>) -> io::Result<()> {
    let handshake = peer.last_handshake.unwrap_or(Duration::ZERO);
    lines.line("public_key", peer.public_key.to_hex().as_str())?;
    lines.line("preshared_key", peer.preshared_key.to_hex().as_str())?;
    lines.line("protocol_version", 1)?;
    if let Some(endpoint) = peer.endpoint {
        lines.line("endpoint", endpoint)?;
    }
    lines.line("last_handshake_time_sec", handshake.as_secs())?;
    lines.line("last_handshake_time_nsec", handshake.subsec_nanos())?;
    lines.line("tx_bytes", peer.sent_bytes)?;
    lines.line("rx_bytes", peer.received_bytes)?;
    lines.line("persistent_keepalive_interval", peer.persistent_keepalive_s)?;
    for prefix in &peer.allowed_ips {
        lines.line("allowed_ip", format_args!("{}/{}", prefix.address(), prefix.len()))?;
    }
    Ok(())
}

/// Writes the answer to a `set`, or to a `get` that failed.
///
/// # Errors
/// The writer's.
pub fn write_errno(errno: i32, to: &mut impl io::Write) -> io::Result<()> {
    to.write_all(format!("errno={errno}\n\n").as_bytes())
}

struct Lines<'a, W> {
    text: Zeroizing<String>,
    to: &'a mut W,
}

impl<W: io::Write> Lines<'_, W> {
    fn line(&mut self, key: &str, value: impl fmt::Display) -> io::Result<()> {
        // Before it could grow, which would leave a copy behind.
        if self.text.len() + LINE_LEN_MAX > PIECE_LEN_MAX {
            self.flush()?;
        }
        writeln!(self.text, "{key}={value}").map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.to.write_all(self.text.as_bytes());
        self.text.zeroize();
        written
    }
}
