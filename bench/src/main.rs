//! `ringtun-bench`: ringtun and its peers side by side on one machine, in a lab of its own.
//!
//! ```text
//! main ─► lab::enter ─► ab       competitors on one wire, workloads, interleaved rounds
//!      │             ├► scenario named sets of workloads (run, list), by ab
//!      │             └► forward  what gso_max_size does to forwarded traffic
//!      ├► publish (report), compare: out of what was recorded
//!      └► setup: what the tunnels need and is not there
//!   competitors   how each tunnel is started, and when it is ready
//!   workload      what is sent, and what came of it          streams, iperf3 (its documents)
//!   alone         handshakes, many peers: with a WireGuard device of their own
//!   figures       what came of it, of whatever kind
//!   measure       CPU time and steal around a workload
//!   session       one run of one workload through one tunnel, as a record
//!   pace          how far it is, for whoever waits
//!   record        NDJSON, one line a run
//!   report        records to tables, on the terminal          table, statistics
//!   environment   on what machine all of this happened        provenance (commands, versions)
//!   journal       what was recorded, read back and grouped
//!   page, markdown, hgrm   for people, READMEs, HdrHistogram's plotter     columns
//!   compare       two of them, with a verdict                 inference
//! ```
//!
//! This program is also the `ringtun` that it measures: started under that name it is nothing
//! else, so the engines are always those of the tree that was built.

#![forbid(unsafe_code)]

mod ab;
mod alone;
mod columns;
mod compare;
mod competitors;
mod environment;
mod figures;
mod forward;
mod hgrm;
mod inference;
mod iperf3;
mod journal;
mod markdown;
mod measure;
mod pace;
mod page;
mod provenance;
mod publish;
mod record;
mod report;
mod scenario;
mod session;
mod setup;
mod statistics;
mod streams;
mod table;
mod workload;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use ringtun::lab;
use ringtun::lab::traffic::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

const INTERRUPTED: u8 = 130;
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("RINGTUN_BENCH_COMMIT"), ")");

/// Measures ringtun and its peers side by side; the network of this machine is not touched
#[derive(Debug, Parser)]
#[command(name = "ringtun-bench", version = VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Named sets of workloads: throughput, packets, latency …
    Run(scenario::Args),
    /// What can be measured, and what of it is installed here
    List,
    /// Tunnels against each other, round by round
    Ab(ab::Args),
    /// gso_max_size full and matched, for local and for forwarded traffic
    Forward(forward::Args),
    /// What --json recorded as a page with charts, as Markdown, as .hgrm files
    Report(publish::Args),
    /// Two tunnels, or two commits, out of what --json recorded: which is faster, if any
    Compare(compare::Args),
    /// Installs the tunnels that are missing: packages of Debian's, and crates
    Setup(setup::Args),
}

/// How a benchmark ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Everything was measured.
    Complete,
    /// Something could not be measured; the output says what.
    Incomplete,
    /// Stopped by a signal; what was measured was shown.
    Interrupted,
}

fn main() -> ExitCode {
    if is_ringtun() {
        return ringtun::command::main();
    }
    match run(&Cli::parse()) {
        Ok(Outcome::Complete) => ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            progress(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<Outcome> {
    match &cli.command {
        Command::Run(args) => measure(|entered, stop| scenario::run(args, entered, stop)),
        Command::List => scenario::list(),
        Command::Ab(args) => measure(|entered, stop| ab::run(args, entered, stop)),
        Command::Forward(args) => measure(|entered, stop| forward::run(args, entered, stop)),
        Command::Report(args) => publish::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Setup(args) => setup::run(args),
    }
}

/// In a lab, to be stopped by signals.
fn measure(work: impl FnOnce(lab::Entered, &Stop) -> Result<Outcome>) -> Result<Outcome> {
    environment::remember_machine();
    // Before anything starts a thread.
    let entered = lab::enter()?;
    let stop = stop_on_signals()?;
    let result = work(entered, &stop);
    // Whatever failed after a signal failed because of it.
    let result = if stop.raised() { Ok(Outcome::Interrupted) } else { result };
    if let Ok(Outcome::Interrupted) = result {
        progress("Stopped. Everything is cleaned up.");
    }
    result
}

/// The first signal ends the run in good order, a second one at once; even then the kernel ends
/// every process that the lab started, and with them the namespaces. Children of those, which only
/// helpers of daemons would be, are ended with certainty by the first one alone.
fn stop_on_signals() -> Result<Stop> {
    let raised = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), Arc::clone(&raised))
            .and_then(|_| flag::register(signal, Arc::clone(&raised)))
            .context("cannot handle signals")?;
    }
    Ok(Stop::from_flag(raised))
}

fn is_ringtun() -> bool {
    let name = env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name().is_some_and(|name| name == "ringtun")
}

/// This very file, by its path while that leads to it (so that it has its name in `top`).
fn own_program() -> PathBuf {
    let own = env::current_exe().ok().filter(|path| path.is_file());
    own.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// A line on standard error. Nobody there to read it is no reason to stop measuring.
fn progress(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
