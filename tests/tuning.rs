//! The scripts in `tuning/perf/`: each says what it needs and what to read from it, and answers
//! wrong input in words before it touches anything. That they measure is tested in `e2e/tuning.rs`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Sourced by the others, no script itself.
const SHARED: &str = "lib.sh";
/// What every script offers.
const OPTIONS: [&str; 3] = ["--interface", "--pid", "--seconds"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tuning/perf")
}

fn shell_files() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|is| is == "sh")).collect();
    files.sort();
    files
}

fn scripts() -> Vec<PathBuf> {
    let scripts: Vec<_> =
        shell_files().into_iter().filter(|path| !path.ends_with(SHARED)).collect();
    assert!(scripts.len() >= 5, "found only {scripts:?}: wrong folder?");
    scripts
}

fn run(script: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(script);
    command.args(arguments).env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringtun-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is a few links in the folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn bash_can_read_them() {
    for file in shell_files() {
        let output = Command::new("bash").arg("-n").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), err(&output));
    }
    for script in scripts() {
        let mode = fs::metadata(&script).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{} is not executable", script.display());
    }
}

#[test]
fn help_says_needs_options_and_what_to_read() {
    for script in scripts() {
        let name = script.file_name().unwrap().to_str().unwrap().to_owned();
        for option in ["--help", "-h"] {
            let output = run(&script, &[option]);
            let help = out(&output);
            assert_eq!(output.status.code(), Some(0), "{name} {option}: {}", err(&output));
            for words in ["Needs", "How to read it", "root", "apt-get install", &name] {
                assert!(help.contains(words), "{name} {option} does not say '{words}':\n{help}");
            }
            // The comment ends where the script begins.
            assert!(!help.contains("set -e") && !help.contains("#!"), "{name}:\n{help}");
        }
        let help = out(&run(&script, &["--help"]));
        let text = fs::read_to_string(&script).unwrap();
        let own = text.lines().map(str::trim).filter(|line| line.starts_with("--"));
        let own = own.filter_map(|line| line.split_once(')').map(|(option, _)| option));
        let own = own.filter(|option| !option.contains(char::is_whitespace));
        for option in own.chain(OPTIONS) {
            assert!(help.contains(option), "{name} --help does not tell {option}");
        }
    }
}

#[test]
fn wrong_options_are_named_and_end_with_2() {
    let cases: [(&[&str], &str); 6] = [
        (&["--no-such-option"], "unknown option --no-such-option"),
        (&["stray"], "unknown option stray"),
        (&["--seconds"], "--seconds needs a value"),
        (&["--seconds", "0"], "--seconds is '0': it must be a whole number from 1 to 60"),
        (&["--pid", "rt0"], "--pid is 'rt0': it must be a whole number"),
        (&["--pid", "1", "--interface", "rt0"], "--interface and --pid exclude each other"),
    ];
    for script in scripts() {
        for (arguments, words) in cases {
            let output = run(&script, arguments);
            let name = script.display();
            assert_eq!(output.status.code(), Some(2), "{name} {arguments:?}: {}", err(&output));
            assert!(err(&output).contains(words), "{name} {arguments:?}: {}", err(&output));
            assert!(err(&output).contains("--help"), "{name} {arguments:?}: {}", err(&output));
            assert_eq!(out(&output), "", "{name} {arguments:?}");
        }
    }
}

/// A `jq` that answers nothing stands in where there is none: nobody is there to be asked.
#[test]
fn an_interface_that_nobody_serves_is_an_error_with_a_remedy() {
    let stand_in = Scratch::new("tuning-jq");
    symlink("/bin/false", stand_in.0.join("jq")).unwrap();
    let path = format!("{}:{}", std::env::var("PATH").unwrap(), stand_in.0.display());
    for script in scripts() {
        for target in [["--interface", "rt-none"], ["--pid", "99999999"]] {
            let mut command = Command::new(&script);
            let output = command.args(target).env("PATH", &path).output().unwrap();
            let (name, text) = (script.display(), err(&output));
            assert_eq!(output.status.code(), Some(1), "{name}: {text}");
            let what = format!("{}: no such ringtun", target.join(" "));
            for words in [what.as_str(), "Running here", "ringtun up", "the demo"] {
                assert!(text.contains(words), "{name} does not say '{words}': {text}");
            }
        }
    }
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let tools = Scratch::new("tuning-path");
    for program in ["bash", "env", "dirname", "sed", "id"] {
        let found = std::env::var("PATH").unwrap().split(':').find_map(|folder| {
            let path = Path::new(folder).join(program);
            path.is_file().then_some(path)
        });
        symlink(found.unwrap(), tools.0.join(program)).unwrap();
    }
    for script in scripts() {
        let mut command = Command::new(&script);
        let output = command.arg("--interface").arg("rt0").env("PATH", &tools.0).output().unwrap();
        let text = err(&output);
        assert_eq!(output.status.code(), Some(1), "{}: {text}", script.display());
        assert!(text.contains("jq is missing: apt-get install jq"), "{}: {text}", script.display());
    }
}

/// operations.sh names io_uring's completions by the numbers that `ring` gives them.
#[test]
fn operations_knows_the_kinds_of_operation() {
    let ring = folder().join("../../dataplane/src/ring/uring.rs");
    let ring = fs::read_to_string(ring).unwrap();
    let (_, kinds) = ring.split_once("enum Kind {").unwrap();
    let (kinds, _) = kinds.split_once('}').unwrap();
    let kinds: Vec<&str> =
        kinds.split(',').map(str::trim).filter(|kind| !kind.is_empty()).collect();
    assert_eq!(kinds, ["ReadMulti = 1", "ReadOnce", "Receive", "Poll", "Send", "Write"]);
    let script = fs::read_to_string(folder().join("operations.sh")).unwrap();
    let words = [
        "tun read (multishot)",
        "tun read (single)",
        "UDP receive",
        "poll",
        "UDP send",
        "tun write",
    ];
    for (number, word) in (1..).zip(words) {
        let line = format!("word[\"{number}\"] = \"{word}\"");
        assert!(script.contains(&line), "operations.sh has no {line}");
    }
}

#[test]
fn the_readme_tells_every_script() {
    let readme = fs::read_to_string(folder().parent().unwrap().join("README.md")).unwrap();
    for script in scripts() {
        let name = script.file_name().unwrap().to_str().unwrap();
        assert!(readme.contains(name), "tuning/README.md does not mention {name}");
    }
}
