//! Drives iperf3, when it is installed: the tool whose figures others publish.

use std::env;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::host::Host;
use super::process::Process;
use super::traffic::{GRACE, Stop, StreamReport, TrafficError};

const POLL: Duration = Duration::from_millis(20);

/// A plan for [`iperf3`].
#[derive(Clone, Debug)]
pub struct Iperf3 {
    /// The program, as [`find_iperf3`] gives it.
    pub program: PathBuf,
    /// The server's; [`Iperf3::PORT`] unless several run at once.
    pub port: u16,
    /// Parallel streams.
    pub streams: usize,
    /// For how long, in whole seconds.
    pub seconds: u64,
    /// Further arguments for the client, such as `-u -b 0` or `-R`.
    pub client_args: Vec<String>,
}

impl Iperf3 {
    /// Its own default.
    pub const PORT: u16 = 5201;
}

/// What it said.
#[derive(Clone, Debug)]
pub struct Iperf3Report {
    /// The figures that the built-in streams report too.
    pub streams: StreamReport,
    /// The client's whole document.
    pub json: Value,
}

/// The first executable `iperf3` in PATH.
#[must_use]
pub fn find_iperf3() -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join("iperf3")).find(is_program)
}

/// Runs a one-off server on `server` at `to`, and a client on `client`.
///
/// # Errors
/// [`TrafficError::Iperf3`] with its own words, [`TrafficError::Stopped`].
pub fn iperf3(
    client: &Host,
    server: &Host,
    to: IpAddr,
    plan: &Iperf3,
    stop: &Stop,
) -> Result<Iperf3Report, TrafficError> {
    let (address, port) = (to.to_string(), plan.port.to_string());
    let mut listen = Command::new(&plan.program);
    listen.args(["-s", "-1", "--forceflush", "-B", &address, "-p", &port]);
    let mut listener = server.spawn(listen)?;
    wait_for(&mut listener, GRACE, stop, |process| process.stdout().contains("listening"))?;

    let mut run = Command::new(&plan.program);
    run.args(["-J", "-c", &address, "-p", &port, "--connect-timeout", "5000"]);
    run.args(["-P", &plan.streams.to_string(), "-t", &plan.seconds.to_string()]);
    run.args(&plan.client_args);
    let mut runner = client.spawn(run)?;
    let limit = Duration::from_secs(plan.seconds) + 2 * GRACE;
    wait_for(&mut runner, limit, stop, |_| false)?;
    let json = parse(&runner.stdout()).ok_or_else(|| failed(&runner))?;
    if let Some(error) = json.get("error").and_then(Value::as_str) {
        return Err(TrafficError::Iperf3(error.to_owned()));
    }
    let streams = summarise(&json, plan.streams);
    Ok(Iperf3Report { streams, json })
}

/// Waits until `ready` or the end of the process.
fn wait_for(
    process: &mut Process,
    limit: Duration,
    stop: &Stop,
    ready: impl Fn(&Process) -> bool,
) -> Result<(), TrafficError> {
    let begin = Instant::now();
    loop {
        let ended = process.ended().map_err(|error| TrafficError::Iperf3(error.to_string()))?;
        if ended.is_some() || ready(process) {
            return Ok(());
        }
        if stop.raised() {
            return Err(TrafficError::Stopped);
        }
        if begin.elapsed() > limit {
            return Err(failed(process));
        }
        thread::sleep(POLL);
    }
}

fn failed(process: &Process) -> TrafficError {
    let lines = process.last_lines(3).join("; ");
    let nothing = "it did not come to an end in time and said nothing";
    TrafficError::Iperf3(if lines.is_empty() { nothing.to_owned() } else { lines })
}

/// Its JSON, which some versions put a warning line in front of.
fn parse(output: &str) -> Option<Value> {
    let start = output.find('{')?;
    serde_json::Deserializer::from_str(&output[start..]).into_iter().next()?.ok()
}

fn summarise(json: &Value, streams: usize) -> StreamReport {
    let figure = |pointer: &str| json.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
    let count = |pointer: &str| json.pointer(pointer).and_then(Value::as_u64);
    // UDP reports have one sum, TCP reports one an end.
    let end = ["/end/sum_received", "/end/sum"]
        .into_iter()
        .find(|end| json.pointer(end).is_some())
        .unwrap_or("/end/sum_received");
    let intervals = json.get("intervals").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let version = json.pointer("/start/version").and_then(Value::as_str).unwrap_or("iperf3");
    StreamReport {
        tool: version.to_owned(),
        streams,
        seconds: figure(&format!("{end}/seconds")),
        bytes: count(&format!("{end}/bytes")).unwrap_or(0),
        bits_per_second: figure(&format!("{end}/bits_per_second")),
        per_second: intervals
            .iter()
            .filter_map(|interval| interval.pointer("/sum/bits_per_second")?.as_f64())
            .collect(),
        retransmits: count("/end/sum_sent/retransmits"),
        verified: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_past_a_warning() {
        let output = "warning: UDP block size 1460 exceeds 1420\n{\"start\":{\"version\":\"iperf \
            3.12\"},\"intervals\":[{\"sum\":{\"bits_per_second\":8e9}}],\"end\":{\"sum_sent\":\
            {\"retransmits\":3},\"sum_received\":{\"seconds\":1.0,\"bytes\":1000,\
            \"bits_per_second\":8000.0}}}\n";
        let report = summarise(&parse(output).expect("a document"), 1);
        assert_eq!((report.tool.as_str(), report.bytes), ("iperf 3.12", 1000));
        assert_eq!((report.retransmits, report.per_second), (Some(3), vec![8e9]));
    }
}
