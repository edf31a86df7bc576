//! tinc 1.0, in router mode with its defaults: AES-256-CBC, SHA-256, data by UDP.
//!
//! Each end makes itself an RSA key at run time. tinc sends what is larger than the MTU it has
//! found so far by TCP, so an end is ready only when that search has ended; its own report, which
//! SIGUSR2 asks for, says so.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::programs::{Program, find};
use super::{Competitor, Slot, Tunnel, private, set_mtu_when_there};

const FOLDER: &str = "/run/ringtun-bench-tinc";
const ENDS: [&str; 2] = ["left", "right"];
/// What tinc's device has by default; it tells senders itself what is too large.
const MTU: u32 = 1500;
const SIGUSR2: i32 = signal_hook::consts::SIGUSR2;

/// tincd on both ends.
#[derive(Debug)]
pub(crate) struct Tinc;

impl Competitor for Tinc {
    fn name(&self) -> &'static str {
        "tinc"
    }

    fn needs(&self) -> Vec<Program> {
        vec![Program::debian("tincd", "tinc")]
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let how = "tincd, router mode, encrypted by its defaults (AES-256-CBC, SHA-256), UDP";
        let mut tunnel = slot.tunnel(format!("{how} (MTU {MTU} and its own path MTU discovery)"));
        let homes = ENDS.map(|end| Path::new(FOLDER).join(end));
        for end in [0, 1] {
            private::empty_folder(&homes[end])?;
            private::folder(&homes[end].join("hosts"))?;
            let text = config(end, &slot.device(end), slot.endpoint(end));
            private::write(&homes[end].join("tinc.conf"), &text)?;
            make_key(&homes[end])?;
        }
        let hosts = [0, 1].map(|end| {
            let key = fs::read_to_string(homes[end].join("hosts").join(ENDS[end]))?;
            Ok::<_, anyhow::Error>(host_file(slot.endpoint(end), slot.inner(end).ip, &key))
        });
        let hosts = hosts.into_iter().collect::<Result<Vec<_>>>().context("tincd made no key")?;
        for here in [0, 1] {
            for (name, text) in ENDS.iter().zip(&hosts) {
                private::write(&homes[here].join("hosts").join(name), text)?;
            }
            spawn(slot, here, &homes[here], &mut tunnel)?;
        }
        Ok(tunnel)
    }

    fn is_settled(&self, tunnel: &mut Tunnel) -> Result<bool> {
        let mut settled = true;
        for process in &mut tunnel.processes {
            settled &= has_found_mtu(&process.stderr());
            // Answered by the next look.
            process.signal(SIGUSR2)?;
        }
        Ok(settled)
    }
}

fn spawn(slot: &Slot<'_>, here: usize, home: &Path, tunnel: &mut Tunnel) -> Result<()> {
    let (host, device) = (slot.ends[here].host, slot.device(here));
    let mut command = Command::new(find("tincd")?);
    let pid_file = format!("--pidfile={}", home.join("pid").display());
    command.arg("-D").arg("-c").arg(home).arg(pid_file);
    tunnel.processes.push(host.spawn(command)?);
    let sized = set_mtu_when_there(slot, here, MTU);
    // If it has ended, that is the reason, and its words are better.
    tunnel.check()?;
    sized?;
    host.add_address(&device, slot.inner(here))?;
    host.set_up(&device)?;
    Ok(())
}

/// The private key in `home`, and the public one in the file of its host. It must not ask where.
fn make_key(home: &Path) -> Result<()> {
    let mut command = Command::new(find("tincd")?);
    command.arg("-c").arg(home).arg("-K2048").stdin(Stdio::null());
    let output = command.output().context("cannot start tincd")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("tincd -K2048: {}", words.lines().last().unwrap_or_default());
    }
    Ok(())
}

/// `tinc.conf`. Only the end that starts later connects, so that nobody has to try twice.
fn config(end: usize, device: &str, local: SocketAddr) -> String {
    let connect = if end == 1 { format!("ConnectTo = {}\n", ENDS[0]) } else { String::new() };
    format!(
        "Name = {}\nMode = router\nDeviceType = tun\nInterface = {device}\n\
         BindToAddress = {} {}\nAddressFamily = ipv4\n{connect}",
        ENDS[end],
        local.ip(),
        local.port(),
    )
}

/// What both ends know of one.
fn host_file(endpoint: SocketAddr, inner: IpAddr, key: &str) -> String {
    let (ip, port) = (endpoint.ip(), endpoint.port());
    format!("Address = {ip}\nPort = {port}\nSubnet = {inner}/32\n{}\n", key.trim())
}

/// Whether the newest report says of the other end that the least and the largest MTU are one:
/// `… pmtu 1451 (min 1451 max 1451)`.
fn has_found_mtu(log: &str) -> bool {
    let other = |line: &&str| line.contains(" pmtu ") && !line.contains(" at MYSELF ");
    let Some(line) = log.lines().rfind(other) else { return false };
    let number = |name: &str| -> Option<u32> {
        let rest = line.split_once(&format!("{name} "))?.1;
        rest.split([' ', ')']).next()?.parse().ok()
    };
    match (number("(min"), number(" max")) {
        (Some(min), Some(max)) => min > 0 && min == max,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_end_connects_to_the_first() {
        let local = "192.0.2.1:7000".parse().unwrap();
        let left = config(0, "bench0l", local);
        assert_eq!(
            left,
            "Name = left\nMode = router\nDeviceType = tun\nInterface = bench0l\n\
             BindToAddress = 192.0.2.1 7000\nAddressFamily = ipv4\n"
        );
        assert!(config(1, "bench0r", local).ends_with("\nConnectTo = left\n"));
    }

    #[test]
    fn hosts_are_known_by_address_subnet_and_key() {
        let key = "\n-----BEGIN RSA PUBLIC KEY-----\nAAA\n-----END RSA PUBLIC KEY-----\n";
        let (endpoint, inner) = ("192.0.2.2:7001".parse(), "10.100.3.2".parse());
        assert_eq!(
            host_file(endpoint.unwrap(), inner.unwrap(), key),
            "Address = 192.0.2.2\nPort = 7001\nSubnet = 10.100.3.2/32\n\
             -----BEGIN RSA PUBLIC KEY-----\nAAA\n-----END RSA PUBLIC KEY-----\n"
        );
    }

    #[test]
    fn the_newest_report_counts() {
        let line = |min: u32, max: u32| {
            format!(
                " right at 192.0.2.2 port 7001 cipher 427 digest 672 maclength 4 compression 0 \
                 options c status 001a nexthop right via right pmtu {max} (min {min} max {max})\n \
                 left at MYSELF cipher 0 digest 0 pmtu 1518 (min 1518 max 1518)\n"
            )
        };
        assert!(!has_found_mtu(""));
        assert!(!has_found_mtu(&line(0, 1518)));
        assert!(!has_found_mtu(&line(0, 0)));
        assert!(has_found_mtu(&line(1451, 1451)));
        assert!(has_found_mtu(&(line(1440, 1452) + &line(1451, 1451))));
        assert!(!has_found_mtu(&(line(1451, 1451) + &line(1451, 1452))));
        assert!(!has_found_mtu(" right at x pmtu 1 (min x max"));
    }
}
