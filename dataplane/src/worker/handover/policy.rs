//! When to hand work to others: under load that lasts, while they come and take it.
//!
//! In: how many batches each turn found, and what became of those that were offered. Out: whether
//! to offer. One core that keeps up is left alone: a turn that finds one batch at a time has no
//! backlog. Helpers that do not come, because their cores are busy with something else, or come
//! late, because they were put to sleep in the middle of a batch, are not called for a while: each
//! call costs a system call, and who comes may take the core from who is needed more.

/// Batches a turn, on average, times this.
const UNIT: u32 = 256;
/// Weight of the past in the average: 31 of 32 parts. A burst of a few turns is not a load.
const PAST_SHIFT: u32 = 5;
/// Batches that one turn adds to the average at most.
const TURN_MAX: usize = 8;
/// So many batches a turn are a backlog (two large slots are lent at a time, see `io::depth`) …
const BEGIN_AT: u32 = UNIT * 3 / 2;
/// … until there are fewer than so many. With helpers a turn finds less.
const END_BELOW: u32 = UNIT * 3 / 4;

/// Offers of which one, at least, must have been taken. Few are when few helpers have many owners.
const JUDGED: u32 = 64;
/// A batch away longer than this came back late: it takes microseconds.
const LATE_MS: u64 = 4;
/// How long nobody is called, twice as long every time …
const PAUSE_MIN_MS: u64 = 16;
/// … up to this.
const PAUSE_MAX_MS: u64 = 1_024;

/// The state of one worker.
#[derive(Debug)]
pub struct Policy {
    average: u32,
    offering: bool,
    offered: u32,
    taken: u32,
    pause_ms: u64,
    paused_until_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            average: 0,
            offering: false,
            offered: 0,
            taken: 0,
            pause_ms: PAUSE_MIN_MS,
            paused_until_ms: 0,
        }
    }
}

impl Policy {
    /// Notes a turn that something came in, and how many batches worth a hand-over it found.
    #[inline]
    pub fn turn(&mut self, batches: usize) {
        let found = u32::try_from(batches.min(TURN_MAX)).unwrap_or(0) * UNIT;
        self.average = self.average - (self.average >> PAST_SHIFT) + (found >> PAST_SHIFT);
        self.offering = self.average >= BEGIN_AT || (self.offering && self.average >= END_BELOW);
    }

    /// Whether this worker has more than it can do: it does not help others.
    #[inline]
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.offering
    }

    /// Whether to offer batches to others.
    #[inline]
    #[must_use]
    pub fn offers(&self, now_ms: u64) -> bool {
        self.offering && now_ms >= self.paused_until_ms
    }

    /// Notes a batch that another worker has done, `away_ms` after it was offered.
    #[inline]
    pub fn done_by_helper(&mut self, away_ms: u64, now_ms: u64) {
        self.taken += 1;
        if away_ms > LATE_MS {
            self.pause(now_ms);
        } else {
            self.judge(now_ms);
        }
    }

    /// Notes a batch that was offered and that nobody took in time.
    #[inline]
    pub fn taken_back(&mut self, now_ms: u64) {
        self.judge(now_ms);
    }

    fn judge(&mut self, now_ms: u64) {
        self.offered += 1;
        if self.offered < JUDGED {
            return;
        }
        if self.taken == 0 {
            return self.pause(now_ms);
        }
        (self.offered, self.taken) = (0, 0);
        self.pause_ms = (self.pause_ms / 2).max(PAUSE_MIN_MS);
    }

    fn pause(&mut self, now_ms: u64) {
        (self.offered, self.taken) = (0, 0);
        // What comes back during a pause, offered before, does not make it longer.
        if now_ms >= self.paused_until_ms {
            self.paused_until_ms = now_ms + self.pause_ms;
            self.pause_ms = (self.pause_ms * 2).min(PAUSE_MAX_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loaded() -> Policy {
        let mut policy = Policy::default();
        (0..100).for_each(|_| policy.turn(2));
        policy
    }

    #[test]
    fn one_batch_at_a_time_is_never_offered_and_a_short_burst_neither() {
        let mut policy = Policy::default();
        for turn in 0..10_000 {
            policy.turn(if turn % 100 < 5 { 3 } else { 1 });
            assert!(!policy.offers(turn) && !policy.is_busy());
        }
    }

    #[test]
    fn a_backlog_is_offered_until_turns_find_less_than_one() {
        let mut policy = Policy::default();
        let turns = (1..).find(|_| {
            policy.turn(2);
            policy.offers(0)
        });
        assert!((20..50).contains(&turns.unwrap_or(0)), "{turns:?}");
        (0..1_000).for_each(|_| policy.turn(1));
        assert!(policy.offers(0), "with helpers, turns find less");
        (0..100).for_each(|_| policy.turn(0));
        assert!(!policy.offers(0));
        (0..1_000).for_each(|_| policy.turn(1));
        assert!(!policy.offers(0));
    }

    #[test]
    fn helpers_that_do_not_come_are_called_less_and_less() {
        let mut policy = loaded();
        let (mut calls, mut pauses) = (0, 0);
        for now_ms in 0..10_000 {
            let before = policy.offers(now_ms);
            for _ in 0..100 {
                if policy.offers(now_ms) {
                    calls += 1;
                    policy.taken_back(now_ms);
                }
            }
            pauses += u32::from(before);
        }
        // 16, 32 … 1,024 ms apart.
        assert!(pauses < 20 && calls == pauses * JUDGED, "{pauses} {calls}");
        for now_ms in 10_000..20_000 {
            if policy.offers(now_ms) {
                (0..100).for_each(|_| policy.done_by_helper(0, now_ms));
            }
        }
        assert!(policy.offers(20_000) && policy.pause_ms == PAUSE_MIN_MS);
    }

    #[test]
    fn one_that_comes_back_late_is_not_called_for_a_while() {
        let mut policy = loaded();
        policy.done_by_helper(LATE_MS, 100);
        assert!(policy.offers(100));
        policy.done_by_helper(LATE_MS + 1, 100);
        policy.done_by_helper(LATE_MS + 1, 101);
        assert!(!policy.offers(100 + PAUSE_MIN_MS - 1));
        assert!(policy.offers(100 + PAUSE_MIN_MS));
    }

    proptest! {
        /// Whatever happens, the pauses stay within their bounds, and end.
        #[test]
        fn pauses_are_bounded(
            steps in prop::collection::vec((0..3u8, 0..50u64, 0..10u64), 1..500),
        ) {
            let (mut policy, mut now_ms) = (loaded(), 0);
            for (what, wait_ms, away_ms) in steps {
                now_ms += wait_ms;
                match what {
                    0 => policy.turn(2),
                    1 => policy.done_by_helper(away_ms, now_ms),
                    _ => policy.taken_back(now_ms),
                }
                prop_assert!(policy.offers(now_ms + PAUSE_MAX_MS));
                prop_assert!((PAUSE_MIN_MS..=PAUSE_MAX_MS).contains(&policy.pause_ms));
            }
        }
    }
}
