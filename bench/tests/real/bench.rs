//! One benchmark under test: started, watched, signalled, and waited for with a limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ringtun::sys::namespace;
use serde_json::Value;

use crate::traces::{Machine, Process, Traces};

/// For anything that should happen soon; a machine at work on something else is slow.
const SOON: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(5);

/// `ringtun-bench`, with a folder of its own. Whatever becomes of the test, nothing of it remains.
pub(crate) struct Bench {
    child: Child,
    folder: PathBuf,
    traces: Traces,
    before: Machine,
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// From the signal, or the wait for the end, on.
    pub(crate) took: Duration,
    folder: PathBuf,
}

/// The program under test, to be given arguments.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringtun-bench"))
}

/// A folder for a test, empty.
pub(crate) fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("real").join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("tmp")).unwrap();
    folder
}

impl Bench {
    /// Starts `ab` with `what`, which records to `runs.ndjson`. Programs in `bin` of the folder are
    /// found before any other.
    pub(crate) fn start(folder: PathBuf, what: &str) -> Self {
        let before = Machine::now(&folder.join("tmp"));
        let traces = Traces::new();
        let file = |name| fs::File::create(folder.join(name)).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = program();
        command
            .arg("ab")
            .args(what.split_whitespace())
            .arg("--json")
            .arg(folder.join("runs.ndjson"));
        command.env("PATH", format!("{}:{path}", folder.join("bin").display()));
        command.env("TMPDIR", folder.join("tmp"));
        command.env(Traces::MARK, traces.mark());
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        let child = command.spawn().unwrap();
        Self { child, folder, traces, before }
    }

    /// Waits until `condition`.
    pub(crate) fn wait_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}) before {what}: {}", self.stderr());
            assert!(begin.elapsed() < SOON, "{what} did not happen: {}", self.stderr());
            thread::sleep(GLANCE);
        }
    }

    /// Waits until iperf3 sends.
    pub(crate) fn wait_for_streams(&mut self) {
        self.wait_until("a measurement", |bench| {
            bench.processes().iter().any(|process| process.command.contains("iperf3 -J -c"))
        });
    }

    /// What it says of its progress so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    /// The benchmark and everything that it started.
    pub(crate) fn processes(&self) -> Vec<Process> {
        self.traces.processes()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&mut self, signal: i32) {
        self.traces.remember_namespaces();
        self.signal_again(signal);
    }

    /// Sends it another one; the first may have ended it already.
    pub(crate) fn signal_again(&mut self, signal: i32) {
        // Not waited for yet, so the number is still its own.
        namespace::signal(self.child.id(), signal).unwrap();
    }

    /// Waits for its end; nothing but the folder may remain.
    pub(crate) fn end(mut self) -> Ended {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < SOON, "it does not end: {}", self.stderr());
            thread::sleep(GLANCE);
        };
        let took = begin.elapsed();
        // A killed one's processes die by a signal that is on its way.
        while !self.traces.left().is_empty() && begin.elapsed() < SOON {
            thread::sleep(GLANCE);
        }
        assert_eq!(self.traces.left(), Vec::<String>::new(), "it left this behind");
        let after = Machine::now(&self.folder.join("tmp"));
        assert_eq!(self.before, after, "the machine is not as it was");
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap();
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        Ended { status, stdout, stderr, took, folder: self.folder.clone() }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in self.traces.processes() {
            let _ = namespace::signal(process.pid, 9);
        }
    }
}

impl Ended {
    /// Everything that was recorded: whole lines, each a document.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.journal()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "half a line at the end: {text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines of one kind.
    pub(crate) fn lines_of(&self, kind: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["kind"] == kind).collect()
    }

    /// Where it recorded.
    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.join("runs.ndjson")
    }
}
