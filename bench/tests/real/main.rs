//! `ringtun-bench` measuring for real: how a run ends, whatever ends it, and what a short one
//! leaves in its journal.
//!
//! The tests are in a lab of their own, and the benchmark in another one inside it: what it should
//! not touch is what is theirs alone, so that it can be compared entry by entry. Where there can be
//! no lab, all of them are reported as ignored.
#![allow(clippy::unwrap_used)]

mod bench;
mod hanging;
mod interrupted;
mod quick;
mod traces;

use std::io::{self, Write};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use ringtun::lab::traffic::find_iperf3;
use ringtun::lab::{self, Isolation};

/// One test.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    run: fn(),
    /// It makes TCP streams.
    needs_iperf3: bool,
}

impl Case {
    const fn new(name: &'static str, run: fn()) -> Self {
        Self { name, run, needs_iperf3: false }
    }

    const fn with_streams(name: &'static str, run: fn()) -> Self {
        Self { name, run, needs_iperf3: true }
    }

    /// What is in its way, if anything.
    fn obstacle(&self) -> Option<String> {
        let missing = self.needs_iperf3 && find_iperf3().is_none();
        missing.then(|| "there is no iperf3: sudo apt install iperf3".to_owned())
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They measure, on few cores.
    arguments.test_threads = Some(1);
    let obstacle = if arguments.list { None } else { enter() };
    let cases = [interrupted::CASES, hanging::CASES, quick::CASES].concat();
    let trials = cases.into_iter().map(|case| {
        let obstacle = obstacle.clone();
        Trial::ignorable_test(case.name, move || -> Result<Completion, Failed> {
            if let Some(why) = obstacle.or_else(|| case.obstacle()) {
                return Ok(Completion::ignored_with(why));
            }
            (case.run)();
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// What is in the way of a lab, if anything. An ordinary user's comes first.
fn enter() -> Option<String> {
    let entered = lab::enter_with(Isolation::UserNamespace);
    let error = entered.or_else(|_| lab::enter()).err()?;
    let _ = writeln!(io::stderr(), "NO TEST OF THIS FILE CAN RUN HERE: {error}");
    Some(error.to_string())
}
