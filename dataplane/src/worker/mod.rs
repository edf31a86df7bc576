//! A worker: the loop between one tun queue and its sockets.
//!
//! ```text
//! outbound:  frame ─► packet::split ─► batch of equal datagrams ─► UDP send        outbound.rs
//! inbound:   tun write ◄─ packet::merge ◄─ inner packet ◄─ UDP receive             inbound.rs
//! ```
//!
//! In the order in which a packet meets them: the backend (`io`) calls [`path::Path`], which
//! hands frames to [`outbound`] and datagrams to [`inbound`]; [`steering`] decides which tun
//! queue a flow belongs to, [`handover`] whether another worker helps; everything is counted in
//! [`counters`].

mod batch;
pub mod handover;
pub mod inbound;
pub mod outbound;
pub mod path;
pub mod steering;
pub mod wireguard;

pub use crate::io::counters;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::io::{Backend, IoError};
use path::Path;

/// Runs turns until `stop` is set (and the worker woken) or the backend fails.
///
/// # Errors
/// What made the backend give up.
pub fn run(
    mut backend: impl Backend,
    mut path: Path,
    stop: &Arc<AtomicBool>,
) -> Result<(), IoError> {
    while !stop.load(Ordering::Acquire) {
        backend.turn(&mut path)?;
    }
    Ok(())
}
