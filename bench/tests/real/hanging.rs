//! Tunnels that hang, from the start or later: they are reported, and the others are measured.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ringtun::sys::namespace;
use signal_hook::consts::SIGSTOP;

use crate::Case;
use crate::bench::{Bench, folder};

pub(crate) const CASES: &[Case] = &[
    Case::new("hanging::at_the_start", at_the_start),
    Case::new("hanging::with_a_child", with_a_child),
    Case::new("hanging::later", later),
];

/// Something was not measured.
const INCOMPLETE: i32 = 1;

/// It does nothing, and does not end when it is asked to. There is no shell left to wait for it.
const FAKE: &str = "#!/bin/sh\ntrap '' TERM INT HUP\nexec sleep 1000\n";
/// By which it is found.
pub(crate) const FAKE_COMMAND: &str = "sleep 1000 ";
/// The same, with a child of its own.
const FAKE_WITH_CHILD: &str = "#!/bin/sh\ntrap '' TERM INT HUP\nsleep 1000 &\nwait\nwait\n";

fn at_the_start() {
    does_not_start("hanging", FAKE);
}

fn with_a_child() {
    does_not_start("hanging-child", FAKE_WITH_CHILD);
}

fn does_not_start(name: &str, program: &str) {
    let folder = folder(name);
    put(&folder, program);
    let what = "--only wireguard-go,veth --baseline veth --workload ping --rounds 1 --seconds 1";
    let mut bench = Bench::start(folder, what);
    bench.wait_until("the hanging program", |bench| {
        bench.processes().iter().any(|process| process.command == FAKE_COMMAND)
    });
    let ended = bench.end();
    assert_eq!(ended.status.code(), Some(INCOMPLETE), "{}", ended.stderr);
    let why = "it runs, but /run/wireguard/bench1l.sock does not appear within 5s";
    assert!(ended.stdout.contains(&format!("NOT MEASURED: {why}")), "{}", ended.stdout);
    let absent = ended.lines_of("absent");
    assert_eq!((absent.len(), absent[0]["why"].as_str()), (1, Some(why)));
    let runs = ended.lines_of("run");
    assert_eq!(runs.len(), 1, "only veth is there to be measured");
    assert!(runs[0]["figures"]["round_trips"]["p50_us"].as_f64().unwrap() > 0.0);
}

/// A tunnel that stops at work: its later runs failed, the other's did not.
fn later() {
    let what = "--only veth,uring --baseline veth --workload ping --rounds 2 --seconds 1";
    let mut bench = Bench::start(folder("later"), what);
    bench.wait_until("the first run", |bench| bench.stderr().contains("[  2/4"));
    let all = bench.processes();
    let engines: Vec<_> =
        all.iter().filter(|process| process.command.starts_with("ringtun up ")).collect();
    assert_eq!(engines.len(), 2);
    for engine in engines {
        namespace::signal(engine.pid, SIGSTOP).unwrap();
    }
    let ended = bench.end();
    assert_eq!(ended.status.code(), Some(INCOMPLETE), "{}", ended.stderr);
    let runs = ended.lines_of("run");
    let failed = |name: &str| -> Vec<bool> {
        let of_it = runs.iter().filter(|run| run["competitor"] == name);
        of_it.map(|run| run["figures"].is_null() && run["error"].is_string()).collect()
    };
    assert_eq!((failed("veth"), failed("uring")), (vec![false, false], vec![false, true]));
}

/// A wireguard-go that is found before any other.
pub(crate) fn put_fake_wireguard_go(folder: &Path) {
    put(folder, FAKE);
}

fn put(folder: &Path, text: &str) {
    let path = folder.join("bin/wireguard-go");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}
