//! ringtun and another WireGuard: who starts the handshake, what passes, roaming, persistent
//! keepalives, a restart of either end.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use ringtun::lab::Pair;
use ringtun_tests::suite::Case;

use crate::ends::{Ends, Knows, Side, run, until, until_within};
use crate::program::Program;

/// Who sends without an answer starts a new handshake after 10 s + 5 s; slow machines need more.
const NOTICED: Duration = Duration::from_secs(40);

pub(crate) fn cases(programs: &[Program]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &program in programs {
        let mut add = |name: &str, test: fn(Program)| {
            let name = format!("{}::{name}", program.name());
            cases.push(Case::maybe(name, move || {
                let missing = program.missing();
                if missing.is_none() {
                    test(program);
                }
                missing
            }));
        };
        add("uring::a_handshake_from_ringtun", |program| handshake(program, "uring", Side::Ours));
        add("uring::a_handshake_from_it", |program| handshake(program, "uring", Side::Theirs));
        add("mmsg::a_handshake_from_ringtun", |program| handshake(program, "mmsg", Side::Ours));
        add("mmsg::a_handshake_from_it", |program| handshake(program, "mmsg", Side::Theirs));
        add("another_psk_passes_nothing", another_psk);
        add("it_follows_ringtun", |program| roams(program, Side::Ours));
        add("ringtun_follows_it", |program| roams(program, Side::Theirs));
        add("persistent_keepalive_of_ringtun", |program| keepalive(program, Side::Ours));
        add("persistent_keepalive_of_it", |program| keepalive(program, Side::Theirs));
        add("ringtun_restarts", |program| restart(program, Side::Ours));
        add("it_restarts", |program| restart(program, Side::Theirs));
    }
    cases
}

fn handshake(program: Program, io: &'static str, from: Side) {
    let (ours, theirs) = match from {
        Side::Ours => (Knows::ENDPOINT, Knows::NOTHING),
        Side::Theirs => (Knows::NOTHING, Knows::ENDPOINT),
    };
    let ends = Ends::started(program, io, ours, theirs);
    // The other end does not know where to send to: it cannot be the one who starts.
    ends.assert_reaches(from);
    ends.assert_carries();
    let status = ends.status();
    assert_eq!((status.backend.name.as_str(), status.encap.as_str()), (io, "wireguard"));
    let peer = &status.peers[0];
    assert!(peer.preshared_key && peer.last_handshake_s.is_some(), "{peer:?}");
    assert_ne!(ends.wg_shows("latest-handshakes"), ["0"]);
    ends.stop();
}

fn another_psk(program: Program) {
    let mut ends = Ends::new(program, "", "auto");
    ends.forget_psk();
    ends.start(Side::Ours, Knows::ENDPOINT);
    ends.start(Side::Theirs, Knows::ENDPOINT);
    for from in Side::BOTH {
        let to = from.other().inner()[0];
        assert!(!ends.reaches(from, to, Duration::from_secs(2)), "{from:?} passes");
    }
    assert_eq!(ends.status().peers[0].last_handshake_s, None);
    // To gotatun a handshake is what it has answered, whether or not the answer can be read.
    if program != Program::Gotatun {
        assert_eq!(ends.wg_shows("latest-handshakes"), ["0"]);
    }
    ends.stop();
}

/// `who` speaks from another place: the other end follows.
fn roams(program: Program, who: Side) {
    let ends = Ends::started(program, "auto", Knows::ENDPOINT, Knows::ENDPOINT);
    ends.assert_reaches(who);
    let moved = moves(&ends, program, who);
    ends.assert_reaches(who);
    let endpoint = || match who {
        Side::Ours => ends.wg_shows("endpoints").pop(),
        Side::Theirs => ends.status().peers[0].endpoint.clone(),
    };
    until("the endpoint is the new one", || endpoint().as_ref() == Some(&moved));
    ends.assert_reaches(who.other());
    ends.assert_carries();
    ends.stop();
}

/// Gives `who` another address and returns the new endpoint; another port where the program goes
/// on with an address that is gone: wireguard-go takes only EINVAL for a sign of that, which
/// newer kernels do not answer, and boringtun's sockets are connected.
fn moves(ends: &Ends, program: Program, who: Side) -> String {
    let host = ends.host(who);
    let old = if who == Side::Ours { Pair::LEFT[0] } else { Pair::RIGHT[0] };
    let by_port = matches!(program, Program::WireguardGo | Program::Boringtun);
    if who == Side::Theirs && by_port {
        run(host, "wg", &["set", &ends.device(who), "listen-port", "51999"]);
        return format!("{}:51999", old.ip);
    }
    run(host, "ip", &["address", "delete", &old.to_string(), "dev", Pair::INTERFACE]);
    run(host, "ip", &["address", "replace", "192.0.2.77/24", "dev", Pair::INTERFACE]);
    "192.0.2.77:51820".to_owned()
}

/// With nothing to carry, `who` starts the handshake and goes on speaking by itself.
fn keepalive(program: Program, who: Side) {
    let speaks = Knows { endpoint: true, keepalive_s: 1 };
    let (ours, theirs) = match who {
        Side::Ours => (speaks, Knows::NOTHING),
        Side::Theirs => (Knows::NOTHING, speaks),
    };
    let ends = Ends::started(program, "auto", ours, theirs);
    // Received bytes of the other end: a keepalive is 32, and nothing to boringtun and gotatun.
    let uncounted = matches!(program, Program::Boringtun | Program::Gotatun);
    let heard = || -> u64 {
        match who {
            Side::Ours if uncounted => {
                let shaken = ends.wg_shows("latest-handshakes") != ["0"];
                if shaken { ends.status().peers[0].sent_bytes } else { 0 }
            }
            Side::Ours => ends.wg_shows("transfer")[0].parse().unwrap(),
            Side::Theirs => ends.status().peers[0].received_bytes,
        }
    };
    until("a handshake without any traffic", || heard() > 0);
    let first = heard();
    until("three keepalives", || heard() >= first + 3 * 32);
    // And they are what keeps the way back open: who had no endpoint has one now.
    ends.assert_reaches(who.other());
    ends.stop();
}

/// Whoever starts anew has no session; the one who stayed still has.
fn restart(program: Program, who: Side) {
    let mut ends = Ends::started(program, "auto", Knows::ENDPOINT, Knows::ENDPOINT);
    ends.assert_reaches(Side::Ours);
    let restart = |ends: &mut Ends| {
        ends.kill(who);
        // The greatest timestamp that the other end remembers counts in steps of some
        // milliseconds; a new process must be later than the old one.
        thread::sleep(Duration::from_millis(50));
        ends.start(who, Knows::ENDPOINT);
    };
    restart(&mut ends);
    ends.assert_reaches(who);
    ends.assert_carries();
    // Now the one who stayed speaks first, into a session that nobody knows any more.
    restart(&mut ends);
    let (from, to): (Side, IpAddr) = (who.other(), who.inner()[0]);
    until_within(NOTICED, "the one who stayed notices", || {
        ends.reaches(from, to, Duration::from_secs(1))
    });
    ends.assert_carries();
    ends.stop();
}
