//! WireGuard devices as `wg` knows them: `PROGRAM -f NAME`, configured over its socket.
//!
//! ```text
//! left: wg-l 10.9.0.1 fd09::1 ── eth0 192.0.2.1 fd00:2::1   the wire
//! right: wg-r 10.9.0.2 fd09::2 ── eth0 192.0.2.2 fd00:2::2
//! ```

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::control::socket::query;
use ringtun::control::status::Status;
use ringtun::lab::traffic::{Stop, probe};
use ringtun::lab::{Address, Host, Pair, Process, has_ipv6};
use ringtun::wire::wireguard::keys::{PrivateKey, PublicKey};

use crate::place::{binary, find_program};
use crate::tunnel::{Family, PATIENCE, PORT, Side};

/// The devices of left and right.
pub const NAMES: [&str; 2] = ["wg-l", "wg-r"];
const POLL: Duration = Duration::from_millis(10);

/// The address of end `n` inside the tunnel.
#[must_use]
pub fn inner(n: usize, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.9.0.{}", n + 1),
        Family::V6 => format!("fd09::{}", n + 1),
    };
    text.parse().unwrap()
}

/// Where end `n` is on the wire.
#[must_use]
pub fn endpoint(n: usize, family: Family) -> SocketAddr {
    [Side::Left, Side::Right][n].endpoint(family)
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it never does.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never {what}");
        thread::sleep(POLL);
    }
}

/// Runs a program to its end; returns its success and what it wrote to both outputs.
///
/// # Panics
/// When it does not start or runs on.
#[must_use]
pub fn try_run(host: &Host, program: &str, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(find_program(program).unwrap_or_else(|| program.into()));
    command.args(words);
    let mut process = host.spawn(command).unwrap();
    let status = process.wait_timeout(PATIENCE).unwrap();
    let status = status.unwrap_or_else(|| panic!("{program} {words:?} runs on"));
    (status.success(), process.stdout() + &process.stderr())
}

/// Runs a program to its end and returns its output.
///
/// # Panics
/// When it fails.
pub fn run(host: &Host, program: &str, words: &[&str]) -> String {
    let (success, said) = try_run(host, program, words);
    assert!(success, "{program} {words:?}: {said}");
    said
}

/// One request to the socket of the device `name`, and its whole answer.
///
/// # Panics
/// When nobody answers.
#[must_use]
pub fn ask(name: &str, request: &str) -> String {
    let path = format!("/var/run/wireguard/{name}.sock");
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"\n\n") {
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "cut off: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..len]);
    }
    String::from_utf8(answer).unwrap()
}

/// What a device tells of one peer.
#[derive(Clone, Debug, Default)]
pub struct PeerLines(Vec<(String, String)>);

impl PeerLines {
    /// The first value of `key`.
    #[must_use]
    pub fn one(&self, key: &str) -> Option<&str> {
        self.all(key).first().copied()
    }

    /// All values of `key`.
    #[must_use]
    pub fn all(&self, key: &str) -> Vec<&str> {
        let of_key = self.0.iter().filter(|(name, _)| name == key);
        of_key.map(|(_, value)| value.as_str()).collect()
    }

    /// A figure; 0 if it is not told.
    #[must_use]
    pub fn figure(&self, key: &str) -> u64 {
        self.one(key).map_or(0, |text| text.parse().unwrap())
    }
}

/// The lines that set a peer; further ones may follow.
#[must_use]
pub fn peer_lines(key: &PublicKey, endpoint: Option<SocketAddr>, allowed_ips: &[&str]) -> String {
    let mut text = format!("public_key={}\n", key.to_hex().as_str());
    if let Some(endpoint) = endpoint {
        writeln!(text, "endpoint={endpoint}").unwrap();
    }
    for prefix in allowed_ips {
        writeln!(text, "allowed_ip={prefix}").unwrap();
    }
    text
}

/// A ringtun that has one worker, however many cores there are.
pub const ONE_WORKER: &str = "ringtun with one worker";

/// A device with its process, which ends with it.
pub struct Device {
    /// The interface.
    pub name: String,
    /// Its process, in the foreground.
    pub process: Process,
}

impl Device {
    /// Starts `program`, ringtun or wireguard-go, and waits until the device can be configured. A
    /// ringtun may be one of [`ONE_WORKER`].
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(host: &Host, program: &str, name: &str) -> Self {
        let is_ours = program == "ringtun" || program == ONE_WORKER;
        let path = if is_ours { binary() } else { find_program(program).unwrap() };
        let mut command = Command::new(path);
        if program == ONE_WORKER {
            command.env("RINGTUN_WORKERS", "1");
        }
        command.args(["-f", name]).env_remove("RUST_LOG").env("NO_COLOR", "1");
        // A killed one leaves its socket behind.
        let _ = fs::remove_file(format!("/var/run/wireguard/{name}.sock"));
        let mut process = host.spawn(command).unwrap();
        let socket = format!("/var/run/wireguard/{name}.sock");
        wait_until("up", || {
            assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
            Path::new(&socket).exists() && UnixStream::connect(&socket).is_ok()
        });
        Self { name: name.to_owned(), process }
    }

    /// Brings its link up and waits until it listens on [`PORT`], wherever it is bound: a handshake
    /// message that comes earlier is repeated only after 5 s.
    ///
    /// # Panics
    /// When it does not.
    pub fn bring_up(&self, host: &Host) {
        host.set_up(&self.name).unwrap();
        self.wait_bound(host, PORT);
    }

    /// Waits until somebody on `host` listens on `port`.
    ///
    /// # Panics
    /// When nobody does.
    pub fn wait_bound(&self, host: &Host, port: u16) {
        let local = format!(" 00000000:{port:04X} ");
        wait_until("bound", || {
            let read = || fs::read_to_string("/proc/thread-self/net/udp");
            host.run(read).unwrap().unwrap().contains(&local)
        });
    }

    /// Sets `lines`; returns the errno.
    #[must_use]
    pub fn try_set(&self, lines: &str) -> i32 {
        let answer = ask(&self.name, &format!("set=1\n{lines}\n"));
        answer.trim().strip_prefix("errno=").unwrap().parse().unwrap()
    }

    /// Sets `lines`.
    ///
    /// # Panics
    /// When they are refused.
    pub fn set(&self, lines: &str) {
        assert_eq!(self.try_set(lines), 0, "{lines}: {}", self.process.stderr());
    }

    /// What it tells of itself.
    #[must_use]
    pub fn get(&self) -> String {
        ask(&self.name, "get=1\n\n")
    }

    /// What it tells of `key`; none if it does not know it.
    #[must_use]
    pub fn find_peer(&self, key: &PublicKey) -> Option<PeerLines> {
        let (text, key) = (self.get(), key.to_hex());
        let mut peers = text.split("public_key=").skip(1);
        let lines = peers.find(|peer| peer.starts_with(key.as_str()))?;
        let pairs = lines.lines().filter_map(|line| line.split_once('='));
        Some(PeerLines(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }

    /// What it tells of `key`.
    ///
    /// # Panics
    /// When it does not know it.
    #[must_use]
    pub fn peer(&self, key: &PublicKey) -> PeerLines {
        self.find_peer(key).unwrap_or_else(|| panic!("no such peer: {}", self.get()))
    }

    /// Where it takes `key` to be.
    #[must_use]
    pub fn endpoint_of(&self, key: &PublicKey) -> Option<SocketAddr> {
        self.peer(key).one("endpoint").map(|text| text.parse().unwrap())
    }

    /// ringtun's own figures.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn status(&self) -> Status {
        let path = format!("/run/ringtun/{}.sock", self.name);
        query(Path::new(&path)).unwrap_or_else(|error| panic!("{error}: {}", self.process.stderr()))
    }

    /// Ends it in good manners.
    ///
    /// # Panics
    /// When it has ended already or fails.
    pub fn stop(mut self) {
        assert_eq!(self.process.ended().unwrap(), None, "{}", self.process.stderr());
        let status = self.process.terminate(PATIENCE).unwrap();
        assert!(status.success(), "{status}: {}", self.process.stderr());
    }

    /// Ends it at once.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(mut self) {
        self.process.signal(libc::SIGKILL).unwrap();
        self.process.wait_timeout(PATIENCE).unwrap().unwrap();
    }
}

/// Two hosts with a device each that know each other. Devices end before their hosts.
pub struct Link {
    /// Left and right.
    pub devices: [Device; 2],
    /// The hosts.
    pub pair: Pair,
    /// Private keys of both.
    pub keys: [PrivateKey; 2],
}

impl Link {
    /// Two ringtuns over `outer`.
    #[must_use]
    pub fn new(outer: Family) -> Self {
        Self::of(["ringtun", "ringtun"], outer, "")
    }

    /// Two programs over `outer`; `lines` are added to the peer on both sides.
    ///
    /// # Panics
    /// When they do not come up.
    #[must_use]
    pub fn of(programs: [&str; 2], outer: Family, lines: &str) -> Self {
        let pair = Pair::new().unwrap();
        let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
        let hosts = [&pair.left, &pair.right];
        let devices = [0, 1].map(|n| Device::start(hosts[n], programs[n], NAMES[n]));
        let link = Self { devices, pair, keys };
        for n in [0, 1] {
            link.configure(n, outer, lines);
        }
        link
    }

    /// Gives end `n` its key, its peer and its addresses, and brings it up.
    ///
    /// # Panics
    /// When something is refused.
    pub fn configure(&self, n: usize, outer: Family, lines: &str) {
        let allowed = [Family::V4, Family::V6]
            .map(|family| format!("{}/{}", inner(1 - n, family), host_bits(family)));
        let allowed = allowed.each_ref().map(String::as_str);
        let peer = peer_lines(&self.public(1 - n), Some(endpoint(1 - n, outer)), &allowed);
        let key = self.keys[n].to_hex();
        let device = &self.devices[n];
        device.set(&format!(
            "private_key={}\nlisten_port={PORT}\nreplace_peers=true\n{peer}{lines}",
            key.as_str()
        ));
        for (family, prefix_len) in [(Family::V4, 24), (Family::V6, 64)] {
            if family == Family::V4 || has_ipv6() {
                let address = Address { ip: inner(n, family), prefix_len };
                self.host(n).add_address(&device.name, address).unwrap();
            }
        }
        device.bring_up(self.host(n));
    }

    /// A side's host.
    #[must_use]
    pub fn host(&self, n: usize) -> &Host {
        [&self.pair.left, &self.pair.right][n]
    }

    /// A side's public key.
    #[must_use]
    pub fn public(&self, n: usize) -> PublicKey {
        self.keys[n].public()
    }

    /// Where end `n` takes the other to be.
    #[must_use]
    pub fn sees_other_at(&self, n: usize) -> Option<SocketAddr> {
        self.devices[n].endpoint_of(&self.public(1 - n))
    }

    /// Whether an echo comes back to end `n` within `patience`.
    #[must_use]
    pub fn reaches(&self, n: usize, family: Family, patience: Duration) -> bool {
        let to = SocketAddr::new(inner(1 - n, family), 0);
        probe(self.host(n), self.host(1 - n), to, patience, &Stop::default()).is_ok()
    }

    /// Asserts that an echo comes back to end `n`.
    ///
    /// # Panics
    /// When none does.
    pub fn assert_passes(&self, n: usize) {
        assert!(self.reaches(n, Family::V4, PATIENCE), "end {n} hears no echo");
    }

    /// Takes end `n`, a ringtun, down and up: it forgets its sessions, and the next packet starts
    /// a handshake.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn forget_sessions(&self, n: usize) {
        self.host(n).set_down(NAMES[n]).unwrap();
        // Up again before it has looked, it would still be bound as before, and no one could tell.
        wait_until("down", || self.devices[n].status().listen.is_empty());
        self.devices[n].bring_up(self.host(n));
        // Its addresses of IPv6 went with the link.
        if has_ipv6() {
            let address = Address { ip: inner(n, Family::V6), prefix_len: 64 };
            let _ = self.host(n).add_address(NAMES[n], address);
        }
    }

    /// Ends both.
    ///
    /// # Panics
    /// When one has ended already or fails.
    pub fn stop(mut self) {
        for device in &mut self.devices {
            let ended = device.process.ended().unwrap();
            assert_eq!(ended, None, "{}: {}", device.name, device.process.stderr());
            device.process.terminate(PATIENCE).unwrap();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for device in &self.devices {
            let path = format!("/run/ringtun/{}.sock", device.name);
            let state = query(Path::new(&path)).map_err(|error| error.to_string());
            let log = device.process.last_lines(20).join("\n");
            let _ = writeln!(io::stderr(), "--- {}: {state:?}\n{log}", device.name);
        }
    }
}

/// The prefix length of a single address.
#[must_use]
pub fn host_bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}
