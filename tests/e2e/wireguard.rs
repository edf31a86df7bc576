//! WireGuard end to end: two ringtuns by configuration files, ringtun and wireguard-go, and the
//! tools that drive them.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::control::status::Status;
use ringtun::engine::AeadLibrary;
use ringtun::lab::traffic::{Stop, probe};
use ringtun::lab::{Address, Host, Pair, Process};
use ringtun::wire::wireguard::keys::{PresharedKey, PrivateKey};
use ringtun_tests::device::run;
use ringtun_tests::place::{binary, find_program};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{PATIENCE, Tunnel, assert_sizes_fit, difference};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for io in ["uring", "mmsg"] {
        let named = |name: &str| format!("wireguard::{io}::{name}");
        cases.push(Case::new(named("carries_both_families"), move || carries(io)));
        cases.push(Case::new(named("several_workers"), move || several_workers(io)));
        cases.push(Case::maybe(named("talks_to_wireguard_go"), move || wireguard_go(io)));
    }
    cases.push(Case::maybe("wireguard::ipsec_mb_talks_to_ring", ipsec_mb));
    cases.push(Case::new("wireguard::without_ipsec_mb_ring_does_the_work", no_ipsec_mb));
    cases.push(Case::new("wireguard::follows_a_roaming_peer", roams));
    cases.push(Case::new("wireguard::a_stranger_hears_nothing", stranger));
    cases.push(Case::new("wireguard::another_psk_passes_nothing", another_psk));
    cases.push(Case::new("wireguard::only_allowed_sources_pass", not_allowed));
    cases.push(Case::new("wireguard::a_restarted_end_comes_back", restart));
    cases.push(Case::new("wireguard::routes_and_rules_are_undone", default_route));
    cases.push(Case::maybe("wireguard::wg_sets_and_shows", wg));
    cases
}

/// What one end is made of; the other end's is its mirror image.
pub(crate) struct Ends {
    keys: [PrivateKey; 2],
    psks: [PresharedKey; 2],
}

const NAMES: [&str; 2] = ["wg-l", "wg-r"];

impl Ends {
    fn new() -> Self {
        let psk = PresharedKey::generate().unwrap();
        let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
        Self { keys, psks: [psk.clone(), psk] }
    }

    fn config(&self, n: usize, allowed: &str) -> String {
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = {}/24, fd09::{}/64\nListenPort = 51820\n\
             [Peer]\nPublicKey = {}\nPresharedKey = {}\nEndpoint = 192.0.2.{}:51820\n\
             AllowedIPs = {allowed}\n",
            self.keys[n].to_base64().as_str(),
            inner(n),
            n + 1,
            self.keys[1 - n].public(),
            self.psks[n].to_base64().as_str(),
            2 - n,
        )
    }

    fn write(&self, n: usize, allowed: &str) -> String {
        let path = format!("/run/{}.conf", NAMES[n]);
        fs::write(&path, self.config(n, allowed)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Starts end `n` and waits until it answers.
    fn start(&self, host: &Host, n: usize, words: &[&str]) -> Process {
        let path = self.write(n, &allowed(1 - n));
        start(host, n, &path, words)
    }
}

pub(crate) fn start(host: &Host, n: usize, config: &str, words: &[&str]) -> Process {
    let mut command = Command::new(binary());
    command.args(["up", NAMES[n], "--config", config]).args(words).env("NO_COLOR", "1");
    let mut process = host.spawn(command).unwrap();
    let begin = Instant::now();
    while status(n).is_none_or(|status| status.listen.is_empty()) {
        assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
        assert!(begin.elapsed() < PATIENCE, "does not come up: {}", process.stderr());
        thread::sleep(Duration::from_millis(20));
    }
    process
}

pub(crate) fn status(n: usize) -> Option<Status> {
    let path = format!("/run/ringtun/{}.sock", NAMES[n]);
    ringtun::control::socket::query(Path::new(&path)).ok()
}

pub(crate) fn inner(n: usize) -> IpAddr {
    IpAddr::from([10, 9, 0, u8::try_from(n + 1).unwrap()])
}

fn allowed(n: usize) -> String {
    format!("{}/32, fd09::{}/128", inner(n), n + 1)
}

pub(crate) fn reaches(pair: &Pair, from: usize, to: IpAddr, patience: Duration) -> bool {
    let (here, there) =
        if from == 0 { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
    probe(here, there, SocketAddr::new(to, 0), patience, &Stop::default()).is_ok()
}

pub(crate) fn stop(mut process: Process) {
    let status = process.terminate(PATIENCE).unwrap();
    assert!(status.success(), "{status}: {}", process.stderr());
}

pub(crate) fn both(io: &str, more: &[&str]) -> (Pair, Ends, [Process; 2]) {
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let words: Vec<&str> = ["--io", io].iter().chain(more).copied().collect();
    let left = ends.start(&pair.left, 0, &words);
    let right = ends.start(&pair.right, 1, &words);
    (pair, ends, [left, right])
}

fn carries(io: &str) {
    let (pair, _, processes) = both(io, &["--workers", "1"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    assert!(reaches(&pair, 1, inner(0), PATIENCE));
    assert!(reaches(&pair, 0, "fd09::2".parse().unwrap(), PATIENCE));
    for to in [inner(1), "fd09::2".parse().unwrap()] {
        let hosts = (&pair.left, &pair.right);
        Tunnel::tcp_between(hosts, SocketAddr::new(to, 0), 2, 20 << 20);
    }
    let status = status(0).unwrap();
    assert_eq!(status.encap, "wireguard");
    let nothing = Status::default();
    assert_sizes_fit(&difference(&nothing, &status, |worker| &worker.outbound));
    assert_sizes_fit(&difference(&nothing, &status, |worker| &worker.inbound));
    let peer = &status.peers[0];
    assert!(peer.last_handshake_s.is_some() && peer.sent_bytes > 80 << 20, "{peer:?}");
    processes.into_iter().for_each(stop);
}

/// Each kind of AEAD opens what the other seals, both ways.
fn ipsec_mb() -> Option<String> {
    if let Err(error) = AeadLibrary::ipsec_mb() {
        return Some(format!("{error} (apt install libipsec-mb1)"));
    }
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let left = ends.start(&pair.left, 0, &["--aead", "ipsec-mb"]);
    let right = ends.start(&pair.right, 1, &["--aead", "ring"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    Tunnel::tcp_between((&pair.left, &pair.right), SocketAddr::new(inner(1), 0), 2, 20 << 20);
    Tunnel::tcp_between((&pair.right, &pair.left), SocketAddr::new(inner(0), 0), 2, 20 << 20);
    let [here, there] = [0, 1].map(|n| status(n).unwrap());
    let name = |status: &Status| status.aead.clone().unwrap().name;
    assert!(name(&here).starts_with("ipsec-mb 1."), "{:?}", here.aead);
    assert_eq!(name(&there), "ring");
    for status in [here, there] {
        assert!(status.peers[0].received_bytes > 40 << 20, "{status:?}");
        let refused = |reason: &str| status.workers.iter().any(|w| w.drops.contains_key(reason));
        assert!(!refused("not_authentic") && !refused("replayed"), "{status:?}");
    }
    [left, right].into_iter().for_each(stop);
    None
}

/// A library that cannot be loaded: by name it is refused, otherwise ring does the work.
fn no_ipsec_mb() {
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let config = ends.write(0, &allowed(1));
    let folder = "/run/no-ipsec-mb";
    fs::create_dir_all(folder).unwrap();
    fs::write(format!("{folder}/libIPSec_MB.so.1"), "no library").unwrap();
    let spawn = |aead: &str| {
        let mut command = Command::new(binary());
        command.args(["up", NAMES[0], "--config", &config, "--aead", aead]);
        command.env("NO_COLOR", "1").env("LD_LIBRARY_PATH", folder);
        pair.left.spawn(command)
    };
    let mut refused = spawn("ipsec-mb").unwrap();
    let code = refused.wait_timeout(PATIENCE).unwrap().unwrap().code();
    let said = refused.stderr();
    assert!(code == Some(4) && said.contains("--aead ipsec-mb cannot be had"), "{said}");
    assert!(said.contains("libipsec-mb1") && status(0).is_none(), "{said}");
    let mut runs = spawn("auto").unwrap();
    let begin = Instant::now();
    while status(0).is_none() {
        assert!(runs.ended().unwrap().is_none(), "{}", runs.stderr());
        assert!(begin.elapsed() < PATIENCE, "does not come up: {}", runs.stderr());
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(status(0).unwrap().aead.unwrap().name, "ring");
    stop(runs);
}

fn several_workers(io: &str) {
    let (pair, _, processes) = both(io, &["--workers", "2"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    let hosts = (&pair.left, &pair.right);
    Tunnel::tcp_between(hosts, SocketAddr::new(inner(1), 0), 4, 10 << 20);
    processes.into_iter().for_each(stop);
}

/// The peer answers from another address: whoever sent to the old one follows.
fn roams() {
    let (pair, _, processes) = both("auto", &["--workers", "1"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    let address = Address { ip: "192.0.2.77".parse().unwrap(), prefix_len: 24 };
    pair.right.add_address(Pair::INTERFACE, address).unwrap();
    let moved = "192.0.2.77:51820";
    // The right host speaks from its new address when the old one is not its own any more.
    let ip = |words: &[&str]| {
        let mut command = Command::new("ip");
        command.args(words);
        let mut process = pair.right.spawn(command).unwrap();
        assert!(process.wait_timeout(PATIENCE).unwrap().unwrap().success());
    };
    ip(&["address", "delete", "192.0.2.2/24", "dev", Pair::INTERFACE]);
    ip(&["address", "replace", "192.0.2.77/24", "dev", Pair::INTERFACE]);
    assert!(reaches(&pair, 1, inner(0), PATIENCE));
    assert_eq!(status(0).unwrap().peers[0].endpoint.as_deref(), Some(moved));
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    processes.into_iter().for_each(stop);
}

/// Garbage, and messages that look like WireGuard's, from somebody without any key.
fn stranger() {
    let (pair, _, processes) = both("auto", &["--workers", "1"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    let heard = pair.right.run(|| {
        let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut byte = 1u8;
        for round in 0..2_000usize {
            let len = [0, 1, 3, 4, 15, 16, 31, 32, 64, 92, 148, 149, 1400][round % 13];
            let mut datagram: Vec<u8> = (0..len)
                .map(|_| {
                    byte = byte.wrapping_mul(197).wrapping_add(113);
                    byte
                })
                .collect();
            let kind = [u8::try_from(round % 5).unwrap(), 0, 0, 0];
            datagram.iter_mut().zip(kind).for_each(|(place, byte)| *place = byte);
            let _ = socket.send_to(&datagram, "192.0.2.1:51820");
        }
        socket.recv_from(&mut [0; 2048]).is_ok()
    });
    assert!(!heard.unwrap(), "an answer to a stranger");
    let status = status(0).unwrap();
    let dropped = |reason: &str| -> u64 {
        status.workers.iter().filter_map(|worker| worker.drops.get(reason)).sum()
    };
    for reason in ["bad_message", "bad_mac", "unknown_session"] {
        assert!(dropped(reason) > 0, "{reason}: {:?}", status.workers);
    }
    assert!(reaches(&pair, 0, inner(1), PATIENCE), "and the tunnel goes on");
    processes.into_iter().for_each(stop);
}

fn another_psk() {
    let (pair, mut ends) = (Pair::new().unwrap(), Ends::new());
    ends.psks[1] = PresharedKey::generate().unwrap();
    let left = ends.start(&pair.left, 0, &[]);
    let right = ends.start(&pair.right, 1, &[]);
    assert!(!reaches(&pair, 0, inner(1), Duration::from_secs(2)));
    assert_eq!(status(0).unwrap().peers[0].last_handshake_s, None);
    stop(left);
    stop(right);
}

/// The right end does not expect the left one's address: what comes is dropped, and counted.
fn not_allowed() {
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let left = ends.start(&pair.left, 0, &[]);
    let right = start(&pair.right, 1, &ends.write(1, "10.9.0.99/32"), &[]);
    assert!(!reaches(&pair, 0, inner(1), Duration::from_secs(2)));
    let status = status(1).unwrap();
    let dropped: u64 =
        status.workers.iter().filter_map(|worker| worker.drops.get("source_not_allowed")).sum();
    assert!(dropped > 0, "{:?}", status.workers);
    stop(left);
    stop(right);
}

fn restart() {
    let (pair, ends, [left, mut right]) = both("auto", &[]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    right.signal(libc::SIGKILL).unwrap();
    right.wait_timeout(PATIENCE).unwrap().unwrap();
    let right = ends.start(&pair.right, 1, &[]);
    // The new process starts the handshake: the old one's session is of no use to it.
    assert!(reaches(&pair, 1, inner(0), PATIENCE));
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    stop(left);
    stop(right);
}

fn default_route() {
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let dump = || {
        let lines = ["rule", "-6 rule", "route show table 51820", "-6 route show table 51820"];
        lines.map(|words| {
            let mut command = Command::new("ip");
            command.args(words.split(' '));
            let mut process = pair.left.spawn(command).unwrap();
            process.wait_timeout(PATIENCE).unwrap();
            process.stdout()
        })
    };
    let before = dump();
    let left = start(&pair.left, 0, &ends.write(0, "0.0.0.0/0, ::/0"), &[]);
    let right = ends.start(&pair.right, 1, &[]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    let during = dump();
    assert!(during[0].contains("51820") && during[0].contains("suppress_prefixlength"));
    assert!(during[2].contains("default dev wg-l"), "{during:?}");
    stop(left);
    assert_eq!(dump(), before);
    stop(right);
}

/// The file as `wg setconf` takes it: without what only wg-quick knows.
fn stripped(config: &str) -> String {
    let path = format!("{config}.strip");
    let text = fs::read_to_string(config).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("Address")).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn wireguard_go(io: &str) -> Option<String> {
    if find_program("wireguard-go").is_none() || find_program("wg").is_none() {
        return Some(
            "no wireguard-go or wg here (apt install wireguard-go wireguard-tools)".into(),
        );
    }
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let left = ends.start(&pair.left, 0, &["--io", io]);
    let mut command = Command::new("wireguard-go");
    command.args(["-f", NAMES[1]]);
    let mut right = pair.right.spawn(command).unwrap();
    let socket = format!("/var/run/wireguard/{}.sock", NAMES[1]);
    let begin = Instant::now();
    while !Path::new(&socket).exists() {
        assert!(begin.elapsed() < PATIENCE, "{}", right.stderr());
        thread::sleep(Duration::from_millis(20));
    }
    let config = stripped(&ends.write(1, &allowed(0)));
    run(&pair.right, "wg", &["setconf", NAMES[1], &config]);
    pair.right.add_address(NAMES[1], Address { ip: inner(1), prefix_len: 24 }).unwrap();
    pair.right
        .add_address(NAMES[1], Address { ip: "fd09::2".parse().unwrap(), prefix_len: 64 })
        .unwrap();
    pair.right.set_up(NAMES[1]).unwrap();
    assert!(reaches(&pair, 1, inner(0), PATIENCE), "a handshake from wireguard-go");
    assert!(reaches(&pair, 0, "fd09::2".parse().unwrap(), PATIENCE));
    let hosts = (&pair.left, &pair.right);
    Tunnel::tcp_between(hosts, SocketAddr::new(inner(1), 0), 2, 10 << 20);
    // And one from us: wireguard-go forgets its sessions with its link.
    pair.right.set_down(NAMES[1]).unwrap();
    pair.right.set_up(NAMES[1]).unwrap();
    stop(left);
    let left = ends.start(&pair.left, 0, &["--io", io]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE), "a handshake from us");
    stop(left);
    right.signal(libc::SIGKILL).unwrap();
    right.wait_timeout(PATIENCE).unwrap();
    None
}

/// `ringtun wg-l` in the form of wireguard-go, configured by the real tools.
fn wg() -> Option<String> {
    if find_program("wg").is_none() {
        return Some("no wg here (apt install wireguard-tools)".into());
    }
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let program = binary();
    let program = program.to_str().unwrap();
    // Daemonises: returns when the device can be configured.
    run(&pair.left, program, &[NAMES[0]]);
    let right = ends.start(&pair.right, 1, &[]);
    let config = stripped(&ends.write(0, &allowed(1)));
    run(&pair.left, "wg", &["setconf", NAMES[0], &config]);
    pair.left.add_address(NAMES[0], Address { ip: inner(0), prefix_len: 24 }).unwrap();
    pair.left.set_up(NAMES[0]).unwrap();
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    let key = ends.keys[1].public().to_string();
    let shown = run(&pair.left, "wg", &["show", NAMES[0]]);
    assert!(shown.contains(&key) && shown.contains("latest handshake"), "{shown}");
    let dump = run(&pair.left, "wg", &["showconf", NAMES[0]]);
    assert!(dump.contains(ends.keys[0].to_base64().as_str()), "showconf");
    // Another peer changes nothing for this one.
    let other = PrivateKey::generate().unwrap().public().to_string();
    run(&pair.left, "wg", &["set", NAMES[0], "peer", &other, "allowed-ips", "10.55.0.0/16"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    run(&pair.left, "wg", &["set", NAMES[0], "listen-port", "51999"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE), "from another port");
    assert_eq!(run(&pair.left, "wg", &["show", NAMES[0], "listen-port"]).trim(), "51999");
    run(&pair.left, "wg", &["syncconf", NAMES[0], &config]);
    assert!(!run(&pair.left, "wg", &["show", NAMES[0], "peers"]).contains(&other));
    run(&pair.left, "wg", &["set", NAMES[0], "peer", &key, "remove"]);
    assert!(!reaches(&pair, 0, inner(1), Duration::from_secs(1)));
    // The daemon goes with its device.
    pair.left.delete_link(NAMES[0]).unwrap();
    let begin = Instant::now();
    while Path::new("/var/run/wireguard/wg-l.sock").exists() {
        assert!(begin.elapsed() < PATIENCE, "the daemon stays");
        thread::sleep(Duration::from_millis(20));
    }
    stop(right);
    None
}
