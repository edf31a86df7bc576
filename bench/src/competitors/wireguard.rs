//! WireGuard by ringtun and by others in userspace.
//!
//! ringtun takes a configuration file; the others are started in the foreground, in wireguard-go's
//! form of command, and configured by `wg`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::programs::{Program, find};
use super::secrets::{MTU, Secrets, WG};
use super::{Competitor, Making, Slot, Tunnel};
use crate::own_program;

const SOCKET_TIMEOUT: Duration = Duration::from_secs(5);

/// This build as a WireGuard device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ours {
    name: &'static str,
    flags: &'static [&'static str],
}

impl Ours {
    /// What `ab` compares.
    pub(crate) const VARIANTS: [Self; 6] = [
        Self { name: "wg-uring", flags: &["--io", "uring", "--workers", "1"] },
        Self {
            name: "wg-uring-ring",
            flags: &["--io", "uring", "--workers", "1", "--aead", "ring"],
        },
        Self {
            name: "wg-uring-poll",
            flags: &["--io", "uring", "--workers", "1", "--busy-poll", "on"],
        },
        Self { name: "wg-mmsg", flags: &["--io", "mmsg", "--workers", "1"] },
        Self { name: "wg-uring-w2", flags: &["--io", "uring", "--workers", "2"] },
        Self { name: "wg-mmsg-w2", flags: &["--io", "mmsg", "--workers", "2"] },
    ];
}

/// Another userspace WireGuard.
#[derive(Clone, Debug)]
pub(crate) struct Other {
    name: String,
    /// A name to be found, or a path.
    program: PathBuf,
    flags: Vec<String>,
    needs: Vec<Program>,
}

impl Other {
    /// What `ab` compares.
    pub(crate) fn variants() -> [Self; 3] {
        const UNPRIVILEGED: &[&str] = &["-f", "--disable-drop-privileges"];
        let other = |name: &str, flags, needs| Self::new(name, Path::new(name), flags, needs);
        [
            other(
                "wireguard-go",
                &["-f"],
                vec![Program::debian("wireguard-go", "wireguard-go"), WG],
            ),
            other(
                "boringtun-cli",
                UNPRIVILEGED,
                vec![Program::cargo("boringtun-cli", "boringtun-cli", "0.7.1"), WG],
            ),
            other(
                "gotatun",
                UNPRIVILEGED,
                vec![Program::cargo("gotatun", "gotatun-cli", "0.10.2"), WG],
            ),
        ]
    }

    /// A program with wireguard-go's form of command, which stays in the foreground by `-f`.
    pub(crate) fn by_path(name: &str, program: &Path) -> Self {
        Self::new(name, program, &["-f"], vec![WG])
    }

    fn new(name: &str, program: &Path, flags: &[&str], needs: Vec<Program>) -> Self {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Self { name: name.to_owned(), program: program.to_owned(), flags, needs }
    }

    fn command(&self, device: &str) -> Command {
        // One that is not there says so when it is started.
        let by_name = || find(&self.program.to_string_lossy()).ok();
        let found = if self.program.is_absolute() { None } else { by_name() };
        let mut command = Command::new(found.as_ref().unwrap_or(&self.program));
        command.args(&self.flags).arg(device);
        command
    }

    /// Starts one end; it has its control socket when this returns.
    fn spawn(&self, slot: &Slot<'_>, end: usize, tunnel: &mut Tunnel) -> Result<()> {
        let (host, device) = (slot.ends[end].host, slot.device(end));
        tunnel.processes.push(host.spawn(self.command(&device))?);
        let socket = format!("/run/wireguard/{device}.sock");
        let appears = slot.wait(SOCKET_TIMEOUT, || {
            tunnel.check()?;
            Ok(Path::new(&socket).exists())
        })?;
        if !appears {
            bail!("it runs, but {socket} does not appear within {SOCKET_TIMEOUT:?}");
        }
        Ok(())
    }
}

/// A wireguard-go of any version, from the command line: `NAME=PATH`.
#[derive(Clone, Debug)]
pub(crate) struct OtherWireGuard(Other);

impl OtherWireGuard {
    /// To be started.
    pub(crate) fn competitor(&self) -> Other {
        self.0.clone()
    }
}

impl FromStr for OtherWireGuard {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| anyhow!("{text:?} is not NAME=PATH"))?;
        let program = Path::new(path)
            .canonicalize()
            .map_err(|error| anyhow!("{path:?} cannot be found: {error}"))?;
        if !program.is_file() {
            bail!("{path:?} is not a program");
        }
        Ok(Self(Other::by_path(name, &program)))
    }
}

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

    /// In wireguard-go's form of command, which has variables for our flags.
    fn device(&self, name: &str) -> Option<Making> {
        let mut command = Command::new(own_program());
        command.arg0("ringtun").env("NO_COLOR", "1").args(["-f", name]);
        for pair in self.flags.chunks_exact(2) {
            let variable = format!("RINGTUN_{}", pair[0].trim_start_matches('-').to_uppercase());
            let variable = variable.replace('-', "_");
            command.env(variable, pair[1]);
        }
        Some(Making::Daemon(command))
    }
}

impl Competitor for Other {
    fn name(&self) -> &str {
        &self.name
    }

    fn needs(&self) -> Vec<Program> {
        self.needs.clone()
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let (program, flags) = (self.program.display(), self.flags.join(" "));
        let how = format!("{program} {flags} {} (MTU {MTU}, wg setconf)", slot.device(0));
        let mut tunnel = slot.tunnel(how);
        let secrets = Secrets::new()?;
        fs::create_dir_all("/run/wireguard").context("cannot create /run/wireguard")?;
        for here in [0, 1] {
            self.spawn(slot, here, &mut tunnel)?;
            secrets.give(slot, here)?;
        }
        Ok(tunnel)
    }

    fn device(&self, name: &str) -> Option<Making> {
        Some(Making::Daemon(self.command(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_alone_are_run_as_the_tunnels_are() {
        let [uring, ring, poll, mmsg, uring_2, mmsg_2] =
            Ours::VARIANTS.map(|ours| ours.device("x").unwrap());
        let variables = |making: &Making| {
            let Making::Daemon(command) = making else { panic!("{making:?}") };
            let text = |it: &std::ffi::OsStr| it.to_string_lossy().into_owned();
            let set =
                command.get_envs().filter_map(|(name, value)| Some((text(name), text(value?))));
            set.filter(|(name, _)| name != "NO_COLOR")
                .map(|(name, it)| name + "=" + &it)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(variables(&uring), "RINGTUN_IO=uring RINGTUN_WORKERS=1");
        assert_eq!(variables(&ring), "RINGTUN_AEAD=ring RINGTUN_IO=uring RINGTUN_WORKERS=1");
        assert_eq!(variables(&poll), "RINGTUN_BUSY_POLL=on RINGTUN_IO=uring RINGTUN_WORKERS=1");
        assert_eq!(variables(&mmsg), "RINGTUN_IO=mmsg RINGTUN_WORKERS=1");
        assert_eq!(variables(&uring_2), "RINGTUN_IO=uring RINGTUN_WORKERS=2");
        assert_eq!(variables(&mmsg_2), "RINGTUN_IO=mmsg RINGTUN_WORKERS=2");
    }

    #[test]
    fn any_wireguard_go_has_a_name_and_a_path() {
        let other = "go-2025=/bin/sh".parse::<OtherWireGuard>().unwrap().competitor();
        assert_eq!((other.name(), other.flags.as_slice()), ("go-2025", &["-f".to_owned()][..]));
        assert!(other.program.is_absolute());
        assert_eq!(other.needs(), [WG]);
        for wrong in ["", "go", "=/bin/sh", "go=", "go=/no/such/file", "go=/tmp"] {
            assert!(wrong.parse::<OtherWireGuard>().is_err(), "{wrong:?}");
        }
    }
}
