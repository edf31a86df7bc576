//! QuickTun: one thread, a tun device and a UDP socket, in its "raw" protocol, which is clear.
//!
//! It takes its settings from the environment. Debian's binary reads them the way `ifupdown` hands
//! them over (`IFACE`, `IF_QT_…`), upstream's by their plain names; here it gets both.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;

use super::programs::{Program, find};
use super::{Competitor, Slot, Tunnel, set_mtu_when_there};

/// Wire MTU less outer IPv4 and UDP headers: the raw protocol adds nothing.
const MTU: u32 = 1472;

/// `quicktun` on both ends.
#[derive(Debug)]
pub(crate) struct QuickTun;

impl Competitor for QuickTun {
    fn name(&self) -> &'static str {
        "quicktun"
    }

    fn needs(&self) -> Vec<Program> {
        vec![Program::debian("quicktun", "quicktun")]
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let mut tunnel = slot.tunnel(format!("quicktun, PROTOCOL=raw, in the clear (MTU {MTU})"));
        for (here, there) in [(0, 1), (1, 0)] {
            let (host, device) = (slot.ends[here].host, slot.device(here));
            let mut command = Command::new(find("quicktun")?);
            command.envs(environment(&device, slot.endpoint(here), slot.endpoint(there)));
            tunnel.processes.push(host.spawn(command)?);
            let sized = set_mtu_when_there(slot, here, MTU);
            // If it has ended, that is the reason, and its words are better.
            tunnel.check()?;
            sized?;
            host.add_address(&device, slot.inner(here))?;
            host.set_up(&device)?;
        }
        Ok(tunnel)
    }
}

/// Its settings, in both spellings.
fn environment(device: &str, local: SocketAddr, remote: SocketAddr) -> Vec<(String, String)> {
    let settings = [
        ("PROTOCOL", "raw".to_owned()),
        ("TUN_MODE", "1".to_owned()),
        ("LOCAL_ADDRESS", local.ip().to_string()),
        ("LOCAL_PORT", local.port().to_string()),
        ("REMOTE_ADDRESS", remote.ip().to_string()),
        ("REMOTE_PORT", remote.port().to_string()),
    ];
    let mut all = ["IFACE", "INTERFACE"].map(|name| (name.to_owned(), device.to_owned())).to_vec();
    for (name, value) in settings {
        all.push((format!("IF_QT_{name}"), value.clone()));
        all.push((name.to_owned(), value));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_given_in_both_spellings() {
        let (local, remote) = ("192.0.2.1:7000".parse(), "192.0.2.2:7001".parse());
        let all = environment("bench0l", local.unwrap(), remote.unwrap());
        for expected in [
            "IFACE=bench0l",
            "INTERFACE=bench0l",
            "IF_QT_PROTOCOL=raw",
            "PROTOCOL=raw",
            "IF_QT_TUN_MODE=1",
            "IF_QT_LOCAL_ADDRESS=192.0.2.1",
            "LOCAL_PORT=7000",
            "REMOTE_ADDRESS=192.0.2.2",
            "IF_QT_REMOTE_PORT=7001",
        ] {
            let found = all.iter().any(|(name, value)| format!("{name}={value}") == expected);
            assert!(found, "{expected} is not in {all:?}");
        }
    }
}
