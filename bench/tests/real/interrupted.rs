//! Signals, at every stage of a run.

use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};

use crate::Case;
use crate::bench::{Bench, Ended, folder};
use crate::hanging;

pub(crate) const CASES: &[Case] = &[
    Case::with_streams("interrupted::sigint_in_a_measurement", || {
        in_a_measurement("sigint", SIGINT);
    }),
    Case::with_streams("interrupted::sigterm_in_a_measurement", || {
        in_a_measurement("sigterm", SIGTERM);
    }),
    Case::new("interrupted::while_tunnels_start", while_tunnels_start),
    Case::with_streams("interrupted::a_second_signal_ends_it_at_once", a_second_signal),
    Case::with_streams("interrupted::killed", killed),
];

/// `main` documents it.
const INTERRUPTED: i32 = 130;
const STOPPED: &str = "Stopped. Everything is cleaned up.\n";
/// Round trips first, so that something is recorded; then streams, which show in the list of
/// processes. Longer than any run here.
const WHAT: &str = "--only veth,uring,wg-mmsg --baseline veth --workload ping,tcp1 --rounds 9 \
    --seconds 1";

fn in_a_measurement(name: &str, signal: i32) {
    let mut bench = Bench::start(folder(name), WHAT);
    bench.wait_for_streams();
    bench.signal(signal);
    let ended = bench.end();
    assert_stopped(&ended);
    assert!(ended.stdout.contains("INTERRUPTED"), "{}", ended.stdout);
    let runs = ended.lines_of("run");
    // Round trips of all three; nothing of what was interrupted.
    assert!(runs.len() >= 3, "{runs:?}");
    for run in runs {
        assert!(run["error"].is_null() && !run["figures"].is_null(), "{run}");
    }
    assert_eq!(ended.lines_of("tunnel").len(), 3);
}

fn while_tunnels_start() {
    let folder = folder("start");
    hanging::put_fake_wireguard_go(&folder);
    let what = "--only veth,uring,wireguard-go --baseline veth --workload ping";
    let mut bench = Bench::start(folder, what);
    bench.wait_until("the start of a tunnel", |bench| {
        bench.processes().iter().any(|process| process.command == hanging::FAKE_COMMAND)
    });
    bench.signal(SIGINT);
    let ended = bench.end();
    assert_stopped(&ended);
    assert!(ended.stderr.contains("uring: passes packets"), "{}", ended.stderr);
    // That it does not come up is no fault of the tunnel's.
    assert!(!ended.stderr.contains("NOT MEASURED"), "{}", ended.stderr);
}

fn a_second_signal() {
    let mut bench = Bench::start(folder("second"), WHAT);
    bench.wait_for_streams();
    bench.signal(SIGINT);
    // It may have ended by the first one.
    bench.signal_again(SIGINT);
    let ended = bench.end();
    assert_eq!(ended.status.code(), Some(INTERRUPTED), "{}", ended.stderr);
    ended.lines();
}

fn killed() {
    let mut bench = Bench::start(folder("killed"), WHAT);
    bench.wait_for_streams();
    bench.signal(SIGKILL);
    let ended = bench.end();
    assert_eq!(ended.status.code(), None);
    assert!(ended.lines_of("run").len() >= 3);
}

fn assert_stopped(ended: &Ended) {
    assert_eq!(ended.status.code(), Some(INTERRUPTED), "{}", ended.stderr);
    assert!(ended.stderr.ends_with(STOPPED), "{}", ended.stderr);
    assert!(!ended.stderr.contains("error"), "{}", ended.stderr);
    // Everything waits in steps of far less than that.
    assert!(ended.took.as_secs() < 5, "it took {:?} to stop", ended.took);
}
