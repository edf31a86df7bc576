//! The frame of a test binary without the standard harness: enter the lab first, then run one
//! test after another, and say visibly what was left out and why.

use std::io::{self, Write};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::place;

/// One test: its name and what it does.
pub struct Case {
    name: String,
    run: Box<dyn FnOnce() -> Option<String> + Send>,
}

impl Case {
    /// A test that fails by panicking.
    pub fn new(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Self {
        Self::maybe(name, move || {
            run();
            None
        })
    }

    /// A test that may find out that it cannot run here: it returns why.
    pub fn maybe(
        name: impl Into<String>,
        run: impl FnOnce() -> Option<String> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Runs `cases` in a lab. Hosts have fixed names and the machine few cores: one at a time.
#[must_use]
pub fn run(cases: Vec<Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let mut stderr = io::stderr();
    let obstacle = if arguments.list {
        None
    } else {
        match place::enter() {
            Ok(how) => {
                let _ = writeln!(stderr, "running {how}");
                // Panics here if there is no binary, before a hundred tests do.
                let _ = place::binary();
                None
            }
            Err(error) => {
                let _ = writeln!(stderr, "NO TEST OF THIS FILE CAN RUN HERE: {error}");
                Some(error)
            }
        }
    };
    let trials = cases.into_iter().map(|case| trial(case, obstacle.clone())).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(case: Case, obstacle: Option<String>) -> Trial {
    let Case { name, run } = case;
    Trial::ignorable_test(name, move || -> Result<Completion, Failed> {
        match obstacle.or_else(run) {
            None => Ok(Completion::Completed),
            Some(why) => Ok(Completion::ignored_with(why)),
        }
    })
}
