//! Several peers and several workers: the receiver index of what a peer sends says which of them it
//! is for, so each worker has its share of the peers, whatever their addresses hash to.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use ringtun::lab::traffic::{RoundTrips, Stop, UdpSequences, probe, round_trips, udp_sequences};
use ringtun::lab::{Address, Pair};
use ringtun::wire::wireguard::keys::PrivateKey;
use ringtun_tests::device::{Device, ONE_WORKER, peer_lines};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::PATIENCE;

use crate::wireguard::{both, inner, reaches, start, status, stop};

const PEERS: u8 = 4;

pub(crate) fn cases() -> Vec<Case> {
    let case = |io| {
        let name = format!("wireguard::{io}::each_worker_has_its_share_of_the_peers");
        Case::new(name, move || shares(io))
    };
    let singly = |io| {
        let name = format!("wireguard::{io}::what_comes_singly_comes_to_who_sends");
        Case::new(name, move || together(io))
    };
    ["uring", "mmsg"].into_iter().flat_map(|io| [case(io), singly(io)]).collect()
}

/// The address of a peer, and that of the gateway for it.
fn addresses(peer: u8) -> [IpAddr; 2] {
    [[10, 20, peer, 1], [10, 20, peer, 100]].map(IpAddr::from)
}

/// Packets that each worker of the gateway has received, by peers.
fn received() -> Vec<u64> {
    status(1).unwrap().workers.iter().map(|worker| worker.inbound.packets).collect()
}

fn shares(io: &str) {
    let pair = Pair::new().unwrap();
    let gateway = PrivateKey::generate().unwrap();
    let keys: Vec<_> = (0..PEERS).map(|_| PrivateKey::generate().unwrap()).collect();
    let mut config =
        format!("[Interface]\nPrivateKey = {}\nListenPort = 51820\n", gateway.to_base64().as_str());
    for peer in 0..PEERS {
        writeln!(config, "Address = {}/24", addresses(peer)[1]).unwrap();
    }
    for (peer, key) in (0..PEERS).zip(&keys) {
        let [address, _] = addresses(peer);
        write!(config, "[Peer]\nPublicKey = {}\nAllowedIPs = {address}/32\n", key.public())
            .unwrap();
    }
    let path = "/run/wg-r.conf";
    fs::write(path, config).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let process = start(&pair.right, 1, path, &["--io", io, "--workers", "2"]);
    assert_eq!(status(1).unwrap().peer_steering, "receiver index");

    let endpoint: SocketAddr = "192.0.2.2:51820".parse().unwrap();
    let devices: Vec<_> = (0..PEERS)
        .zip(&keys)
        .map(|(peer, key)| {
            let device = Device::start(&pair.left, ONE_WORKER, &format!("wg-l{peer}"));
            let [ip, there] = addresses(peer);
            let peer = peer_lines(&gateway.public(), Some(endpoint), &[&format!("{there}/32")]);
            device.set(&format!("private_key={}\n{peer}", key.to_hex().as_str()));
            pair.left.add_address(&device.name, Address { ip, prefix_len: 24 }).unwrap();
            pair.left.set_up(&device.name).unwrap();
            device
        })
        .collect();
    let mut workers = Vec::new();
    for peer in 0..PEERS {
        let to = SocketAddr::new(addresses(peer)[1], 0);
        probe(&pair.left, &pair.right, to, PATIENCE, &Stop::default()).unwrap();
        let before = received();
        // Nothing goes back: a worker that answers a quiet peer would be who hears it.
        let plan = UdpSequences {
            duration: Duration::from_millis(300),
            packets_per_second: Some(2_000.0),
            ..UdpSequences::default()
        };
        let report = udp_sequences(&pair.left, &pair.right, to, &plan, &Stop::default()).unwrap();
        let count = report.total().received;
        let rise: Vec<u64> = received().iter().zip(before).map(|(now, then)| now - then).collect();
        // Of other peers there may be a late packet or two of the kernel's own.
        let worker = rise.iter().position(|&rise| rise >= count);
        workers
            .push(worker.unwrap_or_else(|| panic!("peer {peer} is at several workers: {rise:?}")));
    }
    workers.sort_unstable();
    assert_eq!(workers, [0, 0, 1, 1]);
    devices.into_iter().for_each(Device::stop);
    stop(process);
}

/// While packets come singly, what a peer sends comes to the worker that sends to it, whichever the
/// index names: to one worker after the other, as flows come by.
fn together(io: &str) {
    let (pair, _, processes) = both(io, &["--workers", "2"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    let to = SocketAddr::new(inner(1), 0);
    let plan = RoundTrips { duration: Duration::from_millis(400), ..RoundTrips::default() };
    let figures = |end: usize| {
        let workers = status(end).unwrap().workers;
        workers.iter().map(|it| [it.outbound.packets, it.inbound.packets]).collect::<Vec<_>>()
    };
    let mut seen = [[false; 2]; 2];
    let until = Instant::now() + PATIENCE;
    while seen != [[true; 2]; 2] {
        assert!(Instant::now() < until, "{seen:?}: {:?} {:?}", figures(0), figures(1));
        // Of other ports, so perhaps by another worker than before, which is asked to give up.
        let before = [figures(0), figures(1)];
        let report = round_trips(&pair.left, &pair.right, to, &plan, &Stop::default()).unwrap();
        for end in 0..2 {
            let rise = figures(end).into_iter().zip(&before[end]);
            for (worker, ([sent, heard], then)) in rise.enumerate() {
                let both = (sent - then[0]).min(heard - then[1]);
                seen[end][worker] |= both >= report.received * 3 / 4;
            }
        }
    }
    processes.into_iter().for_each(stop);
}
