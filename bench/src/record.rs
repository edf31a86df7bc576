//! One run, and the file that all runs are appended to: NDJSON, a line each, flushed at once, so
//! that an interrupted benchmark leaves what it measured.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use ringtun::control::status::{Direction, Status};
use serde::Serialize;
use serde_json::{Value, json};

use crate::environment::Environment;
use crate::measure::Cost;
use crate::workload::Figures;

/// The version of the lines; fields are only added within a version.
const VERSION: u32 = 1;

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
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EngineUse {
    pub(crate) before: Status,
    pub(crate) after: Status,
}

impl EngineUse {
    /// What passed tun → wire in between, over all workers.
    pub(crate) fn outbound(&self) -> Direction {
        let sum = |status: &Status, field: fn(&Direction) -> u64| -> u64 {
            status.workers.iter().map(|worker| field(&worker.outbound)).sum()
        };
        let between = |field: fn(&Direction) -> u64| {
            sum(&self.after, field).saturating_sub(sum(&self.before, field))
        };
        Direction {
            packets: between(|direction| direction.packets),
            bytes: between(|direction| direction.bytes),
            reads: between(|direction| direction.reads),
            writes: between(|direction| direction.writes),
        }
    }
}

/// Where records go, if anywhere.
#[derive(Debug, Default)]
pub(crate) struct Journal(Option<File>);

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
        let Some(path) = path else { return Ok(Self(None)) };
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let mut journal = Self(Some(file));
        let tunnels: Vec<_> =
            tunnels.iter().map(|(name, how)| json!({ "name": name, "how": how })).collect();
        journal.write("start", &json!({ "environment": environment, "tunnels": tunnels }))?;
        Ok(journal)
    }

    /// Appends a run.
    ///
    /// # Errors
    /// A full disk and the like.
    pub(crate) fn run(&mut self, record: &Record) -> Result<()> {
        if self.0.is_none() {
            return Ok(());
        }
        self.write("run", &serde_json::to_value(record)?)
    }

    fn write(&mut self, kind: &str, body: &Value) -> Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let mut line = json!({ "version": VERSION, "kind": kind });
        if let (Some(line), Some(body)) = (line.as_object_mut(), body.as_object()) {
            line.extend(body.clone());
        }
        let mut text = line.to_string();
        text.push('\n');
        // One write: lines of two benchmarks do not mix.
        file.write_all(text.as_bytes()).context("cannot write the --json file")
    }
}

#[cfg(test)]
mod tests {
    use ringtun::control::status::Worker;

    use super::*;

    #[test]
    fn an_engine_is_charged_for_what_it_did_in_between() {
        let status = |packets, reads, writes| {
            let outbound = Direction { packets, reads, writes, bytes: 0 };
            let worker = Worker { outbound, ..Worker::default() };
            Status { workers: vec![worker.clone(), worker], ..Status::default() }
        };
        let used = EngineUse { before: status(10, 5, 5), after: status(54, 6, 7) };
        let outbound = used.outbound();
        assert_eq!((outbound.packets, outbound.reads, outbound.writes), (88, 2, 4));
        let restarted = EngineUse { before: status(10, 5, 5), after: status(0, 0, 0) };
        assert_eq!(restarted.outbound().packets, 0);
    }
}
