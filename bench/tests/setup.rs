//! `setup` as it is called: it says what it would run, and needs neither a lab nor privileges.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

/// With nothing but what Debian keeps for administrators, which the benchmark always looks at.
fn dry_run(path: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringtun-bench"));
    command.args(["setup", "--dry-run"]).env_clear().env("PATH", path);
    command.output().unwrap()
}

#[test]
fn says_what_is_not_possible_where_nothing_is_installed() {
    let output = dry_run(Path::new("/nonexistent"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().find(|line| line.starts_with("NOT POSSIBLE: there is no apt-get"));
    let line = line.unwrap_or_else(|| panic!("no line about apt-get in {text}"));
    for package in ["iperf3", "fastd", "socat"] {
        assert!(line.split(' ').any(|word| word == package), "{package} is not in {line}");
    }
}

#[test]
fn every_line_is_a_command_where_there_is_something_to_install_by() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("setup");
    std::fs::create_dir_all(&folder).unwrap();
    for program in ["apt-get", "sudo", "cargo"] {
        // To be found, not to be started: a dry run starts nothing.
        let path = folder.join(program);
        std::fs::write(&path, "#!/bin/sh\ntouch \"$0.started\"\n").unwrap();
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, rights).unwrap();
    }
    let output = dry_run(&folder);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("env DEBIAN_FRONTEND=noninteractive apt-get -y update"), "{text}");
    assert!(lines[1].contains(" install --no-install-recommends iperf3 "), "{text}");
    let is_command = |line: &&str| {
        ["env ", "sudo env ", "cargo install --locked "].iter().any(|it| line.starts_with(it))
    };
    assert!(lines.iter().all(is_command), "{text}");
    let started = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let started: Vec<_> =
        started.filter(|name| name.to_string_lossy().ends_with(".started")).collect();
    assert!(started.is_empty(), "it started {started:?}");
}
