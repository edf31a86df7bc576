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
/// Packets in a queue beyond which some may have been dropped: tun's own default is 500.
const SURE_MAX: u64 = 448;
/// Packets read in a turn after which the queue may have been that full.
const MANY: u32 = 8;
/// Who has waited longer has a time that is not his: of another clock (time_namespaces(7)), or
/// overwritten just now.
const BELIEVED_MAX_NS: u64 = 1_000_000_000;

/// The numbers of packets read.
#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    /// They are the kernel's: none was dropped since the queue was empty.
    sure: bool,
}

impl Numbers {
    /// Of a packet that was read.
    #[inline]
    fn read(&mut self) -> u64 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        number
    }

    /// So many have been noted.
    #[inline]
    fn noted(&mut self, noted: u64) {
        // The times of older ones are gone.
        self.next = self.next.max(noted.saturating_sub(STAMPS.into()));
        self.sure &= noted.saturating_sub(self.next) <= SURE_MAX;
    }

    /// There was nothing left to be read after so many had been noted.
    fn empty(&mut self, noted: u64) {
        (self.next, self.sure) = (noted, true);
    }
}

/// The waits of a worker's tun queue.
#[derive(Debug)]
pub(in crate::io) struct Frames {
    aqm: Aqm,
    stamps: Option<Arc<TunStamps>>,
    queue: u16,
    numbers: Numbers,
    /// Packets read since all were judged.
    count: u32,
    /// When a transfer's packets were read last, and when it was looked whether there are more.
    seen_ns: u64,
    looked_ns: u64,
}

impl Frames {
    /// Of `queue`, nothing of which has been read yet; without stamps all packets pass.
    pub(in crate::io) fn new(stamps: Option<Arc<TunStamps>>, queue: u16) -> Self {
        let (aqm, numbers) = (Aqm::default(), Numbers::default());
        Self { aqm, stamps, queue, numbers, count: 0, seen_ns: 0, looked_ns: 0 }
    }

    /// Judges a frame that was read, virtio header first; marks it, or takes its first packet away,
    /// when it is time for a signal. Returns its length.
    #[inline]
    pub(in crate::io) fn judge(&mut self, frame: &mut [u8], counters: &Counters) -> usize {
        let Some(stamps) = &self.stamps else { return frame.len() };
        let number = self.numbers.read();
        self.count += 1;
        if frame.len() < TRANSFER_LEN_MIN
            || VirtioHdr::decode(frame).is_none_or(|hdr| usize::from(hdr.gso_size) < PACKET_LEN_MIN)
        {
            return frame.len();
        }
        let (noted, now_ns) = (stamps.noted(self.queue), sys::clock::monotonic_ns());
        let came_ns = stamps.came_ns(self.queue, number);
        self.numbers.noted(noted);
        // What was in the queue before anybody noted anything has no time.
        let known = self.numbers.sure && number < noted;
        self.judge_transfer(frame, if known { came_ns } else { now_ns }, now_ns, counters)
    }

    fn judge_transfer(
        &mut self,
        frame: &mut [u8],
        came_ns: u64,
        now_ns: u64,
        counters: &Counters,
    ) -> usize {
        self.seen_ns = now_ns;
        let waited_ns = now_ns.saturating_sub(came_ns);
        let waited_ns = if waited_ns > BELIEVED_MAX_NS { 0 } else { waited_ns };
        if !self.aqm.is_due(waited_ns, frame.len() as u64, now_ns) {
            return frame.len();
        }
        let len = match congestion::tell(frame) {
            Told::Nothing => return frame.len(),
            Told::Marked => {
                counters.ecn_marks.add(1);
                frame.len()
            }
            Told::Shortened(len) => {
                counters.count_drop(DropReason::TunDelay, 1);
                len
            }
        };
        self.aqm.signalled(now_ns);
        len
    }

    /// To be called when everything read has been judged: numbers of packets that were dropped are
    /// passed over if `queue` is empty.
    #[inline]
    pub(in crate::io) fn all_judged(&mut self, queue: BorrowedFd<'_>) {
        let many = std::mem::take(&mut self.count) >= MANY;
        let late = self.seen_ns.wrapping_sub(self.looked_ns) >= LOOK_NS;
        if (many || late || !self.numbers.sure)
            && let Some(stamps) = &self.stamps
        {
            // In this order: what comes after it was counted may be there or not.
            let noted = stamps.noted(self.queue);
            self.numbers.noted(noted);
            if late || !self.numbers.sure {
                self.looked_ns = self.seen_ns;
                if !sys::tun::is_readable(queue) {
                    self.numbers.empty(noted);
                }
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

    /// The sender is three times as fast as the worker, and two of three packets are dropped, then
    /// it pauses: no number is taken for sure that is not the kernel's.
    #[test]
    fn what_was_dropped_is_passed_over_once_the_queue_is_empty() {
        for capacity in [500, 1_000] {
            let (mut numbers, mut noted, mut queue) = (Numbers::default(), 0, VecDeque::new());
            let (mut sure, mut unsure) = (0, 0);
            for step in 0..40_000 {
                let pause = step % 10_000 > 5_000;
                for _ in 0..if pause { u64::from(step % 3 == 0) } else { 3 } {
                    if queue.len() < capacity {
                        queue.push_back(noted);
                    }
                    noted += 1;
                }
                // As a worker that reads 16 a turn, and sees what was noted at its end.
                let Some(number) = queue.pop_front() else {
                    numbers.empty(noted);
                    continue;
                };
                let (known, guess) = (numbers.sure, numbers.read());
                if step % 16 == 0 {
                    numbers.noted(noted);
                }
                assert!(!known || guess == number, "{capacity}: {guess} {number} {noted}");
                *if known { &mut sure } else { &mut unsure } += 1;
            }
            assert!(sure > 4_000 && unsure > 10_000, "{sure} {unsure}");
        }
    }

    #[test]
    fn a_time_that_cannot_be_is_none() {
        assert_eq!(judged(0, START_NS - 2 * BELIEVED_MAX_NS).0, 1_000, "the average counts");
        let (mut frames, counters) = (Frames::new(None, 0), Counters::default());
        for step in 0..10_000 {
            let now_ns = START_NS + step * MS / 10;
            let mut frame = frame(0);
            let came_ns = if step % 2 == 0 { 0 } else { now_ns + 1_000 * MS };
            assert_eq!(frames.judge_transfer(&mut frame, came_ns, now_ns, &counters), frame.len());
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
