//! Queues that stand: the transfers that are behind it are told, by a mark where they understand
//! it and else by a packet that is missing; or not at all.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::control::status::Status;
use ringtun::lab::traffic::{Stop, TcpStreams, tcp_streams};
use ringtun::lab::{Host, Process};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, Io, PATIENCE, Side, Tunnel, dropped, total};

use crate::wireguard::{both, inner, reaches, status, stop};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for io in [Io::Uring, Io::Mmsg] {
        let name = |what: &str| format!("{}::{what}", io.name());
        cases.push(Case::new(name("a_standing_queue_costs_a_packet"), move || drops(io)));
        cases.push(Case::new(name("a_standing_queue_is_left_alone"), move || off(io)));
        cases.push(Case::maybe(name("a_standing_tun_queue_costs_a_packet"), move || tun_drops(io)));
    }
    let name = "wireguard::uring::a_standing_queue_marks_who_speaks_ecn";
    cases.push(Case::new(name.to_owned(), marks));
    cases
}

/// Marks and drops of one end.
fn told(status: &Status) -> (u64, u64) {
    (total(status, |worker| worker.ecn_marks), dropped(status, "queue_delay"))
}

/// A transfer through `engine`, which stands still for a moment: what comes meanwhile waits for it.
fn hold_up(from: &Host, to: &Host, address: SocketAddr, engine: &mut Process) {
    let duration = Duration::from_millis(500);
    let plan = TcpStreams { streams: 2, duration, bytes_max: None, verify: None };
    thread::scope(|scope| {
        let load = scope.spawn(|| tcp_streams(from, to, address, &plan, &Stop::default()));
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(60));
            engine.signal(libc::SIGSTOP).unwrap();
            thread::sleep(Duration::from_millis(60));
            engine.signal(libc::SIGCONT).unwrap();
        }
        assert!(load.join().unwrap().unwrap().bytes > 0);
    });
}

fn hold_up_right(tunnel: &mut Tunnel) {
    let address = SocketAddr::new(Side::Right.inner(Family::V4), 0);
    hold_up(&tunnel.pair.left, &tunnel.pair.right, address, &mut tunnel.right.process);
}

fn hold_up_left(tunnel: &mut Tunnel) {
    let address = SocketAddr::new(Side::Right.inner(Family::V4), 0);
    hold_up(&tunnel.pair.left, &tunnel.pair.right, address, &mut tunnel.left.process);
}

/// Where the kernel takes a program that notes when packets come to the tun, which it does from
/// root alone.
fn tun_drops(io: Io) -> Option<String> {
    let mut tunnel = Tunnel::new(io, Family::V4, &["--workers", "2"]);
    let managed = tunnel.left.status().tun_queue;
    if managed == "refused" && !may_load_programs() {
        tunnel.stop();
        return Some("no right to load programs into the kernel".to_owned());
    }
    assert_eq!(managed, "managed");
    let until = Instant::now() + PATIENCE;
    while dropped(&tunnel.left.status(), "tun_delay") == 0 {
        assert!(Instant::now() < until, "nobody was told");
        hold_up_left(&mut tunnel);
    }
    tunnel.stop();
    None
}

/// Whether this is root of the machine, with the right to load programs.
fn may_load_programs() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    const BPF: u64 = 1 << 39;
    let users = fs::read_to_string("/proc/self/uid_map").unwrap();
    let machine = users.split_whitespace().eq(["0", "0", "4294967295"]);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    machine && effective & (SYS_ADMIN | BPF) != 0
}

fn drops(io: Io) {
    let mut tunnel = Tunnel::new(io, Family::V4, &["--workers", "1"]);
    let until = Instant::now() + PATIENCE;
    while told(&tunnel.right.status()) == (0, 0) {
        assert!(Instant::now() < until, "nobody was told");
        hold_up_right(&mut tunnel);
    }
    let (marks, drops) = told(&tunnel.right.status());
    assert!(marks == 0 && drops > 0, "{marks} marks, {drops} drops");
    assert_eq!(told(&tunnel.left.status()), (0, 0));
    tunnel.stop();
}

fn off(io: Io) {
    let mut tunnel = Tunnel::new(io, Family::V4, &["--workers", "1", "--aqm", "off"]);
    for _ in 0..3 {
        hold_up_right(&mut tunnel);
        hold_up_left(&mut tunnel);
    }
    for status in [tunnel.left.status(), tunnel.right.status()] {
        assert_eq!((told(&status), dropped(&status, "tun_delay")), ((0, 0), 0));
        assert_eq!(status.tun_queue, "off");
    }
    tunnel.stop();
}

/// What a WireGuard message says of congestion, its packet is told.
fn marks() {
    let (pair, _, mut processes) = both("uring", &["--workers", "1"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    for host in [&pair.left, &pair.right] {
        host.set_sysctl("net.ipv4.tcp_ecn", "1").unwrap();
        host.set_sysctl("net.ipv4.tcp_congestion_control", "reno").unwrap();
    }
    let until = Instant::now() + PATIENCE;
    // Packets that are sent once more are no longer of ECN, and may be dropped.
    while told(&status(1).unwrap()).0 == 0 {
        assert!(Instant::now() < until, "nothing was marked");
        hold_up(&pair.left, &pair.right, SocketAddr::new(inner(1), 0), &mut processes[1]);
    }
    assert!(congestion_experienced(&pair.right) > 0);
    processes.into_iter().for_each(stop);
}

/// IPv4 packets that came to `host` with the mark, by its own count.
fn congestion_experienced(host: &Host) -> u64 {
    let table = host.run(|| fs::read_to_string("/proc/thread-self/net/netstat")).unwrap().unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with("IpExt:"));
    let names = lines.next().unwrap().split_whitespace();
    let values = lines.next().unwrap().split_whitespace();
    let found = names.zip(values).find(|(name, _)| *name == "InCEPkts");
    found.unwrap().1.parse().unwrap()
}
