//! Workers that look for packets before they sleep: off, where an answer is likely, and always.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use ringtun::lab::traffic::{RoundTrips, Stop, round_trips};
use ringtun_tests::device::wait_until;
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, Io, Side, Tunnel};

/// Round trips of machines that take longer than any worker looks.
const TOO_SLOW_US: f64 = 600.0;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for io in [Io::Uring, Io::SingleShot, Io::Mmsg] {
        let name = |mode: &str| format!("{}::busy_poll_{mode}", io.name());
        cases.push(Case::new(name("off"), move || off(io)));
        cases.push(Case::maybe(name("auto"), move || auto(io)));
        cases.push(Case::new(name("on"), move || on(io)));
    }
    cases
}

fn tunnel(io: Io, mode: &str) -> Tunnel {
    Tunnel::new(io, Family::V4, &["--workers", "1", "--busy-poll", mode])
}

/// How often each end's worker has looked, and found something.
fn polls(tunnel: &Tunnel) -> [(u64, u64); 2] {
    [&tunnel.left, &tunnel.right].map(|engine| {
        let workers = engine.status().workers;
        (workers[0].polls, workers[0].polls_won)
    })
}

fn plan() -> RoundTrips {
    RoundTrips { duration: Duration::from_secs(1), ..RoundTrips::default() }
}

fn echoes(tunnel: &Tunnel) {
    tunnel.round_trips(Side::Left, Family::V4, &plan());
}

fn off(io: Io) {
    let tunnel = tunnel(io, "off");
    echoes(&tunnel);
    assert_eq!(polls(&tunnel), [(0, 0); 2]);
    tunnel.stop();
}

/// Answers are waited for awake, by both ends; then they sleep.
fn auto(io: Io) -> Option<String> {
    let tunnel = tunnel(io, "auto");
    let to = SocketAddr::new(Side::Right.inner(Family::V4), 0);
    let (from, at) = (tunnel.host(Side::Left), tunnel.host(Side::Right));
    let mut fastest_us = f64::INFINITY;
    // Whoever is held up by others more often than not sees few answers in time.
    let mut tries = 0;
    while polls(&tunnel).iter().any(|&(_, won)| won <= 20) {
        let report = round_trips(from, at, to, &plan(), &Stop::default()).unwrap();
        fastest_us = fastest_us.min(report.p50_us);
        tries += 1;
        if tries > 8 && fastest_us > TOO_SLOW_US {
            tunnel.stop();
            return Some(format!("round trips take {fastest_us} us here, longer than a look"));
        }
        assert!(tries < 20, "no answers found by looking: {:?}", polls(&tunnel));
    }
    // Late packets of the kernel's own.
    thread::sleep(Duration::from_millis(500));
    let before = polls(&tunnel);
    thread::sleep(Duration::from_secs(2));
    for (before, after) in before.iter().zip(polls(&tunnel)) {
        assert!(after.0 - before.0 < 10, "looked {before:?} and {after:?} times while idle");
    }
    tunnel.stop();
    None
}

/// They look while nothing comes, pass on what does, and stop when they are told to.
fn on(io: Io) {
    let tunnel = tunnel(io, "on");
    let before = polls(&tunnel);
    wait_until("looking while idle", || {
        polls(&tunnel).iter().zip(&before).all(|(after, before)| after.0 > before.0 + 20)
    });
    echoes(&tunnel);
    tunnel.load(Side::Right, 2, Duration::from_millis(300));
    assert!(polls(&tunnel).iter().all(|&(_, won)| won > 0), "{:?}", polls(&tunnel));
    tunnel.stop();
}
