//! A tunnel between two hosts of the lab: two `ringtun up` processes, as a user would start them.
//!
//! ```text
//! left: rt-left 10.7.0.1 fd07::1 ── eth0 192.0.2.1 fd00:2::1   the wire
//! right: rt-right 10.7.0.2 fd07::2 ── eth0 192.0.2.2 fd00:2::2
//! ```

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::control::socket::{SocketError, query};
use ringtun::control::status::{Direction, Status, Worker};
use ringtun::lab::traffic::{
    RoundTrips, Stop, TcpStreams, UdpReport, UdpSequences, probe, round_trips, tcp_streams,
    udp_sequences,
};
use ringtun::lab::{Host, Pair, Process};

use crate::place;

/// What moves the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// io_uring with multishot requests.
    Uring,
    /// io_uring without.
    SingleShot,
    /// epoll, recvmmsg, sendmmsg.
    Mmsg,
}

impl Io {
    /// As test names begin.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::SingleShot => "uring_single_shot",
            Self::Mmsg => "mmsg",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Uring => &["--io", "uring"],
            Self::SingleShot => &["--io", "uring", "--no-multishot"],
            Self::Mmsg => &["--io", "mmsg"],
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// `v4` or `v6`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    /// An IP and a UDP header, in bytes.
    #[must_use]
    pub fn headers_len(self) -> usize {
        match self {
            Self::V4 => 28,
            Self::V6 => 48,
        }
    }
}

/// One side of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first host.
    Left,
    /// The second.
    Right,
}

/// The UDP port of both ends.
pub const PORT: u16 = 51_820;

impl Side {
    /// Its device.
    #[must_use]
    pub fn device(self) -> &'static str {
        match self {
            Self::Left => "rt-left",
            Self::Right => "rt-right",
        }
    }

    /// Its address inside the tunnel.
    #[must_use]
    pub fn inner(self, family: Family) -> IpAddr {
        let text = match (self, family) {
            (Self::Left, Family::V4) => "10.7.0.1",
            (Self::Left, Family::V6) => "fd07::1",
            (Self::Right, Family::V4) => "10.7.0.2",
            (Self::Right, Family::V6) => "fd07::2",
        };
        text.parse().unwrap()
    }

    /// Its UDP endpoint on the wire.
    #[must_use]
    pub fn endpoint(self, family: Family) -> SocketAddr {
        let addresses = match self {
            Self::Left => Pair::LEFT,
            Self::Right => Pair::RIGHT,
        };
        SocketAddr::new(addresses[usize::from(family == Family::V6)].ip, PORT)
    }

    /// Opposite.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// Arguments of `ringtun up` for one side; add to them before starting.
#[must_use]
pub fn arguments(side: Side, io: Io, outer: Family) -> Vec<String> {
    let mut words = vec!["up".to_owned(), side.device().to_owned()];
    words.extend(["--listen".to_owned(), side.endpoint(outer).to_string()]);
    words.extend(["--peer".to_owned(), side.other().endpoint(outer).to_string()]);
    words.extend(["--encap".to_owned(), "plain".to_owned()]);
    for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
        if family == Family::V4 || ringtun::lab::has_ipv6() {
            let address = format!("{}/{prefix}", side.inner(family));
            words.extend(["--address".to_owned(), address]);
        }
    }
    words.extend(io.arguments().iter().map(|&word| word.to_owned()));
    words
}

/// How long an engine may take to start or to react.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One `ringtun up`.
pub struct Engine {
    /// The process.
    pub process: Process,
    /// Its control socket.
    pub socket: PathBuf,
    device: String,
}

impl Engine {
    /// Starts `ringtun` on `host`; the second word of `arguments` is the device.
    #[must_use]
    pub fn start(host: &Host, arguments: &[String]) -> Self {
        let mut command = Command::new(place::binary());
        command.args(arguments).env("NO_COLOR", "1").env_remove("RUST_LOG");
        let device = arguments[1].clone();
        let socket = Path::new("/run/ringtun").join(format!("{device}.sock"));
        Self { process: host.spawn(command).unwrap(), socket, device }
    }

    /// Waits until it answers.
    ///
    /// # Panics
    /// With its log when it ended or stays silent.
    pub fn wait(&mut self) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.process.ended().unwrap();
            assert!(ended.is_none(), "ended with {ended:?}: {}", self.process.stderr());
            match query(&self.socket) {
                Ok(status) => return status,
                Err(error) if Instant::now() > deadline => {
                    panic!("{error}: {}", self.process.stderr())
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Its state now.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn status(&self) -> Status {
        query(&self.socket).unwrap_or_else(|error| panic!("{error}: {}", self.process.stderr()))
    }

    /// Its state as soon as it has a place for one more client.
    ///
    /// # Panics
    /// When it never has.
    pub fn status_when_free(&self) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match query(&self.socket) {
                Ok(status) => return status,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its state as soon as it satisfies `wanted`.
    ///
    /// # Panics
    /// With the last state when it never does.
    pub fn status_when(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "never {what}: {status:#?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end and returns the exit code.
    ///
    /// # Panics
    /// When it runs on, or was killed by a signal.
    pub fn exit_code(&mut self, within: Duration) -> i32 {
        let status = self.process.wait_timeout(within).unwrap();
        let status = status.unwrap_or_else(|| panic!("runs on: {}", self.process.stderr()));
        status.code().unwrap_or_else(|| panic!("{status}: {}", self.process.stderr()))
    }

    /// Asserts that neither its device on `host` nor its control socket is left.
    ///
    /// # Panics
    /// When one is.
    pub fn assert_gone(&self, host: &Host) {
        assert!(!host.has_interface(&self.device).unwrap(), "{} is left", self.device);
        let left: Vec<_> = std::fs::read_dir("/run/ringtun")
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().contains(&self.device))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        assert!(matches!(query(&self.socket), Err(SocketError::Absent { .. })));
    }

    /// Ends it by `signal` and asserts a clean end.
    ///
    /// # Panics
    /// When the exit code is not 0 or something is left.
    pub fn stop(&mut self, host: &Host, signal: i32) {
        self.process.signal(signal).unwrap();
        let code = self.exit_code(PATIENCE);
        assert_eq!(code, 0, "{}", self.process.stderr());
        self.assert_gone(host);
    }

    /// How often `words` are in its log.
    #[must_use]
    pub fn log_count(&self, words: &str) -> usize {
        self.process.stderr().matches(words).count()
    }
}

/// Both hosts and both engines. Engines end before their hosts.
pub struct Tunnel {
    /// On the left host.
    pub left: Engine,
    /// On the right host.
    pub right: Engine,
    /// The hosts.
    pub pair: Pair,
    io: Io,
    outer: Family,
    extra: Vec<String>,
}

impl Tunnel {
    /// Starts one over `outer` with `extra` arguments on both ends, and waits until it is up.
    #[must_use]
    pub fn new(io: Io, outer: Family, extra: &[&str]) -> Self {
        let pair = Pair::new().unwrap();
        let extra: Vec<String> = extra.iter().map(|&word| word.to_owned()).collect();
        let words = |side| [arguments(side, io, outer), extra.clone()].concat();
        let left = Engine::start(&pair.left, &words(Side::Left));
        let right = Engine::start(&pair.right, &words(Side::Right));
        let mut tunnel = Self { left, right, pair, io, outer, extra };
        tunnel.left.wait();
        tunnel.right.wait();
        tunnel
    }

    /// The arguments that `side` was started with.
    #[must_use]
    pub fn arguments(&self, side: Side) -> Vec<String> {
        [arguments(side, self.io, self.outer), self.extra.clone()].concat()
    }

    /// A side's host.
    #[must_use]
    pub fn host(&self, side: Side) -> &Host {
        match side {
            Side::Left => &self.pair.left,
            Side::Right => &self.pair.right,
        }
    }

    /// Starts the left end anew.
    pub fn restart_left(&mut self) {
        self.left = Engine::start(&self.pair.left, &self.arguments(Side::Left));
        self.left.wait();
    }

    /// Starts the right end anew.
    pub fn restart_right(&mut self) {
        self.right = Engine::start(&self.pair.right, &self.arguments(Side::Right));
        self.right.wait();
    }

    /// Asserts that packets pass both ways.
    ///
    /// # Panics
    /// When none is answered within [`PATIENCE`].
    pub fn assert_passes(&self) {
        self.assert_reaches(&self.pair.left, Family::V4);
    }

    /// Asserts that packets pass from `from` to the right host and back.
    ///
    /// # Panics
    /// When none is answered within [`PATIENCE`].
    pub fn assert_reaches(&self, from: &Host, inner: Family) {
        let to = SocketAddr::new(Side::Right.inner(inner), 0);
        probe(from, &self.pair.right, to, PATIENCE, &Stop::default()).unwrap();
    }

    /// Sends `bytes` on each of `streams` TCP streams from `side` and compares them all.
    ///
    /// # Panics
    /// When they do not arrive as they were sent.
    pub fn tcp(&self, side: Side, inner: Family, streams: usize, bytes: u64) {
        let to = SocketAddr::new(side.other().inner(inner), 0);
        Self::tcp_between((self.host(side), self.host(side.other())), to, streams, bytes);
    }

    /// As [`Self::tcp`], between any two hosts.
    ///
    /// # Panics
    /// When the bytes do not arrive as they were sent.
    pub fn tcp_between(hosts: (&Host, &Host), to: SocketAddr, streams: usize, bytes: u64) {
        let plan = TcpStreams {
            streams,
            duration: Duration::from_secs(60),
            bytes_max: Some(bytes),
            verify: Some(0x5eed),
        };
        let report = tcp_streams(hosts.0, hosts.1, to, &plan, &Stop::default()).unwrap();
        assert_eq!(report.bytes, bytes * streams as u64);
    }

    /// TCP as fast as it goes for `duration`, unverified.
    ///
    /// # Panics
    /// When nothing passes.
    pub fn load(&self, side: Side, streams: usize, duration: Duration) {
        let plan = TcpStreams { streams, duration, bytes_max: None, verify: None };
        let to = SocketAddr::new(side.other().inner(Family::V4), 0);
        let (from, at) = (self.host(side), self.host(side.other()));
        let report = tcp_streams(from, at, to, &plan, &Stop::default()).unwrap();
        assert!(report.bytes > 0);
    }

    /// Numbered UDP packets from `side`.
    ///
    /// # Panics
    /// When a socket call fails.
    #[must_use]
    pub fn udp(&self, side: Side, inner: Family, plan: &UdpSequences) -> UdpReport {
        let to = SocketAddr::new(side.other().inner(inner), 0);
        let (from, at) = (self.host(side), self.host(side.other()));
        udp_sequences(from, at, to, plan, &Stop::default()).unwrap()
    }

    /// UDP echoes from `side`; asserts that none is lost.
    ///
    /// # Panics
    /// When one is.
    pub fn round_trips(&self, side: Side, inner: Family, plan: &RoundTrips) {
        let to = SocketAddr::new(side.other().inner(inner), 0);
        let (from, at) = (self.host(side), self.host(side.other()));
        let report = round_trips(from, at, to, plan, &Stop::default()).unwrap();
        assert!(report.sent > 0 && report.lost == 0, "{report:?}");
    }

    /// Ends both ends and asserts that they clean up.
    ///
    /// # Panics
    /// When they do not.
    pub fn stop(mut self) {
        self.left.stop(&self.pair.left, libc::SIGTERM);
        self.right.stop(&self.pair.right, libc::SIGTERM);
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for (side, engine) in [(Side::Left, &self.left), (Side::Right, &self.right)] {
            let log = engine.process.last_lines(20).join("\n");
            let state = query(&engine.socket).map_err(|error| error.to_string());
            let kernel = kernel_view(self.host(side));
            let _ = writeln!(io::stderr(), "--- {side:?}: {state:?}\n{log}\n{kernel}");
        }
    }
}

/// What the kernel of `host` counted, for the post-mortem of a failed test.
fn kernel_view(host: &Host) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    host.run(|| {
        let files = ["dev", "snmp", "snmp6", "softnet_stat"];
        let texts = files.map(|file| read(&format!("/proc/thread-self/net/{file}")));
        let zero = |line: &&str| line.split_whitespace().nth(1) != Some("0");
        let lines = texts.iter().flat_map(|text| text.lines()).filter(zero);
        lines.collect::<Vec<_>>().join("\n")
    })
    .unwrap_or_default()
}

/// The sum of a figure over all workers.
#[must_use]
pub fn total(status: &Status, figure: impl Fn(&Worker) -> u64) -> u64 {
    status.workers.iter().map(figure).sum()
}

/// Packets dropped for `reason`, over all workers.
#[must_use]
pub fn dropped(status: &Status, reason: &str) -> u64 {
    total(status, |worker| worker.drops.get(reason).copied().unwrap_or(0))
}

/// Every drop by name, over all workers.
#[must_use]
pub fn drops(status: &Status) -> std::collections::BTreeMap<String, u64> {
    let mut all = std::collections::BTreeMap::new();
    for (reason, count) in status.workers.iter().flat_map(|worker| &worker.drops) {
        *all.entry(reason.clone()).or_insert(0) += count;
    }
    all
}

/// That calls by size are all the calls, and that those out carry neither fewer nor more packets
/// than their sizes say.
///
/// # Panics
/// Otherwise.
pub fn assert_sizes_fit(direction: &Direction) {
    let sum = |sizes: &[u64]| sizes.iter().sum::<u64>();
    assert_eq!(sum(&direction.read_sizes), direction.reads, "{direction:?}");
    assert_eq!(sum(&direction.write_sizes), direction.writes, "{direction:?}");
    let packets = |bounds: [u64; 8]| -> u64 {
        direction.write_sizes.iter().zip(bounds).map(|(calls, packets)| calls * packets).sum()
    };
    let least = packets([1, 2, 3, 5, 9, 17, 33, 65]);
    let most = packets([1, 2, 4, 8, 16, 32, 64, 1_000]);
    assert!((least..=most).contains(&direction.packets), "{direction:?}");
}

/// One direction of all workers, `after` less `before`.
#[must_use]
pub fn difference(
    before: &Status,
    after: &Status,
    direction: impl Fn(&Worker) -> &Direction,
) -> Direction {
    let total = |status: &Status| {
        let workers = status.workers.iter().map(&direction);
        workers.fold(Direction::default(), |sum, one| sum.plus(one))
    };
    total(after).since(&total(before))
}
