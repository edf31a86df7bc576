//! What may be at the other end: a WireGuard that `wg` configures, and how it is started.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringtun::lab::{Host, Process};
use ringtun_tests::place::{binary, find_program};

use crate::ends::{run, until};

/// A WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Debian's wireguard-go.
    WireguardGo,
    /// boringtun-cli, of crates.io.
    Boringtun,
    /// gotatun, of crates.io's gotatun-cli.
    Gotatun,
    /// The module of the running kernel.
    Kernel,
    /// ringtun in the form of wireguard-go.
    Ringtun,
}

/// Those that run on any machine.
pub(crate) const HERE: [Program; 4] =
    [Program::WireguardGo, Program::Boringtun, Program::Gotatun, Program::Ringtun];

/// Names another boringtun-cli than the one that tests/run.sh builds.
const BORINGTUN: &str = "RINGTUN_BORINGTUN";
/// And another gotatun.
const GOTATUN: &str = "RINGTUN_GOTATUN";

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::WireguardGo => "wireguard_go",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
            Self::Kernel => "kernel",
            Self::Ringtun => "ringtun",
        }
    }

    /// A short name, for devices.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::WireguardGo => "go",
            Self::Boringtun => "bt",
            Self::Gotatun => "gt",
            Self::Kernel => "kn",
            Self::Ringtun => "rt",
        }
    }

    /// Why it cannot be at the other end here.
    pub(crate) fn missing(self) -> Option<String> {
        if find_program("wg").is_none() {
            return Some("no wg here (apt install wireguard-tools)".into());
        }
        match self {
            Self::WireguardGo if find_program("wireguard-go").is_none() => {
                Some("no wireguard-go here (apt install wireguard-go)".into())
            }
            Self::Boringtun if boringtun().is_none() => Some(format!(
                "no boringtun-cli here (tests/run.sh --full builds it, or {BORINGTUN} names it)"
            )),
            Self::Gotatun if gotatun().is_none() => Some(format!(
                "no gotatun here (tests/run.sh --full builds it, or {GOTATUN} names it)"
            )),
            _ => None,
        }
    }

    /// Makes `device` on `host`; the process, where there is one, serves it.
    pub(crate) fn start(self, host: &Host, device: &str) -> Option<Process> {
        let program = match self {
            Self::WireguardGo => PathBuf::from("wireguard-go"),
            Self::Boringtun => boringtun().unwrap(),
            Self::Gotatun => gotatun().unwrap(),
            Self::Ringtun => binary(),
            Self::Kernel => {
                run(host, "ip", &["link", "add", device, "type", "wireguard"]);
                return None;
            }
        };
        let mut command = Command::new(program);
        command.args(["-f", device]).env("NO_COLOR", "1").env("LOG_LEVEL", "verbose");
        if matches!(self, Self::Boringtun | Self::Gotatun) {
            // It would become another user, which a user namespace of one user has not got.
            command.arg("--disable-drop-privileges");
        }
        // Left behind by a killed one; it must not be taken for the new one's.
        let socket = format!("/var/run/wireguard/{device}.sock");
        let _ = std::fs::remove_file(&socket);
        let mut process = host.spawn(command).unwrap();
        until(&format!("{} has a socket", self.name()), || {
            assert!(process.ended().unwrap().is_none(), "{}", process.last_lines(5).join("\n"));
            Path::new(&socket).exists()
        });
        Some(process)
    }

    /// Removes `device` and all that it knew, without a word to its peer.
    pub(crate) fn kill(self, host: &Host, device: &str, process: Option<Process>) {
        match process {
            // Dropping it kills it.
            Some(process) => drop(process),
            None => host.delete_link(device).unwrap(),
        }
        until("the device is gone", || !host.has_interface(device).unwrap());
    }
}

fn boringtun() -> Option<PathBuf> {
    built(BORINGTUN, "full/boringtun/bin/boringtun-cli")
}

fn gotatun() -> Option<PathBuf> {
    built(GOTATUN, "full/gotatun/bin/gotatun")
}

/// What `variable` names, what was built as `path` in the target folder, or what is installed.
fn built(variable: &str, path: &str) -> Option<PathBuf> {
    let in_target = || {
        let own = env::current_exe().ok()?;
        let target = own.ancestors().find(|folder| folder.ends_with("target"))?;
        Some(target.join(path))
    };
    let found = env::var_os(variable).map(PathBuf::from).or_else(in_target)?;
    let name = Path::new(path).file_name()?.to_str()?;
    found.is_file().then_some(found).or_else(|| find_program(name))
}
