//! The open batch: datagrams of one size to one destination, in the slot they will leave from.
//!
//! It takes whatever follows, of any flow, as long as all can leave in the same `UDP_SEGMENT`
//! send: all datagrams of one size, the last may be shorter. It goes when the next one does not
//! fit, or at the end of the turn. Datagrams leave in the order they came.

use crate::io::{Destination, Slot, Transmit};

/// Datagrams in one `UDP_SEGMENT` send: `UDP_MAX_SEGMENTS` before Linux 6.9.
pub(super) const SEGMENTS_MAX: usize = 64;
/// Bytes in one send: the largest UDP payload over IPv4.
pub(super) const SEND_MAX: usize = 65_507;

/// Datagrams on their way out, at most one batch open.
#[derive(Default)]
pub(super) struct Batches {
    open: Option<Batch>,
}

struct Batch {
    slot: Slot,
    to: Destination,
    len: usize,
    segment_len: usize,
    count: usize,
    /// A shorter datagram is in: nothing may follow.
    closed: bool,
}

impl Batch {
    #[inline]
    fn fits(&self, len: usize, to: &Destination) -> bool {
        !self.closed
            && len <= self.segment_len
            && self.count < SEGMENTS_MAX
            && self.len + len <= SEND_MAX
            && self.to == *to
    }
}

impl Batches {
    /// Makes sure that a run of datagrams to `to`, `count` of them, the first of `first_len` and
    /// all together of `total_len` bytes, is not cut by what is open: one frame, one send.
    pub(super) fn make_room(
        &mut self,
        to: &Destination,
        count: usize,
        first_len: usize,
        total_len: usize,
        tx: &mut impl Transmit,
    ) {
        let whole = self.open.as_ref().is_none_or(|batch| {
            count == 1
                || (batch.fits(first_len, to)
                    && first_len == batch.segment_len
                    && batch.count + count <= SEGMENTS_MAX
                    && batch.len + total_len <= SEND_MAX)
        });
        if !whole {
            self.send(tx);
        }
    }

    /// Has `fill` write one datagram of `len` bytes to `to`; false when every send slot is in
    /// flight.
    #[inline]
    pub(super) fn push(
        &mut self,
        to: &Destination,
        len: usize,
        tx: &mut impl Transmit,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        if !self.open.as_ref().is_some_and(|batch| batch.fits(len, to)) {
            self.send(tx);
            let Some(slot) = tx.send_slot() else { return false };
            let batch = Batch { slot, to: *to, len: 0, segment_len: len, count: 0, closed: false };
            self.open = Some(batch);
        }
        let Some(batch) = &mut self.open else { return false };
        let Some(out) = batch.slot.get_mut(batch.len..batch.len + len) else { return false };
        fill(out);
        batch.len += len;
        batch.count += 1;
        batch.closed = len < batch.segment_len;
        true
    }

    /// Sends the open batch.
    pub(super) fn send(&mut self, tx: &mut impl Transmit) {
        if let Some(batch) = self.open.take() {
            tx.send(batch.slot, batch.to, batch.len, batch.segment_len);
        }
    }
}
