//! wire → tun: datagrams of the peer become inner packets, inner packets become frames.
//!
//! Nothing is copied: the merger describes each frame as a new header and stretches of the
//! receive slots, and the tun write gathers them. A frame goes to the tun queue that reads the
//! flow's other direction (see [`super::steering`]).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::io::counters::{Counters, DropReason};
use crate::io::{Received, Transmit};
use crate::packet::ip::InnerError;
use crate::packet::merge::{MergeConfig, Merger, Piece, Sink};
use crate::wire::plain;

use super::steering::Steering;

/// The inbound half of a worker.
pub struct Inbound {
    peer: SocketAddr,
    steering: Steering,
    counters: Arc<Counters>,
    merger: Merger,
    merging: bool,
}

/// Where merged frames go.
pub(super) struct TunSink<'a, T> {
    pub(super) tx: &'a mut T,
    pub(super) steering: &'a Steering,
}

impl<T: Transmit> Sink for TunSink<'_, T> {
    #[inline]
    fn write(&mut self, head: &[u8], pieces: &[Piece], packets: u32, bytes: u32, flow_hash: u32) {
        let queue = self.steering.queue_for(flow_hash);
        self.tx.write(queue, head, pieces, packets, bytes);
    }
}

impl Inbound {
    /// Everything from `peer`.
    #[must_use]
    pub fn new(
        peer: SocketAddr,
        steering: Steering,
        merge: MergeConfig,
        counters: Arc<Counters>,
    ) -> Self {
        Self { peer, steering, counters, merger: Merger::new(merge), merging: true }
    }

    /// Takes the datagrams of one receive.
    pub fn datagrams(&mut self, received: &Received<'_>, tx: &mut impl Transmit) {
        let arrival = &received.arrival;
        let segment_len = arrival.segment_len.max(1);
        let count = || received.bytes.len().div_ceil(segment_len).max(1) as u64;
        if !plain::is_from(self.peer, arrival.from) {
            self.counters.count_drop(DropReason::UnknownSource, count());
            return;
        }
        if arrival.truncated {
            self.counters.count_drop(DropReason::Truncated, count());
            return;
        }
        if received.bytes.is_empty() {
            self.counters.count_drop(DropReason::NotIp, 1);
            return;
        }
        let mut sink = TunSink { tx, steering: &self.steering };
        let mut offset = received.offset;
        for datagram in received.bytes.chunks(segment_len) {
            match plain::open(datagram) {
                Ok(packet) => self.merger.push(packet, received.slot, offset, &mut sink),
                Err(InnerError::NotIp) => self.counters.count_drop(DropReason::NotIp, 1),
                Err(InnerError::LengthMismatch) => {
                    self.counters.count_drop(DropReason::LengthMismatch, 1);
                }
            }
            offset = offset.saturating_add(u32::try_from(segment_len).unwrap_or(u32::MAX));
        }
    }

    /// Writes everything still held.
    pub fn flush(&mut self, tx: &mut impl Transmit) {
        if self.merging && tx.merge_refused() {
            self.merging = false;
            self.merger.set_config(MergeConfig::default());
        }
        self.merger.flush(&mut TunSink { tx, steering: &self.steering });
        let bad = self.merger.bad_checksums();
        if bad > 0 {
            self.counters.bad_checksums.add(bad);
        }
    }
}
