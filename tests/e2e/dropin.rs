//! What is expected of a drop-in for wireguard-go and wg-quick: descriptors that were handed over,
//! the firewall of a default route, the resolver.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::lab::traffic::{Stop, probe};
use ringtun::lab::{Address, Host, Pair, Process};
use ringtun::sys::{inherited, tun};
use ringtun::wire::wireguard::keys::PrivateKey;
use ringtun_tests::place::{binary, find_program};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::PATIENCE;

const NAMES: [&str; 2] = ["in-l", "in-r"];
const GOOD: u16 = tun::FLAG_TUN | tun::FLAG_NO_PI | tun::FLAG_VNET_HDR;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("dropin::a_tun_that_was_handed_over_carries", handed_over),
        Case::new("dropin::a_tun_that_does_not_suit_is_refused", refused),
        Case::maybe("dropin::a_default_route_brings_a_firewall", firewall),
        Case::maybe("dropin::without_nft_the_firewall_is_by_iptables", firewall_by_iptables),
        Case::new("dropin::a_firewall_that_fails_stops_the_start", firewall_fails),
        Case::new("dropin::dns_goes_to_resolvconf_and_back", dns),
        Case::maybe("dropin::what_was_set_is_saved", saved),
        Case::maybe("dropin::a_name_is_looked_up_again", looked_up_again),
        Case::maybe("dropin::a_name_is_waited_for_at_the_start", waited_for),
        Case::maybe("dropin::a_wait_for_a_name_ends_when_told", wait_ends),
    ]
}

struct Ends([PrivateKey; 2]);

impl Ends {
    fn new() -> Self {
        Self([PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()])
    }

    /// The file of end `n`; `interface` is added to its first section.
    fn write(&self, n: usize, interface: &str, allowed: &str) -> String {
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\n{interface}\n\
             [Peer]\nPublicKey = {}\nEndpoint = 192.0.2.{}:51820\nAllowedIPs = {allowed}\n",
            self.0[n].to_base64().as_str(),
            self.0[1 - n].public(),
            2 - n,
        );
        let path = format!("/run/{}.conf", NAMES[n]);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn up(&self, host: &Host, n: usize, more: &str, allowed: &str, path: &str) -> Process {
        let interface = format!("Address = 10.9.0.{}/24\n{more}", n + 1);
        let config = self.write(n, &interface, allowed);
        let mut command = Command::new(binary());
        command.args(["up", NAMES[n], "--config", &config]).env("NO_COLOR", "1");
        if !path.is_empty() {
            command.env("PATH", path);
        }
        host.spawn(command).unwrap()
    }
}

fn await_path(process: &mut Process, path: &str) {
    let begin = Instant::now();
    while !Path::new(path).exists() {
        assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
        assert!(begin.elapsed() < PATIENCE, "no {path}: {}", process.stderr());
        thread::sleep(Duration::from_millis(20));
    }
}

fn await_up(mut process: Process, n: usize) -> Process {
    let path = format!("/run/ringtun/{}.sock", NAMES[n]);
    let begin = Instant::now();
    while ringtun::control::socket::query(Path::new(&path)).is_err() {
        assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
        assert!(begin.elapsed() < PATIENCE, "{}", process.stderr());
        thread::sleep(Duration::from_millis(20));
    }
    process
}

fn stop(mut process: Process) {
    let status = process.terminate(PATIENCE).unwrap();
    assert!(status.success(), "{status}: {}", process.stderr());
}

fn run(host: &Host, program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(words);
    let mut process = host.spawn(command).unwrap();
    let status = process.wait_timeout(PATIENCE).unwrap().unwrap();
    assert!(status.success(), "{program} {words:?}: {}", process.stderr());
    process.stdout()
}

fn reaches(pair: &Pair, from: usize, to: &str) -> bool {
    let (here, there) =
        if from == 0 { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
    let to = SocketAddr::new(to.parse().unwrap(), 0);
    probe(here, there, to, PATIENCE, &Stop::default()).is_ok()
}

/// Both descriptors of wireguard-go: the device and the configuration socket are the parent's.
fn handed_over() {
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    // First: it would inherit what is shared below.
    let right = await_up(ends.up(&pair.right, 1, "", "10.9.0.1/32", ""), 1);
    let device = pair.left.run(|| tun::open(NAMES[0], GOOD)).unwrap().unwrap();
    fs::create_dir_all("/var/run/wireguard").unwrap();
    let socket_path = format!("/var/run/wireguard/{}.sock", NAMES[0]);
    let socket = UnixListener::bind(&socket_path).unwrap();
    inherited::share(device.as_fd()).unwrap();
    inherited::share(socket.as_fd()).unwrap();
    let mut command = Command::new(binary());
    // The name is the device's, whatever is said here.
    command
        .args(["-f", "another"])
        .env("WG_TUN_FD", device.as_raw_fd().to_string())
        .env("WG_UAPI_FD", socket.as_raw_fd().to_string())
        .env("NO_COLOR", "1");
    let left = await_up(pair.left.spawn(command).unwrap(), 0);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let request = format!(
        "set=1\nprivate_key={}\nlisten_port=51820\npublic_key={}\nallowed_ip=10.9.0.2/32\n\n",
        hex(ends.0[0].as_bytes()),
        hex(ends.0[1].public().as_bytes()),
    );
    let answer = {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&socket_path).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert_eq!(answer, "errno=0\n\n");
    let address = Address { ip: IpAddr::from([10, 9, 0, 1]), prefix_len: 24 };
    pair.left.add_address(NAMES[0], address).unwrap();
    pair.left.set_up(NAMES[0]).unwrap();
    assert!(reaches(&pair, 1, "10.9.0.1"));
    assert!(reaches(&pair, 0, "10.9.0.2"));
    let status =
        ringtun::control::socket::query(Path::new(&format!("/run/ringtun/{}.sock", NAMES[0])));
    assert_eq!(status.unwrap().workers.len(), 1);
    stop(left);
    assert!(pair.left.has_interface(NAMES[0]).unwrap(), "it is not ours to take away");
    drop(device);
    let begin = Instant::now();
    while pair.left.has_interface(NAMES[0]).unwrap() {
        assert!(begin.elapsed() < PATIENCE, "somebody still has it open");
        thread::sleep(Duration::from_millis(20));
    }
    stop(right);
}

fn refused() {
    let host = Host::new("refuses").unwrap();
    let start = |value: &str| {
        let mut command = Command::new(binary());
        command.args(["-f", NAMES[0]]).env("WG_TUN_FD", value).env("NO_COLOR", "1");
        let mut process = host.spawn(command).unwrap();
        let status = process.wait_timeout(PATIENCE).unwrap().unwrap();
        assert!(!status.success());
        process.stderr()
    };
    for value in ["seven", "77", "-1"] {
        assert!(start(value).contains(&format!("WG_TUN_FD={value:?}")));
    }
    let flags = GOOD & !tun::FLAG_VNET_HDR;
    let device = host.run(|| tun::open(NAMES[0], flags)).unwrap().unwrap();
    inherited::share(device.as_fd()).unwrap();
    let said = start(&device.as_raw_fd().to_string());
    assert!(said.contains("IFF_VNET_HDR") && said.contains("TUNSETIFF"), "{said}");
    assert!(host.has_interface(NAMES[0]).unwrap());
}

/// Whether a datagram from the outer network arrives at the tunnel's address.
fn intruder_arrives(pair: &Pair) -> bool {
    let listener = pair.left.run(|| UdpSocket::bind("10.9.0.1:7777")).unwrap().unwrap();
    listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let intruder = pair.right.run(|| UdpSocket::bind("192.0.2.2:0")).unwrap().unwrap();
    (0..3).any(|_| {
        intruder.send_to(b"x", "10.9.0.1:7777").unwrap();
        match listener.recv_from(&mut [0; 16]) {
            Ok(_) => true,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
                false
            }
        }
    })
}

fn firewall() -> Option<String> {
    if find_program("nft").is_none() {
        return Some("no nft here (apt install nftables)".into());
    }
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let nft = || run(&pair.left, "nft", &["list", "ruleset"]);
    let rules = || [["-4", "rule"], ["-6", "rule"]].map(|words| run(&pair.left, "ip", &words));
    let rules_before = rules();
    let right = await_up(ends.up(&pair.right, 1, "", "10.9.0.1/32", ""), 1);
    // The right host's way to the left one's tunnel address: outside the tunnel, or through it.
    let way = |words: &[&str]| {
        run(&pair.right, "ip", &[&["route", "replace", "10.9.0.1/32"], words].concat());
    };
    let outside = || way(&["via", "192.0.2.1", "dev", Pair::INTERFACE]);
    // Without a default route nothing is dropped: this is what the firewall is there against.
    let left = await_up(ends.up(&pair.left, 0, "", "10.9.0.2/32", ""), 0);
    outside();
    assert!(intruder_arrives(&pair) && nft().is_empty());
    stop(left);

    let start = || await_up(ends.up(&pair.left, 0, "", "0.0.0.0/0, ::/0", ""), 0);
    let mut left = start();
    assert!(!intruder_arrives(&pair));
    way(&["dev", NAMES[1]]);
    assert!(reaches(&pair, 0, "10.9.0.2"), "it carries: {}\n{}", left.stderr(), right.stderr());
    outside();
    let during = nft();
    for table in ["table ip ringtun-in-l", "table ip6 ringtun-in-l"] {
        assert_eq!(during.matches(table).count(), 1, "{during}");
    }
    left.signal(libc::SIGKILL).unwrap();
    left.wait_timeout(PATIENCE).unwrap().unwrap();
    let left = start();
    assert_eq!(nft(), during, "the rules left behind are replaced");
    assert!(!intruder_arrives(&pair));
    stop(left);
    assert_eq!(nft(), "");
    assert_eq!(rules(), rules_before, "also those that the killed one left behind");
    stop(right);
    None
}

/// Hides nft from what is run behind it, wherever it is found.
const WITHOUT_NFT: &str = "
    for folder in $(echo $PATH | tr : ' ') /usr/sbin /sbin /usr/bin /bin; do
        ! [ -f $folder/nft ] || mount --bind /dev/null $folder/nft || exit
    done
    exec \"$@\"";

/// Rules of both families as iptables lists them, without counters.
fn iptables_rules(host: &Host) -> Vec<String> {
    let saved = ["iptables-save", "ip6tables-save"].map(|program| run(host, program, &[]));
    let rules = saved.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("-A"));
    rules.map(str::to_owned).collect()
}

/// Why there can be no rules by iptables here.
fn no_iptables(host: &Host) -> Option<String> {
    for program in ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save"] {
        if find_program(program).is_none() {
            return Some(format!("no {program} here (apt install iptables)"));
        }
    }
    let words = ["-t", "raw", "-I", "PREROUTING", "-m", "addrtype", "--src-type", "LOCAL"];
    let mut command = Command::new("iptables");
    command.args(words).args(["-m", "comment", "--comment", "x", "-j", "DROP"]);
    let mut process = host.spawn(command).unwrap();
    let status = process.wait_timeout(PATIENCE).unwrap().unwrap();
    let said = process.stderr();
    (!status.success()).then(|| format!("iptables does not work here: {}", said.trim()))
}

fn firewall_by_iptables() -> Option<String> {
    let missing = no_unshare().or_else(|| no_iptables(&Host::new("tries-it").unwrap()));
    if missing.is_some() {
        return missing;
    }
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let right = await_up(ends.up(&pair.right, 1, "", "10.9.0.1/32", ""), 1);
    let way = |words: &[&str]| {
        run(&pair.right, "ip", &[&["route", "replace", "10.9.0.1/32"], words].concat());
    };
    let others = ["-m", "comment", "--comment", "ringtun rule for in-l2", "-j", "ACCEPT"];
    run(&pair.left, "iptables", &[&["-t", "mangle", "-A", "PREROUTING"], &others[..]].concat());
    let before = iptables_rules(&pair.left);
    assert_eq!(before.len(), 1);
    let start = || {
        let config = ends.write(0, "Address = 10.9.0.1/24, fd09::1/64", "0.0.0.0/0, ::/0");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", WITHOUT_NFT, "sh"]).arg(binary());
        command.args(["up", NAMES[0], "--config", &config]).env("NO_COLOR", "1");
        await_up(pair.left.spawn(command).unwrap(), 0)
    };
    let mut left = start();
    way(&["via", "192.0.2.1", "dev", Pair::INTERFACE]);
    assert!(!intruder_arrives(&pair), "{:?}", iptables_rules(&pair.left));
    let during = iptables_rules(&pair.left);
    let ours = during.iter().filter(|rule| rule.contains("\"ringtun rule for in-l\""));
    assert_eq!((ours.count(), during.len()), (6, 7), "{during:#?}");
    way(&["dev", NAMES[1]]);
    assert!(reaches(&pair, 0, "10.9.0.2"), "{}", left.stderr());
    // One that is killed leaves them behind; the next replaces them.
    left.signal(libc::SIGKILL).unwrap();
    left.wait_timeout(PATIENCE).unwrap().unwrap();
    let left = start();
    let again = iptables_rules(&pair.left);
    assert_eq!(again.len(), 7, "{again:#?}");
    stop(left);
    assert_eq!(iptables_rules(&pair.left), before);
    stop(right);
    None
}

/// Makes a program that does `body` and returns a `PATH` that has it first.
fn fake(name: &str, body: &str) -> String {
    let folder = format!("/run/fake-{name}");
    fs::create_dir_all(&folder).unwrap();
    let path = format!("{folder}/{name}");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{folder}:{}", std::env::var("PATH").unwrap())
}

fn firewall_fails() {
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let path = fake("nft", "echo no such thing >&2; exit 1");
    let rules = || run(&pair.left, "ip", &["rule"]);
    let before = rules();
    let mut left = ends.up(&pair.left, 0, "", "0.0.0.0/0", &path);
    let status = left.wait_timeout(PATIENCE).unwrap().unwrap();
    assert!(!status.success() && left.stderr().contains("no such thing"), "{}", left.stderr());
    assert_eq!(rules(), before);
    assert!(!pair.left.has_interface(NAMES[0]).unwrap());
}

fn dns() {
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let path = fake("resolvconf", "{ echo \"$@\"; cat; } >>/run/resolved");
    let more = "DNS = 10.9.0.2, example.com";
    let mut left = ends.up(&pair.left, 0, more, "10.9.0.2/32", &path);
    await_path(&mut left, "/run/resolved");
    stop(await_up(left, 0));
    let said = fs::read_to_string("/run/resolved").unwrap();
    let name = "in-l";
    let expected =
        format!("-a {name} -m 0 -x\nnameserver 10.9.0.2\nsearch example.com\n-d {name} -f\n");
    // Where the machine has an order of interfaces, ours has its prefix.
    assert_eq!(said.replace(&format!("tun.{name}"), name), expected);
}

fn no_unshare() -> Option<String> {
    let there = find_program("unshare").is_some();
    (!there).then(|| "no unshare here (apt install util-linux)".into())
}

/// What the name of the right end leads to, for [`up_by_name`]; nothing, and it is not known yet.
fn name_leads_to(address: &str) {
    let line = if address.is_empty() { String::new() } else { format!("{address} peer.example\n") };
    fs::write("/run/hosts", line).unwrap();
}

/// Starts the left end with a name for the right one's endpoint, and a resolver of its own: a file,
/// and a server that nobody is.
fn up_by_name(pair: &Pair, ends: &Ends, retries: &str) -> Process {
    let config = ends.write(0, "Address = 10.9.0.1/24", "10.9.0.2/32");
    let text = fs::read_to_string(&config).unwrap().replace("192.0.2.2:", "peer.example:");
    fs::write(&config, text).unwrap();
    fs::write("/run/resolv.conf", "nameserver 127.0.0.1\n").unwrap();
    fs::write("/run/nsswitch.conf", "hosts: files dns\n").unwrap();
    let script = "mount --bind /run/hosts /etc/hosts || exit
        for file in resolv.conf nsswitch.conf; do
            ! [ -e /etc/$file ] || mount --bind /run/$file /etc/$file || exit
        done
        exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(binary());
    command.args(["up", NAMES[0], "--config", &config]).env("NO_COLOR", "1");
    if !retries.is_empty() {
        command.env("WG_ENDPOINT_RESOLUTION_RETRIES", retries);
    }
    pair.left.spawn(command).unwrap()
}

fn await_words(process: &mut Process, words: &str) {
    let begin = Instant::now();
    while !process.stderr().contains(words) {
        assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
        assert!(begin.elapsed() < PATIENCE, "{words:?} is not said: {}", process.stderr());
        thread::sleep(Duration::from_millis(20));
    }
}

fn waited_for() -> Option<String> {
    let missing = no_unshare();
    if missing.is_some() {
        return missing;
    }
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let right = await_up(ends.up(&pair.right, 1, "", "10.9.0.1/32", ""), 1);
    name_leads_to("");
    let mut left = up_by_name(&pair, &ends, "");
    await_words(&mut left, "peer.example:51820 cannot be found yet");
    name_leads_to("192.0.2.2");
    let left = await_up(left, 0);
    assert!(reaches(&pair, 0, "10.9.0.2"), "{}", left.stderr());
    stop(left);
    stop(right);
    None
}

fn wait_ends() -> Option<String> {
    let missing = no_unshare();
    if missing.is_some() {
        return missing;
    }
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    name_leads_to("");
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut left = up_by_name(&pair, &ends, "infinity");
        await_words(&mut left, "until it is found");
        left.signal(signal).unwrap();
        let status = left.wait_timeout(PATIENCE).unwrap().unwrap();
        assert!(status.success(), "{status}: {}", left.stderr());
        assert!(!pair.left.has_interface(NAMES[0]).unwrap());
    }
    for (retries, code, words) in [
        ("0", 1, "cannot find the endpoint peer.example:51820"),
        ("many", 2, "WG_ENDPOINT_RESOLUTION_RETRIES=\"many\""),
    ] {
        let mut left = up_by_name(&pair, &ends, retries);
        let status = left.wait_timeout(PATIENCE).unwrap().unwrap();
        assert!(status.code() == Some(code), "{status}: {}", left.stderr());
        assert!(left.stderr().contains(words), "{}", left.stderr());
        assert!(!pair.left.has_interface(NAMES[0]).unwrap());
    }
    None
}

/// The name leads to nobody at first; when the first handshake has failed, to the peer.
fn looked_up_again() -> Option<String> {
    let missing = no_unshare();
    if missing.is_some() {
        return missing;
    }
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let right = await_up(ends.up(&pair.right, 1, "", "10.9.0.1/32", ""), 1);
    name_leads_to("192.0.2.77");
    let left = await_up(up_by_name(&pair, &ends, ""), 0);
    name_leads_to("192.0.2.2");
    let to = SocketAddr::from(([10, 9, 0, 2], 0));
    let found = probe(&pair.left, &pair.right, to, 2 * PATIENCE, &Stop::default());
    assert!(found.is_ok(), "{}", left.stderr());
    assert!(left.stderr().contains("another address of the name"), "{}", left.stderr());
    stop(left);
    stop(right);
    None
}

fn saved() -> Option<String> {
    if find_program("wg").is_none() {
        return Some("no wg here (apt install wireguard-tools)".into());
    }
    let (pair, ends) = (Pair::new().unwrap(), Ends::new());
    let more = "SaveConfig = true\nPostUp = true %i";
    let left = await_up(ends.up(&pair.left, 0, more, "10.9.0.2/32", ""), 0);
    let added = PrivateKey::generate().unwrap().public().to_string();
    run(&pair.left, "wg", &["set", NAMES[0], "peer", &added, "allowed-ips", "10.77.0.0/16"]);
    stop(left);
    let path = format!("/run/{}.conf", NAMES[0]);
    let text = fs::read_to_string(&path).unwrap();
    for line in [
        &format!("PublicKey = {added}\nAllowedIPs = 10.77.0.0/16\n"),
        &format!("PrivateKey = {}\n", ends.0[0].to_base64().as_str()),
        "Address = 10.9.0.1/24\nSaveConfig = true\nPostUp = true %i\nListenPort = 51820\n",
        "AllowedIPs = 10.9.0.2/32\nEndpoint = 192.0.2.2:51820\n",
    ] {
        assert!(text.contains(line), "no {line:?} in the file");
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    None
}
