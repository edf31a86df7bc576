//! The WireGuard of the kernel (`wireguard.ko`), where the kernel has it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use ringtun::lab::Host;

use super::programs::{Program, find};
use super::secrets::{MTU, Secrets, WG};
use super::{Competitor, Making, Slot, Tunnel};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A device of the kernel's on both ends. Like VXLAN it has no process.
#[derive(Debug)]
pub(crate) struct KernelWireGuard;

impl Competitor for KernelWireGuard {
    fn name(&self) -> &'static str {
        "wireguard"
    }

    fn needs(&self) -> Vec<Program> {
        vec![Program::debian("ip", "iproute2"), WG]
    }

    fn ask_kernel(&self, host: &Host) -> Result<()> {
        make(host, "asked0")
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let how = format!("wireguard.ko of this kernel (MTU {MTU}, wg setconf)");
        let secrets = Secrets::new()?;
        for here in [0, 1] {
            make(slot.ends[here].host, &slot.device(here))?;
            secrets.give(slot, here)?;
        }
        Ok(slot.tunnel(how))
    }

    fn device(&self, name: &str) -> Option<Making> {
        Some(Making::Kernel(add(name)))
    }
}

fn make(host: &Host, device: &str) -> Result<()> {
    let mut add = host.spawn(add(device))?;
    if !add.wait_timeout(TIMEOUT)?.is_some_and(|status| status.success()) {
        bail!(explain(&add.stderr()));
    }
    Ok(())
}

fn add(device: &str) -> Command {
    // One that is not there says so when it is started.
    let mut ip = Command::new(find("ip").unwrap_or_else(|_| "ip".into()));
    ip.args(["link", "add", device, "type", "wireguard"]);
    ip
}

/// What `ip link add … type wireguard` means by its words, and what to do.
fn explain(words: &str) -> String {
    let words = words.trim();
    if words.contains("Unknown device type") || words.contains("not supported") {
        return format!(
            "this kernel has no WireGuard, or its module is not loaded (ip: {words}): sudo \
             modprobe wireguard; where there is no such module, boot a kernel with \
             CONFIG_WIREGUARD"
        );
    }
    format!("ip link add type wireguard: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_it_is_told_from_other_errors() {
        for words in ["Error: Unknown device type.\n", "RTNETLINK answers: Operation not supported"]
        {
            let text = explain(words);
            assert!(text.contains("modprobe wireguard") && text.contains(words.trim()), "{text}");
        }
        let text = explain("RTNETLINK answers: Operation not permitted\n");
        assert_eq!(text, "ip link add type wireguard: RTNETLINK answers: Operation not permitted");
    }
}
