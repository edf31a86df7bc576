//! tun → wire: frames become wire packets, wire packets become batches of equal datagrams.
//!
//! A frame (often a TCP super-packet of up to 64 KiB) is split straight into a send slot. The
//! open batch takes whatever follows, of any flow, as long as it can leave in the same
//! `UDP_SEGMENT` send: all datagrams of one size, the last may be shorter. It goes when the next
//! packet does not fit, or at the end of the turn. Packets leave in the order they came.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::io::counters::{Counters, DropReason};
use crate::io::{Destination, Transmit};
use crate::packet::ip::{Part, flow_hash};
use crate::packet::split::Split;
use crate::packet::virtio::{self, VirtioHdr};

use super::batch::Batches;
use super::steering::Steering;

/// The outbound half of a worker.
pub struct Outbound {
    peer: Destination,
    queue: u16,
    steering: Steering,
    counters: Arc<Counters>,
    batches: Batches,
}

impl Outbound {
    /// Everything from tun queue `queue` to `peer`.
    #[must_use]
    pub fn new(peer: SocketAddr, queue: u16, steering: Steering, counters: Arc<Counters>) -> Self {
        let peer = Destination { endpoint: peer.into(), class: 0 };
        Self { peer, queue, steering, counters, batches: Batches::default() }
    }

    /// Takes one frame.
    pub fn frame(&mut self, frame: &[u8], tx: &mut impl Transmit) {
        let packet = frame.get(virtio::LEN..).unwrap_or_default();
        let split = VirtioHdr::decode(frame).and_then(|header| Split::new(&header, packet).ok());
        let Some(split) = split else {
            self.counters.tun_reads().count(1);
            self.counters.count_drop(DropReason::TunMalformed, 1);
            return;
        };
        self.counters.tun_reads().count(split.count());
        if self.steering.is_active() {
            self.steering.learn(flow_hash(packet), self.queue);
        }
        let (count, first_len, part) = (split.count(), split.len_of(0), Part::of(packet));
        self.batches.make_room(&self.peer, count, first_len, split.total_len(), tx);
        for i in 0..count {
            let len = split.len_of(i);
            if !self.batches.push(&self.peer, len, part, tx, |out| split.write(i, out)) {
                self.counters.count_drop(DropReason::SendSlotsBusy, (count - i) as u64);
                return;
            }
        }
    }

    /// Sends the open batch.
    pub fn send(&mut self, tx: &mut impl Transmit) {
        self.batches.send(tx);
    }
}
