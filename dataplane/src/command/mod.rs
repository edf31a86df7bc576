//! The command line: one file per subcommand.
//!
//! In: the arguments. Out: the command's effect, and an [`exit::Exit`] code. Results go to standard
//! output, everything about their making (log lines, errors) to standard error.

pub mod check;
pub mod demo;
pub mod device;
pub mod exit;
pub mod keys;
pub mod show;
pub mod up;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::{env, io};

use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::control::values::InterfaceName;

/// WireGuard and plain tunnels in userspace: io_uring, multiqueue tun, GSO and GRO on both sides
#[derive(Debug, Parser)]
#[command(name = "ringtun", version, after_help = exit::HELP)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(override_usage = USAGE)]
struct Cli {
    /// Log more: -v for conditions and decisions, -vv for everything (RUST_LOG overrides)
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,

    /// Serve the device in this process instead of a daemon
    #[arg(short, long)]
    foreground: bool,

    /// Create this WireGuard device and let `wg` and `wg-quick` configure it, as wireguard-go does
    #[arg(required = true, value_name = "INTERFACE")]
    interface: Option<InterfaceName>,

    #[command(subcommand)]
    command: Option<Command>,
}

const USAGE: &str = "ringtun [-v] COMMAND ...\n       ringtun [-f] INTERFACE";

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a tunnel device and run in the foreground until stopped or the device is deleted
    Up(Box<up::Args>),
    /// Run both ends of a tunnel on this machine, in namespaces of their own, and send traffic
    Demo(demo::Demo),
    /// Say whether this machine can run at full speed, and what to do where it cannot
    Check(check::Args),
    /// Show the tunnels that run on this machine
    Show(show::Args),
    /// Print a new private key
    Genkey,
    /// Print a new preshared key
    Genpsk,
    /// Print the public key of the private key on standard input
    Pubkey,
    /// What `check` runs in namespaces of its own
    #[command(hide = true)]
    ProbeNamespace(check::NamespaceArgs),
}

/// Parses the command line and runs what it asks for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    let Some(command) = &cli.command else {
        let Some(name) = &cli.interface else { return ExitCode::FAILURE };
        return finish(device::run(name, cli.foreground));
    };
    finish(match command {
        Command::Up(args) => up::run(args),
        Command::Demo(args) => return demo::run(args),
        Command::Check(args) => check::run(args),
        Command::Show(args) => show::run(args),
        Command::Genkey => keys::genkey(),
        Command::Genpsk => keys::genpsk(),
        Command::Pubkey => keys::pubkey(),
        Command::ProbeNamespace(args) => check::run_in_namespace(args),
    })
}

/// Says what went wrong, if anything, and ends with the code for it.
fn finish(result: anyhow::Result<exit::Exit>) -> ExitCode {
    let exit = result.unwrap_or_else(|error| {
        if !exit::is_closed_pipe(&error) {
            let _ = writeln!(io::stderr(), "error: {error:#}");
        }
        exit::of_error(&error)
    });
    exit.into()
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => device::log_filter().unwrap_or("warn,ringtun=info"),
        1 => "info,ringtun=debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .compact()
        .with_target(verbose > 0)
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    // The journal stamps every line itself.
    let journal = env::var_os("JOURNAL_STREAM").is_some() || env::var_os("NOTIFY_SOCKET").is_some();
    let started = if journal { log.without_time().try_init() } else { log.try_init() };
    // Only a test that started a log before us gets here; its log is as good.
    drop(started);
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_help() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {argument}", command.get_name());
            }
        }
    }
}
