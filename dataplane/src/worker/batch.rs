//! The open batch: datagrams of one size to one destination, in the slot they will leave from.
//!
//! It takes whatever follows, of any flow, as long as all can leave in the same `UDP_SEGMENT`
//! send: all datagrams of one size, the last may be shorter. It goes when the next one does not
//! fit, or at the end of the turn. Datagrams leave in the order they came, but for one case:
//!
//! A datagram a little too large for the MTU is a large and a small fragment, so that in a row of
//! such no two packets of one size follow each other, and a batch would hold two. The last
//! fragments therefore go to a batch of their own, which leaves after the one with the first. Their
//! datagrams are whole in the order they came, since that is when the last fragment arrives; and
//! before anything that is no fragment is taken, both batches leave, so that it overtakes nothing.

use crate::io::{Destination, SEGMENTS_MAX, SEND_MAX, Slot, Transmit};
use crate::packet::ip::Part;

/// Datagrams on their way out, at most one batch of each kind open.
#[derive(Default)]
pub(super) struct Batches {
    open: Option<Batch>,
    /// Last fragments, of datagrams whose others are in `open` or gone.
    last: Option<Batch>,
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
    fn new(slot: Slot, to: Destination, segment_len: usize) -> Self {
        Self { slot, to, len: 0, segment_len, count: 0, closed: false }
    }

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

    /// Has `fill` write one datagram of `len` bytes to `to`, which carries `part` of one of the
    /// tunnel's; false when every send slot is in flight.
    #[inline]
    pub(super) fn push(
        &mut self,
        to: &Destination,
        len: usize,
        part: Part,
        tx: &mut impl Transmit,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        let is_last = part == Part::Last;
        let place = if is_last { &self.last } else { &self.open };
        let fits = place.as_ref().is_some_and(|batch| batch.fits(len, to));
        let overtakes = part == Part::Whole && self.last.is_some();
        if !fits || overtakes {
            if overtakes || (is_last && self.last.is_some()) {
                self.send(tx);
            } else if !is_last {
                send(self.open.take(), tx);
            }
            let Some(slot) = tx.send_slot() else { return false };
            let batch = Some(Batch::new(slot, *to, len));
            *(if is_last { &mut self.last } else { &mut self.open }) = batch;
        }
        let place = if is_last { &mut self.last } else { &mut self.open };
        let Some(batch) = place else { return false };
        let Some(out) = batch.slot.get_mut(batch.len..batch.len + len) else { return false };
        fill(out);
        batch.len += len;
        batch.count += 1;
        batch.closed = len < batch.segment_len;
        true
    }

    /// Sends what is open.
    pub(super) fn send(&mut self, tx: &mut impl Transmit) {
        send(self.open.take(), tx);
        send(self.last.take(), tx);
    }
}

fn send(batch: Option<Batch>, tx: &mut impl Transmit) {
    if let Some(batch) = batch {
        tx.send(batch.slot, batch.to, batch.len, batch.segment_len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Pool;
    use crate::packet::merge::Piece;

    /// Keeps what is sent: of each send the first byte of every datagram.
    struct Sent {
        slots: Vec<Slot>,
        sends: Vec<Vec<u8>>,
    }

    impl Transmit for Sent {
        fn send_slot(&mut self) -> Option<Slot> {
            self.slots.pop()
        }
        fn send(&mut self, slot: Slot, _: Destination, len: usize, segment_len: usize) {
            self.sends.push(slot[..len].chunks(segment_len).map(|datagram| datagram[0]).collect());
            self.slots.push(slot);
        }
        fn write(&mut self, _: u16, _: &[u8], _: &[Piece], _: u32, _: u32) {}
        fn give_back(&mut self, _: Slot) {}
        fn merge_refused(&self) -> bool {
            false
        }
    }

    fn sends(packets: &[(u8, usize, Part)]) -> Vec<Vec<u8>> {
        let (_pool, slots) = Pool::new(4, 70_000).unwrap();
        let (mut tx, mut batches) = (Sent { slots, sends: Vec::new() }, Batches::default());
        let to: std::net::SocketAddr = "192.0.2.1:9".parse().unwrap();
        let to = Destination { endpoint: to.into(), class: 0 };
        for &(mark, len, part) in packets {
            assert!(batches.push(&to, len, part, &mut tx, |out| out.fill(mark)));
        }
        batches.send(&mut tx);
        assert_eq!(tx.slots.len(), 4);
        tx.sends
    }

    #[test]
    fn equal_datagrams_share_a_send_and_a_shorter_one_ends_it() {
        let (long, short) = (1452, 80);
        let packets =
            [(1, long, Part::Whole), (2, long, Part::Whole), (3, short, Part::Whole)].into_iter();
        let packets: Vec<_> = packets.chain([(4, long, Part::Whole)]).collect();
        assert_eq!(sends(&packets), [vec![1, 2, 3], vec![4]]);
    }

    #[test]
    fn last_fragments_share_a_send_behind_the_others() {
        let pair = |n| [(n, 1452, Part::Leading), (n + 100, 80, Part::Last)];
        let packets: Vec<_> = (0..5).flat_map(pair).collect();
        assert_eq!(sends(&packets), [vec![0, 1, 2, 3, 4], vec![100, 101, 102, 103, 104]]);
        // A batch holds 45 of the large ones; what ends a datagram is never before its beginning.
        let packets: Vec<_> = (0..60).flat_map(pair).collect();
        let sent = sends(&packets).concat();
        let place = |mark| sent.iter().position(|&sent| sent == mark).unwrap();
        assert!((0..60).all(|n| place(n) < place(n + 100)));
        assert!((100..159).all(|n| place(n) < place(n + 1)));
        assert_eq!(sends(&packets).len(), 3);
    }

    #[test]
    fn what_is_no_fragment_overtakes_none() {
        let packets = [
            (1, 1452, Part::Leading),
            (101, 80, Part::Last),
            (2, 1452, Part::Whole),
            (3, 1452, Part::Leading),
            (103, 80, Part::Last),
            (104, 200, Part::Last),
        ];
        assert_eq!(sends(&packets), [vec![1], vec![101], vec![2, 3], vec![103], vec![104]]);
    }
}
