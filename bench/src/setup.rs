//! `setup`: installs what the tunnels need and this machine does not have.
//!
//! In: the needs of every competitor. Out: the commands, each printed before it is run (or instead,
//! by `--dry-run`), and at the end what is still missing. Debian's packages are installed for the
//! machine; none of them starts anything that listens before it is configured. Crates are built
//! into `peers` in Cargo's folder, where the benchmark looks for them. No lab is entered.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::{fmt, fs};

use anyhow::Result;

use crate::Outcome;
use crate::competitors::{self, IPERF3, Program, Source, find, missing, peers_folder};

/// What `setup` is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Says what would be run, and runs nothing
    #[arg(long)]
    dry_run: bool,
}

/// Installs, and says so.
pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let needs = needs();
    let plan = plan(&missing(&needs), &Machine::look());
    let mut out = io::stdout();
    write!(out, "{plan}")?;
    if args.dry_run {
        return Ok(if plan.obstacles.is_empty() { Outcome::Complete } else { Outcome::Incomplete });
    }
    for step in &plan.steps {
        writeln!(out, "\n+ {step}")?;
        if let Some(why) = step.run() {
            writeln!(out, "{why}")?;
        }
    }
    let left = missing(&needs);
    if left.is_empty() {
        return Ok(Outcome::Complete);
    }
    let left: Vec<_> = left.iter().map(|program| program.name).collect();
    writeln!(out, "\nStill not installed: {}", left.join(", "))?;
    Ok(Outcome::Incomplete)
}

/// Of all tunnels, and of the benchmark itself; each once.
fn needs() -> Vec<Program> {
    let mut needs = vec![IPERF3];
    for competitor in competitors::all(&[]) {
        needs.extend(competitor.needs());
    }
    once(needs)
}

fn once<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

/// What can be used to install something.
#[derive(Clone, Debug)]
struct Machine {
    root: bool,
    sudo: bool,
    apt: bool,
    cargo: bool,
    peers: PathBuf,
}

impl Machine {
    fn look() -> Self {
        let have = |program| find(program).is_ok();
        Self {
            // What is in /proc belongs to the effective user.
            root: fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0),
            sudo: have("sudo"),
            apt: have("apt-get"),
            cargo: have("cargo"),
            peers: peers_folder(),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    steps: Vec<Step>,
    /// What cannot be done, and what would help.
    obstacles: Vec<String>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step(Vec<String>);

fn plan(missing: &[Program], machine: &Machine) -> Plan {
    let packages = missing.iter().filter_map(|program| match program.source {
        Source::Debian(package) => Some(package),
        Source::Cargo { .. } => None,
    });
    let crates = missing.iter().filter_map(|program| match program.source {
        Source::Debian(_) => None,
        Source::Cargo { package, version } => Some((package, version)),
    });
    let (packages, crates) = (once(packages.collect()), once(crates.collect()));
    let mut plan = Plan::default();
    if !packages.is_empty() {
        plan.packages(&packages, machine);
    }
    if !crates.is_empty() {
        plan.crates(&crates, machine);
    }
    plan
}

impl Plan {
    fn packages(&mut self, packages: &[&str], machine: &Machine) {
        let list = packages.join(" ");
        if !machine.apt {
            self.obstacles.push(format!(
                "there is no apt-get: install what your system calls these packages of Debian's: \
                 {list}"
            ));
        } else if !machine.root && !machine.sudo {
            self.obstacles
                .push(format!("neither root nor sudo: ask an administrator to apt install {list}"));
        } else {
            let mut apt = if machine.root { vec![] } else { vec!["sudo"] };
            apt.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y"]);
            self.steps.push(step(&apt, &["update"]));
            apt.extend(["install", "--no-install-recommends"]);
            self.steps.push(step(&apt, packages));
        }
    }

    fn crates(&mut self, crates: &[(&str, &str)], machine: &Machine) {
        if !machine.cargo {
            let names: Vec<_> = crates.iter().map(|(package, _)| *package).collect();
            let names = names.join(" ");
            self.obstacles.push(format!("there is no cargo to build {names}: install Rust"));
            return;
        }
        let root = machine.peers.display().to_string();
        let build = machine.peers.join("build").display().to_string();
        for (package, version) in crates {
            let install = ["cargo", "install", "--locked", package, "--version", version];
            self.steps.push(step(&install, &["--root", &root, "--target-dir", &build]));
        }
    }
}

fn step(first: &[&str], rest: &[&str]) -> Step {
    Step(first.iter().chain(rest).map(|&word| word.to_owned()).collect())
}

impl Step {
    /// Runs it on this terminal; if it fails, says how. The others are tried all the same.
    fn run(&self) -> Option<String> {
        let (program, args) = self.0.split_first()?;
        match Command::new(program).args(args).status() {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("{program} failed ({status})")),
            Err(error) => Some(format!("cannot start {program}: {error}")),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, word) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_char(' ')?;
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:@".contains(c);
            if word.chars().all(plain) {
                f.write_str(word)?;
            } else {
                write!(f, "'{}'", word.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() && self.obstacles.is_empty() {
            return writeln!(f, "Everything is installed.");
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for obstacle in &self.obstacles {
            writeln!(f, "NOT POSSIBLE: {obstacle}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINC: Program = Program::debian("tincd", "tinc");
    const NEBULA: Program = Program::debian("nebula", "nebula");
    const NEBULA_CERT: Program = Program::debian("nebula-cert", "nebula");
    const GOTATUN: Program = Program::cargo("gotatun", "gotatun-cli", "0.10.2");

    fn machine() -> Machine {
        let peers = PathBuf::from("/src/target/peers");
        Machine { root: false, sudo: true, apt: true, cargo: true, peers }
    }

    #[test]
    fn says_exactly_what_it_runs() {
        let missing = [TINC, GOTATUN, NEBULA, NEBULA_CERT];
        let packages = plan(&missing, &machine());
        assert_eq!(
            packages.to_string(),
            "sudo env DEBIAN_FRONTEND=noninteractive apt-get -y update\n\
             sudo env DEBIAN_FRONTEND=noninteractive apt-get -y install --no-install-recommends \
             tinc nebula\n\
             cargo install --locked gotatun-cli --version 0.10.2 --root /src/target/peers \
             --target-dir /src/target/peers/build\n"
        );
        let root = plan(&[TINC], &Machine { root: true, sudo: false, ..machine() });
        assert!(root.to_string().starts_with("env DEBIAN_FRONTEND"), "{root}");
        assert_eq!(plan(&[], &machine()).to_string(), "Everything is installed.\n");
    }

    #[test]
    fn what_is_not_possible_is_told_with_what_helps() {
        let without = |machine| plan(&[TINC, GOTATUN], &machine).to_string();
        let no_apt = without(Machine { apt: false, ..machine() });
        assert!(no_apt.contains("NOT POSSIBLE: there is no apt-get"), "{no_apt}");
        assert!(no_apt.starts_with("cargo install"), "the rest is not done: {no_apt}");
        let no_sudo = without(Machine { sudo: false, ..machine() });
        assert!(no_sudo.contains("NOT POSSIBLE: neither root nor sudo"), "{no_sudo}");
        let no_cargo = without(Machine { cargo: false, ..machine() });
        assert!(no_cargo.contains("NOT POSSIBLE: there is no cargo"), "{no_cargo}");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        let step = step(&["cargo", "--root"], &["/my own/it's"]);
        assert_eq!(step.to_string(), r"cargo --root '/my own/it'\''s'");
    }

    #[test]
    fn steps_that_fail_say_so() {
        assert_eq!(step(&["true"], &[]).run(), None);
        assert!(step(&["false"], &[]).run().unwrap().contains("false failed"));
        assert!(step(&["no-such-program"], &[]).run().unwrap().contains("cannot start"));
    }

    #[test]
    fn every_peer_is_among_the_needs_once() {
        let needs = needs();
        for name in ["iperf3", "wg", "tincd", "fastd", "quicktun", "nebula", "gotatun", "socat"] {
            let count = needs.iter().filter(|program| program.name == name).count();
            assert_eq!(count, 1, "{name}");
        }
    }
}
