//! The law, against queues that follow a rule.

use super::*;

pub(super) const MS: u64 = 1_000_000;
const LEN: u64 = 45 * 1452;
pub(super) const START_NS: u64 = 1_700_000_000_000 * MS;

/// The state of a queue that has stood for some time.
pub(super) fn stood() -> Aqm {
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
        if aqm.is_due(wait_ns(told.len()), LEN, now_ns) {
            aqm.signalled(now_ns);
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
            assert!(!aqm.is_due(read_ns - came_ns, LEN, read_ns), "stall {stall}, receive {step}");
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
    let told =
        signals(&mut Aqm::default(), 3_000, |told| (0..told).fold(3 * MS, |wait, _| wait * 7 / 10));
    assert_eq!(told.len(), 7, "{told:?}");
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
