//! A peer's timers as one pure function: what has passed, what is due, when to look again.
//!
//! ```text
//! handshake under way   every 5 s + jitter, at most 18 times in 90 s   another initiation; give up
//! data sent, no answer  10 + 5 s + jitter after the first of it        new handshake
//! data received, silent 10 s after the first of it                     keepalive
//! persistent keepalive  so many seconds after anything authentic       keepalive
//! no new session        540 s after the last one was made              keys are erased
//! ```
//! Section 6 of the whitepaper; drivers/net/wireguard/timers.c.

/// Between two initiations to one peer.
pub const REKEY_TIMEOUT_MS: u64 = 5_000;
/// Added to it, at random, so that two peers do not go on colliding.
pub const JITTER_MAX_MS: u64 = 334;
/// Initiations after the first one: 90 s of them.
pub const RETRIES_MAX: u32 = 18;
/// How long an end may stay silent that has received data.
pub const KEEPALIVE_TIMEOUT_MS: u64 = 10_000;
/// How long data may stay unanswered.
pub const UNANSWERED_MS: u64 = KEEPALIVE_TIMEOUT_MS + REKEY_TIMEOUT_MS;
/// When all keys are erased: three times `REJECT_AFTER_TIME`.
pub const ERASE_AFTER_MS: u64 = 3 * 180_000;

/// A handshake of ours under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When its last initiation went out.
    pub sent_ms: u64,
    /// Initiations before that one.
    pub retries: u32,
    /// Jitter of the next.
    pub jitter_ms: u64,
}

/// Where a peer stands. Times are of the device's clock; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// First data sent since something authentic last arrived.
    pub unanswered_since_ms: u64,
    /// First data received since something was last sent.
    pub owed_since_ms: u64,
    /// Anything authentic sent or received.
    pub traffic_ms: u64,
    /// When the last session was made.
    pub session_made_ms: u64,
    /// Our handshake.
    pub attempt: Option<Attempt>,
    /// Jitter of the handshake that unanswered data calls for.
    pub jitter_ms: u64,
    /// Persistent keepalive; 0 is off.
    pub keepalive_ms: u64,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Send the next initiation of the handshake under way.
    pub retry: bool,
    /// Give that handshake up.
    pub give_up: bool,
    /// The peer does not answer: start a handshake.
    pub initiate: bool,
    /// Send a keepalive.
    pub keepalive: bool,
    /// Erase every key.
    pub erase: bool,
    /// When to look again, if nothing of the above changes the state.
    pub next_ms: Option<u64>,
}

/// Decides.
#[must_use]
pub fn due(state: &State, now_ms: u64) -> Due {
    let mut due = Due::default();
    let mut is_due = |from_ms: u64, after_ms: u64| {
        let at_ms = from_ms.saturating_add(after_ms);
        if at_ms > now_ms {
            due.next_ms = Some(due.next_ms.map_or(at_ms, |next| next.min(at_ms)));
        }
        at_ms <= now_ms
    };
    let mut again = false;
    if let Some(attempt) = state.attempt {
        again = is_due(attempt.sent_ms, REKEY_TIMEOUT_MS + attempt.jitter_ms);
    }
    let unanswered = state.unanswered_since_ms > 0
        && state.attempt.is_none()
        && is_due(state.unanswered_since_ms, UNANSWERED_MS + state.jitter_ms);
    let owed = state.owed_since_ms > 0 && is_due(state.owed_since_ms, KEEPALIVE_TIMEOUT_MS);
    // Who has not heard from us yet hears at once.
    let persistent = state.keepalive_ms > 0
        && (state.traffic_ms == 0 || is_due(state.traffic_ms, state.keepalive_ms));
    let erase = state.session_made_ms > 0 && is_due(state.session_made_ms, ERASE_AFTER_MS);
    let last_try = state.attempt.is_some_and(|attempt| attempt.retries >= RETRIES_MAX);
    due.retry = again && !last_try;
    due.give_up = again && last_try;
    due.initiate = unanswered;
    due.keepalive = owed || persistent;
    due.erase = erase;
    due
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first moment from 1 s on at which something is due, found by following `next_ms`.
    fn first(state: State) -> (u64, Due) {
        let mut now_ms = 1_000;
        for _ in 0..10 {
            let found = due(&state, now_ms);
            if found != (Due { next_ms: found.next_ms, ..Due::default() }) {
                return (now_ms, found);
            }
            now_ms = found.next_ms.unwrap();
        }
        panic!("nothing is ever due");
    }

    #[test]
    fn each_timer_fires_in_its_time() {
        let idle = State { traffic_ms: 1_000, ..State::default() };
        assert_eq!(due(&idle, u64::MAX), Due::default());
        let (at, found) = first(State { unanswered_since_ms: 1_000, ..idle });
        assert!(at == 16_000 && found.initiate && !found.keepalive);
        let late = State { unanswered_since_ms: 1_000, jitter_ms: 333, ..idle };
        assert_eq!(first(late).0, 16_333);
        let (at, found) = first(State { owed_since_ms: 1_000, ..idle });
        assert!(at == 11_000 && found.keepalive && !found.initiate);
        let (at, found) = first(State { keepalive_ms: 25_000, ..idle });
        assert!(at == 26_000 && found.keepalive);
        assert!(due(&State { keepalive_ms: 25_000, ..State::default() }, 1).keepalive);
        let (at, found) = first(State { session_made_ms: 1_000, ..idle });
        assert!(at == 541_000 && found.erase);
    }

    #[test]
    fn a_handshake_is_tried_for_ninety_seconds() {
        let mut attempt = Attempt { sent_ms: 1_000, retries: 0, jitter_ms: 300 };
        let state =
            |attempt| State { attempt: Some(attempt), unanswered_since_ms: 1, ..State::default() };
        let mut tries = 1;
        loop {
            let (at, found) = first(state(attempt));
            assert_eq!(at, attempt.sent_ms + 5_300);
            assert!(!found.initiate, "one handshake at a time");
            if found.give_up {
                break;
            }
            assert!(found.retry);
            (attempt.sent_ms, attempt.retries) = (at, attempt.retries + 1);
            tries += 1;
        }
        assert_eq!(tries, 19);
    }

    #[test]
    fn the_next_look_is_at_the_earliest_of_all() {
        let state = State {
            unanswered_since_ms: 5_000,
            owed_since_ms: 8_000,
            traffic_ms: 9_000,
            session_made_ms: 1_000,
            attempt: None,
            jitter_ms: 0,
            keepalive_ms: 60_000,
        };
        assert_eq!(due(&state, 9_000).next_ms, Some(18_000));
        assert_eq!(
            due(&state, 18_000),
            Due { keepalive: true, next_ms: Some(20_000), ..Due::default() }
        );
    }

    #[test]
    fn each_timer_has_an_exact_edge() {
        let attempt = |retries| Some(Attempt { sent_ms: 1_000, retries, jitter_ms: 77 });
        let at = |state: State, now_ms| Due { next_ms: None, ..due(&state, now_ms) };
        let nothing = Due::default();
        for (state, edge_ms, expected) in [
            (
                State { attempt: attempt(0), ..State::default() },
                6_077,
                Due { retry: true, ..nothing },
            ),
            (
                State { attempt: attempt(17), ..State::default() },
                6_077,
                Due { retry: true, ..nothing },
            ),
            (
                State { attempt: attempt(18), ..State::default() },
                6_077,
                Due { give_up: true, ..nothing },
            ),
            (
                State { unanswered_since_ms: 7, jitter_ms: 5, ..State::default() },
                15_012,
                Due { initiate: true, ..nothing },
            ),
            (
                State { owed_since_ms: 7, ..State::default() },
                10_007,
                Due { keepalive: true, ..nothing },
            ),
            (
                State { traffic_ms: 7, keepalive_ms: 1_000, ..State::default() },
                1_007,
                Due { keepalive: true, ..nothing },
            ),
            (
                State { session_made_ms: 7, ..State::default() },
                540_007,
                Due { erase: true, ..nothing },
            ),
        ] {
            assert_eq!(at(state, edge_ms - 1), nothing, "{state:?}");
            assert_eq!(at(state, edge_ms), expected, "{state:?}");
            assert_eq!(at(state, u64::MAX), expected, "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn who_looks_when_told_misses_nothing(
            times in prop::array::uniform4(prop_oneof![Just(0), 1..700_000u64]),
            attempt in prop::option::of((1..700_000u64, 0..20u32, 0..JITTER_MAX_MS)),
            keepalive_s in prop_oneof![Just(0), 1..=65_535u64],
            jitter_ms in 0..JITTER_MAX_MS,
            now_ms in 1..1_400_000u64,
        ) {
            let [unanswered_since_ms, owed_since_ms, traffic_ms, session_made_ms] = times;
            let attempt = attempt
                .map(|(sent_ms, retries, jitter_ms)| Attempt { sent_ms, retries, jitter_ms });
            let keepalive_ms = keepalive_s * 1_000;
            let state = State {
                unanswered_since_ms, owed_since_ms, traffic_ms, session_made_ms, attempt, jitter_ms,
                keepalive_ms,
            };
            let what = |now_ms| Due { next_ms: None, ..due(&state, now_ms) };
            let found = due(&state, now_ms);
            prop_assert!(!(found.retry && found.give_up));
            match found.next_ms {
                // Nothing changes before it, and something does then.
                Some(next_ms) => {
                    prop_assert!(next_ms > now_ms);
                    prop_assert_eq!(what(next_ms - 1), what(now_ms));
                    let then = what(next_ms);
                    prop_assert!(then != what(now_ms) || then.keepalive);
                }
                None => prop_assert_eq!(what(u64::MAX), what(now_ms)),
            }
        }
    }
}
