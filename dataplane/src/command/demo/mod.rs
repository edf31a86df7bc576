//! `ringtun demo`: two engines on two hosts of a private lab, and real traffic between them.
//!
//! ```text
//! lab::enter ─► Pair ─► two `ringtun up` processes ─► probe ─► phases ─► summary
//!                        engines.rs                    session.rs        summary.rs, report.rs
//!                          └── status, 4 times a second ──► view.rs
//! ```
//!
//! Needs no root and no other program, and leaves nothing behind. The exit status says whether
//! traffic passed: 0 yes, 1 no (and why), 130 after Ctrl-C.

mod engines;
mod format;
mod report;
mod session;
mod summary;
mod view;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;

use crate::lab;
use crate::lab::traffic::Stop;
use format::Style;
use report::Report;
use session::Session;
use view::View;

const INTERRUPTED: u8 = 130;

/// Show a tunnel at work: two private hosts, two engines, real traffic; no root needed
#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// Length of each measurement, in seconds
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,

    /// Workers of each engine: auto, a number, or a list of cores
    #[arg(long, value_name = "auto|N|CORES", default_value = "1")]
    pub workers: String,

    /// How packets are moved
    #[arg(long, value_name = "BACKEND", default_value = "auto",
          value_parser = ["auto", "uring", "mmsg"])]
    pub io: String,

    /// What goes on the wire: encrypted by WireGuard's protocol, or plain, readable by anyone
    #[arg(long, value_name = "ENCAP", default_value = "wireguard",
          value_parser = ["wireguard", engines::PLAIN])]
    pub encap: String,

    /// Streams of the second TCP measurement
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub streams: u16,

    /// Print one JSON document and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Runs the demo. Must be called before the process has started any thread.
pub fn run(args: &Demo) -> ExitCode {
    let mut report = Report::new(&args.encap);
    let interrupted = Arc::new(AtomicBool::new(false));
    let view = choose_view(args);
    let style = Style::of(&io::stdout());
    match play(args, &interrupted, view, &mut report) {
        Ok(()) => report.passed = true,
        Err(failure) => report.fail(failure),
    }
    let written = if args.json { write_json(&report) } else { write_text(&report, style) };
    if report.interrupted {
        ExitCode::from(INTERRUPTED)
    } else if report.passed && written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn play(
    args: &Demo,
    interrupted: &Arc<AtomicBool>,
    view: View,
    report: &mut Report,
) -> Result<(), report::Failure> {
    let entered = lab::enter()?;
    report.user_namespace = entered.user_namespace;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let exit = i32::from(INTERRUPTED);
        // In this order: the first Ctrl-C cleans up, a second one leaves at once (the kernel then
        // ends what was started).
        signal_hook::flag::register_conditional_shutdown(signal, exit, Arc::clone(interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(interrupted)))
            .map_err(|error| report::Failure::because(format!("no signal handler: {error}")))?;
    }
    let stop = Stop::from_flag(Arc::clone(interrupted));
    Session::start(args, stop, view)?.play(report)
}

fn choose_view(args: &Demo) -> View {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if args.json {
        View::silent()
    } else if io::stdout().is_terminal() && !dumb {
        View::terminal(Style::of(&io::stdout()))
    } else {
        View::lines()
    }
}

fn write_json(report: &Report) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, report)?;
    writeln!(stdout)
}

fn write_text(report: &Report, style: Style) -> io::Result<()> {
    if report.interrupted {
        return writeln!(io::stderr().lock(), "Stopped. Everything is cleaned up.");
    }
    if !report.phases.is_empty() {
        io::stdout().lock().write_all(summary::text(report, style).as_bytes())?;
    }
    if let Some(reason) = &report.reason {
        let style = Style::of(&io::stderr());
        let mut stderr = io::stderr().lock();
        writeln!(stderr, "{} {reason}", style.bad("ringtun demo:"))?;
        for line in &report.log {
            writeln!(stderr, "  {line}")?;
        }
    }
    Ok(())
}
