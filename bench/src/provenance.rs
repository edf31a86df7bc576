//! What exactly was run: the processes of a tunnel as the kernel knows them, and which versions.
//!
//! In: a tunnel that passes packets. Out: the command of every process of both ends, and what each
//! program says of its version. Asking is all that is done; what does not answer is left out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::competitors::Tunnel;

/// A program that does not print its version by then does not know the question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How each program is asked; others are not, for they might start to work.
const QUESTIONS: &[(&str, &str)] = &[
    ("boringtun-cli", "--version"),
    ("fastd", "--version"),
    ("gotatun", "--version"),
    ("iperf3", "--version"),
    ("nebula", "-version"),
    ("openvpn", "--version"),
    ("quicktun", "--version"),
    ("ringtun", "--version"),
    ("socat", "-V"),
    ("tincd", "--version"),
    ("wg", "--version"),
    (GO, "--version"),
];
const GO: &str = "wireguard-go";

/// One tunnel, in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Provenance {
    /// The command of every process, left end first.
    pub(crate) commands: Vec<String>,
    /// What the programs say, by name.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Provenance {
    /// Looks at a running tunnel.
    pub(crate) fn of(tunnel: &Tunnel) -> Self {
        let mut found = Self::default();
        for process in &tunnel.processes {
            let folder = PathBuf::from(format!("/proc/{}", process.pid()));
            let Ok(words) = fs::read(folder.join("cmdline")) else { continue };
            let command = command_line(&words);
            let name = program_name(&command);
            found.commands.push(command);
            if let Entry::Vacant(entry) = found.versions.entry(name) {
                // By the file that runs: another one of that name may be in PATH.
                if let Some(version) = version_of(&folder.join("exe"), entry.key()) {
                    entry.insert(version);
                }
            }
        }
        found
    }
}

/// What a program found in PATH says of its version.
pub(crate) fn version(name: &str) -> Option<String> {
    version_of(Path::new(name), name)
}

fn version_of(program: &Path, name: &str) -> Option<String> {
    let question = question(name)?;
    let mut command = Command::new(program);
    // This program is ringtun under that name.
    std::os::unix::process::CommandExt::arg0(&mut command, name);
    command.arg(question).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let begin = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if begin.elapsed() > ANSWER_TIMEOUT {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().ok()?;
    version_line(&String::from_utf8_lossy(&output.stdout))
}

/// How a program is asked; a wireguard-go may have any name that begins with this.
fn question(name: &str) -> Option<&'static str> {
    let is_meant = |known: &str| known == name || known == GO && name.starts_with(GO);
    QUESTIONS.iter().find(|(known, _)| is_meant(known)).map(|(_, question)| *question)
}

/// The first line with a digit in it: some begin with their name or an author.
fn version_line(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next();
    let with_digit = lines.find(|line| {
        line.split_whitespace().any(|word| {
            let word = word.trim_start_matches('v');
            word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit())
        })
    });
    with_digit.or(first).map(str::to_owned)
}

/// `/proc/PID/cmdline` as one would type it.
fn command_line(words: &[u8]) -> String {
    let words = words.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>().join(" ")
}

fn program_name(command: &str) -> String {
    let program = command.split_whitespace().next().unwrap_or_default();
    program.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let openvpn = "OpenVPN 2.6.3 x86_64-pc-linux-gnu [SSL (OpenSSL)]\nlibrary versions: 3";
        assert!(version_line(openvpn).unwrap().starts_with("OpenVPN 2.6.3"));
        let socat = "socat by Gerhard Rieger and contributors - see www.dest-unreach.org\n\
            socat version 1.7.4.4 on 06 Nov 2022 08:15:51\n   running on Linux version 6";
        assert!(version_line(socat).unwrap().starts_with("socat version 1.7.4.4"));
        assert_eq!(
            version_line("wireguard-go v0.0.20230223\n\n").unwrap(),
            "wireguard-go v0.0.20230223"
        );
        let quicktun =
            "UCIS QuickTun 2.2.6 (c) 2010-2017 Ivo Smits\nMore information: http://w.net";
        assert!(version_line(quicktun).unwrap().starts_with("UCIS QuickTun 2.2.6"));
        assert_eq!(version_line("Version: 1.6.1\n").unwrap(), "Version: 1.6.1");
        assert_eq!(version_line("no number at all\n").unwrap(), "no number at all");
        assert_eq!(version_line("\n \n"), None);
    }

    #[test]
    fn commands_are_read_from_proc() {
        assert_eq!(command_line(b"/usr/sbin/openvpn\0--dev\0x\0"), "/usr/sbin/openvpn --dev x");
        assert_eq!(program_name("/usr/sbin/openvpn --dev x"), "openvpn");
        assert_eq!((command_line(b""), program_name("")), (String::new(), String::new()));
    }

    #[test]
    fn programs_that_are_not_known_are_not_started() {
        assert_eq!(version("sh"), None);
        assert_eq!(question("wireguard-go-2025"), Some("--version"));
        assert_eq!((question("wireguard"), question("nebula-cert")), (None, None));
    }
}
