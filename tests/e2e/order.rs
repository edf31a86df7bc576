//! Several flows over two workers: each keeps its order, and every byte arrives.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Barrier;
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
        let both = name("flows_that_start_in_both_directions_at_once");
        cases.push(Case::new(both, move || both_at_once(io)));
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

/// Both ends of a flow send their first packets at the same instant. Where a program of ours picks
/// the tun queues (`sys::steer`; it takes root), nothing changes places; where the kernel follows
/// what we write, a flow may change its queue once.
fn both_at_once(io: Io) {
    const FLOWS: u16 = 40;
    const PACKETS: u8 = 30;
    let tunnel = Tunnel::new(io, Family::V4, &["--workers", "2"]);
    tunnel.assert_passes();
    let steering = tunnel.left.status().flow_steering;
    let address = |side: Side, flow| SocketAddr::new(side.inner(Family::V4), 20_000 + flow);
    let socket = |side: Side, flow| {
        let bind = || UdpSocket::bind(address(side, flow));
        let socket = tunnel.host(side).run(bind).unwrap().unwrap();
        socket.connect(address(side.other(), flow)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        socket
    };
    let mut out_of_order = 0;
    for flow in 0..FLOWS {
        let ends = [socket(Side::Left, flow), socket(Side::Right, flow)];
        let start = Barrier::new(2);
        let numbers = thread::scope(|scope| {
            let runs = ends.each_ref().map(|socket| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    (0..PACKETS).for_each(|n| assert_eq!(socket.send(&[n; 400]).unwrap(), 400));
                    let mut packet = [0; 400];
                    let receive = |_| socket.recv(&mut packet).map(|_| packet[0]).unwrap();
                    (0..PACKETS).map(receive).collect::<Vec<u8>>()
                })
            });
            runs.map(|run| run.join().unwrap())
        });
        for mut seen in numbers {
            out_of_order += usize::from(!seen.is_sorted());
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..PACKETS), "flow {flow} lost or repeated packets");
        }
    }
    assert!(steering == "learned" || steering == "kernel program", "{steering}");
    assert!(steering == "learned" || out_of_order == 0, "{out_of_order} flows out of order");
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
