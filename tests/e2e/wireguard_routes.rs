//! WireGuard and the routes around it: everything through the tunnel, a tunnel in a tunnel, a route
//! that leads the tunnel into itself, a device that lives in another namespace than its sockets.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::control::socket::query;
use ringtun::lab::traffic::{Stop, UdpSequences, probe, udp_sequences};
use ringtun::lab::{Address, Host, InterfaceStatistics, Line, has_ipv6};
use ringtun::wire::wireguard::keys::PrivateKey;
use ringtun_tests::device::{
    Device, Link, NAMES, endpoint, host_bits, inner, peer_lines, run, wait_until,
};
use ringtun_tests::place::binary;
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, PATIENCE, PORT, Tunnel, dropped};

use crate::wireguard_net::with_family;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        with_family("wireguard::everything_by_a_default_route", Family::V6, default_route),
        Case::new("wireguard::lives_in_another_namespace", another_namespace),
    ];
    for outer in [Family::V4, Family::V6] {
        let named = |name: &str| format!("wireguard::{name}_{}", outer.name());
        cases.push(with_family(named("a_tunnel_in_a_tunnel"), outer, move || nested(outer)));
        cases.push(with_family(named("a_routing_loop_ends"), outer, move || routing_loop(outer)));
    }
    cases
}

/// Two more devices on the same hosts, whose endpoints are the first ones' inner addresses.
fn nested(outer: Family) {
    let link = Link::new(outer);
    let names = ["wg-l-in", "wg-r-in"];
    let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
    let address =
        |n: usize| Address { ip: [10, 10, 0, u8::try_from(n).unwrap()].into(), prefix_len: 24 };
    let devices = [0, 1].map(|n| {
        let device = Device::start(link.host(n), "ringtun", names[n]);
        let to = SocketAddr::new(inner(1 - n, outer), PORT + 1);
        let allowed = format!("{}/32", address(1 - n).ip);
        device.set(&format!(
            "private_key={}\nlisten_port={}\n{}",
            keys[n].to_hex().as_str(),
            PORT + 1,
            peer_lines(&keys[1 - n].public(), Some(to), &[&allowed])
        ));
        link.host(n).add_address(names[n], address(n)).unwrap();
        link.host(n).set_mtu(names[n], 1340).unwrap();
        link.host(n).set_up(names[n]).unwrap();
        device.wait_bound(link.host(n), PORT + 1);
        device
    });
    let before = link.devices[0].peer(&link.public(1)).figure("tx_bytes");
    for n in [0, 1] {
        let to = SocketAddr::new(address(1 - n).ip, 0);
        let hosts = (link.host(n), link.host(1 - n));
        probe(hosts.0, hosts.1, to, PATIENCE, &Stop::default()).unwrap();
        Tunnel::tcp_between(hosts, to, 1, 4 << 20);
        let plan = UdpSequences {
            payload_len: 1340 - 28,
            duration: Duration::from_millis(200),
            packets_per_second: Some(500.0),
            ..UdpSequences::default()
        };
        let report = udp_sequences(hosts.0, hosts.1, to, &plan, &Stop::default()).unwrap();
        assert!(report.is_perfect(), "{report:?}");
    }
    let inner_bytes = devices[0].peer(&keys[1].public()).figure("tx_bytes");
    let outer_bytes = link.devices[0].peer(&link.public(1)).figure("tx_bytes") - before;
    assert!(outer_bytes > inner_bytes, "went another way: {outer_bytes} of {inner_bytes}");
    devices.into_iter().for_each(Device::stop);
    link.stop();
}

fn statistics(host: &Host, interface: &str) -> InterfaceStatistics {
    let all = host.interfaces().unwrap();
    all.iter().find(|(name, _)| name == interface).unwrap().1
}

/// The route to the peer leads into the tunnel to that peer.
fn routing_loop(outer: Family) {
    let link = Link::new(outer);
    link.assert_passes(0);
    let at = format!("{}/{}", endpoint(1, outer).ip(), host_bits(outer));
    let left = &link.devices[0];
    // Said anew, it is no longer bound to the wire that the last packet came by.
    left.set(&peer_lines(&link.public(1), Some(endpoint(1, outer)), &[&at]));
    run(&link.pair.left, "ip", &["route", "add", &at, "dev", NAMES[0]]);
    let before = (statistics(&link.pair.left, NAMES[0]), left.status());
    let begin = Instant::now();
    // Full packets, which grow beyond the MTU when they come back.
    for family in [Family::V4, Family::V6] {
        let socket = link.pair.left.run(|| {
            let any = SocketAddr::new(inner(0, family), 0);
            std::net::UdpSocket::bind(any).unwrap()
        });
        for _ in 0..10 {
            let _ =
                socket.as_ref().unwrap().send_to(&[0; 1200], SocketAddr::new(inner(1, family), 9));
        }
    }
    thread::sleep(Duration::from_secs(1));
    let after = (statistics(&link.pair.left, NAMES[0]), left.status());
    let packets = after.0.transmit_packets - before.0.transmit_packets;
    let cpu_us =
        |status: &ringtun::control::status::Status| status.cpu.user_us + status.cpu.system_us;
    let used_us = cpu_us(&after.1) - cpu_us(&before.1);
    let wall_us = u64::try_from(begin.elapsed().as_micros()).unwrap();
    assert!(packets < 200, "{packets} packets went round, {used_us} of {wall_us} us of CPU");
    assert!(used_us < wall_us / 5, "{used_us} us of {wall_us} us");
    assert!(dropped(&after.1, "routing_loop") > 0, "{:?}", after.1.workers);
    run(&link.pair.left, "ip", &["route", "delete", &at, "dev", NAMES[0]]);
    link.assert_passes(0);
    link.assert_passes(1);
    link.stop();
}

/// `ringtun up` with 0.0.0.0/0 and ::/0 on a host whose way to the peer is its default route.
fn default_route() {
    let line = Line::new().unwrap();
    let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
    let server = Device::start(&line.server, "ringtun", NAMES[1]);
    server.set(&format!(
        "private_key={}\nlisten_port={PORT}\n{}",
        keys[1].to_hex().as_str(),
        peer_lines(&keys[0].public(), None, &["10.9.0.1/32", "fd09::1/128"])
    ));
    for (text, interface) in [
        ("10.9.0.2/24", NAMES[1]),
        ("fd09::2/64", NAMES[1]),
        // Beyond the tunnel: the gateway has no route to them.
        ("203.0.113.9/32", "lo"),
        ("2001:db8:9::9/128", "lo"),
    ] {
        line.server.add_address(interface, text.parse().unwrap()).unwrap();
    }
    server.bring_up(&line.server);
    let before = routing(&line.client);
    let path = format!("/run/{}.conf", NAMES[0]);
    let config = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.1/24, fd09::1/64\n[Peer]\nPublicKey = {}\n\
         Endpoint = {}:{PORT}\nAllowedIPs = 0.0.0.0/0, ::/0\n",
        keys[0].to_base64().as_str(),
        keys[1].public(),
        Line::SERVER[0].ip
    );
    fs::write(&path, config).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new(binary());
    command.args(["up", NAMES[0], "--config", &path]).env("NO_COLOR", "1");
    let mut client = line.client.spawn(command).unwrap();
    // Sockets choose their source address when they connect.
    let socket = format!("/run/ringtun/{}.sock", NAMES[0]);
    wait_until("configured", || query(Path::new(&socket)).is_ok());
    let wire_before = statistics(&line.client, "eth0");
    for text in ["203.0.113.9", "2001:db8:9::9"] {
        let to = SocketAddr::new(text.parse().unwrap(), 0);
        let reached = probe(&line.client, &line.server, to, PATIENCE, &Stop::default());
        assert!(reached.is_ok(), "{text}: {reached:?}: {}", client.stderr());
        Tunnel::tcp_between((&line.client, &line.server), to, 1, 8 << 20);
    }
    assert_ne!(routing(&line.client), before);
    // Everything went out once, in its envelope.
    let wire = statistics(&line.client, "eth0").transmit_bytes - wire_before.transmit_bytes;
    assert!(wire < 24 << 20, "{wire} bytes on the wire for 16 MiB");
    let received = server.peer(&keys[0].public()).figure("rx_bytes");
    assert!(received > 16 << 20, "{received} bytes by the tunnel for 16 MiB");
    assert!(client.terminate(PATIENCE).unwrap().success(), "{}", client.stderr());
    assert_eq!(routing(&line.client), before);
    server.stop();
}

/// Rules and routes of all tables, and the filter setting that a default route changes.
fn routing(host: &Host) -> Vec<String> {
    let lines = ["-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all"];
    let mut dump: Vec<String> =
        lines.iter().map(|line| run(host, "ip", &line.split(' ').collect::<Vec<_>>())).collect();
    dump.push(host.sysctl("net.ipv4.conf.all.src_valid_mark").unwrap());
    dump
}

/// The device moves to a host that has nothing else; its sockets stay where it was made.
fn another_namespace() {
    let link = Link::new(Family::V4);
    link.assert_passes(0);
    let inside = Host::new("inside").unwrap();
    let left = &link.devices[0];
    link.pair.left.move_link(NAMES[0], &inside).unwrap();
    for (family, prefix_len) in [(Family::V4, 24), (Family::V6, 64)] {
        if family == Family::V4 || has_ipv6() {
            let address = Address { ip: inner(0, family), prefix_len };
            inside.add_address(NAMES[0], address).unwrap();
        }
    }
    inside.set_up(NAMES[0]).unwrap();
    assert_eq!(inside.interfaces().unwrap().len(), 2, "lo and the device");
    let pass = || {
        for (from, to, n) in [(&inside, &link.pair.right, 1), (&link.pair.right, &inside, 0)] {
            let to_address = SocketAddr::new(inner(n, Family::V4), 0);
            probe(from, to, to_address, PATIENCE, &Stop::default()).unwrap();
            Tunnel::tcp_between((from, to), to_address, 1, 4 << 20);
        }
    };
    pass();
    assert_eq!(link.sees_other_at(1), Some(endpoint(0, Family::V4)), "from where it was made");
    // It can still be configured, and calls again after it has forgotten its sessions.
    let key = left.get().lines().find(|line| line.starts_with("listen_port")).map(str::to_owned);
    assert_eq!(key.as_deref(), Some("listen_port=51820"));
    left.set("listen_port=51888\n");
    left.wait_bound(&link.pair.left, 51_888);
    pass();
    assert_eq!(link.sees_other_at(1), Some(SocketAddr::new(endpoint(0, Family::V4).ip(), 51_888)));
    // Deleted there, the process ends here.
    inside.delete_link(NAMES[0]).unwrap();
    wait_until("ended with its device", || {
        !Path::new(&format!("/var/run/wireguard/{}.sock", NAMES[0])).exists()
    });
    drop(link);
}
