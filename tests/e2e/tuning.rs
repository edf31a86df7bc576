//! The scripts in `tuning/perf/` at work: beside engines under load, by what any user may read.
//! What needs the kernel's trace points is for root and is left to people.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use ringtun_tests::place::find_program;
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, Io, Side, Tunnel};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::maybe("tuning::wakeups_measures_a_worker", || {
            measured("wakeups.sh", "--pid", &[" worker-0 ", "asleep"])
        }),
        Case::maybe("tuning::drops_says_what_was_carried", || {
            measured("drops.sh", "--interface", &["packets out", "dropped by ringtun"])
        }),
    ]
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tuning/perf").join(name)
}

/// Runs a script against the left engine while TCP flows through it.
fn measured(name: &str, by: &str, wanted: &[&str]) -> Option<String> {
    if find_program("jq").is_none() {
        return Some("there is no jq".to_owned());
    }
    let tunnel = Tunnel::new(Io::Uring, Family::V4, &[]);
    let target = match by {
        "--pid" => tunnel.left.process.pid().to_string(),
        _ => Side::Left.device().to_owned(),
    };
    let output: Output = thread::scope(|scope| {
        scope.spawn(|| tunnel.load(Side::Left, 1, Duration::from_secs(5)));
        // The window has to lie within the load.
        thread::sleep(Duration::from_millis(500));
        let mut command = Command::new(script(name));
        command.args([by, &target, "--seconds", "1", "--no-trace"]).output().unwrap()
    });
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {err}");
    for words in wanted {
        assert!(out.contains(words), "{name} does not say '{words}':\n{out}\n{err}");
    }
    // It says so if there was no traffic in its window.
    assert!(!err.contains("note: "), "{name}: {err}");
    None
}
