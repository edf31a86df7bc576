//! What the field tests in WireGuard end to end: both outer families, MTU and padding, whose
//! packets may carry which addresses, and keys and peers that change while packets flow.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ringtun::control::status::Status;
use ringtun::lab::traffic::{Stop, UdpSequences, probe, udp_sequences};
use ringtun::lab::{Address, End, Host, Pair, has_ipv6};
use ringtun::wire::wireguard::keys::{PresharedKey, PrivateKey};
use ringtun_tests::device::{
    Device, Link, NAMES, endpoint, host_bits, inner, peer_lines, run, wait_until,
};
use ringtun_tests::place::{find_program, is_full};
use ringtun_tests::suite::Case;
use ringtun_tests::tap::{Captured, Tap};
use ringtun_tests::tunnel::{Family, PATIENCE, PORT, Tunnel, dropped};

/// As long as an answer that must not come may take.
pub(crate) const SILENCE: Duration = Duration::from_millis(1_200);
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// Header and tag of a message with data.
const OVERHEAD: usize = 32;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for outer in FAMILIES {
        let named = |name: &str| format!("wireguard::{name}_over_{}", outer.name());
        cases.push(with_family(named("tcp_and_udp"), outer, move || carries(outer)));
        cases.push(Case::maybe(named("ping"), move || ping(outer)));
        cases.push(with_family(named("padding_ends_at_the_mtu"), outer, move || padding(outer)));
        let name = named("handshakes_have_a_class_of_their_own");
        cases.push(with_family(name, outer, move || classes(outer)));
        let name = named("a_path_of_1299_bytes_carries_everything");
        cases.push(with_family(name, outer, move || narrow_path(outer)));
    }
    cases.push(Case::new("wireguard::the_longest_prefix_owns_an_address", crypto_routing));
    cases.push(Case::new("wireguard::a_private_key_changes_and_back", private_key_changes));
    cases.push(Case::new("wireguard::a_preshared_key_changes", preshared_key_changes));
    cases.push(Case::new("wireguard::others_changes_disturb_nobody", undisturbed));
    cases.push(Case::new("wireguard::a_link_that_is_down_for_a_moment_starts_anew", flips));
    cases.push(Case::maybe("wireguard::a_session_is_replaced_after_two_minutes", rekey));
    cases
}

/// A case that is left out, visibly, where its family is missing.
pub(crate) fn with_family(
    name: impl Into<String>,
    family: Family,
    test: impl FnOnce() + Send + 'static,
) -> Case {
    Case::maybe(name, move || {
        if family == Family::V6 && !has_ipv6() {
            return Some("this kernel has no IPv6".to_owned());
        }
        test();
        None
    })
}

fn inner_families() -> &'static [Family] {
    if has_ipv6() { &FAMILIES } else { &FAMILIES[..1] }
}

fn carries(outer: Family) {
    let link = Link::new(outer);
    for &family in inner_families() {
        for n in [0, 1] {
            assert!(link.reaches(n, family, PATIENCE), "{family:?} from end {n}");
            let hosts = (link.host(n), link.host(1 - n));
            let to = SocketAddr::new(inner(1 - n, family), 0);
            Tunnel::tcp_between(hosts, to, 1, 4 << 20);
            for payload_len in [16, 1_200, 5_000] {
                let plan = UdpSequences {
                    payload_len,
                    duration: Duration::from_millis(100),
                    packets_per_second: Some(300.0),
                    ..UdpSequences::default()
                };
                let report = udp_sequences(hosts.0, hosts.1, to, &plan, &Stop::default()).unwrap();
                assert!(report.is_perfect(), "{family:?}, {payload_len} bytes: {report:?}");
            }
        }
    }
    for n in [0, 1] {
        assert_eq!(link.sees_other_at(n), Some(endpoint(1 - n, outer)));
    }
    link.stop();
}

fn ping(outer: Family) -> Option<String> {
    if find_program("ping").is_none() {
        return Some("there is no ping here (apt install iputils-ping)".to_owned());
    }
    if outer == Family::V6 && !has_ipv6() {
        return Some("this kernel has no IPv6".to_owned());
    }
    let link = Link::new(outer);
    for &family in inner_families() {
        for n in [0, 1] {
            link.assert_passes(n);
            // Nothing, a ping's usual load, what fills the MTU, what is fragmented.
            for size in ["0", "56", "1372", "4000"] {
                let to = inner(1 - n, family).to_string();
                let words = ["-c", "3", "-i", "0.02", "-W", "5", "-s", size, &to];
                let said = run(link.host(n), "ping", &words);
                assert!(said.contains(" 0% packet loss"), "{size}: {said}");
            }
        }
    }
    link.stop();
    None
}

/// Every message on the wire is as long as its packet, padded to 16 bytes but not beyond the MTU.
fn padding(outer: Family) {
    let link = Link::new(outer);
    link.assert_passes(0);
    let tap = Tap::open(&link.pair.left);
    tap.settle();
    for mtu in [1420, 1299] {
        for n in [0, 1] {
            link.host(n).set_mtu(NAMES[n], mtu).unwrap();
        }
        wait_until("told of the new MTU", || link.devices[0].status().mtu == mtu);
        let mtu = usize::try_from(mtu).unwrap();
        let edges = [28, 29, 32, 33, 44, 45, 47, 48, 49, 1264, 1265];
        for len in edges.into_iter().chain(mtu - 20..=mtu) {
            one_message(&link, &tap, (outer, len, mtu));
        }
    }
    link.stop();
}

/// As the kernel: AF41 for initiation and response, nothing for keepalives and data.
fn classes(outer: Family) {
    let link = Link::new(outer);
    let tap = Tap::open(&link.pair.left);
    link.assert_passes(0);
    for (message_type, from, class) in [(1, 0, 0x88), (2, 1, 0x88), (4, 0, 0)] {
        let is_it = |seen: &Captured| {
            seen.from == endpoint(from, outer) && seen.payload.first() == Some(&message_type)
        };
        let seen = tap.next(PATIENCE, is_it).unwrap();
        assert_eq!(seen.class, class, "message of type {message_type}");
    }
    link.stop();
}

/// Sends one inner IPv4 packet of `len` bytes from left to right and checks what was on the wire.
fn one_message(link: &Link, tap: &Tap, (outer, len, mtu): (Family, usize, usize)) {
    let bind = |n: usize| {
        let at = SocketAddr::new(inner(n, Family::V4), 0);
        link.host(n).run(|| UdpSocket::bind(at)).unwrap().unwrap()
    };
    let (sender, receiver) = (bind(0), bind(1));
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let payload: Vec<u8> = (0..len - 28).map(|i| u8::try_from(i % 251).unwrap()).collect();
    sender.send_to(&payload, receiver.local_addr().unwrap()).unwrap();
    let message =
        tap.next(PATIENCE, |seen| seen.from == endpoint(0, outer) && seen.payload.len() > OVERHEAD);
    let expected = len.next_multiple_of(16).min(mtu) + OVERHEAD;
    assert_eq!(message.unwrap().payload.len(), expected, "{len} bytes, MTU {mtu}");
    let mut buffer = vec![0; 2048];
    let received = receiver.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..received], payload, "{len} bytes, MTU {mtu}");
}

/// The route to the peer takes less than the tunnel sends: datagrams are fragmented, not lost.
fn narrow_path(outer: Family) {
    let link = Link::new(outer);
    for n in [0, 1] {
        let to = format!("{}/{}", endpoint(1 - n, outer).ip(), host_bits(outer));
        let words = ["route", "add", &to, "dev", Pair::INTERFACE, "mtu", "1299"];
        run(link.host(n), "ip", &words);
    }
    let before = fragments_made(&link.pair.left, outer);
    for n in [0, 1] {
        link.assert_passes(n);
        let hosts = (link.host(n), link.host(1 - n));
        let to = SocketAddr::new(inner(1 - n, Family::V4), 0);
        Tunnel::tcp_between(hosts, to, 1, 4 << 20);
        for payload_len in [1_200, 1_392, 4_000] {
            let plan = UdpSequences {
                payload_len,
                duration: Duration::from_millis(100),
                packets_per_second: Some(200.0),
                ..UdpSequences::default()
            };
            let report = udp_sequences(hosts.0, hosts.1, to, &plan, &Stop::default()).unwrap();
            assert!(report.is_perfect(), "{payload_len} bytes: {report:?}");
        }
    }
    assert!(fragments_made(&link.pair.left, outer) > before, "the path was not narrow");
    link.stop();
}

/// Fragments that `host` made of packets of `family`.
fn fragments_made(host: &Host, family: Family) -> u64 {
    let file = if family == Family::V4 { "snmp" } else { "snmp6" };
    let path = format!("/proc/thread-self/net/{file}");
    let text = host.run(|| fs::read_to_string(path)).unwrap().unwrap();
    if family == Family::V6 {
        let line = text.lines().find(|line| line.starts_with("Ip6FragCreates")).unwrap();
        return line.split_whitespace().nth(1).unwrap().parse().unwrap();
    }
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, figures) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split_whitespace().zip(figures.split_whitespace());
    pairs.find(|(name, _)| *name == "FragCreates").unwrap().1.parse().unwrap()
}

/// Left, right and a third host on a wire of its own: right may speak for all of 10.9.0.0/16,
/// third for 10.9.3.0/24 within.
struct Three {
    link: Link,
    third: Device,
    third_key: PrivateKey,
    third_host: Host,
}

impl Three {
    const NAME: &str = "wg-t";

    fn new() -> Self {
        let link = Link::new(Family::V4);
        let third_host = Host::new("third").unwrap();
        let address = |text: &str| -> [Address; 1] { [text.parse().unwrap()] };
        let (here, there) = (address("198.51.100.1/24"), address("198.51.100.3/24"));
        let end = |host, interface, addresses| End { host, interface, addresses };
        let here = end(&link.pair.left, "eth1", &here);
        ringtun::lab::connect(&here, &end(&third_host, "eth0", &there), 1500).unwrap();
        let third = Device::start(&third_host, "ringtun", Self::NAME);
        let third_key = PrivateKey::generate().unwrap();
        let left = peer_lines(
            &link.public(0),
            Some("198.51.100.1:51820".parse().unwrap()),
            &["10.9.0.1/32", "fd09::1/128"],
        );
        let key = third_key.to_hex();
        third.set(&format!("private_key={}\nlisten_port={PORT}\n{left}", key.as_str()));
        third_host.add_address(Self::NAME, "10.9.3.1/16".parse().unwrap()).unwrap();
        third.bring_up(&third_host);
        // 10.9.0.0/24 is on the link already; the rest of /16 is not.
        run(&link.pair.left, "ip", &["route", "add", "10.9.0.0/16", "dev", NAMES[0]]);
        let wide = peer_lines(&link.public(1), None, &["10.9.0.0/16"]);
        let narrow = peer_lines(
            &third_key.public(),
            Some("198.51.100.3:51820".parse().unwrap()),
            &["10.9.3.0/24"],
        );
        link.devices[0].set(&format!("{wide}{narrow}"));
        Self { link, third, third_key, third_host }
    }

    /// Whether what `host` sends from 10.9.3.1 comes out at left; otherwise it is refused there.
    fn passes(&self, host: &Host) -> bool {
        let bound = self.link.pair.left.run(|| UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap();
        bound.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let before = self.refused();
        let sender = host.run(|| UdpSocket::bind("10.9.3.1:0")).unwrap().unwrap();
        sender.send_to(b"from me", bound.local_addr().unwrap()).unwrap();
        let mut arrived = false;
        wait_until("passed or refused", || {
            arrived = bound.recv(&mut [0; 64]).is_ok();
            arrived || self.refused() > before
        });
        arrived
    }

    fn refused(&self) -> u64 {
        dropped(&self.link.devices[0].status(), "source_not_allowed")
    }

    fn left_reaches(&self, host: &Host, to: &str) -> bool {
        let to = SocketAddr::new(to.parse().unwrap(), 0);
        probe(&self.link.pair.left, host, to, PATIENCE, &Stop::default()).is_ok()
    }
}

fn crypto_routing() {
    let three = Three::new();
    let (left, right) = (&three.link.devices[0], &three.link.pair.right);
    right.add_address("lo", "10.9.3.1/32".parse().unwrap()).unwrap();
    // Outbound the longest match decides, with the wide prefix there as well.
    assert!(three.left_reaches(right, "10.9.0.2"));
    assert!(three.left_reaches(&three.third_host, "10.9.3.1"));
    // Inbound too: right's wide prefix holds the source, but it is third's.
    assert_eq!(three.refused(), 0);
    assert!(!three.passes(right), "third's address out of right's mouth");
    assert_eq!(three.refused(), 1);
    assert!(three.passes(&three.third_host));
    // The prefix moves to right, with the packets both ways.
    left.set(&peer_lines(&three.link.public(1), None, &["10.9.3.0/24"]));
    assert!(left.peer(&three.third_key.public()).all("allowed_ip").is_empty());
    assert!(three.passes(right));
    assert!(!three.passes(&three.third_host), "it is right's now");
    assert_eq!(three.refused(), 2);
    assert!(three.left_reaches(right, "10.9.3.1"));
    // And back, without a word to right.
    left.set(&peer_lines(&three.third_key.public(), None, &["10.9.3.0/24"]));
    assert!(!left.peer(&three.link.public(1)).all("allowed_ip").contains(&"10.9.3.0/24"));
    assert!(!three.passes(right));
    assert!(three.left_reaches(&three.third_host, "10.9.3.1"));
    three.third.stop();
    three.link.stop();
}

fn private_key_changes() {
    let link = Link::new(Family::V4);
    let [left, right] = &link.devices;
    link.assert_passes(0);
    let other = PrivateKey::generate().unwrap();
    let set_key = |device: &Device, key: &PrivateKey| {
        device.set(&format!("private_key={}\n", key.to_hex().as_str()));
    };
    let know = |key: &PrivateKey| {
        let peer = peer_lines(&key.public(), Some(endpoint(1, Family::V4)), &["10.9.0.2/32"]);
        left.set(&format!("replace_peers=true\n{peer}"));
    };
    set_key(right, &other);
    assert!(!link.reaches(0, Family::V4, SILENCE), "left does not know the new key");
    know(&other);
    link.assert_passes(0);
    link.assert_passes(1);
    assert!(left.peer(&other.public()).figure("last_handshake_time_sec") > 0);
    set_key(right, &link.keys[1]);
    know(&link.keys[1]);
    link.assert_passes(1);
    link.assert_passes(0);
    // The same key again changes nothing, not even the session.
    let sessions = left.peer(&link.public(1)).figure("last_handshake_time_nsec");
    set_key(left, &link.keys[0]);
    link.assert_passes(0);
    assert_eq!(left.peer(&link.public(1)).figure("last_handshake_time_nsec"), sessions);
    link.stop();
}

fn preshared_key_changes() {
    let link = Link::new(Family::V4);
    link.assert_passes(0);
    let set = |n: usize, psk: &PresharedKey| {
        let peer = peer_lines(&link.public(1 - n), None, &[]);
        let hex = psk.to_hex();
        link.devices[n].set(&format!("{peer}update_only=true\npreshared_key={}\n", hex.as_str()));
    };
    let handshake = || {
        let peer = link.devices[0].peer(&link.public(1));
        (peer.figure("last_handshake_time_sec"), peer.figure("last_handshake_time_nsec"))
    };
    let (one, other) = (PresharedKey::generate().unwrap(), PresharedKey::generate().unwrap());
    let first = handshake();
    set(0, &one);
    // A session that stands is not concerned.
    link.assert_passes(0);
    link.assert_passes(1);
    assert_eq!(handshake(), first);
    link.forget_sessions(0);
    assert!(!link.reaches(0, Family::V4, SILENCE), "only one end has the key");
    set(1, &one);
    link.forget_sessions(1);
    assert!(link.reaches(1, Family::V4, PATIENCE), "both have it");
    assert!(handshake() > first);
    let second = handshake();
    set(0, &other);
    set(1, &other);
    link.forget_sessions(0);
    link.assert_passes(0);
    assert!(handshake() > second);
    link.stop();
}

/// A peer is added, changed and removed again and again while packets flow to another.
fn undisturbed() {
    let link = Link::new(Family::V4);
    link.assert_passes(0);
    let plan = UdpSequences {
        payload_len: 700,
        duration: Duration::from_secs(2),
        packets_per_second: Some(2_000.0),
        ..UdpSequences::default()
    };
    let hosts = (&link.pair.left, &link.pair.right);
    let to = SocketAddr::new(inner(1, Family::V4), 0);
    let (report, rounds) = thread::scope(|scope| {
        let traffic = scope.spawn(|| udp_sequences(hosts.0, hosts.1, to, &plan, &Stop::default()));
        let mut rounds = 0;
        while !traffic.is_finished() {
            rounds += 1;
            link.devices.iter().for_each(|device| change_another_peer(device, rounds));
        }
        (traffic.join().unwrap().unwrap(), rounds)
    });
    assert!(report.is_perfect(), "{rounds} rounds: {report:?}");
    assert!(rounds >= 50, "only {rounds} rounds of changes");
    link.stop();
}

/// Down and up again at once, twenty times: each time the sessions are gone, as with the kernel's
/// WireGuard, the port is the same, even one that nobody asked for, and traffic flows.
fn flips() {
    let link = Link::new(Family::V4);
    let left = &link.devices[0];
    left.set("listen_port=0\n");
    link.assert_passes(0);
    link.assert_passes(1);
    let port = || {
        let text = left.get();
        let line = text.lines().find(|line| line.starts_with("listen_port=")).unwrap();
        line.to_owned()
    };
    let first = port();
    let handshake = || {
        let peer = left.peer(&link.public(1));
        (peer.figure("last_handshake_time_sec"), peer.figure("last_handshake_time_nsec"))
    };
    for round in 0..20 {
        let before = handshake();
        link.pair.left.set_down(NAMES[0]).unwrap();
        link.pair.left.set_up(NAMES[0]).unwrap();
        wait_until(&format!("a new session, round {round}"), || {
            link.reaches(0, Family::V4, SILENCE) && handshake() > before
        });
        link.assert_passes(1);
        assert_eq!(port(), first, "round {round}");
    }
    link.stop();
}

fn change_another_peer(device: &Device, round: u32) {
    let key = PrivateKey::generate().unwrap().public();
    // Within the network of the peer that must not notice.
    let prefix = format!("10.9.{}.0/24", round % 200 + 1);
    let at = Some("192.0.2.99:51820".parse().unwrap());
    device.set(&peer_lines(&key, at, &[&prefix, "fd33::/64"]));
    device.set(&format!(
        "{}replace_allowed_ips=true\nallowed_ip=10.55.0.0/16\npersistent_keepalive_interval=1\n",
        peer_lines(&key, None, &[])
    ));
    device.set(&format!("{}remove=true\n", peer_lines(&key, None, &[])));
}

/// One rekey as it comes, with a packet every 50 ms: none is lost.
fn rekey() -> Option<String> {
    if !is_full() {
        return Some("takes 130 s: only with RINGTUN_FULL=1".to_owned());
    }
    let link = Link::new(Family::V4);
    link.assert_passes(0);
    let handshake =
        |n: usize| link.devices[n].peer(&link.public(1 - n)).figure("last_handshake_time_sec");
    let (begin, first) = (Instant::now(), [handshake(0), handshake(1)]);
    let plan = UdpSequences {
        duration: Duration::from_secs(130),
        packets_per_second: Some(20.0),
        ..UdpSequences::default()
    };
    let to = SocketAddr::new(inner(1, Family::V4), 0);
    let report =
        udp_sequences(&link.pair.left, &link.pair.right, to, &plan, &Stop::default()).unwrap();
    assert!(report.is_perfect(), "{report:?}");
    assert!(begin.elapsed() > Duration::from_secs(120));
    for n in [0, 1] {
        let rise = handshake(n) - first[n];
        assert!((118..=130).contains(&rise), "a new session after {rise} s");
    }
    let replayed = |status: &Status| dropped(status, "replayed");
    assert_eq!(replayed(&link.devices[1].status()), 0);
    link.stop();
    None
}
