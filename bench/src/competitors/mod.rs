//! The tunnels that are measured, and what they have in common.
//!
//! ```text
//! Competitor ── start(Slot) ──► Tunnel: processes on both ends, the far address
//!   wire         no tunnel, and the kernel's VXLAN
//!   engine       ringtun, in its variants, of this tree or by path
//!   wireguard    ringtun's, wireguard-go, boringtun, gotatun     secrets (keys, `wg setconf`)
//!   kernel_wireguard, openvpn, tinc, fastd, quicktun, nebula, socat
//! programs       where those are, and what installs them
//! private        files for keys
//! ```
//!
//! All of them are up at the same time, each with addresses, ports and devices of its own
//! ([`Slot`]), and idle except while they are measured. One that is missing or does not come up is
//! reported with the reason; it never disappears silently.

mod engine;
mod fastd;
mod kernel_wireguard;
mod nebula;
mod openvpn;
pub(crate) mod private;
mod programs;
mod quicktun;
mod secrets;
mod socat;
mod tinc;
mod wire;
mod wireguard;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ringtun::control::values::InterfaceName;
use ringtun::lab::traffic::{Stop, TrafficError, probe};
use ringtun::lab::{Address, Host, Process};

pub(crate) use engine::{Engine, OtherBuild};
pub(crate) use programs::{IPERF3, Program, Source, explain, find, missing, peers_folder};
pub(crate) use secrets::MTU;
pub(crate) use wire::{Veth, Vxlan};
pub(crate) use wireguard::OtherWireGuard;

/// How long a tunnel may take until it passes packets.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a daemon may take to make its device.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may then take to settle: tinc looks for its MTU for 30 s.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Between two looks at whether the processes of a starting tunnel still run.
const GLANCE: Duration = Duration::from_millis(500);
const LOG_LINES: usize = 4;
const FIRST_PORT: u16 = 51_820;

/// Something that carries packets from one host to the other.
pub(crate) trait Competitor: fmt::Debug {
    /// Its name, in tables and for `--only`.
    fn name(&self) -> &str;
    /// Programs it needs.
    fn needs(&self) -> Vec<Program> {
        Vec::new()
    }
    /// What the kernel is asked to have, other than every Linux has; an error says why it has not.
    ///
    /// # Errors
    /// What the kernel said, with the remedy.
    fn ask_kernel(&self, _host: &Host) -> Result<()> {
        Ok(())
    }
    /// Starts both ends, without waiting.
    ///
    /// # Errors
    /// What the kernel or a program said.
    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel>;
    /// How to make a WireGuard device alone, for `wg` to configure; none for whatever is no such
    /// thing.
    fn device(&self, _name: &str) -> Option<Making> {
        None
    }
    /// Whether a tunnel that passes packets has also found out what it finds out by and by.
    ///
    /// # Errors
    /// What the kernel said.
    fn is_settled(&self, _tunnel: &mut Tunnel) -> Result<bool> {
        Ok(true)
    }
}

/// What makes a device.
#[derive(Debug)]
pub(crate) enum Making {
    /// Has it as long as it runs, in the foreground.
    Daemon(Command),
    /// Has the kernel make it, and ends.
    Kernel(Command),
}

/// One end of the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    /// The host.
    pub(crate) host: &'a Host,
    /// Its address on the wire.
    pub(crate) wire: IpAddr,
    /// The interface of the wire.
    pub(crate) underlay: &'a str,
}

/// What one competitor has to itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a> {
    /// Both ends of the wire.
    pub(crate) ends: [End<'a>; 2],
    /// From 0; makes addresses, ports and devices unique.
    pub(crate) index: u8,
    /// Whether all of this is to end.
    pub(crate) stop: &'a Stop,
}

impl Slot<'_> {
    /// Waits until something has come about, however long a daemon takes over it, but not longer
    /// than `timeout`; false if it has not.
    ///
    /// # Errors
    /// Those of `done`; [`TrafficError::Stopped`].
    pub(crate) fn wait(
        &self,
        timeout: Duration,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<bool> {
        let begin = Instant::now();
        while !done()? {
            if self.stop.raised() {
                return Err(TrafficError::Stopped.into());
            }
            if begin.elapsed() > timeout {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(true)
    }

    /// UDP port of both ends.
    pub(crate) fn port(&self) -> u16 {
        FIRST_PORT + u16::from(self.index)
    }

    /// Address and port of an end on the wire.
    pub(crate) fn endpoint(&self, end: usize) -> SocketAddr {
        SocketAddr::new(self.ends[end].wire, self.port())
    }

    /// Device on an end: unique on the machine, for control sockets are shared.
    pub(crate) fn device(&self, end: usize) -> String {
        format!("bench{}{}", self.index, ["l", "r"][end])
    }

    /// Inner address of an end.
    pub(crate) fn inner(&self, end: usize) -> Address {
        let last = if end == 0 { 1 } else { 2 };
        Address { ip: IpAddr::V4(Ipv4Addr::new(10, 100, self.index, last)), prefix_len: 24 }
    }

    /// A tunnel between the inner addresses of this slot.
    pub(crate) fn tunnel(&self, how: String) -> Tunnel {
        Tunnel { how, to: self.inner(1).ip, processes: Vec::new(), engines: Vec::new() }
    }
}

/// A competitor at work. Dropping it ends its processes.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// What exactly it is: the command of the left end, cipher and all.
    pub(crate) how: String,
    /// The right host's address in it.
    pub(crate) to: IpAddr,
    /// Its processes on both ends.
    pub(crate) processes: Vec<Process>,
    /// Devices of ringtun engines, left and right: those have a control socket.
    pub(crate) engines: Vec<InterfaceName>,
}

impl Tunnel {
    /// The process groups to charge.
    pub(crate) fn groups(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// Waits until a packet has gone to the right end and back.
    ///
    /// # Errors
    /// A process that ended, with its last words; the timeout; [`TrafficError::Stopped`].
    pub(crate) fn wait(&mut self, client: &Host, server: &Host, stop: &Stop) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.check()?;
            let to = SocketAddr::new(self.to, 0);
            match probe(client, server, to, GLANCE, stop) {
                Ok(_) => return Ok(()),
                Err(TrafficError::Stopped) => return Err(TrafficError::Stopped.into()),
                // Not yet: no answer, or no address to bind to.
                Err(_) if begin.elapsed() < START_TIMEOUT => std::thread::sleep(GLANCE / 10),
                Err(error) => bail!("{error}. {}", self.last_words()),
            }
        }
    }

    /// An error if one of its processes has ended.
    ///
    /// # Errors
    /// The last words of that process.
    pub(crate) fn check(&mut self) -> Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.ended()? {
                bail!("it ended ({status}): {}", process.last_lines(LOG_LINES).join(" / "));
            }
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let words = |process: &Process| process.last_lines(LOG_LINES).join(" / ");
        self.processes.iter().map(words).collect::<Vec<_>>().join(" // ")
    }
}

/// All that `ab` knows, in the order of its tables.
pub(crate) fn all(others: &[OtherBuild]) -> Vec<Box<dyn Competitor>> {
    all_and(others, &[])
}

/// The same with WireGuards by path.
pub(crate) fn all_and(
    others: &[OtherBuild],
    wireguards: &[OtherWireGuard],
) -> Vec<Box<dyn Competitor>> {
    fn boxed(competitor: impl Competitor + 'static) -> Box<dyn Competitor> {
        Box::new(competitor)
    }
    let mut all = vec![boxed(Veth), boxed(Vxlan)];
    all.extend(Engine::variants().map(boxed));
    all.extend(others.iter().map(|other| boxed(other.engine())));
    all.extend(wireguard::Ours::VARIANTS.map(boxed));
    all.push(boxed(kernel_wireguard::KernelWireGuard));
    all.extend(wireguard::Other::variants().map(boxed));
    all.extend(wireguards.iter().map(|other| boxed(other.competitor())));
    all.extend([boxed(openvpn::OpenVpn), boxed(tinc::Tinc), boxed(fastd::Fastd)]);
    all.extend([boxed(nebula::Nebula), boxed(quicktun::QuickTun), boxed(socat::Socat)]);
    all
}

/// What a competitor needs and this machine lacks, with the remedy.
pub(crate) fn lacks(competitor: &dyn Competitor) -> Option<String> {
    let missing = missing(&competitor.needs());
    (!missing.is_empty()).then(|| explain(&missing))
}

/// Starts a competitor and waits until it passes packets.
///
/// # Errors
/// The programs that are missing, or why it did not come up.
pub(crate) fn start(competitor: &dyn Competitor, slot: &Slot<'_>) -> Result<Tunnel> {
    let stop = slot.stop;
    if let Some(missing) = lacks(competitor) {
        bail!(missing);
    }
    let mut tunnel = competitor.start(slot)?;
    tunnel.wait(slot.ends[0].host, slot.ends[1].host, stop)?;
    let begin = Instant::now();
    while !competitor.is_settled(&mut tunnel)? {
        if stop.raised() {
            return Err(TrafficError::Stopped.into());
        }
        tunnel.check()?;
        if begin.elapsed() > SETTLE_TIMEOUT {
            bail!("it passes packets, but is not settled after {SETTLE_TIMEOUT:?}");
        }
        std::thread::sleep(GLANCE);
    }
    Ok(tunnel)
}

/// A command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default();
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    let mut words = vec![name.to_string_lossy()];
    words.extend(args);
    words.join(" ")
}

/// Sets an interface's MTU as soon as a daemon has made it.
///
/// # Errors
/// The last one, if there is no such interface in time.
pub(crate) fn set_mtu_when_there(slot: &Slot<'_>, end: usize, mtu: u32) -> Result<()> {
    let (host, device) = (slot.ends[end].host, slot.device(end));
    let mut set = Ok(());
    slot.wait(DEVICE_TIMEOUT, || {
        set = host.set_mtu(&device, mtu);
        Ok(set.is_ok())
    })?;
    Ok(set?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let all = all(&[]);
        let mut names: Vec<_> = all.iter().map(|competitor| competitor.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn commands_read_as_typed() {
        let mut command = Command::new("/usr/sbin/openvpn");
        command.args(["--dev", "x"]);
        assert_eq!(words(&command), "openvpn --dev x");
    }
}
