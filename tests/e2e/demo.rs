//! `ringtun demo`, `check` and `show` as a user runs them.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::lab::{Host, Process};
use ringtun_tests::place::{binary, find_program};
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, Io, PATIENCE, Tunnel};
use serde_json::Value;

/// Several phases of a second each, on a busy machine.
const DEMO_TIMEOUT: Duration = Duration::from_secs(90);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("demo::json_uring", || json("uring")),
        Case::new("demo::json_mmsg", || json("mmsg")),
        Case::new("demo::text", text),
        Case::maybe("demo::without_any_right", without_rights),
        Case::new("demo::ctrl_c_leaves_no_process", interrupted),
        Case::new("show::lists_both_ends", show),
        Case::new("check::answers", check),
    ]
}

fn start(host: &Host, words: &[&str]) -> Process {
    let mut command = Command::new(binary());
    command.args(words).env("NO_COLOR", "1");
    host.spawn(command).unwrap()
}

/// Waits for a good end and returns what it wrote.
fn succeed(mut process: Process, within: Duration) -> String {
    let status = process.wait_timeout(within).unwrap();
    let said = format!("{}\n{}", process.stdout(), process.stderr());
    let status = status.unwrap_or_else(|| panic!("runs on: {said}"));
    assert!(status.success(), "{status}: {said}");
    process.stdout()
}

fn assert_json(text: &str, io: &str) {
    let report: Value = serde_json::from_str(text).unwrap();
    assert_eq!(report["passed"], true, "{report}");
    let phases = report["phases"].as_array().unwrap();
    let rates: Vec<f64> =
        phases.iter().filter_map(|phase| phase["streams"]["bits_per_second"].as_f64()).collect();
    assert!(rates.len() >= 2, "one stream and several: {report}");
    assert!(rates.iter().all(|&rate| rate > 1e6), "{rates:?}");
    for end in ["left", "right"] {
        assert_eq!(report[end]["backend"]["name"], io, "{report}");
    }
}

fn json(io: &str) {
    let host = Host::new("user").unwrap();
    let demo = start(&host, &["demo", "--seconds", "1", "--json", "--io", io]);
    assert_json(&succeed(demo, DEMO_TIMEOUT), io);
}

fn text() {
    let host = Host::new("user").unwrap();
    let said = succeed(start(&host, &["demo", "--seconds", "1", "--workers", "2"]), DEMO_TIMEOUT);
    assert!(said.contains("Traffic passed both ways."), "{said}");
    assert!(said.contains("Throughput") && said.contains("Round trips"), "{said}");
    let (_, summary) = said.split_once("Traffic passed").unwrap();
    assert!(summary.lines().all(|line| line.chars().count() <= 80), "{said}");
    assert!(!said.contains('\u{1b}'), "escapes in a file: {said}");
}

/// Root without capabilities is to the kernel what an ordinary user is; the one it keeps lets it
/// map itself into a user namespace, which others need no right for.
fn without_rights() -> Option<String> {
    let Some(setpriv) = find_program("setpriv") else {
        return Some("there is no setpriv here (apt install util-linux)".to_owned());
    };
    let host = Host::new("user").unwrap();
    let mut command = Command::new(setpriv);
    command.args(["--bounding-set", "-all,+setfcap", "--inh-caps", "-all"]).arg(binary());
    command.args(["demo", "--seconds", "1", "--json"]);
    let mut process = host.spawn(command).unwrap();
    let status = process.wait_timeout(DEMO_TIMEOUT).unwrap().unwrap();
    let said = process.stdout();
    let report: Value = serde_json::from_str(&said).unwrap();
    if report["reason"].as_str().is_some_and(|why| why.contains("no private namespaces")) {
        return Some(report["reason"].to_string());
    }
    assert!(status.success(), "{said}");
    assert_eq!(report["user_namespace"], true, "{said}");
    assert_eq!(report["passed"], true, "{said}");
    None
}

/// The processes whose parent is `parent`, and theirs.
fn descendants(parent: u32) -> Vec<u32> {
    let mut found = vec![parent];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // Behind the name in brackets: state, parent.
            let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            if rest.split_whitespace().nth(1) == Some(parent.to_string().as_str()) {
                found.push(pid);
            }
        }
    }
    found.split_off(1)
}

fn interrupted() {
    let host = Host::new("user").unwrap();
    let mut demo = start(&host, &["demo", "--seconds", "60"]);
    let deadline = Instant::now() + DEMO_TIMEOUT;
    // Both engines are up when it says what it measures.
    while demo.stdout().is_empty() || descendants(demo.pid()).len() < 2 {
        assert!(demo.ended().unwrap().is_none(), "{}", demo.stderr());
        assert!(Instant::now() < deadline, "{}", demo.stderr());
        thread::sleep(Duration::from_millis(20));
    }
    let children = descendants(demo.pid());
    demo.signal(libc::SIGINT).unwrap();
    let status = demo.wait_timeout(PATIENCE).unwrap();
    assert_eq!(status.expect("it ends").code(), Some(130), "{}", demo.stderr());
    assert!(demo.stderr().contains("Stopped"), "{}", demo.stderr());
    let left: Vec<_> =
        children.iter().filter(|pid| fs::exists(format!("/proc/{pid}")).unwrap()).collect();
    assert!(left.is_empty(), "of {children:?}: {left:?}");
}

fn show() {
    let tunnel = Tunnel::new(Io::Uring, Family::V4, &[]);
    let run = |words: &[&str]| succeed(start(&tunnel.pair.left, words), PATIENCE);
    let all = run(&["show"]);
    assert!(all.contains("rt-left") && all.contains("rt-right"), "{all}");
    let one: Value = serde_json::from_str(&run(&["show", "rt-left", "--json"])).unwrap();
    assert!(one.to_string().contains("rt-left"), "{one}");
    tunnel.stop();
}

/// Exit status 0 and 1 are both honest answers: the machine decides.
fn check() {
    let host = Host::new("user").unwrap();
    let mut process = start(&host, &["check"]);
    let status = process.wait_timeout(PATIENCE).unwrap().expect("it ends");
    let said = format!("{}{}", process.stdout(), process.stderr());
    assert!(matches!(status.code(), Some(0 | 1)), "{status}: {said}");
    assert!(said.contains("io_uring") && said.contains("/dev/net/tun"), "{said}");
}
