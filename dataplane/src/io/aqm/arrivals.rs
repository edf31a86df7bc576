//! Receives, judged by the time at which the socket got them (`SO_TIMESTAMPNS`).
//!
//! A receive is judged before anybody knows whether it is authentic: who can fill the queue with
//! garbage can have others told, but no more often than that.

use super::{Aqm, PACKET_LEN_MIN, TRANSFER_LEN_MIN};
use crate::io::Arrival;
use crate::io::counters::{Counters, DropReason};
use crate::packet::ecn::{CE, MASK};
use crate::sys;

/// The waits of a worker's sockets.
#[derive(Debug, Default)]
pub(in crate::io) struct Arrivals(Aqm);

impl Arrivals {
    /// Judges a receive by the time it came at, if the socket tells; marks it if its outer header
    /// says that the packets' ends know of ECN, as WireGuard's does, or takes its first datagram
    /// away, when it is time for a signal.
    #[inline]
    pub(in crate::io) fn judge(&mut self, arrival: &mut Arrival, counters: &Counters) {
        if arrival.came_ns != 0
            && arrival.segment_len >= PACKET_LEN_MIN
            && arrival.len > arrival.segment_len
            && arrival.len >= TRANSFER_LEN_MIN
        {
            self.judge_transfer(arrival, sys::clock::real_ns(), counters);
        }
    }

    fn judge_transfer(&mut self, arrival: &mut Arrival, now_ns: u64, counters: &Counters) {
        let len = arrival.len as u64;
        let is_due = self.0.is_due(now_ns.saturating_sub(arrival.came_ns), len, now_ns);
        let ecn = arrival.class & MASK;
        if !is_due || ecn == CE {
            return;
        }
        if ecn == 0 {
            // The last one may be of another flow, or nothing may follow that shows its loss.
            arrival.skip = arrival.segment_len;
            arrival.len -= arrival.segment_len;
            counters.count_drop(DropReason::QueueDelay, 1);
        } else {
            arrival.class |= CE;
            counters.ecn_marks.add(1);
        }
        self.0.signalled(now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::super::INTERVAL_NS;
    use super::super::tests::{START_NS, stood};
    use super::*;

    fn arrival(count: usize, class: u8) -> Arrival {
        let of = Arrival::of(([192, 0, 2, 1], 51820).into(), count * 1452, 1452);
        Arrival { class, came_ns: 1, ..of }
    }

    #[test]
    fn the_first_datagram_is_lost() {
        let (counters, mut receive) = (Counters::default(), arrival(45, 0));
        Arrivals(stood()).judge_transfer(&mut receive, START_NS, &counters);
        assert_eq!((receive.skip, receive.len), (1452, 44 * 1452));
        assert_eq!(counters.dropped(DropReason::QueueDelay), 1);
    }

    #[test]
    fn what_can_be_marked_is_not_dropped() {
        let counters = Counters::default();
        for (class, marked) in [(1, 3), (2, 3), (0xb9, 0xbb), (3, 3)] {
            let mut aqm = Arrivals(stood());
            let mut receive = arrival(45, class);
            aqm.judge_transfer(&mut receive, START_NS, &counters);
            assert_eq!((receive.class, receive.len), (marked, 45 * 1452));
        }
        assert_eq!((counters.ecn_marks.get(), counters.dropped(DropReason::QueueDelay)), (3, 0));
    }

    #[test]
    fn small_ones_and_those_that_are_alone_stay() {
        let counters = Counters::default();
        let kept = |mut receive: Arrival| {
            let (now_ns, before) = (sys::clock::real_ns(), receive.len);
            let since = now_ns - 2 * INTERVAL_NS;
            let mut aqm = Arrivals(Aqm { seen_ns: now_ns, above_since_ns: since, ..stood() });
            aqm.judge(&mut receive, &counters);
            receive.len == before
        };
        assert!(kept(arrival(1, 0)) && kept(arrival(5, 0)), "no transfer");
        assert!(kept(Arrival { came_ns: 0, ..arrival(45, 0) }), "nobody said when it came");
        assert!(kept(Arrival { len: 92 * 92, segment_len: 92, ..arrival(45, 0) }), "small ones");
        assert!(kept(Arrival { len: 9_000, segment_len: 9_000, ..arrival(45, 0) }), "one large");
        assert!(!kept(arrival(8, 0)));
        assert!(!kept(Arrival { len: 9_000 + 92, segment_len: 9_000, ..arrival(45, 0) }));
    }
}
