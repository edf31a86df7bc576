//! Active queue management: telling transfers whose packets wait too long for this worker.
//!
//! TCP sends faster until something tells it not to. A queue that overflows tells it late: by then
//! megabytes wait in the socket that the worker reads, and whatever else goes through the tunnel
//! waits behind them. So the kernel notes when a datagram came (`SO_TIMESTAMPNS`), and when
//! receives that are part of a transfer have waited longer than [`TARGET_NS`] on average for
//! [`INTERVAL_NS`], one of them is marked as having met congestion (ECN, RFC 3168) where its outer
//! header says that its packets' ends know of that, as WireGuard's does, and loses one datagram
//! otherwise; then again after a while, sooner each time, as CoDel does (RFC 8289, section 5.4).
//!
//! The average, where CoDel has the least wait of an interval: when both ends of a tunnel, or a
//! worker and those it works for, share cores, what is in flight wanders between their queues, so
//! that each is empty now and then, and they never are together.
//!
//! There are senders that do not react: BBR, datagrams sent at a rate of their own. When the
//! average has not fallen after [`PATIENCE`] signals, this worker [rests](REST_NS).
//!
//! A receive is judged before anybody knows whether it is authentic: who can fill the queue with
//! garbage can have others told, but no more often than that.

use super::Arrival;
use super::counters::{Counters, DropReason};
use crate::sys;

/// What receives of a transfer may wait on average: a few of them behind one another.
const TARGET_NS: u64 = 400_000;
/// For how long they may wait longer: what came while the worker was kept off its core for once.
const INTERVAL_NS: u64 = 20_000_000;
/// How much must wait on average. Where little comes it is not a queue that takes the time.
const QUEUE_MIN: u64 = 65_536;
/// A receive of a transfer is several datagrams, of so many bytes at least …
const RECEIVE_LEN_MIN: usize = 8_192;
/// … each of them this long.
const DATAGRAM_LEN_MIN: usize = 512;
/// Weight of the past in the average: 63 of 64 parts, at 6 Gb/s the receives of 6 ms.
const PAST_SHIFT: u32 = 6;
/// A longer wait counts as this long.
const WAIT_MAX_NS: u64 = 50_000_000;
/// An average that nothing was added to for so long is forgotten.
const FORGET_NS: u64 = 100_000_000;
/// From one signal to the next, at first …
const SPACING_NS: u64 = 50_000_000;
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
    /// Since when the average has been above the target; 0 if it is not.
    above_since_ns: u64,
    /// Bytes that have come since.
    above_bytes: u64,
    /// No signal before that.
    next_ns: u64,
    /// Signals since the average was below the target.
    signals: u32,
    /// The average when they were counted last.
    before_ns: u64,
}

impl Aqm {
    /// Judges a receive by the time it came at, if the socket tells; marks it, or takes its first
    /// datagram away, when it is time for a signal.
    #[inline]
    pub(super) fn judge(&mut self, arrival: &mut Arrival, counters: &Counters) {
        if arrival.came_ns != 0
            && arrival.segment_len >= DATAGRAM_LEN_MIN
            && arrival.len > arrival.segment_len
            && arrival.len >= RECEIVE_LEN_MIN
        {
            self.judge_transfer(arrival, sys::clock::real_ns(), counters);
        }
    }

    fn judge_transfer(&mut self, arrival: &mut Arrival, now_ns: u64, counters: &Counters) {
        let len = arrival.len as u64;
        let is_due = self.is_due(now_ns.saturating_sub(arrival.came_ns), len, now_ns);
        let ecn = arrival.class & ECN_MASK;
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
        self.signalled(now_ns);
    }

    /// Takes note of a wait of `len` bytes; whether it is time for a signal.
    fn is_due(&mut self, waited_ns: u64, len: u64, now_ns: u64) -> bool {
        // The clock may have been set back: both differences are then 0.
        if now_ns.saturating_sub(self.seen_ns) > FORGET_NS {
            (self.average_ns, self.above_since_ns, self.signals) = (0, 0, 0);
        }
        self.seen_ns = now_ns;
        let waited_ns = waited_ns.min(WAIT_MAX_NS);
        self.average_ns =
            self.average_ns - (self.average_ns >> PAST_SHIFT) + (waited_ns >> PAST_SHIFT);
        if self.average_ns <= TARGET_NS {
            (self.above_since_ns, self.signals) = (0, 0);
            return false;
        }
        if self.above_since_ns == 0 || self.above_since_ns > now_ns {
            (self.above_since_ns, self.above_bytes) = (now_ns, 0);
        }
        self.above_bytes = self.above_bytes.saturating_add(len);
        let above_ns = now_ns - self.above_since_ns;
        // What waits is what comes while one waits.
        if above_ns < INTERVAL_NS
            || self.average_ns.saturating_mul(self.above_bytes) / above_ns < QUEUE_MIN
        {
            return false;
        }
        // Set back by more than a pause, it would make a long one.
        now_ns >= self.next_ns || self.next_ns - now_ns > REST_NS
    }

    fn signalled(&mut self, now_ns: u64) {
        if self.signals == 0 {
            self.before_ns = self.average_ns;
        }
        self.signals = self.signals.saturating_add(1);
        let mut pause_ns = SPACING_NS / u64::from(self.signals.isqrt());
        if self.signals.is_multiple_of(PATIENCE) {
            if self.average_ns > self.before_ns - self.before_ns / 16 {
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
    const LEN: u64 = 45 * 1452;
    const START_NS: u64 = 1_700_000_000_000 * MS;

    fn arrival(count: usize, class: u8) -> Arrival {
        let of = Arrival::of(([192, 0, 2, 1], 51820).into(), count * 1452, 1452);
        Arrival { class, came_ns: 1, ..of }
    }

    /// The state of a queue that has stood for some time.
    fn stood() -> Aqm {
        let above_since_ns = START_NS - 2 * INTERVAL_NS;
        let above_bytes = 1 << 30;
        let seen_ns = START_NS;
        Aqm { average_ns: 40 * MS, seen_ns, above_since_ns, above_bytes, ..Aqm::default() }
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
                assert_eq!((receive.skip, receive.len), (1452, 44 * 1452));
                told.push(step / 10);
            }
        }
        told
    }

    #[test]
    fn a_short_queue_is_left_alone() {
        assert_eq!(signals(&mut Aqm::default(), 1_000, |_| TARGET_NS / 2), [0_u64; 0]);
    }

    /// Four milliseconds off the core every tenth of a second, and what came meanwhile three times
    /// as fast as it comes.
    #[test]
    fn what_waited_for_a_core_is_left_alone() {
        let mut aqm = Aqm::default();
        for stall in 0..20 {
            let begin_ns = START_NS + stall * 100 * MS;
            for step in 0..900 {
                let came_ns = begin_ns + step * MS / 10;
                let read_ns = (begin_ns + 4 * MS + step * MS / 30).max(came_ns + 50_000);
                assert!(
                    !aqm.is_due(read_ns - came_ns, LEN, read_ns),
                    "stall {stall}, receive {step}"
                );
            }
        }
    }

    /// 10 kB every 8 ms, on a slow machine.
    #[test]
    fn little_that_waits_is_no_queue() {
        let mut aqm = Aqm::default();
        let mut due = |step: u64| aqm.is_due(4 * MS, 9_600, START_NS + step * 8 * MS);
        assert_eq!((0..10_000).filter(|&step| due(step)).count(), 0);
    }

    #[test]
    fn a_queue_that_stands_is_told_sooner_each_time() {
        let told = signals(&mut Aqm::default(), 400, |_| 4 * MS);
        let pauses: Vec<u64> = told.windows(2).map(|two| two[1] - two[0]).collect();
        assert!((20..25).contains(&told[0]), "{told:?}");
        assert!(pauses.is_sorted_by(|a, b| a + 1 >= *b), "{pauses:?}");
        assert_eq!((pauses[0], pauses[5]), (50, 25), "{pauses:?}");
    }

    #[test]
    fn who_reacts_is_told_no_more() {
        // 3 ms, seven tenths of it after each signal, as CUBIC's window.
        let told = signals(&mut Aqm::default(), 3_000, |told| {
            (0..told).fold(3 * MS, |wait, _| wait * 7 / 10)
        });
        assert_eq!(told.len(), 6, "{told:?}");
    }

    #[test]
    fn who_does_not_react_is_left_alone_for_a_while() {
        let told = signals(&mut Aqm::default(), 10_000, |_| 4 * MS);
        let rests = told.windows(2).filter(|two| two[1] - two[0] >= 1_000).count();
        assert!(rests >= 6, "{rests} rests");
        assert!((200..300).contains(&told.len()), "{} signals in 10 s", told.len());
    }

    #[test]
    fn a_pause_and_a_clock_set_back_are_forgotten() {
        let told = |aqm: &mut Aqm, begin_ns: u64| {
            (0..1_000).any(|step| aqm.is_due(4 * MS, LEN, begin_ns + step * MS / 10))
        };
        let mut aqm = Aqm::default();
        assert!(told(&mut aqm, START_NS));
        aqm.signalled(START_NS + 100 * MS);
        assert!(!aqm.is_due(4 * MS, LEN, START_NS + 100 * MS + 2 * FORGET_NS), "one after a pause");
        assert!(told(&mut aqm, START_NS - 3_600_000 * MS));
    }

    #[test]
    fn what_can_be_marked_is_not_dropped() {
        let counters = Counters::default();
        for (class, marked) in [(1, 3), (2, 3), (0xb9, 0xbb), (3, 3)] {
            let mut aqm = stood();
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
            let mut aqm = Aqm { seen_ns: now_ns, above_since_ns: since, ..stood() };
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
