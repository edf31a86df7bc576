//! A tunnel between ringtun and another WireGuard: two hosts on a wire, both ends configured from
//! files with a pre-shared key, and traffic between them.
//!
//! ```text
//! ours:   rt-TAG 10.9.0.1 fd09::1 ── eth0 192.0.2.1   ringtun up --config
//! theirs: wg-TAG 10.9.0.2 fd09::2 ── eth0 192.0.2.2   the other, by `wg setconf`
//! ```

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::control::socket::query;
use ringtun::control::status::Status;
use ringtun::lab::traffic::{RoundTripReport, RoundTrips, Stop, probe, round_trips};
use ringtun::lab::{Address, End, Host, Pair, Process, WIRE_MTU, connect, has_ipv6};
use ringtun::wire::wireguard::keys::{PresharedKey, PrivateKey};
use ringtun_tests::place::{binary, find_program};
use ringtun_tests::tunnel::Tunnel;

use crate::guest;
use crate::program::Program;

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Theirs,
}

/// What one end is told of the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Knows {
    /// Where it is. Who does not know cannot start a handshake.
    pub(crate) endpoint: bool,
    /// Seconds between persistent keepalives; 0 is off.
    pub(crate) keepalive_s: u16,
}

impl Knows {
    pub(crate) const NOTHING: Self = Self { endpoint: false, keepalive_s: 0 };
    pub(crate) const ENDPOINT: Self = Self { endpoint: true, keepalive_s: 0 };
}

/// Both ends. Processes end before their hosts.
pub(crate) struct Ends {
    program: Program,
    ringtun: Option<Process>,
    other: Option<Process>,
    ours: Host,
    theirs: Host,
    tag: String,
    io: &'static str,
    keys: [PrivateKey; 2],
    psks: [PresharedKey; 2],
}

/// How long anything may take: software emulation is slow.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(if guest::is_inside() { 60 } else { 15 })
}

/// Waits until `wanted`.
pub(crate) fn until(what: &str, wanted: impl FnMut() -> bool) {
    until_within(patience(), what, wanted);
}

pub(crate) fn until_within(patience: Duration, what: &str, mut wanted: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !wanted() {
        assert!(begin.elapsed() < patience, "not after {patience:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a program to its end and returns what it said.
pub(crate) fn run(host: &Host, program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(words);
    let mut process = host.spawn(command).unwrap();
    let status = process.wait_timeout(patience()).unwrap();
    let said = format!("{}{}", process.stdout(), process.stderr());
    assert!(status.is_some_and(|status| status.success()), "{program} {words:?}: {said}");
    said
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Ours, Self::Theirs];

    fn index(self) -> usize {
        usize::from(self == Self::Theirs)
    }

    pub(crate) fn other(self) -> Self {
        if self == Self::Ours { Self::Theirs } else { Self::Ours }
    }

    fn host_number(self) -> u8 {
        if self == Self::Ours { 1 } else { 2 }
    }

    /// Its addresses inside the tunnel.
    pub(crate) fn inner(self) -> Vec<IpAddr> {
        let number = self.host_number();
        let v4 = IpAddr::from([10, 9, 0, number]);
        let v6 = IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, u16::from(number)]);
        if has_ipv6() { vec![v4, v6] } else { vec![v4] }
    }

    fn allowed(self) -> String {
        let number = self.host_number();
        format!("10.9.0.{number}/32, fd09::{number}/128")
    }
}

impl Ends {
    /// Both hosts, with nothing running; `tag` tells tunnels apart that run at the same time.
    pub(crate) fn new(program: Program, tag: &str, io: &'static str) -> Self {
        let tag = format!("{}{tag}", program.tag());
        let host = |end: &str| Host::new(&format!("{tag}-{end}")).unwrap();
        let (ours, theirs) = (host("ours"), host("theirs"));
        let end = |host, addresses| End { host, interface: Pair::INTERFACE, addresses };
        connect(&end(&ours, &Pair::LEFT), &end(&theirs, &Pair::RIGHT), WIRE_MTU).unwrap();
        let key = || PrivateKey::generate().unwrap();
        let psk = PresharedKey::generate().unwrap();
        let (keys, psks) = ([key(), key()], [psk.clone(), psk]);
        Self { program, ringtun: None, other: None, ours, theirs, tag, io, keys, psks }
    }

    /// Both ends running, each knowing what is given.
    pub(crate) fn started(program: Program, io: &'static str, ours: Knows, theirs: Knows) -> Self {
        let mut ends = Self::new(program, "", io);
        ends.start(Side::Ours, ours);
        ends.start(Side::Theirs, theirs);
        ends
    }

    pub(crate) fn host(&self, side: Side) -> &Host {
        if side == Side::Ours { &self.ours } else { &self.theirs }
    }

    pub(crate) fn device(&self, side: Side) -> String {
        let kind = if side == Side::Ours { "rt" } else { "wg" };
        format!("{kind}-{}", self.tag)
    }

    /// Gives one side another pre-shared key than the other's.
    pub(crate) fn forget_psk(&mut self) {
        self.psks[1] = PresharedKey::generate().unwrap();
    }

    fn config(&self, side: Side, knows: Knows) -> String {
        let own = side.index();
        let mut text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\n\
             [Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = {}\n",
            self.keys[own].to_base64().as_str(),
            self.keys[1 - own].public(),
            self.psks[own].to_base64().as_str(),
            side.other().allowed(),
        );
        if knows.endpoint {
            text += &format!("Endpoint = 192.0.2.{}:51820\n", side.other().host_number());
        }
        if knows.keepalive_s > 0 {
            text += &format!("PersistentKeepalive = {}\n", knows.keepalive_s);
        }
        text
    }

    /// Starts one end and waits until it is configured and up.
    pub(crate) fn start(&mut self, side: Side, knows: Knows) {
        let device = self.device(side);
        let mut config = self.config(side, knows);
        let addresses = side.inner().into_iter().map(|ip| {
            let prefix_len = if ip.is_ipv4() { 24 } else { 64 };
            Address { ip, prefix_len }
        });
        if side == Side::Ours {
            let list: Vec<String> = addresses.map(|address| address.to_string()).collect();
            let line = format!("[Interface]\nAddress = {}\n", list.join(", "));
            config = config.replacen("[Interface]\n", &line, 1);
            self.ringtun = Some(self.start_ringtun(&device, &config));
            return;
        }
        let path = write(&device, &config);
        self.other = self.program.start(&self.theirs, &device);
        run(&self.theirs, "wg", &["setconf", &device, &path]);
        for address in addresses {
            self.theirs.add_address(&device, address).unwrap();
        }
        self.theirs.set_up(&device).unwrap();
    }

    fn start_ringtun(&self, device: &str, config: &str) -> Process {
        let path = write(device, config);
        let mut command = Command::new(binary());
        command.args(["up", device, "--config", &path, "--io", self.io]).env("NO_COLOR", "1");
        let mut process = self.ours.spawn(command).unwrap();
        until("ringtun is up", || {
            assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
            query(&socket(device)).is_ok_and(|status| !status.listen.is_empty())
        });
        process
    }

    /// Ends one end by force: it has no chance to say anything.
    pub(crate) fn kill(&mut self, side: Side) {
        let device = self.device(side);
        if side == Side::Theirs {
            let process = self.other.take();
            self.program.kill(&self.theirs, &device, process);
        } else {
            drop(self.ringtun.take());
            until("the device is gone", || !self.ours.has_interface(&device).unwrap());
        }
    }

    /// ringtun's own view.
    pub(crate) fn status(&self) -> Status {
        query(&socket(&self.device(Side::Ours))).unwrap()
    }

    pub(crate) fn ringtun(&self) -> &Process {
        self.ringtun.as_ref().unwrap()
    }

    /// The last column of one line of `wg show DEVICE WHAT`, at the other end.
    pub(crate) fn wg_shows(&self, what: &str) -> Vec<String> {
        let said = run(&self.theirs, "wg", &["show", &self.device(Side::Theirs), what]);
        said.split_whitespace().skip(1).map(str::to_owned).collect()
    }

    /// Whether an echo comes back in time.
    pub(crate) fn reaches(&self, from: Side, to: IpAddr, within: Duration) -> bool {
        let (here, there) = (self.host(from), self.host(from.other()));
        probe(here, there, SocketAddr::new(to, 0), within, &Stop::default()).is_ok()
    }

    pub(crate) fn assert_reaches(&self, from: Side) {
        for to in from.other().inner() {
            let reaches = self.reaches(from, to, patience());
            assert!(reaches, "{from:?} does not reach {to}: {}", self.post_mortem());
        }
    }

    /// What both ends say of each other, for a test that failed.
    pub(crate) fn post_mortem(&self) -> String {
        let ours = query(&socket(&self.device(Side::Ours)));
        let ours = ours.map(|status| (status.peers, status.workers, status.kernel_drops));
        let theirs = run(&self.theirs, "wg", &["show", &self.device(Side::Theirs)]);
        let log = |process: &Option<Process>| {
            process.as_ref().map(|process| process.stdout() + &process.stderr()).unwrap_or_default()
        };
        format!("{ours:#?}\n{}\n{theirs}\n{}", log(&self.ringtun), log(&self.other))
    }

    /// Pings and verified TCP, both ways, both families.
    pub(crate) fn assert_carries(&self) {
        let bytes = if guest::is_inside() { 1 << 20 } else { 10 << 20 };
        for from in Side::BOTH {
            for to in from.other().inner() {
                if find_program("ping").is_some() {
                    let words = ["-c", "3", "-i", "0.2", "-W", "5", &to.to_string()];
                    let said = run(self.host(from), "ping", &words);
                    assert!(said.contains(" 0% packet loss"), "{said}");
                }
                let hosts = (self.host(from), self.host(from.other()));
                Tunnel::tcp_between(hosts, SocketAddr::new(to, 0), 2, bytes);
            }
        }
    }

    /// UDP echoes from ringtun's end.
    pub(crate) fn round_trips(&self, from: Side, plan: &RoundTrips) -> RoundTripReport {
        let to = SocketAddr::new(from.other().inner()[0], 0);
        let (here, there) = (self.host(from), self.host(from.other()));
        round_trips(here, there, to, plan, &Stop::default()).unwrap()
    }

    /// Ends ringtun in good manners and asserts that it went well.
    pub(crate) fn stop(mut self) {
        let mut process = self.ringtun.take().unwrap();
        let status = process.terminate(patience()).unwrap();
        assert!(status.success(), "{status}: {}", process.stderr());
    }
}

fn write(device: &str, config: &str) -> String {
    let path = format!("/run/{device}.conf");
    fs::write(&path, config).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn socket(device: &str) -> std::path::PathBuf {
    Path::new("/run/ringtun").join(format!("{device}.sock"))
}
