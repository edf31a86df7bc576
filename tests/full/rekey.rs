//! Once beyond the 120 s after which the one who started a session makes a new one, with traffic
//! running: no packet is lost.

use std::thread;
use std::time::Duration;

use ringtun::lab::traffic::RoundTrips;
use ringtun_tests::suite::Case;

use crate::ends::{Ends, Knows, Side};
use crate::guest;
use crate::program::Program;

/// REKEY_AFTER_TIME, and time to notice that the new session holds.
const DURATION: Duration = Duration::from_secs(120 + 20);

pub(crate) fn cases(programs: &'static [Program]) -> Vec<Case> {
    vec![Case::maybe("rekey::loses_no_packet", move || {
        let there: Vec<Program> =
            programs.iter().copied().filter(|program| program.missing().is_none()).collect();
        if there.is_empty() {
            return programs[0].missing();
        }
        rekey(&there);
        None
    })]
}

struct Run {
    program: Program,
    initiator: Side,
    ends: Ends,
}

/// All tunnels at once: the wait is the same.
fn rekey(programs: &[Program]) {
    let mut runs = Vec::new();
    for &program in programs {
        for (initiator, tag) in [(Side::Ours, "1"), (Side::Theirs, "2")] {
            let mut ends = Ends::new(program, tag, "auto");
            let (ours, theirs) = match initiator {
                Side::Ours => (Knows::ENDPOINT, Knows::NOTHING),
                Side::Theirs => (Knows::NOTHING, Knows::ENDPOINT),
            };
            ends.start(Side::Ours, ours);
            ends.start(Side::Theirs, theirs);
            ends.assert_reaches(initiator);
            runs.push(Run { program, initiator, ends });
        }
    }
    let before: Vec<u64> = runs.iter().map(|run| handshake_s(&run.ends)).collect();
    let interval = Duration::from_millis(if guest::is_inside() { 20 } else { 5 });
    let plan = RoundTrips { duration: DURATION, interval, payload_len: 200 };
    thread::scope(|scope| {
        let traffic: Vec<_> = runs
            .iter()
            .map(|run| scope.spawn(|| run.ends.round_trips(run.initiator, &plan)))
            .collect();
        for ((run, before), traffic) in runs.iter().zip(&before).zip(traffic) {
            let Run { program, initiator, ends } = run;
            let report = traffic.join().unwrap();
            let after = handshake_s(ends);
            let what = format!("{program:?}, started by {initiator:?}: {report:?}");
            assert!(after >= before + 115, "no new session after {} s: {what}", after - before);
            assert_eq!(ends.wg_shows("latest-handshakes").len(), 1, "{what}");
            assert!(report.sent > 1_000 && report.lost == 0, "{what}");
        }
    });
    runs.into_iter().for_each(|run| run.ends.stop());
}

fn handshake_s(ends: &Ends) -> u64 {
    ends.status().peers[0].last_handshake_s.unwrap()
}
