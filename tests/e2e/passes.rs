//! Traffic of every kind passes unchanged: all backends, IPv4 and IPv6 inside and outside.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use ringtun::lab::has_ipv6;
use ringtun::lab::traffic::{RoundTrips, UdpSequences};
use ringtun_tests::place::{find_program, how_long, is_full};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, Io, PATIENCE, Side, Tunnel, dropped};

const BACKENDS: [Io; 3] = [Io::Uring, Io::SingleShot, Io::Mmsg];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

type Test = fn(Io, Family, Family);

pub(crate) fn cases() -> Vec<Case> {
    let tests: [(&str, Test); 3] = [("round_trips", echoes), ("tcp", tcp), ("udp", udp)];
    let mut cases = Vec::new();
    for io in BACKENDS {
        for outer in FAMILIES {
            for inner in FAMILIES {
                let name = format!("{}_inside_{}", inner.name(), outer.name());
                for (what, test) in tests {
                    let name = format!("{}::{what}_{name}", io.name());
                    cases.push(with_ipv6(name, [inner, outer], move || test(io, inner, outer)));
                }
            }
        }
        for inner in FAMILIES {
            let name = format!("{}::ping_{}", io.name(), inner.name());
            cases.push(Case::maybe(name, move || ping(io, inner)));
            let name = format!("{}::tiny_udp_{}", io.name(), inner.name());
            cases.push(with_ipv6(name, [inner; 2], move || tiny(io, inner)));
        }
    }
    cases
}

/// A case that is left out, visibly, on a kernel without IPv6 if it needs that.
fn with_ipv6(name: String, families: [Family; 2], test: impl FnOnce() + Send + 'static) -> Case {
    Case::maybe(name, move || {
        if families.contains(&Family::V6) && !has_ipv6() {
            return Some("this kernel has no IPv6".to_owned());
        }
        test();
        None
    })
}

fn echoes(io: Io, inner: Family, outer: Family) {
    let tunnel = Tunnel::new(io, outer, &[]);
    let plan = RoundTrips {
        duration: how_long(Duration::from_millis(200)),
        interval: Duration::from_millis(2),
        payload_len: 64,
    };
    for side in [Side::Left, Side::Right] {
        tunnel.round_trips(side, inner, &plan);
    }
    tunnel.stop();
}

fn tcp(io: Io, inner: Family, outer: Family) {
    let tunnel = Tunnel::new(io, outer, &[]);
    let bytes = if is_full() { 1 << 30 } else { 24 << 20 };
    for side in [Side::Left, Side::Right] {
        tunnel.tcp(side, inner, 1, bytes);
    }
    tunnel.stop();
}

/// From the smallest numbered packet to one that fills the tunnel's MTU, all at once and in both
/// directions; then what the kernel fragments before it enters the tunnel, one way at a time.
/// Fragments of all flows between two hosts are one flow to the kernel's queue selection, and one
/// that starts in both directions at the same moment may change queues once.
fn udp(io: Io, inner: Family, outer: Family) {
    let tunnel = Tunnel::new(io, outer, &[]);
    let mtu = usize::try_from(tunnel.left.status().mtu).unwrap();
    assert_eq!(mtu, 1500 - outer.headers_len());
    let full = mtu - inner.headers_len();
    let whole: &[usize] = &[16, 17, 64, full - 1, full];
    let fragmented: &[usize] = &[full + 1, 5_000, 60_000];
    let both = &[Side::Left, Side::Right];
    udp_of_sizes(&tunnel, inner, both, whole);
    udp_of_sizes(&tunnel, inner, &both[..1], fragmented);
    udp_of_sizes(&tunnel, inner, &both[1..], fragmented);
    tunnel.stop();
}

/// Few packets a second: with all cores taken by others, everything still fits the queues.
fn udp_of_sizes(tunnel: &Tunnel, inner: Family, from: &[Side], sizes: &[usize]) {
    let plan = |payload_len| UdpSequences {
        payload_len,
        duration: how_long(Duration::from_millis(250)),
        packets_per_second: Some(if payload_len > 10_000 { 20.0 } else { 200.0 }),
        seed: payload_len as u64,
        ..UdpSequences::default()
    };
    thread::scope(|scope| {
        for &side in from {
            for &len in sizes {
                scope.spawn(move || {
                    let report = tunnel.udp(side, inner, &plan(len));
                    assert!(report.is_perfect(), "{side:?}, {len} bytes: {report:?}");
                });
            }
        }
    });
}

/// Payloads of 0 to 15 bytes, too small to carry a number, come back as they are.
fn tiny(io: Io, inner: Family) {
    let tunnel = Tunnel::new(io, Family::V4, &[]);
    let bind = |side: Side| {
        let at = SocketAddr::new(side.inner(inner), 0);
        let socket = tunnel.host(side).run(|| UdpSocket::bind(at)).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (client, echo) = (bind(Side::Left), bind(Side::Right));
    client.connect(echo.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 64];
    for len in (0_u8..16).chain((0..16).rev()) {
        let sent: Vec<u8> = (0..len).map(|i| i ^ len).collect();
        client.send(&sent).unwrap();
        let (received, from) = echo.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..received], sent);
        echo.send_to(&buffer[..received], from).unwrap();
        let received = client.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..received], sent);
    }
    assert_eq!(dropped(&tunnel.left.status(), "not_ip"), 0);
    tunnel.stop();
}

fn ping(io: Io, inner: Family) -> Option<String> {
    if inner == Family::V6 && !has_ipv6() {
        return Some("this kernel has no IPv6".to_owned());
    }
    let Some(program) = find_program("ping") else {
        return Some("there is no ping here (apt install iputils-ping)".to_owned());
    };
    let tunnel = Tunnel::new(io, Family::V4, &[]);
    for size in ["0", "56", "1400", "8000"] {
        let mut command = Command::new(&program);
        command.args(["-c", "5", "-i", "0.02", "-W", "5", "-s", size]);
        command.arg(Side::Right.inner(inner).to_string());
        let mut process = tunnel.pair.left.spawn(command).unwrap();
        let status = process.wait_timeout(PATIENCE).unwrap().unwrap();
        let said = format!("{}{}", process.stdout(), process.stderr());
        assert!(status.success() && said.contains(" 0% packet loss"), "{size}: {said}");
    }
    tunnel.stop();
    None
}
