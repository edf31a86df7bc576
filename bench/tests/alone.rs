//! `handshakes` and `peersN` as they are run: a second of each, with a device of this build. Where
//! no namespaces can be made, or there is no `wg`, this is reported as ignored.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let name = "a_device_of_ours_answers_and_starts";
    let trial = Trial::ignorable_test(name, || -> Result<Completion, Failed> {
        if let Some(why) = missing() {
            return Ok(Completion::ignored_with(why));
        }
        a_device_of_ours_answers_and_starts();
        Ok(Completion::Completed)
    });
    libtest_mimic::run(&arguments, vec![trial]).exit_code()
}

fn missing() -> Option<String> {
    let wg = Command::new("wg").arg("--version").output();
    if wg.is_err() {
        return Some("there is no wg: sudo apt install wireguard-tools".to_owned());
    }
    let space = Command::new("unshare").args(["-rn", "true"]).status();
    let may = space.is_ok_and(|status| status.success());
    (!may).then(|| "no namespaces can be made here".to_owned())
}

fn a_device_of_ours_answers_and_starts() {
    let journal = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone.ndjson");
    let _ = fs::remove_file(&journal);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringtun-bench"));
    command.args(["ab", "--workload", "handshakes,peers100", "--rounds", "1"]);
    command.args(["--seconds", "1", "--only", "veth,wg-uring", "--baseline", "wg-uring"]);
    let output = command.arg("--json").arg(&journal).output().unwrap();
    let (said, tables) =
        [&output.stderr, &output.stdout].map(|it| String::from_utf8_lossy(it).into_owned()).into();
    assert!(output.status.success(), "{said}\n{tables}");
    let text = fs::read_to_string(&journal).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let runs: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "run").collect();
    assert_eq!(runs.len(), 2, "{text}");
    for run in runs {
        let peak = run["cost"]["daemon_peak_memory_bytes"].as_f64().unwrap();
        assert!(peak > 1e6, "{run}");
        if run["workload"] == "peers100" {
            let report = &run["figures"]["start_up"];
            let seconds = |name: &str| report[name].as_f64().unwrap();
            assert!(seconds("socket_seconds") < seconds("configured_seconds"), "{run}");
            assert!(seconds("configured_seconds") < seconds("first_packet_seconds"), "{run}");
        } else {
            let report = &run["figures"]["handshakes"];
            assert!(report["completed"].as_u64().unwrap() > 50, "{run}");
            assert_eq!(report["invalid"], 0, "{run}");
            assert!(report["p99_us"].as_f64() > report["p50_us"].as_f64(), "{run}");
            assert!(report["p50_us"].as_f64().unwrap() > 50.0, "{run}");
        }
    }
    let exempt = lines.iter().filter(|line| line["kind"] == "exempt" && line["name"] == "veth");
    assert_eq!(exempt.count(), 2, "{text}");
    assert_eq!(tables.matches("does not apply").count(), 2, "{tables}");
}
