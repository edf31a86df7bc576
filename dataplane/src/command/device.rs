//! `ringtun wg0`: what wireguard-go does, in its form of command.
//!
//! In: an interface's name and environment variables. Out: a device that `wg` configures, served by
//! a daemon, or by this process with `--foreground` or `WG_PROCESS_FOREGROUND=1`.
//!
//! The daemon is this program again: its standard error leads to the one who started it until the
//! device can be configured, so that whatever goes wrong before is seen and gives a failure.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::exit::Exit;
use crate::control::inherited_tun::InheritedTun;
use crate::control::plan::{self, AeadChoice, IoChoice, Plan};
use crate::control::run_wireguard::{self, ByOthers};
use crate::control::values::{InterfaceName, Workers};
use crate::engine::BusyPoll;
use crate::sys::process;

const FOREGROUND: &str = "WG_PROCESS_FOREGROUND";
/// Set for the daemon by the process that starts it.
const DAEMON: &str = "RINGTUN_DAEMON";
const LOG_LEVEL: &str = "LOG_LEVEL";

/// Runs the device here or in a daemon.
pub fn run(name: &InterfaceName, foreground: bool) -> Result<Exit> {
    let is_daemon = env::var_os(DAEMON).is_some();
    let foreground = foreground || env::var(FOREGROUND).is_ok_and(|value| value == "1");
    if !foreground && !is_daemon {
        return start_daemon(name);
    }
    let inherited = InheritedTun::from_environment()?;
    let workers = match &inherited {
        // A descriptor is one queue, and a queue is one worker.
        Some(_) => Workers::Count(1),
        None => env::var("RINGTUN_WORKERS").map_or(Ok(Workers::Auto), |text| text.parse())?,
    };
    // As wireguard-go: a device that was handed over keeps its name.
    let name = inherited.as_ref().map_or(name, InheritedTun::name).clone();
    let mut plan = Plan::wireguard(name, &workers, io_choice()?, &plan::usable_cores())?;
    plan.tuning.aead = aead_choice()?;
    plan.tuning.busy_poll = busy_poll()?;
    plan.tuning.aqm = choice("RINGTUN_AQM", [("on", true), ("off", false)])?;
    let ready = || {
        if is_daemon {
            process::detach();
        }
    };
    run_wireguard::run(&plan, inherited, ByOthers, ready)?;
    Ok(Exit::Ok)
}

/// What the environment chooses by one of the words of `choices`; nothing is the first.
fn choice<T: Copy, const N: usize>(variable: &str, choices: [(&str, T); N]) -> Result<T> {
    let text = env::var(variable).unwrap_or_else(|_| choices[0].0.to_owned());
    let chosen = choices.iter().find(|(word, _)| *word == text);
    chosen.map(|&(_, choice)| choice).with_context(|| {
        let words = choices.map(|(word, _)| word).join(", ");
        format!("{variable} is {text:?}: give one of {words}")
    })
}

fn io_choice() -> Result<IoChoice> {
    let choices = [("auto", IoChoice::Auto), ("uring", IoChoice::Uring), ("mmsg", IoChoice::Mmsg)];
    choice("RINGTUN_IO", choices)
}

fn aead_choice() -> Result<AeadChoice> {
    let choices =
        [("auto", AeadChoice::Auto), ("ring", AeadChoice::Ring), ("ipsec-mb", AeadChoice::IpsecMb)];
    choice("RINGTUN_AEAD", choices)
}

fn busy_poll() -> Result<BusyPoll> {
    let choices = [("auto", BusyPoll::Auto), ("off", BusyPoll::Off), ("on", BusyPoll::On)];
    choice("RINGTUN_BUSY_POLL", choices)
}

/// The log filter that `LOG_LEVEL` asks for, as wireguard-go reads it.
#[must_use]
pub fn log_filter() -> Option<&'static str> {
    match env::var(LOG_LEVEL).ok()?.as_str() {
        "verbose" | "debug" => Some("info,ringtun=debug"),
        "error" => Some("error"),
        "silent" => Some("off"),
        _ => None,
    }
}

fn start_daemon(name: &InterfaceName) -> Result<Exit> {
    let program = env::current_exe().context("cannot find my own program file")?;
    // As wireguard-go: a daemon is silent unless somebody asks it to speak.
    let speaks = env::var(LOG_LEVEL).is_ok_and(|level| level != "silent");
    let mut child = Command::new(program)
        .arg0("ringtun")
        .arg("--foreground")
        .arg(name.as_str())
        .env(DAEMON, "1")
        .env_remove(FOREGROUND)
        .stdin(Stdio::null())
        .stdout(if speaks { io::stderr().into() } else { Stdio::null() })
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")?;
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut said).context("cannot hear the daemon")?;
    }
    // It has let go of the pipe: it is ready, or it has ended.
    let failed = !process::is_detached(child.id());
    if failed || speaks {
        io::stderr().write_all(&said)?;
    }
    if failed {
        let status = child.wait().context("cannot wait for the daemon")?;
        return Ok(Exit::of_child(status.code()));
    }
    Ok(Exit::Ok)
}
