//! ringtun and wireguard-go as each other's other end, both ways, and both under the real wg-quick.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringtun::lab::traffic::{Stop, UdpSequences, probe, udp_sequences};
use ringtun::lab::{Address, Host, Pair, has_ipv6};
use ringtun::wire::wireguard::keys::{PresharedKey, PrivateKey};
use ringtun_tests::device::{Device, Link, NAMES, endpoint, inner, peer_lines, run, wait_until};
use ringtun_tests::place::{binary, find_program};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, PATIENCE, PORT, Tunnel};

use crate::wireguard_net::SILENCE;

/// Ringtun's side.
const SIDES: [(&str, usize); 2] = [("left", 0), ("right", 1)];
/// Takes the number of ringtun's end.
type Test = fn(usize);

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (side, n) in SIDES {
        let tests: [(&str, Test); 4] = [
            ("data_and_a_preshared_key", data),
            ("roaming", roaming),
            ("persistent_keepalives", keepalives),
            ("restarts", restarts),
        ];
        for (name, test) in tests {
            let name = format!("wireguard::with_wireguard_go::{name}_ringtun_{side}");
            cases.push(Case::maybe(name, move || {
                if find_program("wireguard-go").is_none() {
                    return Some("no wireguard-go here (apt install wireguard-go)".to_owned());
                }
                test(n);
                None
            }));
        }
    }
    for program in ["ringtun", "wireguard-go"] {
        let name = format!("wireguard::wg_quick_runs_{program}");
        cases.push(Case::maybe(name, move || wg_quick(program)));
    }
    cases
}

/// A link on which end `ours` is ringtun and the other wireguard-go; `lines` go to both peers.
fn mixed(ours: usize, outer: Family, lines: &str) -> Link {
    let mut programs = ["wireguard-go"; 2];
    programs[ours] = "ringtun";
    Link::of(programs, outer, lines)
}

fn data(ours: usize) {
    for outer in [Family::V4, Family::V6] {
        if outer == Family::V6 && !has_ipv6() {
            continue;
        }
        let psk = PresharedKey::generate().unwrap();
        let link = mixed(ours, outer, &format!("preshared_key={}\n", psk.to_hex().as_str()));
        // Ours calls first over IPv4, theirs over IPv6.
        let first = if outer == Family::V4 { ours } else { 1 - ours };
        for n in [first, 1 - first] {
            for family in [Family::V4, Family::V6] {
                if family == Family::V6 && !has_ipv6() {
                    continue;
                }
                assert!(
                    link.reaches(n, family, PATIENCE),
                    "{family:?} from end {n} over {outer:?}"
                );
                let hosts = (link.host(n), link.host(1 - n));
                let to = SocketAddr::new(inner(1 - n, family), 0);
                Tunnel::tcp_between(hosts, to, 1, 2 << 20);
                let plan = UdpSequences {
                    payload_len: 1_300,
                    duration: Duration::from_millis(100),
                    packets_per_second: Some(200.0),
                    ..UdpSequences::default()
                };
                let report = udp_sequences(hosts.0, hosts.1, to, &plan, &Stop::default()).unwrap();
                assert!(report.is_perfect(), "{report:?}");
            }
        }
        link.stop();
    }
}

/// Each end moves to another address and port and, where there are two, to the other family.
fn roaming(ours: usize) {
    let link = mixed(ours, Family::V4, "");
    link.assert_passes(0);
    for (n, port) in [(0, PORT + 1), (1, PORT + 2)] {
        let host = link.host(n);
        let ip = format!("192.0.2.7{n}").parse().unwrap();
        let old = format!("{}/24", endpoint(n, Family::V4).ip());
        run(host, "ip", &["address", "delete", &old, "dev", Pair::INTERFACE]);
        host.add_address(Pair::INTERFACE, Address { ip, prefix_len: 24 }).unwrap();
        // wireguard-go lets go of an address that is gone only when it binds anew.
        link.devices[n].set(&format!("listen_port={port}\n"));
        link.devices[n].wait_bound(host, port);
        link.assert_passes(n);
        let expected = SocketAddr::new(ip, port);
        assert_eq!(link.sees_other_at(1 - n), Some(expected), "end {n} moved");
        link.assert_passes(1 - n);
        link.devices[n].set(&format!("listen_port={PORT}\n"));
        link.devices[n].wait_bound(host, PORT);
        link.assert_passes(n);
    }
    for n in [0, 1] {
        if has_ipv6() {
            let other = peer_lines(&link.public(1 - n), Some(endpoint(1 - n, Family::V6)), &[]);
            link.devices[n].set(&other);
            link.assert_passes(n);
            assert_eq!(link.sees_other_at(1 - n), Some(endpoint(n, Family::V6)), "end {n} to IPv6");
            link.assert_passes(1 - n);
        }
    }
    link.stop();
}

/// Keepalives of the left end start the session and go on without traffic.
fn keepalives(ours: usize) {
    let link = mixed(ours, Family::V4, "");
    let device = &link.devices[0];
    let other = peer_lines(&link.public(1), None, &[]);
    device.set(&format!("{other}persistent_keepalive_interval=1\n"));
    let received = || link.devices[1].peer(&link.public(0)).figure("rx_bytes");
    wait_until("called", || received() >= 148 + 32);
    let before = received();
    wait_until("kept alive", || received() >= before + 2 * 32);
    device.set(&format!("{other}persistent_keepalive_interval=0\n"));
    link.assert_passes(1);
    link.stop();
}

/// One end is killed and started again, and calls; then the other.
fn restarts(ours: usize) {
    let mut programs = ["wireguard-go"; 2];
    programs[ours] = "ringtun";
    let mut link = mixed(ours, Family::V4, "");
    link.assert_passes(0);
    for n in [ours, 1 - ours] {
        link.devices[n].process.signal(libc::SIGKILL).unwrap();
        link.devices[n].process.wait_timeout(PATIENCE).unwrap().unwrap();
        wait_until("gone", || !link.host(n).has_interface(NAMES[n]).unwrap());
        link.devices[n] = Device::start(link.host(n), programs[n], NAMES[n]);
        link.configure(n, Family::V4, "");
        link.assert_passes(n);
        link.assert_passes(1 - n);
    }
    link.stop();
}

/// A device that wg-quick made: its daemon goes with it, whatever happens here.
struct Quick<'a> {
    host: &'a Host,
    program: PathBuf,
}

impl Quick<'_> {
    /// Runs wg-quick; it takes its program's name from the environment.
    fn run(&self, word: &str, config: &str) -> (bool, String) {
        // wireguard-go's daemon stays in the group of who started it, which ends with wg-quick.
        let mut command = Command::new(find_program("setsid").unwrap());
        command.args(["--wait", "wg-quick", word, config]);
        command.env("WG_QUICK_USERSPACE_IMPLEMENTATION", &self.program);
        let mut process = self.host.spawn(command).unwrap();
        let status = process.wait_timeout(PATIENCE).unwrap().unwrap();
        (status.success(), process.stdout() + &process.stderr())
    }
}

impl Drop for Quick<'_> {
    fn drop(&mut self) {
        let _ = self.host.delete_link(NAMES[0]);
    }
}

/// Everything that wg-quick could leave behind.
fn traces(host: &Host) -> Vec<String> {
    let list =
        ["-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all", "-o link"];
    let words = |line: &&str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut found: Vec<String> = list
        .iter()
        .map(|line| run(host, "ip", &words(line).iter().map(String::as_str).collect::<Vec<_>>()))
        .collect();
    if find_program("nft").is_some() {
        found.push(run(host, "nft", &["list", "ruleset"]));
    }
    found
}

fn wg_quick(program: &str) -> Option<String> {
    for needed in ["wg-quick", "wg", "ip", "setsid", program] {
        if needed != "ringtun" && find_program(needed).is_none() {
            return Some(format!("there is no {needed} here"));
        }
    }
    if find_program("nft").is_none() && find_program("iptables").is_none() {
        return Some("neither nft nor iptables here, which wg-quick needs".to_owned());
    }
    if Path::new("/sys/module/wireguard").exists() {
        return Some("this kernel has WireGuard itself, which wg-quick prefers".to_owned());
    }
    let pair = Pair::new().unwrap();
    let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
    let server = Device::start(&pair.right, "ringtun", NAMES[1]);
    server.set(&format!(
        "private_key={}\nlisten_port={PORT}\n{}",
        keys[1].to_hex().as_str(),
        peer_lines(&keys[0].public(), None, &["10.9.0.1/32", "fd09::1/128"])
    ));
    for text in ["10.9.0.2/24", "fd09::2/64", "203.0.113.9/32", "2001:db8:9::9/128"] {
        pair.right.add_address(NAMES[1], text.parse().unwrap()).unwrap();
    }
    server.bring_up(&pair.right);
    let path = if program == "ringtun" { binary() } else { find_program(program).unwrap() };
    let quick = Quick { host: &pair.left, program: path };
    let mut skipped = None;
    for (allowed, targets) in [
        ("10.9.0.0/24, fd09::/64", ["10.9.0.2", "fd09::2"]),
        ("0.0.0.0/0, ::/0", ["203.0.113.9", "2001:db8:9::9"]),
    ] {
        skipped = quick_round(&quick, &pair, (&keys, allowed), targets);
        if skipped.is_some() {
            break;
        }
    }
    drop(quick);
    server.stop();
    skipped
}

/// Up, traffic, down, and nothing is left; or why that cannot be here.
fn quick_round(
    quick: &Quick<'_>,
    pair: &Pair,
    (keys, allowed): (&[PrivateKey; 2], &str),
    targets: [&str; 2],
) -> Option<String> {
    let config = format!("/run/{}.conf", NAMES[0]);
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.1/24, fd09::1/64\n\
         PostUp = echo %i is up > /run/quick.txt\nPostDown = rm /run/quick.txt\n[Peer]\n\
         PublicKey = {}\nEndpoint = 192.0.2.2:{PORT}\nAllowedIPs = {allowed}\n",
        keys[0].to_base64().as_str(),
        keys[1].public()
    );
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let before = traces(&pair.left);
    let (success, said) = quick.run("up", &config);
    if !success && said.contains("src_valid_mark") {
        return Some("wg-quick may not write net.ipv4.conf.all.src_valid_mark here".to_owned());
    }
    assert!(success, "{said}");
    assert_eq!(fs::read_to_string("/run/quick.txt").unwrap(), "wg-l is up\n");
    for target in targets {
        let to = SocketAddr::new(target.parse().unwrap(), 0);
        let reached = probe(&pair.left, &pair.right, to, PATIENCE, &Stop::default());
        assert!(reached.is_ok(), "{target}: {reached:?}: {said}");
        Tunnel::tcp_between((&pair.left, &pair.right), to, 1, 1 << 20);
    }
    assert_ne!(traces(&pair.left), before);
    let (success, said) = quick.run("down", &config);
    assert!(success, "{said}");
    // The daemon follows its device.
    wait_until("gone", || !Path::new("/var/run/wireguard/wg-l.sock").exists());
    assert_eq!(traces(&pair.left), before);
    assert!(!Path::new("/run/quick.txt").exists());
    let to = SocketAddr::new("203.0.113.9".parse().unwrap(), 0);
    assert!(probe(&pair.left, &pair.right, to, SILENCE / 4, &Stop::default()).is_err());
    None
}
