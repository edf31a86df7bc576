//! Super-packets from the tun, judged by the time at which they came to its queue.
//!
//! The kernel numbers and times the packets as they come ([`TunStamps`]), this worker numbers them
//! as it reads them. Those that the full queue drops come but are never read, so whenever the queue
//! is empty the two are made the same again.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{Aqm, PACKET_LEN_MIN, TRANSFER_LEN_MIN};
use crate::io::counters::{Counters, DropReason};
use crate::packet::congestion::{self, Told};
use crate::packet::virtio::VirtioHdr;
use crate::sys;
use crate::sys::tun_stamps::{STAMPS, TunStamps};

/// How often to look whether the queue is empty, while a transfer goes on.
const LOOK_NS: u64 = 10_000_000;

/// The number of the next packet to be read.
#[derive(Debug, Default)]
struct Next(u64);

impl Next {
    /// Of a packet that was read.
    #[inline]
    fn read(&mut self) -> u64 {
        let number = self.0;
        self.0 = number.wrapping_add(1);
        number
    }

    /// So many have been noted. The times of older ones are gone, and most of those were dropped.
    #[inline]
    fn noted(&mut self, noted: u64) {
        self.0 = self.0.max(noted.saturating_sub(STAMPS.into()));
    }

    /// There was nothing left to be read after so many had been noted.
    fn empty(&mut self, noted: u64) {
        self.0 = noted;
    }
}

/// The waits of a worker's tun queue.
#[derive(Debug)]
pub(in crate::io) struct Frames {
    aqm: Aqm,
    stamps: Option<Arc<TunStamps>>,
    queue: u16,
    next: Next,
    /// When a transfer's packets were read last, and when it was looked whether there are more.
    seen_ns: u64,
    looked_ns: u64,
}

impl Frames {
    /// Of `queue`, nothing of which has been read yet; without stamps all packets pass.
    pub(in crate::io) fn new(stamps: Option<Arc<TunStamps>>, queue: u16) -> Self {
        let (aqm, next) = (Aqm::default(), Next::default());
        Self { aqm, stamps, queue, next, seen_ns: 0, looked_ns: 0 }
    }

    /// Judges a frame that was read, virtio header first; marks it, or takes its first packet away,
    /// when it is time for a signal. Returns its length.
    #[inline]
    pub(in crate::io) fn judge(&mut self, frame: &mut [u8], counters: &Counters) -> usize {
        let Some(stamps) = &self.stamps else { return frame.len() };
        let number = self.next.read();
        if frame.len() < TRANSFER_LEN_MIN
            || VirtioHdr::decode(frame).is_none_or(|hdr| usize::from(hdr.gso_size) < PACKET_LEN_MIN)
        {
            return frame.len();
        }
        let (noted, now_ns) = (stamps.noted(self.queue), sys::clock::monotonic_ns());
        // What was in the queue before anybody noted anything has no time.
        let came_ns = if number < noted { stamps.came_ns(self.queue, number) } else { now_ns };
        self.next.noted(noted);
        self.judge_transfer(frame, came_ns, now_ns, counters)
    }

    fn judge_transfer(
        &mut self,
        frame: &mut [u8],
        came_ns: u64,
        now_ns: u64,
        counters: &Counters,
    ) -> usize {
        self.seen_ns = now_ns;
        if self.aqm.is_due(now_ns.saturating_sub(came_ns), frame.len() as u64, now_ns) {
            match congestion::tell(frame) {
                Told::Nothing => return frame.len(),
                Told::Marked => counters.ecn_marks.add(1),
                Told::Shortened(len) => {
                    counters.count_drop(DropReason::TunDelay, 1);
                    self.aqm.signalled(now_ns);
                    return len;
                }
            }
            self.aqm.signalled(now_ns);
        }
        frame.len()
    }

    /// To be called when everything read has been judged: numbers of packets that were dropped are
    /// passed over if `queue` is empty.
    #[inline]
    pub(in crate::io) fn all_judged(&mut self, queue: BorrowedFd<'_>) {
        if self.seen_ns.wrapping_sub(self.looked_ns) < LOOK_NS {
            return;
        }
        self.looked_ns = self.seen_ns;
        if let Some(stamps) = &self.stamps {
            // In this order: what comes after it was counted may be there or not.
            let noted = stamps.noted(self.queue);
            if !sys::tun::is_readable(queue) {
                self.next.empty(noted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::tests::{MS, START_NS, stood};
    use super::*;
    use crate::packet::virtio::{self, GSO_TCPV4};

    /// The sender is three times as fast as the worker, and half of what it sends is dropped, then
    /// it pauses: numbers of packets that still come are right again.
    #[test]
    fn what_was_dropped_is_passed_over_once_the_queue_is_empty() {
        let (mut next, mut noted, mut queue) = (Next::default(), 0, VecDeque::new());
        let mut wrong = 0;
        for step in 0..20_000 {
            let pause = step % 10_000 > 5_000;
            for _ in 0..if pause { 0 } else { 3 } {
                if queue.len() < 500 {
                    queue.push_back(noted);
                }
                noted += 1;
            }
            if let Some(number) = queue.pop_front() {
                let guess = next.read();
                next.noted(noted);
                assert!(noted - guess <= u64::from(STAMPS) + 4, "{guess} {noted}");
                wrong += u64::from(guess != number);
            } else {
                next.empty(noted);
            }
        }
        assert!(wrong > 1_000, "some are dropped");
        for _ in 0..10 {
            queue.push_back(noted);
            noted += 1;
            assert_eq!(Some(next.read()), queue.pop_front());
        }
    }

    fn frame(class: u8) -> Vec<u8> {
        let hdr = VirtioHdr { gso_type: GSO_TCPV4, gso_size: 1_000, ..VirtioHdr::default() };
        let mut frame = hdr.encode().to_vec();
        frame.extend([0x45, class, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0; 12]);
        frame.extend([0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        frame.extend([7; 20_000]);
        frame
    }

    fn judged(class: u8, came_ns: u64) -> (usize, u8, u64, u64) {
        let (mut frames, counters) = (Frames::new(None, 0), Counters::default());
        frames.aqm = stood();
        let mut frame = frame(class);
        let len = frames.judge_transfer(&mut frame, came_ns, START_NS, &counters);
        let told = (counters.dropped(DropReason::TunDelay), counters.ecn_marks.get());
        (frame.len() - len, frame[virtio::LEN + 1], told.0, told.1)
    }

    #[test]
    fn a_transfer_that_waited_loses_a_packet_or_is_marked() {
        let came_ns = START_NS - 40 * MS;
        assert_eq!(judged(0, came_ns), (1_000, 0, 1, 0));
        assert_eq!(judged(2, came_ns), (0, 3, 0, 1));
        assert_eq!(judged(3, came_ns), (0, 3, 0, 0), "marked already");
        assert_eq!(judged(0, START_NS + MS), (1_000, 0, 1, 0), "the average counts");
    }

    #[test]
    fn without_stamps_everything_passes() {
        let (mut frames, counters) = (Frames::new(None, 0), Counters::default());
        frames.aqm = stood();
        let mut frame = frame(0);
        assert_eq!(frames.judge(&mut frame, &counters), frame.len());
    }
}
