//! tun → wire: frames become wire packets, wire packets become batches of equal datagrams.
//!
//! A frame (often a TCP super-packet of up to 64 KiB) is split straight into a send slot. The
//! open batch takes whatever follows, of any flow, as long as it can leave in the same
//! `UDP_SEGMENT` send: all datagrams of one size, the last may be shorter. It goes when the next
//! packet does not fit, or at the end of the turn. Packets leave in the order they came.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::io::counters::{Counters, DropReason};
use crate::io::{Slot, Transmit};
use crate::packet::ip::flow_hash;
use crate::packet::split::Split;
use crate::packet::virtio::{self, VirtioHdr};

use super::steering::Steering;

/// Datagrams in one `UDP_SEGMENT` send: `UDP_MAX_SEGMENTS` before Linux 6.9.
pub const SEGMENTS_MAX: usize = 64;
/// Bytes in one send: the largest UDP payload over IPv4.
pub const SEND_MAX: usize = 65_507;

struct Batch {
    slot: Slot,
    len: usize,
    segment_len: usize,
    count: usize,
    /// A shorter datagram is in: nothing may follow.
    closed: bool,
}

impl Batch {
    #[inline]
    fn fits(&self, len: usize) -> bool {
        !self.closed
            && len <= self.segment_len
            && self.count < SEGMENTS_MAX
            && self.len + len <= SEND_MAX
    }
}

/// The outbound half of a worker.
pub struct Outbound {
    peer: SocketAddr,
    queue: u16,
    steering: Steering,
    counters: Arc<Counters>,
    batch: Option<Batch>,
}

impl Outbound {
    /// Everything from tun queue `queue` to `peer`.
    #[must_use]
    pub fn new(peer: SocketAddr, queue: u16, steering: Steering, counters: Arc<Counters>) -> Self {
        Self { peer, queue, steering, counters, batch: None }
    }

    /// Takes one frame.
    pub fn frame(&mut self, frame: &[u8], tx: &mut impl Transmit) {
        let packet = frame.get(virtio::LEN..).unwrap_or_default();
        let split = VirtioHdr::decode(frame).and_then(|header| Split::new(&header, packet).ok());
        let Some(split) = split else {
            self.counters.count_drop(DropReason::TunMalformed, 1);
            return;
        };
        if self.steering.is_active() {
            self.steering.learn(flow_hash(packet), self.queue);
        }
        self.make_room(&split, tx);
        for i in 0..split.count() {
            let len = split.len_of(i);
            let Some(batch) = self.batch_for(len, tx) else {
                self.counters.count_drop(DropReason::SendSlotsBusy, (split.count() - i) as u64);
                return;
            };
            if let Some(out) = batch.slot.get_mut(batch.len..batch.len + len) {
                split.write(i, out);
                batch.len += len;
                batch.count += 1;
                batch.closed = len < batch.segment_len;
            }
        }
    }

    /// A super-packet that the open batch cannot hold whole starts its own: one frame, one send.
    fn make_room(&mut self, split: &Split<'_>, tx: &mut impl Transmit) {
        let whole = self.batch.as_ref().is_none_or(|batch| {
            split.count() == 1
                || (batch.fits(split.len_of(0))
                    && split.len_of(0) == batch.segment_len
                    && batch.count + split.count() <= SEGMENTS_MAX
                    && batch.len + split.total_len() <= SEND_MAX)
        });
        if !whole {
            self.send(tx);
        }
    }

    fn batch_for(&mut self, len: usize, tx: &mut impl Transmit) -> Option<&mut Batch> {
        if !self.batch.as_ref().is_some_and(|batch| batch.fits(len)) {
            self.send(tx);
            let slot = tx.send_slot()?;
            self.batch = Some(Batch { slot, len: 0, segment_len: len, count: 0, closed: false });
        }
        self.batch.as_mut()
    }

    /// Sends the open batch.
    pub fn send(&mut self, tx: &mut impl Transmit) {
        if let Some(batch) = self.batch.take() {
            tx.send(batch.slot, self.peer, batch.len, batch.segment_len);
        }
    }
}
