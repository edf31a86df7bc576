//! WireGuard by ringtun and by others, each with keys and a preshared key of its own.
//!
//! ringtun takes a configuration file; the others are started in the foreground, in wireguard-go's
//! form of command, and configured by `wg`.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use std::io::Write;

use anyhow::{Context, Result, bail};
use ringtun::wire::wireguard::keys::{PresharedKey, PrivateKey};

use super::{Competitor, Slot, Tunnel, find};
use crate::own_program;

/// WireGuard's usual MTU.
const MTU: u32 = 1420;
const START_TIMEOUT: Duration = Duration::from_secs(5);
const FOLDER: &str = "/run/ringtun";

/// This build as a WireGuard device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ours {
    name: &'static str,
    flags: &'static [&'static str],
}

impl Ours {
    /// What `ab` compares.
    pub(crate) const VARIANTS: [Self; 3] = [
        Self { name: "wg-uring", flags: &["--io", "uring", "--workers", "1"] },
        Self {
            name: "wg-uring-ring",
            flags: &["--io", "uring", "--workers", "1", "--aead", "ring"],
        },
        Self { name: "wg-mmsg", flags: &["--io", "mmsg", "--workers", "1"] },
    ];
}

/// Another userspace WireGuard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Other {
    name: &'static str,
    flags: &'static [&'static str],
    needs: &'static [(&'static str, &'static str)],
}

impl Other {
    /// What `ab` compares.
    pub(crate) const VARIANTS: [Self; 3] = [
        Self {
            name: "wireguard-go",
            flags: &["-f"],
            needs: &[("wireguard-go", "wireguard-go"), ("wg", "wireguard-tools")],
        },
        Self {
            name: "boringtun-cli",
            flags: &["-f", "--disable-drop-privileges"],
            needs: &[("boringtun-cli", "cargo; cargo install boringtun-cli"), WG],
        },
        Self {
            name: "gotatun",
            flags: &["-f", "--disable-drop-privileges"],
            needs: &[("gotatun", "cargo; cargo install gotatun-cli"), WG],
        },
    ];
}

const WG: (&str, &str) = ("wg", "wireguard-tools");

impl Competitor for Ours {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let how = format!("ringtun up {} --config FILE {}", slot.device(0), self.flags.join(" "));
        let mut tunnel = slot.tunnel(how);
        let secrets = Secrets::new()?;
        for here in [0, 1] {
            let address = format!("Address = {}\n", slot.inner(here));
            let config = secrets.write(slot, here, &address)?;
            let mut command = Command::new(own_program());
            command.arg0("ringtun").env("NO_COLOR", "1");
            command.args(["up", &slot.device(here), "--config"]).arg(config).args(self.flags);
            tunnel.processes.push(slot.ends[here].host.spawn(command)?);
            tunnel.engines.push(slot.device(here).parse()?);
        }
        Ok(tunnel)
    }
}

impl Competitor for Other {
    fn name(&self) -> &str {
        self.name
    }

    fn needs(&self) -> &'static [(&'static str, &'static str)] {
        self.needs
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let flags = self.flags.join(" ");
        let how = format!("{} {flags} {} (MTU {MTU}, wg setconf)", self.name, slot.device(0));
        let mut tunnel = slot.tunnel(how);
        let secrets = Secrets::new()?;
        fs::create_dir_all("/run/wireguard").context("cannot create /run/wireguard")?;
        for here in [0, 1] {
            let (host, device) = (slot.ends[here].host, slot.device(here));
            let mut command = Command::new(find(self.name)?);
            command.args(self.flags).arg(&device);
            tunnel.processes.push(host.spawn(command)?);
            let socket = format!("/run/wireguard/{device}.sock");
            let begin = Instant::now();
            while !Path::new(&socket).exists() {
                tunnel.check()?;
                if begin.elapsed() > START_TIMEOUT {
                    bail!("{socket} does not appear");
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut wg = Command::new(find("wg")?);
            wg.args(["setconf", &device]).arg(secrets.write(slot, here, "")?);
            let mut set = host.spawn(wg)?;
            if !set.wait_timeout(START_TIMEOUT)?.is_some_and(|status| status.success()) {
                bail!("wg setconf {device}: {}", set.stderr());
            }
            host.add_address(&device, slot.inner(here))?;
            host.set_mtu(&device, MTU)?;
            host.set_up(&device)?;
        }
        Ok(tunnel)
    }
}

/// Keys of both ends.
struct Secrets {
    keys: [PrivateKey; 2],
    psk: PresharedKey,
}

impl Secrets {
    fn new() -> Result<Self> {
        let key = || PrivateKey::generate().context("no random numbers");
        let psk = PresharedKey::generate().context("no random numbers")?;
        Ok(Self { keys: [key()?, key()?], psk })
    }

    /// Writes the configuration of one end, with `more` in its `[Interface]`; returns where.
    fn write(&self, slot: &Slot<'_>, here: usize, more: &str) -> Result<PathBuf> {
        let there = 1 - here;
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {}\n{more}[Peer]\nPublicKey = {}\n\
             PresharedKey = {}\nEndpoint = {}\nAllowedIPs = {}/32\n",
            self.keys[here].to_base64().as_str(),
            slot.port(),
            self.keys[there].public(),
            self.psk.to_base64().as_str(),
            slot.endpoint(there),
            slot.inner(there).ip,
        );
        let path = Path::new(FOLDER).join(format!("{}.conf", slot.device(here)));
        fs::create_dir_all(FOLDER)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }
}
