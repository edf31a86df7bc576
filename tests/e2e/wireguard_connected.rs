//! Endpoints in use get a connected socket, and that changes nothing but the time it takes: the
//! peer may move, go away and come back, and so may our own address. With several workers the one
//! that hears the peer may not be the one that sends; so there is one.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use ringtun::lab::traffic::{RoundTrips, Stop, round_trips};
use ringtun::lab::{Address, Pair};
use ringtun_tests::device::{Link, ONE_WORKER, endpoint, inner, run, wait_until};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, PORT};

use crate::wireguard_net::with_family;

pub(crate) fn cases() -> Vec<Case> {
    let cases = [Family::V4, Family::V6].map(|outer| {
        let named = |name: &str| format!("wireguard::{name}_{}", outer.name());
        [
            with_family(named("an_endpoint_in_use_gets_its_socket"), outer, move || moves(outer)),
            with_family(named("a_peer_that_is_away_is_found_again"), outer, move || away(outer)),
            with_family(named("our_own_address_changes_in_use"), outer, move || renumbered(outer)),
        ]
    });
    cases.into_iter().flatten().collect()
}

/// Packets one by one, each answered: more than it takes until a socket is connected.
fn talk(link: &Link) {
    let plan = RoundTrips {
        duration: Duration::from_millis(200),
        interval: Duration::from_millis(2),
        ..RoundTrips::default()
    };
    let to = SocketAddr::new(inner(1, Family::V4), 0);
    let (left, right) = (&link.pair.left, &link.pair.right);
    let report = round_trips(left, right, to, &plan, &Stop::default()).unwrap();
    assert_eq!(report.lost, 0, "{report:?}");
}

/// Ports that connected UDP sockets of host `n` lead to.
fn connected_to(link: &Link, n: usize, outer: Family) -> Vec<u16> {
    let table = match outer {
        Family::V4 => "/proc/thread-self/net/udp",
        Family::V6 => "/proc/thread-self/net/udp6",
    };
    let table = link.host(n).run(|| fs::read_to_string(table)).unwrap().unwrap();
    let own = format!(":{PORT:04X}");
    // sl, local_address, rem_address, st; 01 is TCP_ESTABLISHED.
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|words| words[1].ends_with(&own) && words[3] == "01")
        .map(|words| u16::from_str_radix(words[2].rsplit_once(':').unwrap().1, 16).unwrap())
        .collect()
}

/// Talks until host `n` has a socket for `port`: at once, unless others keep the machine busy, so
/// that packets do not come singly.
fn comes_to_connect(link: &Link, n: usize, outer: Family, port: u16) {
    wait_until("a connected socket", || {
        talk(link);
        connected_to(link, n, outer) == [port]
    });
}

fn moves(outer: Family) {
    let link = Link::of([ONE_WORKER; 2], outer, "");
    link.assert_passes(0);
    assert!(connected_to(&link, 0, outer).is_empty(), "a few packets are not worth it");
    comes_to_connect(&link, 0, outer, PORT);
    comes_to_connect(&link, 1, outer, PORT);
    // Right speaks from elsewhere; what left has for the place of before must not be used.
    link.devices[1].set("listen_port=51999\n");
    link.assert_passes(1);
    link.assert_passes(0);
    assert_eq!(link.sees_other_at(0).map(|at| at.port()), Some(51_999));
    comes_to_connect(&link, 0, outer, 51_999);
    link.devices[1].set(&format!("listen_port={PORT}\nfwmark=7\n"));
    link.assert_passes(1);
    comes_to_connect(&link, 0, outer, PORT);
    link.stop();
}

/// While nobody is there every packet is answered by an ICMP error, which a connected socket
/// reports: more of them than receives may fail in a row, and the next packet that can arrive does.
fn away(outer: Family) {
    let link = Link::of([ONE_WORKER; 2], outer, "");
    talk(&link);
    run(link.host(1), "ip", &["link", "set", &link.devices[1].name, "down"]);
    let plan = RoundTrips {
        duration: Duration::from_millis(3_000),
        interval: Duration::from_millis(2),
        ..RoundTrips::default()
    };
    let to = SocketAddr::new(inner(1, Family::V4), 9);
    link.pair.left.set_sysctl("net.ipv4.icmp_ratelimit", "0").unwrap();
    for limit in ["net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"] {
        // Without IPv6 there is none.
        let _ = link.pair.right.set_sysctl(limit, "0");
    }
    let (left, right) = (&link.pair.left, &link.pair.right);
    let lost = thread::scope(|scope| {
        // Its echo is on the address of a device that is down: nothing gets there.
        let traffic = scope.spawn(|| round_trips(left, right, to, &plan, &Stop::default()));
        traffic.join().unwrap().unwrap().lost
    });
    assert!(lost > 1_100, "{lost}");
    run(link.host(1), "ip", &["link", "set", &link.devices[1].name, "up"]);
    wait_until("found again", || link.reaches(1, Family::V4, Duration::from_millis(500)));
    talk(&link);
    link.assert_passes(0);
    link.stop();
}

/// The address that left speaks from is taken away while it speaks.
fn renumbered(outer: Family) {
    let link = Link::of([ONE_WORKER; 2], outer, "");
    let old = endpoint(0, outer).ip();
    let new: Address = match outer {
        Family::V4 => "192.0.2.44/24",
        Family::V6 => "fd00:2::44/64",
    }
    .parse()
    .unwrap();
    comes_to_connect(&link, 0, outer, PORT);
    link.pair.left.add_address(Pair::INTERFACE, new).unwrap();
    let bits = if outer == Family::V4 { 24 } else { 64 };
    let old = format!("{old}/{bits}");
    // The kernel would take the second address of a network along with the first.
    let _ = link.pair.left.set_sysctl("net.ipv4.conf.all.promote_secondaries", "1");
    run(&link.pair.left, "ip", &["address", "delete", &old, "dev", Pair::INTERFACE]);
    wait_until("speaking from the other address", || {
        link.reaches(0, Family::V4, Duration::from_millis(500))
            && link.sees_other_at(1).map(|at| at.ip()) == Some(new.ip)
    });
    comes_to_connect(&link, 0, outer, PORT);
    assert_eq!(link.sees_other_at(1), Some(SocketAddr::new(new.ip, PORT)));
    link.stop();
}
