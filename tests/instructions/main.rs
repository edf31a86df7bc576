//! Instructions of the hot functions, counted by callgrind and compared with `baseline.txt`.
//!
//! `cargo test --profile count -p ringtun-tests --test instructions`. The cases are those that
//! `dataplane/benches/hot.rs` takes the time of. A time depends on who else uses the machine, a
//! count does not: where it has changed, our code has, or the compiler. What ring does is not
//! counted.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod baseline;
mod callgrind;
#[allow(dead_code, reason = "some of it is for the benches")]
#[path = "../../dataplane/benches/fixtures/mod.rs"]
mod fixtures;

use std::env;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use ringtun_tests::place::find_program;

use baseline::{Baseline, Margin};

/// The folder of this profile's binaries.
const PROFILE: &str = "count";
/// Set to anything but nothing, writes the baseline anew.
const RECORD: &str = "RINGTUN_RECORD";

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(callgrind::CHILD) {
        callgrind::run_cases();
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let recorded = Baseline::read();
    let trials = if arguments.list {
        recorded.counts.keys().map(|name| ignored(name, "")).collect()
    } else if let Some(why) = obstacle() {
        recorded.counts.keys().map(|name| ignored(name, &why)).collect()
    } else {
        let now = Baseline { made_by: made_by(), counts: callgrind::count() };
        if env::var_os(RECORD).is_some_and(|value| !value.is_empty()) {
            now.write();
            return ExitCode::SUCCESS;
        }
        compare(&now, &recorded)
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn ignored(name: &str, why: &str) -> Trial {
    let why = why.to_owned();
    Trial::ignorable_test(name, move || Ok(Completion::ignored_with(why)))
}

/// Why nothing can be counted, or not what was recorded.
fn obstacle() -> Option<String> {
    let own = env::current_exe().unwrap();
    let profile =
        own.parent().and_then(|deps| deps.parent()).and_then(|profile| profile.file_name());
    if profile.is_none_or(|profile| profile != PROFILE) {
        return Some(format!("the counts are those of `--profile {PROFILE}`"));
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // What is there at run time is chosen, by us no more than by libc and ring: valgrind shows
        // them one and the same processor wherever there is AVX2.
        return find_program("valgrind").is_none().then(|| "there is no valgrind".to_owned());
    }
    Some("the counts are those of an x86-64 processor with AVX2".to_owned())
}

/// What decides about the counts besides our code.
fn made_by() -> String {
    let first_line = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
    };
    let tools = [("rustc", "-V"), ("getconf", "GNU_LIBC_VERSION"), ("valgrind", "--version")];
    tools.map(|(program, argument)| first_line(program, argument)).join(", ")
}

/// One test a case; prints all counts beside those recorded.
fn compare(now: &Baseline, recorded: &Baseline) -> Vec<Trial> {
    let margin = Margin::between(&now.made_by, &recorded.made_by);
    println!("{:<26} {:>10} {:>10}  instructions a packet; {margin}", "", "now", "recorded");
    let names = recorded
        .counts
        .keys()
        .chain(now.counts.keys().filter(|name| !recorded.counts.contains_key(*name)));
    let mut trials = Vec::new();
    for name in names {
        let [count, was] = [now, recorded].map(|baseline| baseline.counts.get(name).copied());
        let text = |count: Option<f64>| count.map_or("-".to_owned(), |count| format!("{count:.1}"));
        println!("{name:<26} {:>10} {:>10}", text(count), text(was));
        let verdict = margin.verdict(count, was);
        trials.push(Trial::test(name.clone(), move || verdict.map_err(Failed::from)));
    }
    trials.extend(baseline::self_tests());
    trials
}
