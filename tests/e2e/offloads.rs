//! Offloads: each one off, all on and really used, and refused by the path in the middle.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use ringtun::control::status::Status;
use ringtun::lab::{Address, Line, has_ipv6};
use ringtun::sys::host::set_socket_option;
use ringtun_tests::place::{how_long, is_full};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{
    Engine, Family, Io, PATIENCE, Side, Tunnel, arguments, assert_sizes_fit, difference, total,
};

const MEBIBYTE: u64 = 1 << 20;

/// A name, switches, and what the status must say.
type Switched = (&'static str, &'static [&'static str], fn(&Status) -> bool);

const SWITCHED: [Switched; 5] = [
    ("gso_off", &["--gso", "off"], |s| s.offloads.udp_gso == "off" && s.offloads.udp_gro),
    ("gro_off", &["--gro", "off"], |s| !s.offloads.udp_gro && s.offloads.udp_gso == "on"),
    ("tun_gso_off", &["--tun-gso", "off"], |s| !s.offloads.tun_tso && !s.offloads.tun_uso),
    ("tun_gro_off", &["--tun-gro", "off"], |s| !s.offloads.tun_gro && s.offloads.tun_tso),
    (
        "all_offloads_off",
        &["--gso", "off", "--gro", "off", "--tun-gso", "off", "--tun-gro", "off"],
        |s| {
            let o = &s.offloads;
            o.udp_gso == "off" && !(o.udp_gro || o.tun_tso || o.tun_uso || o.tun_gro)
        },
    ),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for io in [Io::Uring, Io::SingleShot, Io::Mmsg] {
        let name = |what: &str| format!("{}::{what}", io.name());
        for switched in SWITCHED {
            cases.push(Case::new(name(switched.0), move || switched_off(io, switched)));
        }
        cases.push(Case::new(name("super_packets_happen"), move || super_packets(io)));
        cases.push(Case::new(name("udp_super_packets_pass"), move || udp_super_packets(io)));
        cases.push(Case::new(name("gso_refused_over_v4"), move || refused(io, Family::V4)));
        if has_ipv6() {
            cases.push(Case::new(name("gso_refused_over_v6"), move || refused(io, Family::V6)));
        }
        cases.push(Case::new(name("forwarded_super_packets_pass"), move || forwarded(io)));
    }
    cases
}

fn switched_off(io: Io, (_, extra, expected): Switched) {
    let tunnel = Tunnel::new(io, Family::V4, extra);
    for engine in [&tunnel.left, &tunnel.right] {
        let status = engine.status();
        assert!(expected(&status), "{:?}", status.offloads);
    }
    let bytes = if is_full() { 256 * MEBIBYTE } else { 8 * MEBIBYTE };
    tunnel.tcp(Side::Left, Family::V4, 1, bytes);
    tunnel.tcp(Side::Right, if has_ipv6() { Family::V6 } else { Family::V4 }, 1, bytes);
    tunnel.stop();
}

fn super_packets(io: Io) {
    let tunnel = Tunnel::new(io, Family::V4, &["--workers", "1"]);
    let status = tunnel.left.status();
    let offloads = &status.offloads;
    assert!(offloads.tun_tso && offloads.udp_gro && offloads.tun_gro, "{offloads:?}");
    assert_eq!(offloads.udp_gso, "on");
    let before = (status, tunnel.right.status());
    tunnel.load(Side::Left, 1, how_long(Duration::from_millis(800)));
    let after = (tunnel.left.status(), tunnel.right.status());
    let sent = difference(&before.0, &after.0, |worker| &worker.outbound);
    let received = difference(&before.1, &after.1, |worker| &worker.inbound);
    let many = |packets: u64, items: u64| packets > 10 * items;
    assert!(many(sent.packets, sent.reads), "a tun read: {sent:?}");
    assert!(many(sent.packets, sent.writes), "a UDP send: {sent:?}");
    assert!(many(received.packets, received.reads), "a UDP receive: {received:?}");
    assert!(many(received.packets, received.writes), "a tun write: {received:?}");
    assert_sizes_fit(&sent);
    assert_sizes_fit(&received);
    tunnel.stop();
}

/// An application that sends by `UDP_SEGMENT` itself: the tun hands over one frame for many
/// datagrams, the last of them shorter.
fn udp_super_packets(io: Io) {
    let tunnel = Tunnel::new(io, Family::V4, &["--workers", "1"]);
    let bind = |side: Side| {
        let at = SocketAddr::new(side.inner(Family::V4), 0);
        let socket = tunnel.host(side).run(|| UdpSocket::bind(at)).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (sender, receiver) = (bind(Side::Left), bind(Side::Right));
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    set_socket_option(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1_000).unwrap();
    let before = tunnel.left.status();
    for round in 0..20_u8 {
        let sent: Vec<u8> = (0..30_500_u32).map(|i| (i % 251).to_le_bytes()[0] ^ round).collect();
        sender.send(&sent).unwrap();
        let mut received = Vec::new();
        let mut buffer = [0; 2_000];
        while received.len() < sent.len() {
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(len, if received.len() == 30_000 { 500 } else { 1_000 });
            received.extend_from_slice(&buffer[..len]);
        }
        assert!(received == sent, "round {round}: bytes differ");
    }
    // A send is counted a moment after its packets have arrived.
    let sent = |status: &Status| difference(&before, status, |worker| &worker.outbound);
    let after = tunnel.left.status_when("all counted", |status| sent(status).packets >= 20 * 31);
    let sent = sent(&after);
    assert_eq!(sent.packets, 20 * 31, "{sent:?}");
    if after.offloads.tun_uso {
        assert_eq!((sent.reads, sent.writes), (20, 20), "{sent:?}");
        let of_17_to_32 = [0, 0, 0, 0, 0, 20, 0, 0];
        assert_eq!(
            (&sent.read_sizes[..], &sent.write_sizes[..]),
            (&of_17_to_32[..], &of_17_to_32[..])
        );
    }
    tunnel.stop();
}

/// The wire's MTU sinks below the tunnel's: segmentation is refused, the same packets leave one
/// by one (in fragments), and it is said once.
fn refused(io: Io, outer: Family) {
    let mtu = 1500 - outer.headers_len();
    let tunnel = Tunnel::new(io, outer, &["--mtu", &mtu.to_string(), "--workers", "2"]);
    tunnel.tcp(Side::Left, Family::V4, 1, MEBIBYTE);
    assert_eq!(tunnel.left.status().offloads.udp_gso, "on");
    for side in [Side::Left, Side::Right] {
        tunnel.host(side).set_mtu("eth0", 1_300).unwrap();
    }
    tunnel.tcp(Side::Left, Family::V4, 4, 2 * MEBIBYTE);
    tunnel.tcp(Side::Right, Family::V4, 1, 2 * MEBIBYTE);
    for engine in [&tunnel.left, &tunnel.right] {
        let said = "UDP_SEGMENT refused, packets go out one by one";
        let status = engine.status_when("refused", |status| {
            status.offloads.udp_gso.starts_with("refused: ") && engine.log_count(said) > 0
        });
        assert!(total(&status, |worker| worker.gso_refused) > 0, "{status:?}");
        assert!(status.offloads.udp_gso.contains("MTU"), "{}", status.offloads.udp_gso);
        assert_eq!(engine.log_count(said), 1, "{}", engine.process.stderr());
    }
    tunnel.stop();
}

/// A gateway tunnels what others send: super-packets larger than one UDP send arrive whole and
/// are cut in two.
fn forwarded(io: Io) {
    let line = Line::new().unwrap();
    let mut gateway = Engine::start(&line.gateway, &arguments(Side::Left, io, Family::V4));
    let mut server = Engine::start(&line.server, &arguments(Side::Right, io, Family::V4));
    assert_eq!(gateway.wait().gso_max_size, 65_536, "a host that forwards");
    assert!(server.wait().gso_max_size < 65_536, "a host that does not");
    let inside: Address = "10.7.0.0/24".parse().unwrap();
    let client: Address = "198.51.100.0/24".parse().unwrap();
    let through = Some(Line::GATEWAY_INSIDE[0].ip);
    line.client.set_route(inside, through, None).unwrap();
    line.server.set_route(client, None, Some(Side::Right.device())).unwrap();
    let bytes = if is_full() { 256 * MEBIBYTE } else { 16 * MEBIBYTE };
    let before = gateway.status();
    let at = SocketAddr::new(Side::Right.inner(Family::V4), 0);
    Tunnel::tcp_between((&line.client, &line.server), at, 1, bytes);
    let back = SocketAddr::new(Line::CLIENT[0].ip, 0);
    Tunnel::tcp_between((&line.server, &line.client), back, 1, bytes);
    let carried = difference(&before, &gateway.status(), |worker| &worker.outbound);
    assert!(carried.bytes > bytes, "went another way: {carried:?}");
    assert!(carried.packets > 4 * carried.reads, "cut by the kernel: {carried:?}");
    gateway.stop(&line.gateway, libc::SIGTERM);
    server.stop(&line.server, libc::SIGTERM);
}
