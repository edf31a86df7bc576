//! What every WireGuard here is given: keys and a preshared key made for it alone, and by `wg` the
//! configuration of an end.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ringtun::wire::wireguard::keys::{PresharedKey, PrivateKey};

use super::programs::{Program, find};
use super::{Slot, private};

/// WireGuard's usual MTU.
pub(crate) const MTU: u32 = 1420;
/// Configures all of them but ringtun.
pub(crate) const WG: Program = Program::debian("wg", "wireguard-tools");
const TIMEOUT: Duration = Duration::from_secs(5);
const FOLDER: &str = "/run/ringtun";

/// Keys of both ends.
pub(crate) struct Secrets {
    keys: [PrivateKey; 2],
    psk: PresharedKey,
}

impl Secrets {
    /// Out of random numbers.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn new() -> Result<Self> {
        let key = || PrivateKey::generate().context("no random numbers");
        let psk = PresharedKey::generate().context("no random numbers")?;
        Ok(Self { keys: [key()?, key()?], psk })
    }

    /// Gives the device of an end its keys, its address and its MTU, and brings it up.
    ///
    /// # Errors
    /// What `wg` or the kernel said.
    pub(crate) fn give(&self, slot: &Slot<'_>, here: usize) -> Result<()> {
        let (host, device) = (slot.ends[here].host, slot.device(here));
        let mut wg = Command::new(find("wg")?);
        wg.args(["setconf", &device]).arg(self.write(slot, here, "")?);
        let mut set = host.spawn(wg)?;
        let in_time = slot.wait(TIMEOUT, || Ok(set.ended()?.is_some()))?;
        if !in_time {
            bail!("wg setconf {device} had no answer within {TIMEOUT:?}");
        }
        if !set.ended()?.is_some_and(|status| status.success()) {
            bail!("wg setconf {device}: {}", set.stderr().trim());
        }
        host.add_address(&device, slot.inner(here))?;
        host.set_mtu(&device, MTU)?;
        host.set_up(&device)?;
        Ok(())
    }

    /// Writes the configuration of one end, with `more` in its `[Interface]`; returns where.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn write(&self, slot: &Slot<'_>, here: usize, more: &str) -> Result<PathBuf> {
        let there = 1 - here;
        let text =
            self.config(here, slot.port(), more, (slot.endpoint(there), slot.inner(there).ip));
        let path = Path::new(FOLDER).join(format!("{}.conf", slot.device(here)));
        private::folder(Path::new(FOLDER))?;
        private::write(&path, &text)?;
        Ok(path)
    }

    fn config(&self, here: usize, port: u16, more: &str, far: (SocketAddr, IpAddr)) -> String {
        let (endpoint, inner) = far;
        format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {port}\n{more}[Peer]\nPublicKey = {}\n\
             PresharedKey = {}\nEndpoint = {endpoint}\nAllowedIPs = {inner}/32\n",
            self.keys[here].to_base64().as_str(),
            self.keys[1 - here].public(),
            self.psk.to_base64().as_str(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_know_each_other_and_have_one_preshared_key() {
        let secrets = Secrets::new().unwrap();
        let far = ("192.0.2.2:7001".parse().unwrap(), "10.100.3.2".parse().unwrap());
        let [left, right] = [0, 1].map(|end| secrets.config(end, 7000, "Address = x\n", far));
        let value = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
            line.unwrap().to_owned()
        };
        assert_eq!(value(&left, "PublicKey"), secrets.keys[1].public().to_string());
        assert_eq!(value(&right, "PublicKey"), secrets.keys[0].public().to_string());
        assert_eq!(value(&left, "PresharedKey"), value(&right, "PresharedKey"));
        assert_ne!(value(&left, "PrivateKey"), value(&right, "PrivateKey"));
        assert_eq!(value(&left, "Endpoint"), "192.0.2.2:7001");
        assert_eq!(value(&left, "AllowedIPs"), "10.100.3.2/32");
        assert!(left.contains("ListenPort = 7000\nAddress = x\n[Peer]\n"), "{left}");
    }
}
