//! socat: a tun device and a UDP socket in the clear, a packet at a time.

use std::process::Command;

use anyhow::Result;

use super::programs::{Program, find};
use super::{Competitor, Slot, Tunnel, set_mtu_when_there, words};

/// Wire MTU less outer IPv4 and UDP headers, so that nothing is fragmented.
const MTU: u32 = 1472;

/// `socat TUN:… UDP4-DATAGRAM:…` on both ends.
#[derive(Debug)]
pub(crate) struct Socat;

impl Competitor for Socat {
    fn name(&self) -> &'static str {
        "socat"
    }

    fn needs(&self) -> Vec<Program> {
        vec![Program::debian("socat", "socat")]
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let mut tunnel = slot.tunnel(String::new());
        for (here, there) in [(0, 1), (1, 0)] {
            let device = slot.device(here);
            let (local, remote) = (slot.endpoint(here), slot.endpoint(there));
            let mut command = Command::new(find("socat")?);
            command.arg(format!("TUN:{},tun-name={device},iff-no-pi,iff-up", slot.inner(here)));
            // Not connected: an end that starts first is not put off by the other's absence.
            command.arg(format!("UDP4-DATAGRAM:{remote},bind={local}"));
            if here == 0 {
                tunnel.how = format!("{} (MTU {MTU})", words(&command));
            }
            let host = slot.ends[here].host;
            tunnel.processes.push(host.spawn(command)?);
            let sized = set_mtu_when_there(slot, here, MTU);
            // If it has ended, that is the reason, and its words are better.
            tunnel.check()?;
            sized?;
        }
        Ok(tunnel)
    }
}
