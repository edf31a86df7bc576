//! Reads what `--json` appended, for reports: several benchmarks, of several commits, in one file.
//!
//! ```text
//! lines ─► Session (environment, tunnels, absent, runs) ─► groups: what may be shown together
//!          run: figures, cost, engines
//! ```
//!
//! In: any bytes. Out: sessions in the order of the file, and what was skipped with the reason.
//! Nothing that is in a file makes this fail or panic: fields that are missing stay empty, those
//! that are not known are ignored, lines that are no records are counted.

pub(crate) mod groups;
pub(crate) mod run;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::record;
use run::Run;

/// Of a line that is no record, so much is quoted.
const QUOTE_LEN: usize = 60;

/// A whole file.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// In the order of the file.
    pub(crate) sessions: Vec<Session>,
    /// Lines that are no records.
    pub(crate) skipped: Vec<Skipped>,
}

/// A line that is no record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) why: String,
}

/// One benchmark: what came after one `start` line.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// What its lines have in common; empty before there was such a thing.
    id: String,
    /// As recorded.
    pub(crate) environment: Map<String, Value>,
    /// What was measured.
    pub(crate) tunnels: Vec<Described>,
    /// What could not be measured, and why.
    pub(crate) absent: Vec<(String, String)>,
    /// What has no figures of a workload, and why.
    pub(crate) exempt: Vec<Exempt>,
    pub(crate) runs: Vec<Run>,
}

/// A tunnel and a workload that is not for it.
#[derive(Debug, Default)]
pub(crate) struct Exempt {
    pub(crate) name: String,
    pub(crate) workload: String,
    pub(crate) why: String,
}

/// What a tunnel is.
#[derive(Debug, Default)]
pub(crate) struct Described {
    pub(crate) name: String,
    /// In one line.
    pub(crate) how: String,
    /// Of all its processes.
    pub(crate) commands: Vec<String>,
    /// Of its programs, by name.
    pub(crate) versions: Vec<(String, String)>,
}

impl Recorded {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be opened or read; never what is in it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let failed = || format!("cannot read {}", path.display());
        let mut lines = BufReader::new(File::open(path).with_context(failed)?);
        let (mut recorded, mut line) = (Self::default(), Vec::new());
        for number in 1.. {
            line.clear();
            if lines.read_until(b'\n', &mut line).with_context(failed)? == 0 {
                break;
            }
            recorded.line(number, &line);
        }
        Ok(recorded)
    }

    /// Takes the lines of a text.
    #[cfg(test)]
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut recorded = Self::default();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            recorded.line(index + 1, line);
        }
        recorded
    }

    fn line(&mut self, number: usize, line: &[u8]) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        if let Err(why) = self.take(line) {
            let quote: String = String::from_utf8_lossy(line).chars().take(QUOTE_LEN).collect();
            self.skipped.push(Skipped { line: number, why: format!("{why}: {quote}") });
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        let value: Value = serde_json::from_slice(line).map_err(|error| {
            if error.is_eof() { "cut off".to_owned() } else { "no JSON".to_owned() }
        })?;
        let foreign = || "not a line of ringtun-bench".to_owned();
        let kind = value.get("kind").and_then(Value::as_str).ok_or_else(foreign)?;
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version == u64::from(record::VERSION) => {}
            Some(version) => return Err(format!("version {version} of the lines is not known")),
            None => return Err(foreign()),
        }
        let id = text(&value, "session");
        match kind {
            "start" => self.sessions.push(Session::new(id, &value)),
            "run" => {
                let run = Run::read(&value).ok_or("a run without competitor or workload")?;
                self.session(id).runs.push(run);
            }
            "tunnel" => self.session(id).describe(&value),
            "absent" => {
                let absent = (text(&value, "name"), text(&value, "why"));
                self.session(id).absent.push(absent);
            }
            "exempt" => {
                let [name, workload, why] =
                    ["name", "workload", "why"].map(|field| text(&value, field));
                self.session(id).exempt.push(Exempt { name, workload, why });
            }
            _ => return Err(format!("lines of the kind {kind:?} are not known")),
        }
        Ok(())
    }

    /// The latest of that name; without a name the latest at all.
    fn session(&mut self, id: String) -> &mut Session {
        let found = self.sessions.iter().rposition(|session| id.is_empty() || session.id == id);
        let index = found.unwrap_or_else(|| {
            // Its beginning was lost.
            self.sessions.push(Session { id, ..Session::default() });
            self.sessions.len() - 1
        });
        &mut self.sessions[index]
    }

    /// Every run with the session it belongs to.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&Session, &Run)> {
        self.sessions.iter().flat_map(|session| session.runs.iter().map(move |run| (session, run)))
    }

    /// For the user: how much was skipped, and the first few reasons.
    pub(crate) fn skipped_text(&self) -> Option<String> {
        const SHOWN: usize = 3;
        let first = self.skipped.iter().take(SHOWN);
        let lines: Vec<String> =
            first.map(|skipped| format!("line {}: {}", skipped.line, skipped.why)).collect();
        let more = if self.skipped.len() > SHOWN { "; …" } else { "" };
        let count = self.skipped.len();
        (count > 0).then(|| format!("{count} line(s) skipped ({}{more})", lines.join("; ")))
    }
}

impl Session {
    fn new(id: String, start: &Value) -> Self {
        let environment = start.get("environment").and_then(Value::as_object);
        let mut session =
            Self { id, environment: environment.cloned().unwrap_or_default(), ..Self::default() };
        for tunnel in start.get("tunnels").and_then(Value::as_array).into_iter().flatten() {
            session.describe(tunnel);
        }
        session
    }

    /// A field of the environment; `unknown` if there is none.
    pub(crate) fn fact(&self, name: &str) -> &str {
        self.environment.get(name).and_then(Value::as_str).unwrap_or("unknown")
    }

    /// How a tunnel is run, if that is known.
    pub(crate) fn how(&self, name: &str) -> Option<&str> {
        let found = self.tunnels.iter().find(|tunnel| tunnel.name == name);
        found.map(|tunnel| tunnel.how.as_str())
    }

    /// Whether `forward` made it: its tunnels carry other traffic under the same names.
    pub(crate) fn is_forward(&self) -> bool {
        self.fact("command_line").split_whitespace().nth(1) == Some("forward")
    }

    fn describe(&mut self, value: &Value) {
        let name = text(value, "name");
        let known = self.tunnels.iter().position(|tunnel| tunnel.name == name);
        let index = known.unwrap_or_else(|| {
            self.tunnels.push(Described { name, ..Described::default() });
            self.tunnels.len() - 1
        });
        let tunnel = &mut self.tunnels[index];
        if let Some(how) = value.get("how").and_then(Value::as_str) {
            how.clone_into(&mut tunnel.how);
        }
        for command in value.get("commands").and_then(Value::as_array).into_iter().flatten() {
            tunnel.commands.extend(command.as_str().map(str::to_owned));
        }
        for (program, version) in
            value.get("versions").and_then(Value::as_object).into_iter().flatten()
        {
            let version = version.as_str().unwrap_or("unknown").to_owned();
            tunnel.versions.push((program.clone(), version));
        }
    }
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
