//! 10,000 peers with 100,000 allowed IPs by the real `wg`, and one that carries traffic among
//! them. Bounds are there against hangs only; figures belong to benchmarks.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::lab::traffic::{Stop, probe};
use ringtun::lab::{Address, Host, Pair, Process};
use ringtun::wire::wireguard::keys::{PrivateKey, PublicKey};
use ringtun_tests::place::{binary, find_program};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::PATIENCE;

const PEERS: u32 = 10_000;
const NAMES: [&str; 2] = ["many-l", "many-r"];
/// A debug build on a busy machine; a release build takes a fraction of a second.
const HANG: Duration = Duration::from_secs(60);

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::maybe("many_peers::by_wg", by_wg)]
}

fn run(host: &Host, program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(words);
    let mut process = host.spawn(command).unwrap();
    let status = process.wait_timeout(HANG).unwrap().expect("it hangs");
    assert!(status.success(), "{program} {words:?}: {}", process.stderr());
    process.stdout()
}

fn start(host: &Host, name: &str) -> Process {
    let mut command = Command::new(binary());
    command.args(["-f", name]).env("NO_COLOR", "1");
    let mut process = host.spawn(command).unwrap();
    let socket = format!("/var/run/wireguard/{name}.sock");
    let begin = Instant::now();
    while !Path::new(&socket).exists() {
        assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
        assert!(begin.elapsed() < PATIENCE, "{}", process.stderr());
        thread::sleep(Duration::from_millis(20));
    }
    process
}

fn key_of(peer: u32) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&peer.to_le_bytes());
    PublicKey::from_bytes(bytes)
}

/// All the strangers and, in the middle of them, the one who is there.
fn config(key: &PrivateKey, real: &PublicKey) -> String {
    let mut text =
        format!("[Interface]\nPrivateKey = {}\nListenPort = 51820\n", key.to_base64().as_str());
    for peer in 0..PEERS {
        if peer == PEERS / 2 {
            let _ = writeln!(
                text,
                "[Peer]\nPublicKey = {real}\nEndpoint = 192.0.2.2:51820\nAllowedIPs = 10.9.0.2/32"
            );
        }
        let _ = write!(text, "[Peer]\nPublicKey = {}\nAllowedIPs = ", key_of(peer));
        for n in peer * 10..peer * 10 + 10 {
            let [_, a, b, c] = n.to_be_bytes();
            let comma = if n % 10 == 0 { "" } else { ", " };
            let _ = if n % 2 == 0 {
                write!(text, "{comma}{}.{b}.{c}.0/24", 20 + a)
            } else {
                write!(text, "{comma}fd00:{a:x}:{:x}::/48", n & 0xffff)
            };
        }
        text.push('\n');
    }
    text
}

fn by_wg() -> Option<String> {
    if find_program("wg").is_none() {
        return Some("no wg here (apt install wireguard-tools)".into());
    }
    let pair = Pair::new().unwrap();
    let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
    let [mut left, mut right] = [start(&pair.left, NAMES[0]), start(&pair.right, NAMES[1])];
    fs::write("/run/many.conf", config(&keys[0], &keys[1].public())).unwrap();
    run(&pair.left, "wg", &["setconf", NAMES[0], "/run/many.conf"]);
    let private = keys[1].to_base64();
    let one = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51820\n[Peer]\nPublicKey = {}\n\
         AllowedIPs = 10.9.0.1/32\n",
        private.as_str(),
        keys[0].public()
    );
    fs::write("/run/one.conf", one).unwrap();
    run(&pair.right, "wg", &["setconf", NAMES[1], "/run/one.conf"]);
    for (n, host) in [&pair.left, &pair.right].into_iter().enumerate() {
        let ip = IpAddr::from([10, 9, 0, u8::try_from(n + 1).unwrap()]);
        host.add_address(NAMES[n], Address { ip, prefix_len: 24 }).unwrap();
        host.set_up(NAMES[n]).unwrap();
    }
    let reaches = || {
        let to = SocketAddr::from(([10, 9, 0, 2], 0));
        probe(&pair.left, &pair.right, to, PATIENCE, &Stop::default()).is_ok()
    };
    assert!(reaches());
    let show = run(&pair.left, "wg", &["show", NAMES[0], "allowed-ips"]);
    assert_eq!(show.lines().count(), PEERS as usize + 1);
    assert_eq!(show.split_whitespace().count(), PEERS as usize * 11 + 2, "keys and prefixes");
    // One among all: changed, given another's prefix, removed.
    let (some, other) = (key_of(77).to_string(), key_of(78).to_string());
    let set = |words: &[&str]| {
        run(&pair.left, "wg", &[&["set", NAMES[0], "peer"], words].concat());
    };
    set(&[&some, "endpoint", "192.0.2.99:1", "persistent-keepalive", "25"]);
    set(&[&some, "allowed-ips", "10.9.0.2/32"]);
    let to = SocketAddr::from(([10, 9, 0, 2], 0));
    let wait = Duration::from_millis(500);
    assert!(probe(&pair.left, &pair.right, to, wait, &Stop::default()).is_err(), "another's");
    let real = keys[1].public().to_string();
    set(&[&real, "allowed-ips", "10.9.0.2/32"]);
    set(&[&other, "remove"]);
    assert!(reaches());
    let show = run(&pair.left, "wg", &["show", NAMES[0], "peers"]);
    assert!(show.contains(&some) && !show.contains(&other));
    run(&pair.left, "wg", &["syncconf", NAMES[0], "/run/many.conf"]);
    assert!(reaches());
    assert!(run(&pair.left, "wg", &["show", NAMES[0], "peers"]).contains(&other));
    for process in [&mut left, &mut right] {
        let status = process.terminate(HANG).unwrap();
        assert!(status.success(), "{}", process.stderr());
    }
    None
}
