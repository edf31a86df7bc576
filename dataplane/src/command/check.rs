//! `ringtun check`: can this machine run at full speed?
//!
//! In: nothing (a file, one day). Out: every feature in plain words, each miss with its cost and
//! its remedy, or the same as JSON; an exit code for scripts.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

use super::exit::Exit;
use crate::control::probe::{self, Finding, State};
use crate::control::values::{ValueError, looks_like_file};

/// The version of the JSON; fields are only added within one.
const VERSION: u32 = 1;

/// Options of `ringtun check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file to check (not supported yet) [default: check this machine]
    file: Option<String>,

    /// Print JSON (versioned; fields are only added) instead of text
    #[arg(long)]
    json: bool,
}

/// Options of the child that looks around in namespaces of its own.
#[derive(Debug, clap::Args)]
pub struct NamespaceArgs {
    /// Enter a user namespace first
    #[arg(long)]
    user: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    verdict: &'static str,
    findings: &'a [Finding],
}

/// Checks this machine.
pub fn run(args: &Args) -> Result<Exit> {
    if let Some(file) = &args.file {
        if looks_like_file(file) {
            return Err(ValueError::File(file.clone()).into());
        }
        return Err(ValueError::Name {
            name: file.clone(),
            problem: "`ringtun check` takes no name, it checks this machine",
        }
        .into());
    }
    let findings = probe::all();
    let (verdict, words, exit) = verdict(&findings);
    let mut out = io::stdout().lock();
    if args.json {
        let report = Report { version: VERSION, verdict, findings: &findings };
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(exit);
    }
    for finding in &findings {
        write_finding(&mut out, finding)?;
    }
    writeln!(out, "\n{words}")?;
    Ok(exit)
}

/// What the child of [`probe::all`] runs.
pub fn run_in_namespace(args: &NamespaceArgs) -> Result<Exit> {
    let answer = probe::inside_namespace(args.user);
    writeln!(io::stdout(), "{}", serde_json::to_string(&answer)?)?;
    Ok(Exit::Ok)
}

fn verdict(findings: &[Finding]) -> (&'static str, &'static str, Exit) {
    let any = |state| findings.iter().any(|finding| finding.state == state);
    if any(State::Missing) {
        let words = "Verdict: ringtun cannot run here until what is missing is remedied.";
        ("cannot_run", words, Exit::Unsupported)
    } else if any(State::Slower) {
        let words = "Verdict: ringtun works here, but slower or with limits; see the remedies.";
        ("slower", words, Exit::Failure)
    } else {
        ("full_speed", "Verdict: full speed.", Exit::Ok)
    }
}

fn write_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let state = match finding.state {
        State::Ok => "ok",
        State::Slower => "slower",
        State::Missing => "missing",
        State::Note => "note",
    };
    writeln!(out, "{state:<8} {:<18} {}", finding.name, finding.found)?;
    if let Some(cost) = finding.cost {
        writeln!(out, "{:<27} cost: {cost}", "")?;
    }
    if let Some(remedy) = &finding.remedy {
        writeln!(out, "{:<27} remedy: {remedy}", "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(state: State) -> Finding {
        Finding { name: "x", state, found: "found".to_owned(), cost: Some("cost"), remedy: None }
    }

    #[test]
    fn the_worst_finding_decides() {
        let of =
            |states: &[State]| verdict(&states.iter().copied().map(finding).collect::<Vec<_>>()).2;
        assert_eq!(of(&[State::Ok, State::Note]), Exit::Ok);
        assert_eq!(of(&[State::Ok, State::Slower]), Exit::Failure);
        assert_eq!(of(&[State::Slower, State::Missing]), Exit::Unsupported);
    }

    #[test]
    fn a_file_is_not_checked_yet() {
        let of = |word: &str| run(&Args { file: Some(word.to_owned()), json: false }).unwrap_err();
        assert!(of("rt0.toml").to_string().contains("not supported yet"));
        assert!(of("rt0").to_string().contains("takes no name"));
    }

    #[test]
    fn findings_are_written_with_cost() {
        let mut out = Vec::new();
        write_finding(&mut out, &finding(State::Slower)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("slower   x") && text.contains("cost: cost"), "{text}");
    }
}
