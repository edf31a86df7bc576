//! A whole run in seconds, from `ab` to the page and the verdict.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use crate::Case;
use crate::bench::{Bench, Ended, folder, program};

pub(crate) const CASES: &[Case] = &[
    Case::new("quick::round_trips", || from_ab_to_the_verdict("round-trips", "ping")),
    Case::with_streams("quick::streams", || from_ab_to_the_verdict("streams", "tcp1")),
    Case::new("quick::iperf3_only_where_it_is_needed", iperf3_only_where_it_is_needed),
];

const TUNNELS: [&str; 3] = ["veth", "uring", "wg-mmsg"];
const ROUNDS: u64 = 2;

fn from_ab_to_the_verdict(test: &str, workload: &str) {
    let what = format!(
        "--only {} --baseline veth --workload {workload} --rounds {ROUNDS} --seconds 1",
        TUNNELS.join(",")
    );
    let ended = Bench::start(folder(test), &what).end();
    assert_eq!(ended.status.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    assert_recorded(&ended, workload);
    let row = |text: &str, name: &str| text.lines().any(|line| line.starts_with(name));
    for name in TUNNELS {
        assert!(row(&ended.stdout, &format!("| {name} ")), "{}", ended.stdout);
    }
    let path = ended.journal();
    let page = path.with_file_name("page.html");
    let report =
        |args: &[&str]| text(program().arg("report").arg(&path).args(args).output().unwrap());
    let markdown = report(&[]);
    report(&["--html", page.to_str().unwrap()]);
    let page = fs::read_to_string(page).unwrap();
    for name in TUNNELS {
        assert!(markdown.contains(&format!("| {name} ")), "{markdown}");
        assert!(page.contains(name) && page.contains(workload), "no {name} on the page");
    }
    let verdict =
        text(program().arg("compare").arg(&path).args(["veth", "uring"]).output().unwrap());
    assert!(verdict.contains(workload), "{verdict}");
}

/// Every run, once, with figures; every tunnel with its commands.
fn assert_recorded(ended: &Ended, workload: &str) {
    let lines = ended.lines();
    assert_eq!(lines[0]["kind"], "start");
    let mut runs = BTreeSet::new();
    for run in ended.lines_of("run") {
        assert_eq!((&run["workload"], &run["error"]), (&workload.into(), &Value::Null));
        let figure = |path: &str| run.pointer(path).and_then(Value::as_f64).unwrap_or_default();
        let figures = match workload {
            "ping" => ["/figures/round_trips/p50_us", "/figures/round_trips/received"],
            _ => ["/figures/stream/bytes", "/figures/stream/seconds"],
        };
        for path in figures {
            assert!(figure(path) > 0.0, "{path} of {run}");
        }
        // The last of the round trips begins before the second is over.
        assert!(figure("/cost/wall_seconds") > 0.9, "{run}");
        let name = run["competitor"].as_str().unwrap().to_owned();
        let engines = run["engines"].as_array().unwrap();
        assert_eq!(engines.len(), if name == "veth" { 0 } else { 2 }, "{name}");
        let carried = figure("/engines/0/after/workers/0/outbound/packets");
        assert!(engines.is_empty() || carried > 0.0, "{run}");
        assert!(runs.insert((name, run["round"].as_u64().unwrap())), "twice: {run}");
    }
    let expected = TUNNELS.iter().flat_map(|name| (0..ROUNDS).map(|it| ((*name).to_owned(), it)));
    assert_eq!(runs, expected.collect());
    assert_eq!(ended.lines_of("tunnel").len(), TUNNELS.len());
    assert_eq!(lines.len(), 1 + TUNNELS.len() + runs.len());
}

fn iperf3_only_where_it_is_needed() {
    let run = |workload: &str| {
        let mut command: Command = program();
        command.args(["ab", "--only", "veth", "--baseline", "veth", "--rounds", "1"]);
        command.args(["--seconds", "1", "--workload", workload]).env("PATH", "/nonexistent");
        command.output().unwrap()
    };
    let refused = run("ping,tcp1");
    let words = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{words}");
    let remedy = "iperf3 makes the traffic of tcp1; iperf3 is not installed: ringtun-bench setup \
        (or sudo apt install iperf3)";
    assert!(words.contains(remedy), "{words}");
    assert!(text(run("ping")).contains("| veth "));
}

fn text(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}
