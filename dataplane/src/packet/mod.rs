//! Packets as bytes: pure functions, no I/O, no allocation once built, no unsafe.
//!
//! In the order a packet meets them:
//!
//! ```text
//! outbound   tun read  ─► virtio (what is left to do) ─► split (GSO: one frame, n packets)
//! inbound    wire read ─► ip (is it one whole IP packet?) ─► merge (GRO: n packets, one tun write)
//! ```
//!
//! [`checksum`] serves both; [`ip`] also hashes flows, so that a flow stays with one worker and
//! one queue. No byte of a packet can make anything here panic.

pub mod checksum;
pub mod congestion;
pub mod ecn;
pub mod endpoint;
pub mod ip;
pub mod merge;
pub mod split;
pub mod virtio;

mod bytes;
mod merge_candidate;
mod merge_flow;

#[cfg(test)]
mod frames;
