//! Active queue management: telling transfers whose packets wait too long for this worker.
//!
//! TCP sends faster until something tells it not to. A queue that overflows tells it late: by then
//! megabytes wait in the socket that the worker reads, and whatever else goes through the tunnel
//! waits behind them. So the kernel notes when a datagram came (`SO_TIMESTAMPNS`), and while
//! receives that are part of a transfer waited longer than [`TARGET_NS`] on average, one of them is
//! marked as having met congestion where its packets' ends know of that (ECN, RFC 3168), and loses
//! one datagram where they do not; then again after a while, sooner each time, as CoDel does (RFC
//! 8289, section 5.4).
//!
//! The average, where CoDel has the least wait of an interval: when both ends of a tunnel, or a
//! worker and those it works for, share cores, what is in flight wanders between their queues, so
//! that each is empty now and then, and they never are together.
//!
//! There are senders that do not react: BBR, datagrams sent at a rate of their own. When the
//! average has not fallen after [`PATIENCE`] signals, they get a [rest](REST_NS).

use super::Arrival;
use super::counters::{Counters, DropReason};
use crate::sys;

/// What receives of a transfer may wait on average: a few of them behind one another.
const TARGET_NS: u64 = 300_000;
/// A receive of a transfer is so many datagrams of one size at least …
const DATAGRAMS_MIN: usize = 8;
/// … which are not smaller than this.
const DATAGRAM_LEN_MIN: usize = 512;
/// Weight of the past in the average: 63 of 64 parts, the receives of some milliseconds.
const PAST_SHIFT: u32 = 6;
/// A longer wait counts as this long: who was kept off his core for once says little.
const WAIT_MAX_NS: u64 = 10_000_000;
/// An average that nothing was added to for so long is forgotten.
const FORGET_NS: u64 = 100_000_000;
/// From one signal to the next, at first …
const SPACING_NS: u64 = 20_000_000;
/// … and at least.
const SPACING_MIN_NS: u64 = 5_000_000;
/// Signals in a row after which the average must have fallen by a sixteenth …
const PATIENCE: u32 = 32;
/// … or there is none for so long.
const REST_NS: u64 = 1_000_000_000;
/// The ECN field of a traffic class, and "congestion experienced" in it (RFC 3168, section 5).
const ECN_MASK: u8 = 3;
const CE: u8 = 3;

/// The waits that one worker has seen, and what it told because of them.
#[derive(Debug, Default)]
pub(super) struct Aqm {
    average_ns: u64,
    /// When a receive of a transfer was seen last.
    seen_ns: u64,
    /// No signal before that.
    next_ns: u64,
    /// Signals since the average was below the target.
    signals: u32,
    /// The average when they were counted last.
    before_ns: u64,
}

impl Aqm {
    /// Judges a receive by the time it came at, if the socket tells; marks it, or takes a datagram
    /// off its end, when it is time for a signal.
    #[inline]
    pub(super) fn judge(&mut self, arrival: &mut Arrival, counters: &Counters) {
        if arrival.came_ns != 0
            && arrival.segment_len >= DATAGRAM_LEN_MIN
            && arrival.len >= DATAGRAMS_MIN * arrival.segment_len
        {
            self.judge_transfer(arrival, sys::clock::real_ns(), counters);
        }
    }

    fn judge_transfer(&mut self, arrival: &mut Arrival, now_ns: u64, counters: &Counters) {
        let is_due = self.is_due(now_ns.saturating_sub(arrival.came_ns), now_ns);
        let ecn = arrival.class & ECN_MASK;
        // A shorter one at the end may be of another flow: a later receive will do.
        if !is_due || (ecn == 0 && !arrival.len.is_multiple_of(arrival.segment_len)) {
            return;
        }
        if ecn == 0 {
            arrival.len -= arrival.segment_len;
            counters.count_drop(DropReason::QueueDelay, 1);
        } else {
            arrival.class |= CE;
            counters.ecn_marks.add(1);
        }
        self.signalled(now_ns);
    }

    /// Takes note of a wait; whether it is time for a signal.
    fn is_due(&mut self, waited_ns: u64, now_ns: u64) -> bool {
        // The clock may have been set back: both differences are then 0.
        if now_ns.saturating_sub(self.seen_ns) > FORGET_NS {
            (self.average_ns, self.signals) = (0, 0);
        }
        self.seen_ns = now_ns;
        let waited_ns = waited_ns.min(WAIT_MAX_NS);
        self.average_ns =
            self.average_ns - (self.average_ns >> PAST_SHIFT) + (waited_ns >> PAST_SHIFT);
        if self.average_ns <= TARGET_NS {
            self.signals = 0;
            return false;
        }
        // Set back by more than a pause, it would make a long one.
        now_ns >= self.next_ns || self.next_ns - now_ns > REST_NS
    }

    fn signalled(&mut self, now_ns: u64) {
        self.signals += 1;
        let mut pause_ns = SPACING_NS / u64::from(self.signals.isqrt());
        if self.signals.is_multiple_of(PATIENCE) {
            if self.signals > PATIENCE && self.average_ns > self.before_ns - self.before_ns / 16 {
                pause_ns = REST_NS;
            }
            self.before_ns = self.average_ns;
        }
        self.next_ns = now_ns.saturating_add(pause_ns.max(SPACING_MIN_NS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const START_NS: u64 = 1_700_000_000_000 * MS;

    fn arrival(count: usize, class: u8) -> Arrival {
        Arrival {
            from: ([192, 0, 2, 1], 51820).into(),
            len: count * 1452,
            segment_len: 1452,
            truncated: false,
            class,
            source: None,
            came_ns: 1,
        }
    }

    /// A queue whose receives, ten a millisecond, wait as long as `wait_ns` says of the signals so
    /// far; when they came, in ms.
    fn signals(aqm: &mut Aqm, lasts_ms: u64, wait_ns: impl Fn(usize) -> u64) -> Vec<u64> {
        let mut told = Vec::new();
        for step in 0..lasts_ms * 10 {
            let now_ns = START_NS + step * MS / 10;
            let (counters, mut receive) = (Counters::default(), arrival(45, 0));
            receive.came_ns = now_ns - wait_ns(told.len());
            aqm.judge_transfer(&mut receive, now_ns, &counters);
            if counters.dropped(DropReason::QueueDelay) == 1 {
                assert_eq!(receive.len, 44 * 1452);
                told.push(step / 10);
            }
        }
        told
    }

    #[test]
    fn a_short_queue_and_a_short_burst_are_left_alone() {
        assert_eq!(signals(&mut Aqm::default(), 1_000, |_| TARGET_NS / 2), [0_u64; 0]);
        // A receive in eighty waits for 10 ms: who reads was kept off his core.
        let mut aqm = Aqm::default();
        let burst = |step: u64| if step.is_multiple_of(80) { WAIT_MAX_NS } else { 50_000 };
        let due = (0..10_000).filter(|&step| aqm.is_due(burst(step), START_NS + step * MS / 10));
        assert_eq!(due.count(), 0);
    }

    #[test]
    fn a_queue_that_stands_is_told_sooner_each_time() {
        let told = signals(&mut Aqm::default(), 150, |_| 4 * MS);
        let pauses: Vec<u64> = told.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(told[0] < 3, "{told:?}");
        assert!(pauses.is_sorted_by(|a, b| a + 1 >= *b), "{pauses:?}");
        assert_eq!((pauses[0], pauses[5]), (20, 10), "{pauses:?}");
    }

    #[test]
    fn who_reacts_is_told_no_more() {
        // 3 ms, seven tenths of it after each signal, as CUBIC's window.
        let told = signals(&mut Aqm::default(), 3_000, |told| {
            (0..told).fold(3 * MS, |wait, _| wait * 7 / 10)
        });
        assert_eq!(told.len(), 7, "{told:?}");
    }

    #[test]
    fn who_does_not_react_is_left_alone_for_a_while() {
        let told = signals(&mut Aqm::default(), 10_000, |_| 4 * MS);
        let rests = told.windows(2).filter(|two| two[1] - two[0] >= 1_000).count();
        assert!(rests >= 7, "{rests} rests");
        assert!((200..400).contains(&told.len()), "{} signals in 10 s", told.len());
    }

    #[test]
    fn a_pause_and_a_clock_set_back_are_forgotten() {
        let mut aqm = Aqm::default();
        assert!((0..1_000).any(|_| aqm.is_due(4 * MS, START_NS)));
        aqm.signalled(START_NS);
        assert!(!aqm.is_due(4 * MS, START_NS + 2 * FORGET_NS), "one receive after a pause");
        assert!((0..1_000).any(|_| aqm.is_due(4 * MS, START_NS - 3_600_000 * MS)));
    }

    #[test]
    fn what_can_be_marked_is_not_dropped() {
        let counters = Counters::default();
        for (class, marked) in [(1, 3), (2, 3), (0xb9, 0xbb), (3, 3)] {
            let mut aqm = Aqm { average_ns: 4 * MS, seen_ns: START_NS, ..Aqm::default() };
            let mut receive = arrival(45, class);
            aqm.judge_transfer(&mut receive, START_NS, &counters);
            assert_eq!((receive.class, receive.len), (marked, 45 * 1452));
        }
        assert_eq!((counters.ecn_marks.get(), counters.dropped(DropReason::QueueDelay)), (4, 0));
    }

    #[test]
    fn small_ones_and_what_is_at_the_end_of_others_stay() {
        let counters = Counters::default();
        let stood = || Aqm { average_ns: u64::MAX, seen_ns: u64::MAX, ..Aqm::default() };
        let kept = |mut receive: Arrival| {
            let before = receive.len;
            stood().judge(&mut receive, &counters);
            receive.len == before
        };
        assert!(kept(arrival(1, 0)) && kept(arrival(7, 0)), "no transfer");
        assert!(kept(Arrival { came_ns: 0, ..arrival(45, 0) }), "nobody said when it came");
        assert!(kept(Arrival { len: 64 * 92, segment_len: 92, ..arrival(45, 0) }), "small ones");
        assert!(kept(Arrival { len: 44 * 1452 + 92, ..arrival(45, 0) }), "another's at the end");
        assert!(!kept(arrival(8, 0)));
    }
}
