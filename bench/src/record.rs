//! One run, and the file that all runs are appended to: NDJSON, a line each, flushed at once, so
//! that an interrupted benchmark leaves what it measured.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use ringtun::control::status::{Direction, Status, Worker};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::environment::Environment;
use crate::figures::Figures;
use crate::measure::Cost;
use crate::provenance::Provenance;

/// The version of the lines; fields are only added within a version.
pub(crate) const VERSION: u32 = 1;

/// One workload through one tunnel once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) competitor: String,
    pub(crate) workload: String,
    /// From 0.
    pub(crate) round: usize,
    /// Place within its round, from 0.
    pub(crate) position: usize,
    /// None if it failed.
    pub(crate) figures: Option<Figures>,
    /// Why it failed.
    pub(crate) error: Option<String>,
    pub(crate) cost: Cost,
    /// Steal above the limit.
    pub(crate) disturbed: bool,
    /// What ringtun's engines, left and right, say of themselves; empty for others.
    pub(crate) engines: Vec<EngineUse>,
    /// iperf3's whole document.
    pub(crate) raw: Value,
}

/// An engine before and after a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EngineUse {
    pub(crate) before: Status,
    pub(crate) after: Status,
}

impl EngineUse {
    /// What passed tun → wire in between, over all workers.
    pub(crate) fn outbound(&self) -> Direction {
        self.between(|worker| &worker.outbound)
    }

    /// What passed wire → tun in between, over all workers.
    pub(crate) fn inbound(&self) -> Direction {
        self.between(|worker| &worker.inbound)
    }

    fn between(&self, way: fn(&Worker) -> &Direction) -> Direction {
        let total = |status: &Status| {
            let workers = status.workers.iter().map(way);
            workers.fold(Direction::default(), |sum, one| sum.plus(one))
        };
        total(&self.after).since(&total(&self.before))
    }
}

/// Where records go, if anywhere.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    file: Option<File>,
    /// In every line, so that runs find their beginning even when two benchmarks share a file.
    session: String,
}

impl Journal {
    /// Appends to `path`, beginning with the environment and how each tunnel is run.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn open(
        path: Option<&Path>,
        environment: &Environment,
        tunnels: &[(String, String)],
    ) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let file = OpenOptions::new().create(true).append(true).read(true).open(path);
        let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
        end_broken_line(&mut file).with_context(|| format!("cannot read {}", path.display()))?;
        let session = format!("{} {}", environment.date, std::process::id());
        let mut journal = Self { file: Some(file), session };
        let tunnels: Vec<_> =
            tunnels.iter().map(|(name, how)| json!({ "name": name, "how": how })).collect();
        journal.write("start", &json!({ "environment": environment, "tunnels": tunnels }))?;
        Ok(journal)
    }

    /// Appends what exactly a tunnel is, for those that have more to say than its one command.
    ///
    /// # Errors
    /// A full disk and the like.
    pub(crate) fn tunnel(&mut self, name: &str, provenance: &Provenance) -> Result<()> {
        let Provenance { commands, versions } = provenance;
        let body = json!({ "name": name, "commands": commands, "versions": versions });
        self.write("tunnel", &body)
    }

    /// Appends why a tunnel was not measured.
    ///
    /// # Errors
    /// A full disk and the like.
    pub(crate) fn absent(&mut self, name: &str, why: &str) -> Result<()> {
        self.write("absent", &json!({ "name": name, "why": why }))
    }

    /// Appends why a tunnel that was measured has no figures of a workload.
    ///
    /// # Errors
    /// A full disk and the like.
    pub(crate) fn exempt(&mut self, name: &str, workload: &str, why: &str) -> Result<()> {
        self.write("exempt", &json!({ "name": name, "workload": workload, "why": why }))
    }

    /// Appends a run.
    ///
    /// # Errors
    /// A full disk and the like.
    pub(crate) fn run(&mut self, record: &Record) -> Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.write("run", &serde_json::to_value(record)?)
    }

    fn write(&mut self, kind: &str, body: &Value) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = json!({ "version": VERSION, "kind": kind, "session": self.session });
        if let (Some(line), Some(body)) = (line.as_object_mut(), body.as_object()) {
            line.extend(body.clone());
        }
        let mut text = line.to_string();
        text.push('\n');
        // One write: lines of two benchmarks do not mix.
        file.write_all(text.as_bytes()).context("cannot write the --json file")
    }
}

/// What an earlier run that was killed left half written must not swallow our first line.
fn end_broken_line(file: &mut File) -> io::Result<()> {
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last == [b'\n'] { Ok(()) } else { file.write_all(b"\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_charged_for_what_it_did_in_between() {
        let status = |packets, reads, writes| {
            let read_sizes = vec![reads, 0, writes];
            let outbound = Direction { packets, reads, writes, read_sizes, ..Direction::default() };
            let worker = Worker { outbound, ..Worker::default() };
            Status { workers: vec![worker.clone(), worker], ..Status::default() }
        };
        let used = EngineUse { before: status(10, 5, 5), after: status(54, 6, 7) };
        let outbound = used.outbound();
        assert_eq!((outbound.packets, outbound.reads, outbound.writes), (88, 2, 4));
        assert_eq!(outbound.read_sizes, [2, 0, 4]);
        let restarted = EngineUse { before: status(10, 5, 5), after: status(0, 0, 0) };
        assert_eq!(restarted.outbound().packets, 0);
    }
}
