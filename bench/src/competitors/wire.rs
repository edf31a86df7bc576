//! The two that need no daemon: the bare wire, and the kernel's VXLAN over it.

use anyhow::Result;
use ringtun::lab::{self, Pair};

use super::{Competitor, Slot, Tunnel};

/// No tunnel: what the machine could do at best.
#[derive(Debug)]
pub(crate) struct Veth;

impl Competitor for Veth {
    fn name(&self) -> &'static str {
        "veth"
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let mut tunnel = slot.tunnel("the wire itself, no tunnel".to_owned());
        tunnel.to = Pair::RIGHT[0].ip;
        Ok(tunnel)
    }
}

/// The kernel's own tunnel in the clear: what userspace is compared with.
#[derive(Debug)]
pub(crate) struct Vxlan;

impl Competitor for Vxlan {
    fn name(&self) -> &'static str {
        "vxlan"
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        for (here, there) in [(0, 1), (1, 0)] {
            let (end, device) = (slot.ends[here], slot.device(here));
            let vxlan = lab::Vxlan {
                interface: &device,
                id: 1 + u32::from(slot.index),
                local: end.wire,
                remote: slot.ends[there].wire,
                port: 4789,
                underlay: end.underlay,
            };
            end.host.add_vxlan(&vxlan, &[slot.inner(here)])?;
        }
        Ok(slot.tunnel("kernel VXLAN with its defaults (MTU 1450)".to_owned()))
    }
}
