//! Where a peer is: it may move within and between address families, behind a NAT and to another
//! of its own addresses, and nobody else can move it.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ringtun::lab::traffic::{Stop, UdpSequences, probe, udp_sequences};
use ringtun::lab::{Address, End, Host, Line, Pair};
use ringtun::wire::wireguard::keys::PrivateKey;
use ringtun_tests::device::{
    Device, Link, endpoint, host_bits, inner, peer_lines, run, wait_until,
};
use ringtun_tests::place::find_program;
use ringtun_tests::suite::Case;
use ringtun_tests::tap::{Captured, Tap};
use ringtun_tests::tunnel::{Family, PATIENCE, PORT, dropped};

use crate::wireguard_net::{SILENCE, with_family};

/// Type and reserved bytes of a message.
const INITIATION: [u8; 4] = [1, 0, 0, 0];
const TRANSPORT: [u8; 4] = [4, 0, 0, 0];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for outer in [Family::V4, Family::V6] {
        let named = |name: &str| format!("wireguard::{name}_{}", outer.name());
        let name = named("forged_and_repeated_messages_move_nobody");
        cases.push(with_family(name, outer, move || impostor(outer)));
        let name = named("the_source_address_sticks_but_not_too_much");
        cases.push(with_family(name, outer, move || sticky(outer)));
        let name = named("a_changed_route_is_followed");
        cases.push(with_family(name, outer, move || other_route(outer)));
    }
    cases.push(with_family("wireguard::roams_between_families", Family::V6, between_families));
    cases.push(Case::maybe("wireguard::keepalives_keep_a_nat_open", nat));
    cases
}

fn between_families() {
    let link = Link::new(Family::V4);
    link.assert_passes(0);
    let move_to = |family| {
        // Right calls by another family from now on; left has to follow.
        let left = peer_lines(&link.public(0), Some(endpoint(0, family)), &[]);
        link.devices[1].set(&left);
        link.assert_passes(1);
        assert_eq!(link.sees_other_at(0), Some(endpoint(1, family)));
        link.assert_passes(0);
    };
    move_to(Family::V6);
    link.devices[1].set("listen_port=51999\n");
    link.assert_passes(1);
    let expected = SocketAddr::new(endpoint(1, Family::V6).ip(), 51999);
    assert_eq!(link.sees_other_at(0), Some(expected));
    link.devices[1].set(&format!("listen_port={PORT}\n"));
    move_to(Family::V4);
    move_to(Family::V6);
    link.stop();
}

/// Somebody who can hear and send, but has no key: what he repeats or changes moves nobody.
fn impostor(outer: Family) {
    let link = Link::new(outer);
    let tap = Tap::open(&link.pair.left);
    link.assert_passes(1);
    // Longer than a keepalive.
    let from_right = |kind: [u8; 4]| {
        move |seen: &Captured| {
            seen.from == endpoint(1, outer)
                && seen.payload.starts_with(&kind)
                && seen.payload.len() > 32
        }
    };
    let initiation = tap.next(PATIENCE, from_right(INITIATION)).unwrap().payload;
    let message = tap.next(PATIENCE, from_right(TRANSPORT)).unwrap().payload;
    let elsewhere = add_second_address(&link.pair.right, outer);
    let impostor = link.pair.right.run(|| UdpSocket::bind(elsewhere)).unwrap().unwrap();
    let counted = |reason| dropped(&link.devices[0].status(), reason);
    let sent = |datagram: &[u8], reason| {
        let before = counted(reason);
        impostor.send_to(datagram, endpoint(0, outer)).unwrap();
        wait_until(reason, || counted(reason) == before + 1);
        assert_eq!(link.sees_other_at(0), Some(endpoint(1, outer)), "{reason}");
    };
    let right = link.public(1);
    tap.settle();
    let before = link.devices[0].peer(&right);
    // Valid once, and its timestamp is old now: worked on by control, which sends no answer.
    impostor.send_to(&initiation, endpoint(0, outer)).unwrap();
    sent(&message, "replayed");
    let changed = |at: usize, flip: u8| {
        let mut bytes = message.clone();
        bytes[at] ^= flip;
        bytes
    };
    sent(&changed(message.len() - 1, 1), "not_authentic");
    // A counter that has not been seen, with another's contents.
    sent(&changed(9, 0x40), "not_authentic");
    sent(&changed(4, 0x80), "unknown_session");
    sent(&message[..32], "not_authentic");
    impostor.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(impostor.recv(&mut [0; 2048]).is_err(), "an answer to an old initiation");
    let after = link.devices[0].peer(&right);
    assert_eq!(after.one("endpoint"), before.one("endpoint"));
    assert_eq!(after.figure("rx_bytes"), before.figure("rx_bytes"));
    link.assert_passes(0);
    link.assert_passes(1);
    link.stop();
}

/// Gives right's wire another address; returns it with a port.
fn add_second_address(host: &Host, family: Family) -> SocketAddr {
    let (text, prefix_len) = match family {
        Family::V4 => ("192.0.2.22", 24),
        Family::V6 => ("fd00:2::22", 64),
    };
    let ip = text.parse().unwrap();
    host.add_address(Pair::INTERFACE, Address { ip, prefix_len }).unwrap();
    SocketAddr::new(ip, 4444)
}

/// Right answers from the address it was called at; when that is gone, from the one it has.
fn sticky(outer: Family) {
    let link = Link::new(outer);
    let second = SocketAddr::new(add_second_address(&link.pair.right, outer).ip(), PORT);
    let call = |at: SocketAddr| {
        link.devices[0].set(&peer_lines(&link.public(1), Some(at), &[]));
        link.assert_passes(0);
        assert_eq!(link.sees_other_at(0), Some(at), "answered from another address");
    };
    // The handshake, then data; then the first address while the session goes on; and back.
    call(second);
    link.assert_passes(1);
    assert_eq!(link.sees_other_at(0), Some(second), "spoke from another address");
    call(endpoint(1, outer));
    call(second);
    // An address of another interface than the one that packets come in by.
    let elsewhere = match outer {
        Family::V4 => "203.0.113.7/32",
        Family::V6 => "2001:db8:7::7/128",
    };
    let elsewhere: Address = elsewhere.parse().unwrap();
    link.pair.right.add_address("lo", elsewhere).unwrap();
    link.pair.left.set_route(elsewhere, Some(endpoint(1, outer).ip()), None).unwrap();
    call(SocketAddr::new(elsewhere.ip, PORT));
    link.assert_passes(1);
    assert_eq!(link.sees_other_at(0).unwrap().ip(), elsewhere.ip);
    call(second);
    let address = format!("{}/{}", second.ip(), if outer == Family::V4 { 24 } else { 64 });
    run(&link.pair.right, "ip", &["address", "delete", &address, "dev", Pair::INTERFACE]);
    link.assert_passes(1);
    assert_eq!(link.sees_other_at(0), Some(endpoint(1, outer)));
    link.assert_passes(0);
    // And a handshake, which control sends.
    call(endpoint(1, outer));
    let third = SocketAddr::new(add_second_address(&link.pair.right, outer).ip(), PORT);
    call(third);
    run(&link.pair.right, "ip", &["address", "delete", &address, "dev", Pair::INTERFACE]);
    link.forget_sessions(1);
    link.assert_passes(1);
    assert_eq!(link.sees_other_at(0), Some(endpoint(1, outer)));
    link.stop();
}

/// The way to left changes to another wire while the first one stays up: right goes by it, with an
/// address of it, and left follows.
fn other_route(outer: Family) {
    let link = Link::new(outer);
    let (here, there) = match outer {
        Family::V4 => ("198.51.100.1/24", "198.51.100.2/24"),
        Family::V6 => ("fd00:1::1/64", "fd00:1::2/64"),
    };
    let [here, there]: [[Address; 1]; 2] = [here, there].map(|text| [text.parse().unwrap()]);
    let end = |host, addresses| End { host, interface: "eth1", addresses };
    let ends = (end(&link.pair.left, &here), end(&link.pair.right, &there));
    ringtun::lab::connect(&ends.0, &ends.1, 1500).unwrap();
    link.assert_passes(1);
    assert_eq!(link.sees_other_at(0), Some(endpoint(1, outer)));
    let to = format!("{}/{}", endpoint(0, outer).ip(), host_bits(outer));
    let via = here[0].ip.to_string();
    run(&link.pair.right, "ip", &["route", "add", &to, "via", &via, "dev", "eth1"]);
    let moved = SocketAddr::new(there[0].ip, PORT);
    wait_until("by the other wire", || {
        link.assert_passes(1);
        link.sees_other_at(0) == Some(moved)
    });
    link.assert_passes(0);
    // And back, while left goes on sending to where right was.
    let plan = UdpSequences {
        duration: Duration::from_millis(1_500),
        packets_per_second: Some(500.0),
        ..UdpSequences::default()
    };
    let to_right = SocketAddr::new(inner(1, Family::V4), 0);
    let hosts = (&link.pair.left, &link.pair.right);
    let traffic = || udp_sequences(hosts.0, hosts.1, to_right, &plan, &Stop::default());
    let report = thread::scope(|scope| {
        let traffic = scope.spawn(traffic);
        run(&link.pair.right, "ip", &["route", "delete", &to, "via", &via, "dev", "eth1"]);
        wait_until("back", || {
            link.assert_passes(1);
            link.sees_other_at(0) == Some(endpoint(1, outer))
        });
        traffic.join().unwrap().unwrap()
    });
    assert_eq!(report.total().lost, 0, "{report:?}");
    link.assert_passes(1);
    assert_eq!(link.sees_other_at(0), Some(endpoint(1, outer)), "it stays there");
    link.stop();
}

/// A client behind a masquerading gateway that forgets after two seconds.
struct Nat {
    client: Device,
    server: Device,
    line: Line,
    keys: [PrivateKey; 2],
}

impl Nat {
    fn new() -> Self {
        let line = Line::new().unwrap();
        let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
        let client = Device::start(&line.client, "ringtun", "wg-l");
        let server = Device::start(&line.server, "ringtun", "wg-r");
        let to_server = Some(SocketAddr::new(Line::SERVER[0].ip, PORT));
        // The server does not know where the client is.
        for (n, device, host, endpoint) in
            [(0, &client, &line.client, to_server), (1, &server, &line.server, None)]
        {
            let (key, peer) = (&keys[n], &keys[1 - n]);
            let allowed = format!("{}/32", inner(1 - n, Family::V4));
            device.set(&format!(
                "private_key={}\nlisten_port={PORT}\n{}",
                key.to_hex().as_str(),
                peer_lines(&peer.public(), endpoint, &[&allowed])
            ));
            let address = Address { ip: inner(n, Family::V4), prefix_len: 24 };
            host.add_address(&device.name, address).unwrap();
            device.bring_up(host);
        }
        let nat = Self { client, server, line, keys };
        nat.masquerade("40000-40099");
        for (key, seconds) in [("udp_timeout", "2"), ("udp_timeout_stream", "2")] {
            let key = format!("net.netfilter.nf_conntrack_{key}");
            nat.line.gateway.set_sysctl(&key, seconds).unwrap();
        }
        nat
    }

    /// Has the gateway put the client behind these ports of its own.
    fn masquerade(&self, ports: &str) {
        let rules = format!(
            "table ip nat\ndelete table ip nat\ntable ip nat {{\nchain out {{\n\
             type nat hook postrouting priority 100;\n\
             oifname eth1 meta l4proto udp masquerade to :{ports};\n}}\n}}\n"
        );
        fs::write("/run/nat.nft", rules).unwrap();
        run(&self.line.gateway, "nft", &["-f", "/run/nat.nft"]);
    }

    fn client_reaches_server(&self) -> bool {
        let to = SocketAddr::new(inner(1, Family::V4), 0);
        probe(&self.line.client, &self.line.server, to, PATIENCE, &Stop::default()).is_ok()
    }

    fn server_reaches_client(&self, patience: Duration) -> bool {
        let to = SocketAddr::new(inner(0, Family::V4), 0);
        probe(&self.line.server, &self.line.client, to, patience, &Stop::default()).is_ok()
    }

    /// The gateway's port that the server takes for the client.
    fn mapped_port(&self) -> u16 {
        let at = self.server.endpoint_of(&self.keys[0].public()).unwrap();
        assert_eq!(at.ip(), Line::GATEWAY_OUTSIDE[0].ip);
        at.port()
    }

    fn received_bytes(&self) -> u64 {
        self.server.peer(&self.keys[0].public()).figure("rx_bytes")
    }

    fn keep_alive(&self, seconds: u16) {
        let server = peer_lines(&self.keys[1].public(), None, &[]);
        self.client.set(&format!("{server}persistent_keepalive_interval={seconds}\n"));
    }

    /// Waits, without a packet of ours, as long as the gateway takes to forget.
    fn idle(&self) {
        let begin = Instant::now();
        let has_mapping = || {
            let path = "/proc/thread-self/net/nf_conntrack";
            let table = self.line.gateway.run(|| fs::read_to_string(path)).unwrap();
            // Without the table, twice the time it takes.
            table.map_or(begin.elapsed() < Duration::from_secs(4), |table| {
                table.contains("src=198.51.100.1 ")
            })
        };
        wait_until("forgotten by the gateway", || !has_mapping());
    }
}

fn nat() -> Option<String> {
    if find_program("nft").is_none() {
        return Some("there is no nft here (apt install nftables)".to_owned());
    }
    let nat = Nat::new();
    assert!(nat.client_reaches_server());
    assert!((40_000..40_100).contains(&nat.mapped_port()));
    assert!(nat.server_reaches_client(PATIENCE), "while the mapping is there");
    nat.idle();
    assert!(!nat.server_reaches_client(SILENCE), "the gateway should have forgotten the client");
    // With keepalives the same idleness does no harm.
    nat.keep_alive(1);
    let before = nat.received_bytes();
    wait_until("heard again", || nat.received_bytes() > before);
    assert!(nat.server_reaches_client(PATIENCE));
    let before = nat.received_bytes();
    // Four keepalives: twice the time that the gateway remembers.
    wait_until("kept alive", || nat.received_bytes() >= before + 4 * 32);
    assert!(nat.server_reaches_client(PATIENCE), "kept open");
    // The gateway loses its mappings and makes others; the next keepalive tells the server.
    nat.masquerade("41000-41099");
    nat.line.gateway.set_down("eth1").unwrap();
    nat.line.gateway.set_up("eth1").unwrap();
    nat.line.gateway.wait_running("eth1").unwrap();
    wait_until("followed", || (41_000..41_100).contains(&nat.mapped_port()));
    assert!(nat.server_reaches_client(PATIENCE), "followed to the new mapping");
    assert!(nat.client_reaches_server());
    let Nat { client, server, .. } = nat;
    client.stop();
    server.stop();
    None
}
