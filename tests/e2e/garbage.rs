//! Garbage on the UDP port changes counters and nothing else; what is only damaged inside is
//! passed on as it came.

use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ringtun::control::status::Status;
use ringtun::sys::host::set_socket_option;
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{
    Family, Io, PATIENCE, PORT, Side, Tunnel, difference, dropped, drops, total,
};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for io in [Io::Uring, Io::SingleShot, Io::Mmsg] {
        let name = |what: &str| format!("{}::{what}", io.name());
        cases.push(Case::new(name("garbage_of_the_peer"), move || of_the_peer(io)));
        cases.push(Case::new(name("garbage_of_strangers"), move || of_strangers(io)));
        cases.push(Case::new(name("wrong_inner_checksum"), move || wrong_checksum(io)));
        cases.push(Case::new(name("nonsense_behind_a_good_header"), move || nonsense(io)));
    }
    cases
}

/// A tunnel whose right end was replaced by a socket of ours with the peer's address and port.
fn impersonated(io: Io) -> (Tunnel, UdpSocket) {
    let mut tunnel = Tunnel::new(io, Family::V4, &["--workers", "1"]);
    tunnel.assert_passes();
    tunnel.right.stop(&tunnel.pair.right, libc::SIGTERM);
    let at = Side::Right.endpoint(Family::V4);
    let socket = tunnel.pair.right.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.connect(Side::Left.endpoint(Family::V4)).unwrap();
    (tunnel, socket)
}

/// The real peer comes back, and everything is as before.
fn recovers(mut tunnel: Tunnel, impostor: UdpSocket) {
    drop(impostor);
    assert!(tunnel.left.process.ended().unwrap().is_none());
    tunnel.restart_right();
    tunnel.assert_passes();
    tunnel.tcp(Side::Right, Family::V4, 1, 1 << 20);
    tunnel.stop();
}

/// Bytes that look random and are the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// What the engine must count `datagram` as; `None` for a packet that it forwards.
fn reason(datagram: &[u8]) -> Option<&'static str> {
    let at = |i: usize| usize::from(datagram[i]);
    let (header, announced) = match datagram.first().map(|first| first >> 4) {
        Some(4) if datagram.len() >= 20 => (at(0) % 16 * 4, at(2) * 256 + at(3)),
        Some(6) if datagram.len() >= 40 => (40, 40 + at(4) * 256 + at(5)),
        Some(4 | 6) => return Some("length_mismatch"),
        _ => return Some("not_ip"),
    };
    let fits = header >= 20 && announced >= header && announced <= datagram.len();
    (!fits).then_some("length_mismatch")
}

fn garbage() -> Vec<Vec<u8>> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut all = vec![Vec::new(), vec![0], vec![0x45], vec![0x60]];
    for len in [2, 19, 20, 39, 40, 100, 1_400, 1_472, 1_473, 9_000, 60_000, 65_507] {
        for first in [0x00, 0x10, 0x45, 0x4f, 0x40, 0x50, 0x60, 0x70, 0xff] {
            let mut datagram = noise.bytes(len);
            datagram[0] = first;
            all.push(datagram);
        }
    }
    for _ in 0..300 {
        let len = usize::try_from(noise.next() % 600).unwrap();
        all.push(noise.bytes(len));
    }
    // Headers of good packets, cut short at every byte.
    let good = tcp_segment(0, &[7; 40]);
    all.extend((0..good.len()).map(|len| good[..len].to_vec()));
    let ipv6 = [&[0x60, 0, 0, 0, 0, 40, 6, 64][..], &[0; 72]].concat();
    all.extend((0..ipv6.len()).map(|len| ipv6[..len].to_vec()));
    all.retain(|datagram| reason(datagram).is_some());
    all
}

/// Sends without ever filling the receiver's buffer, so that every one is counted.
fn send_all(tunnel: &Tunnel, socket: &UdpSocket, all: &[Vec<u8>]) {
    for (number, datagram) in all.iter().enumerate() {
        socket.send_to(datagram, Side::Left.endpoint(Family::V4)).unwrap();
        if number % 16 == 15 || datagram.len() > 10_000 {
            let _ = tunnel.left.status();
        }
    }
}

fn assert_only(before: &Status, after: &Status, reason: &str) {
    let others = |status: &Status| {
        let mut all = drops(status);
        all.remove(reason);
        all
    };
    assert_eq!(others(before), others(after));
    let passed = difference(before, after, |worker| &worker.inbound);
    assert_eq!((passed.packets, passed.writes), (0, 0), "{passed:?}");
}

fn of_the_peer(io: Io) {
    let (tunnel, socket) = impersonated(io);
    let all = garbage();
    assert!(all.len() > 500);
    for wanted in ["not_ip", "length_mismatch"] {
        let some: Vec<_> =
            all.iter().filter(|datagram| reason(datagram) == Some(wanted)).cloned().collect();
        let before = tunnel.left.status();
        send_all(&tunnel, &socket, &some);
        let expected = dropped(&before, wanted) + some.len() as u64;
        let after =
            tunnel.left.status_when("all counted", |status| dropped(status, wanted) >= expected);
        assert_eq!(dropped(&after, wanted), expected);
        assert_only(&before, &after, wanted);
    }
    recovers(tunnel, socket);
}

/// The peer's address with another port, and another address with the peer's port; what they
/// send could be good packets.
fn of_strangers(io: Io) {
    let tunnel = Tunnel::new(io, Family::V4, &["--workers", "1"]);
    tunnel.assert_passes();
    tunnel.pair.right.add_address("eth0", "192.0.2.77/24".parse().unwrap()).unwrap();
    let mut all = garbage();
    all.extend((0..50).map(|number| tcp_segment(number, &[1; 1_000])));
    for from in [("192.0.2.2", PORT + 1), ("192.0.2.77", PORT)] {
        let socket = tunnel.pair.right.run(|| UdpSocket::bind(from)).unwrap().unwrap();
        let before = tunnel.left.status();
        send_all(&tunnel, &socket, &all);
        let expected = dropped(&before, "unknown_source") + all.len() as u64;
        let after = tunnel
            .left
            .status_when("all counted", |status| dropped(status, "unknown_source") >= expected);
        assert_eq!(dropped(&after, "unknown_source"), expected);
        assert_only(&before, &after, "unknown_source");
    }
    tunnel.assert_passes();
    tunnel.stop();
}

/// Sums 16-bit words (RFC 1071); of bytes that hold a right checksum it is 0.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// A TCP segment from the right to the left host, as an established connection would send it.
fn tcp_segment(sequence: u32, payload: &[u8]) -> Vec<u8> {
    let addresses = [10, 7, 0, 2, 10, 7, 0, 1];
    let mut tcp = vec![0x9c, 0x40, 0x9c, 0x41];
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0]);
    tcp.extend_from_slice(payload);
    let len = u16::try_from(tcp.len()).unwrap();
    let pseudo = [&addresses[..], &[0, 6], &len.to_be_bytes(), &tcp].concat();
    let sum = checksum(&pseudo).to_be_bytes();
    tcp[16..18].copy_from_slice(&sum);
    let mut packet = vec![0x45, 0];
    packet.extend((20 + len).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(addresses);
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(tcp);
    packet
}

/// Five segments in one receive, the third damaged: the host gets it unchanged, by itself and in
/// its place, and finds the damage on its own.
fn wrong_checksum(io: Io) {
    const LEN: usize = 1_000;
    let (tunnel, socket) = impersonated(io);
    let protocol = Protocol::from(i32::from(3_u16.to_be()));
    let capture = || Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol));
    let mut capture = tunnel.pair.left.run(capture).unwrap().unwrap();
    capture.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let payloads: Vec<Vec<u8>> = (1..=5_u8).map(|number| vec![number; LEN]).collect();
    let mut segments: Vec<Vec<u8>> = (0..)
        .zip(&payloads)
        .map(|(number, payload)| tcp_segment(number * u32::try_from(LEN).unwrap(), payload))
        .collect();
    segments[2][500] ^= 0x20;
    let (before, errors) = (tunnel.left.status(), checksum_errors(&tunnel));
    let segment_len = i32::try_from(segments[0].len()).unwrap();
    set_socket_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, segment_len).unwrap();
    socket.send(&segments.concat()).unwrap();

    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut buffer = vec![0; 65_536];
    let deadline = Instant::now() + PATIENCE;
    while seen.iter().map(|packet| packet.len() - 40).sum::<usize>() < 5 * LEN {
        assert!(Instant::now() < deadline, "{} packets seen", seen.len());
        let Ok(len) = capture.read(&mut buffer) else { continue };
        let packet = &buffer[..len];
        let is_ours = len >= 40 && packet[9] == 6 && packet[12..16] == [10, 7, 0, 2];
        if is_ours {
            seen.push(packet.to_vec());
        }
    }
    assert!(seen.contains(&segments[2]), "the damaged segment was changed or merged");
    let order: Vec<u8> = seen.iter().flat_map(|packet| packet[40..].to_vec()).collect();
    let mut sent = payloads.concat();
    sent[2 * LEN + 460] ^= 0x20;
    assert!(order == sent, "segments changed places");
    if before.offloads.tun_gro && before.offloads.udp_gro {
        assert!(seen.len() < 5, "none of the good ones were merged");
    }
    let after = tunnel.left.status_when("passed on", |status| {
        difference(&before, status, |worker| &worker.inbound).packets == 5
    });
    let bad = |status| total(status, |worker| worker.bad_checksums);
    assert_eq!(bad(&after), bad(&before) + 1);
    assert_eq!(drops(&before), drops(&after));
    assert_eq!(checksum_errors(&tunnel), errors + 1, "the host took it for good");
    recovers(tunnel, socket);
}

/// Tcp InCsumErrors of the left host.
fn checksum_errors(tunnel: &Tunnel) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/snmp");
    let text = tunnel.pair.left.run(read).unwrap().unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let names = lines.next().unwrap().split_whitespace();
    let at = names.clone().position(|name| name == "InCsumErrors").unwrap();
    lines.next().unwrap().split_whitespace().nth(at).unwrap().parse().unwrap()
}

/// An IP header that fits and nonsense behind it: not the tunnel's business, and no harm to it.
fn nonsense(io: Io) {
    let (tunnel, socket) = impersonated(io);
    let mut noise = Noise(7);
    let mut all = Vec::new();
    for protocol in 0..=255_u8 {
        let len = 20 + usize::try_from(noise.next() % 1_300).unwrap();
        let mut v4 = noise.bytes(len);
        v4[0] = 0x45;
        v4[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        v4[9] = protocol;
        all.push(v4);
        let mut v6 = noise.bytes(len + 20);
        v6[0] = 0x60;
        v6[4..6].copy_from_slice(&u16::try_from(len - 20).unwrap().to_be_bytes());
        v6[6] = protocol;
        all.push(v6);
    }
    assert!(all.iter().all(|packet| reason(packet).is_none()));
    let before = tunnel.left.status();
    send_all(&tunnel, &socket, &all);
    let expected = all.len() as u64;
    let after = tunnel.left.status_when("all passed on", |status| {
        let passed = difference(&before, status, |worker| &worker.inbound).packets;
        passed + dropped(status, "tun_rejected") - dropped(&before, "tun_rejected") >= expected
    });
    assert_eq!(difference(&before, &after, |worker| &worker.inbound).packets, expected);
    assert_eq!(drops(&before), drops(&after));
    recovers(tunnel, socket);
}
