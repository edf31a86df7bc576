//! What cannot work is refused with the documented exit code, a message that names the value and
//! the remedy, and nothing left behind.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use ringtun::lab::{Host, Pair, Process, has_ipv6};
use ringtun_tests::place::{binary, find_program};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Engine, Family, Io, PATIENCE, Side, arguments};

const USAGE: i32 = 2;
const NO_PERMISSION: i32 = 3;
const UNSUPPORTED: i32 = 4;
const CONFLICT: i32 = 5;

/// A name, the words after `ringtun`, the exit code, and what stderr must contain.
type Refusal = (&'static str, &'static str, i32, &'static [&'static str]);

const LEAST: &str = "--listen 51820 --peer 192.0.2.2:51820";

/// Refused for what is written; `{LEAST}` is replaced.
const WRITTEN: [Refusal; 17] = [
    ("no_encap", "up rt0 {LEAST}", USAGE, &["--encap plain"]),
    ("unknown_encap", "up rt0 {LEAST} --encap wireguard", USAGE, &["wireguard", "plain"]),
    (
        "name_too_long",
        "up tunnel-with-long-name {LEAST} --encap plain",
        USAGE,
        &["tunnel-with-long-name", "15 bytes"],
    ),
    ("name_is_a_file", "up rt0.toml {LEAST} --encap plain", USAGE, &["rt0.toml", "not supported"]),
    ("name_with_a_colon", "up a:b {LEAST} --encap plain", USAGE, &["a:b", "rt0"]),
    (
        "address_without_prefix",
        "up rt0 {LEAST} --encap plain --address 10.7.0.1",
        USAGE,
        &["10.7.0.1", "10.7.0.1/24"],
    ),
    (
        "address_that_is_none",
        "up rt0 {LEAST} --encap plain --address 10.7.0.300/24",
        USAGE,
        &["10.7.0.300"],
    ),
    (
        "address_twice",
        "up rt0 {LEAST} --encap plain --address 10.7.0.1/24 --address 10.7.0.1/32",
        USAGE,
        &["10.7.0.1", "twice"],
    ),
    ("no_peer", "up rt0 --listen 51820 --encap plain", USAGE, &["--peer"]),
    (
        "peer_without_port",
        "up rt0 --listen 1 --peer 192.0.2.2 --encap plain",
        USAGE,
        &["192.0.2.2", "port is missing"],
    ),
    (
        "peer_family_without_listen",
        "up rt0 --listen 0.0.0.0:51820 --peer [fd00:2::2]:51820 --encap plain",
        USAGE,
        &["[fd00:2::2]:51820", "IPv6", "--listen [::]:51820"],
    ),
    (
        "listen_is_the_peer",
        "up rt0 --listen 192.0.2.1:51820 --peer 192.0.2.1:51820 --encap plain",
        USAGE,
        &["192.0.2.1:51820", "other end"],
    ),
    ("mtu_too_small", "up rt0 {LEAST} --encap plain --mtu 575", USAGE, &["575", "576"]),
    ("mtu_too_large", "up rt0 {LEAST} --encap plain --mtu 65536", USAGE, &["65536", "65507"]),
    (
        "mtu_too_small_for_ipv6",
        "up rt0 {LEAST} --encap plain --mtu 1279 --address fd07::1/64",
        USAGE,
        &["1279", "1280", "fd07::1/64"],
    ),
    (
        "more_workers_than_cores",
        "up rt0 {LEAST} --encap plain --workers 200",
        USAGE,
        &["200", "auto"],
    ),
    ("unknown_backend", "up rt0 {LEAST} --encap plain --io epoll", USAGE, &["epoll", "mmsg"]),
];

/// Says why it was left out, if it was.
type Found = fn() -> Option<String>;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, words, code, says) in WRITTEN {
        let words = words.replace("{LEAST}", LEAST);
        let name = format!("errors::{name}");
        cases.push(Case::new(name, move || {
            let host = Host::new("left").unwrap();
            refuses(&host, ringtun(&words), code, says);
        }));
    }
    let found: [(&str, Found); 9] = [
        ("port_of_another_program", port_of_another_program),
        ("port_of_another_ringtun", port_of_another_ringtun),
        ("device_name_taken", device_name_taken),
        ("control_socket_taken", control_socket_taken),
        ("address_of_another_host", address_of_another_host),
        ("no_permission", no_permission),
        ("no_tun_device", no_tun_device),
        ("tun_device_is_another_file", tun_device_is_another_file),
        ("no_ipv6_here", no_ipv6_here),
    ];
    cases.extend(found.map(|(name, test)| Case::maybe(format!("errors::{name}"), test)));
    cases
}

fn ringtun(words: &str) -> Command {
    let mut command = Command::new(binary());
    command.args(words.split_whitespace());
    command
}

/// `up rt0`, as it would work on the left host of a pair.
fn good() -> Command {
    ringtun(&format!("up rt0 {LEAST} --encap plain --address 10.7.0.1/24"))
}

fn refuses(host: &Host, command: Command, code: i32, says: &[&str]) {
    let had_rt0 = host.has_interface("rt0").unwrap();
    let mut process = host.spawn(command).unwrap();
    let status = process.wait_timeout(PATIENCE).unwrap();
    let stderr = process.stderr();
    let status = status.unwrap_or_else(|| panic!("runs on: {stderr}"));
    assert_eq!(status.code(), Some(code), "{stderr}");
    for words in says {
        assert!(stderr.contains(words), "no {words:?} in: {stderr}");
    }
    assert_eq!(process.stdout(), "");
    assert_eq!(host.has_interface("rt0").unwrap(), had_rt0, "the device");
    assert!(!fs::exists("/run/ringtun/rt0.sock").unwrap(), "the control socket");
    let nurseries = fs::read_dir("/run/ringtun").unwrap();
    let nurseries: Vec<_> = nurseries.filter(|e| e.as_ref().unwrap().path().is_dir()).collect();
    assert!(nurseries.is_empty(), "{nurseries:?}");
}

/// After what was in the way is gone, the same command works.
fn works(host: &Host, command: Command) {
    let mut process = host.spawn(command).unwrap();
    wait_for_socket(&mut process);
    assert_eq!(process.terminate(PATIENCE).unwrap().code(), Some(0), "{}", process.stderr());
}

fn wait_for_socket(process: &mut Process) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let socket = std::path::Path::new("/run/ringtun/rt0.sock");
    while ringtun::control::socket::query(socket).is_err() {
        assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
        assert!(std::time::Instant::now() < deadline, "{}", process.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn port_of_another_program() -> Option<String> {
    let pair = Pair::new().unwrap();
    for address in ["0.0.0.0:51820", "192.0.2.1:51820"] {
        let other = pair.left.run(|| UdpSocket::bind(address)).unwrap().unwrap();
        refuses(&pair.left, good(), CONFLICT, &["51820", "in use", "another port"]);
        drop(other);
    }
    works(&pair.left, good());
    None
}

fn port_of_another_ringtun() -> Option<String> {
    let pair = Pair::new().unwrap();
    let mut other = Engine::start(&pair.left, &arguments(Side::Left, Io::Uring, Family::V4));
    other.wait();
    refuses(&pair.left, good(), CONFLICT, &["51820", "in use", "ringtun", "another port"]);
    assert!(other.process.ended().unwrap().is_none(), "the other one goes on");
    other.stop(&pair.left, libc::SIGTERM);
    works(&pair.left, good());
    None
}

fn device_name_taken() -> Option<String> {
    let pair = Pair::new().unwrap();
    let third = Host::new("third").unwrap();
    let ends = [(&pair.left, "rt0"), (&third, "eth0")];
    let [one, other] =
        ends.map(|(host, interface)| ringtun::lab::End { host, interface, addresses: &[] });
    ringtun::lab::connect(&one, &other, 1_500).unwrap();
    refuses(&pair.left, good(), CONFLICT, &["rt0", "already exists", "ip link del rt0"]);
    pair.left.delete_link("rt0").unwrap();
    works(&pair.left, good());
    None
}

/// A ringtun in another network namespace serves the same name.
fn control_socket_taken() -> Option<String> {
    let pair = Pair::new().unwrap();
    let mut other = pair.right.spawn(good()).unwrap();
    wait_for_socket(&mut other);
    let mut process = pair.left.spawn(good()).unwrap();
    let status = process.wait_timeout(PATIENCE).unwrap().unwrap();
    let stderr = process.stderr();
    assert_eq!(status.code(), Some(CONFLICT), "{stderr}");
    assert!(stderr.contains("/run/ringtun/rt0.sock") && stderr.contains("RINGTUN_RUN_DIR"));
    assert!(!pair.left.has_interface("rt0").unwrap());
    wait_for_socket(&mut other);
    assert_eq!(other.terminate(PATIENCE).unwrap().code(), Some(0));
    None
}

fn address_of_another_host() -> Option<String> {
    let pair = Pair::new().unwrap();
    let words = "up rt0 --listen 203.0.113.9:51820 --peer 192.0.2.2:51820 --encap plain";
    refuses(&pair.left, ringtun(words), 1, &["203.0.113.9:51820", "no interface", "0.0.0.0"]);
    None
}

/// Root without any capability, which is what the kernel looks at.
fn no_permission() -> Option<String> {
    let Some(setpriv) = find_program("setpriv") else {
        return Some("there is no setpriv here (apt install util-linux)".to_owned());
    };
    let pair = Pair::new().unwrap();
    let mut command = Command::new(setpriv);
    command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    command.arg(binary()).args(good().get_args());
    refuses(&pair.left, command, NO_PERMISSION, &["rt0", "CAP_NET_ADMIN", "ringtun demo"]);
    None
}

/// Runs `good` after `prepare` in a mount namespace of its own.
fn in_other_mounts(prepare: &str) -> Result<Command, String> {
    let Some(unshare) = find_program("unshare") else {
        return Err("there is no unshare here (apt install util-linux)".to_owned());
    };
    let mut command = Command::new(unshare);
    command.args(["-m", "sh", "-c", &format!("{prepare} && exec \"$0\" \"$@\"")]);
    command.arg(binary()).args(good().get_args());
    Ok(command)
}

fn no_tun_device() -> Option<String> {
    let pair = Pair::new().unwrap();
    let command = match in_other_mounts("mount -t tmpfs none /dev/net") {
        Ok(command) => command,
        Err(missing) => return Some(missing),
    };
    let says = ["/dev/net/tun", "modprobe tun", "--device /dev/net/tun"];
    refuses(&pair.left, command, UNSUPPORTED, &says);
    None
}

fn tun_device_is_another_file() -> Option<String> {
    let pair = Pair::new().unwrap();
    let command = match in_other_mounts("mount --bind /dev/null /dev/net/tun") {
        Ok(command) => command,
        Err(missing) => return Some(missing),
    };
    refuses(&pair.left, command, UNSUPPORTED, &["/dev/net/tun", "modprobe tun"]);
    None
}

fn no_ipv6_here() -> Option<String> {
    if !has_ipv6() {
        return Some("this kernel has no IPv6 to switch off".to_owned());
    }
    let pair = Pair::new().unwrap();
    for scope in ["all", "default"] {
        let key = format!("net.ipv6.conf.{scope}.disable_ipv6");
        if let Err(error) = pair.left.set_sysctl(&key, "1") {
            return Some(error.to_string());
        }
    }
    let words = format!("up rt0 {LEAST} --encap plain --address fd07::1/64");
    refuses(&pair.left, ringtun(&words), UNSUPPORTED, &["fd07::1/64", "IPv6", "disable_ipv6=0"]);
    // Without an IPv6 address it is no obstacle, also when both families are listened on.
    works(&pair.left, good());
    None
}
