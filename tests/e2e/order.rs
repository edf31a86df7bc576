//! Several flows over two workers: each keeps its order, and every byte arrives.

use std::thread;
use std::time::Duration;

use ringtun::lab::traffic::UdpSequences;
use ringtun_tests::place::{how_long, is_full};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, Io, Side, Tunnel};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for io in [Io::Uring, Io::SingleShot, Io::Mmsg] {
        let name = |what: &str| format!("{}::{what}", io.name());
        cases.push(Case::new(name("eight_udp_flows_keep_their_order"), move || udp(io, 1_000.0)));
        cases.push(Case::new(name("order_survives_overload"), move || overload(io)));
        cases.push(Case::new(name("four_tcp_streams_over_two_workers"), move || tcp(io)));
    }
    cases
}

/// `per_second` packets a second in each direction, both at once.
fn udp(io: Io, per_second: f64) {
    let tunnel = Tunnel::new(io, Family::V4, &["--workers", "2"]);
    assert_eq!(tunnel.left.status().workers.len(), 2);
    let plan = UdpSequences {
        flows: 8,
        payload_len: 1_200,
        duration: how_long(Duration::from_millis(700)),
        packets_per_second: Some(per_second),
        ..UdpSequences::default()
    };
    thread::scope(|scope| {
        for side in [Side::Left, Side::Right] {
            let (tunnel, plan) = (&tunnel, &plan);
            scope.spawn(move || {
                let report = tunnel.udp(side, Family::V4, plan);
                assert!(report.is_perfect(), "{side:?}: {report:?}");
            });
        }
    });
    tunnel.stop();
}

/// As fast as the senders can: what is lost is lost, but what arrives is in order and intact.
fn overload(io: Io) {
    let tunnel = Tunnel::new(io, Family::V4, &["--workers", "2"]);
    let plan = UdpSequences {
        flows: 8,
        payload_len: 1_200,
        duration: how_long(Duration::from_millis(400)),
        packets_per_second: None,
        ..UdpSequences::default()
    };
    for side in [Side::Left, Side::Right] {
        let total = tunnel.udp(side, Family::V4, &plan).total();
        let wrong = (total.reordered, total.duplicated, total.corrupted);
        assert!(total.received > 0 && wrong == (0, 0, 0), "{side:?}: {total:?}");
    }
    tunnel.stop();
}

fn tcp(io: Io) {
    let tunnel = Tunnel::new(io, Family::V4, &["--workers", "2"]);
    let bytes = if is_full() { 256 << 20 } else { 8 << 20 };
    thread::scope(|scope| {
        for (side, inner) in [(Side::Left, Family::V4), (Side::Right, Family::V4)] {
            let tunnel = &tunnel;
            scope.spawn(move || tunnel.tcp(side, inner, 4, bytes));
        }
    });
    tunnel.stop();
}
