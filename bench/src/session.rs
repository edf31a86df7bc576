//! One run of one workload: the engines asked, the clocks read, the traffic sent, and all of it
//! turned into a [`Record`].

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use ringtun::control::socket;
use ringtun::control::status::Status;
use ringtun::lab::traffic::{Stop, TrafficError};
use serde_json::Value;

use crate::alone::{Alone, Stage};
use crate::competitors::{IPERF3, Tunnel, explain, find};
use crate::figures::Figures;
use crate::measure::{Cost, Mark};
use crate::pace::{Pace, Plan};
use crate::record::{EngineUse, Journal, Record};
use crate::workload::{Route, Sent, Workload};
use crate::{Outcome, streams};

/// Lets what the last run left in queues drain before the clocks are read.
const SETTLE: Duration = Duration::from_millis(200);

/// How runs are made, for all of them alike.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) iperf3: PathBuf,
    pub(crate) seconds: u64,
    pub(crate) stop: &'a Stop,
    pub(crate) journal: Journal,
    pub(crate) records: Vec<Record>,
    /// To be cleared before anything else is printed.
    pub(crate) pace: Pace,
}

/// Which run it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    /// Name of what is measured.
    pub(crate) competitor: &'a str,
    /// What is sent.
    pub(crate) workload: &'a Workload,
    /// From 0.
    pub(crate) round: usize,
    /// Place within the round.
    pub(crate) position: usize,
}

type Measured = (Figures, Value, Cost, Vec<EngineUse>);

impl<'a> Session<'a> {
    /// For the runs of `plan`, of `seconds` each.
    pub(crate) fn new(
        iperf3: PathBuf,
        seconds: u64,
        plan: Plan,
        journal: Journal,
        stop: &'a Stop,
    ) -> Self {
        Self { iperf3, seconds, stop, journal, records: Vec::new(), pace: Pace::new(plan) }
    }

    /// How it went.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.stop.raised() {
            Outcome::Interrupted
        } else if self.records.iter().any(|record| record.error.is_some()) {
            Outcome::Incomplete
        } else {
            Outcome::Complete
        }
    }

    /// Makes one run and keeps its record. A run that fails is a record too.
    ///
    /// # Errors
    /// A journal that cannot be written.
    pub(crate) fn run(
        &mut self,
        turn: Turn<'_>,
        tunnel: &mut Tunnel,
        route: &Route<'_>,
    ) -> Result<()> {
        self.announce(turn);
        let measured = self.measure(turn.workload, tunnel, route);
        // A daemon that died is the better reason.
        let measured = measured.map_err(|error| tunnel.check().err().unwrap_or(error));
        self.keep(turn, measured)
    }

    /// The same with a device that is started for it; tunnels stay idle.
    ///
    /// # Errors
    /// A journal that cannot be written.
    pub(crate) fn run_alone(
        &mut self,
        turn: Turn<'_>,
        alone: Alone,
        stage: &Stage<'_>,
    ) -> Result<()> {
        self.announce(turn);
        thread::sleep(SETTLE);
        let measured = alone.run(stage);
        self.keep(turn, measured.map(|(figures, raw, cost)| (figures, raw, cost, Vec::new())))
    }

    fn announce(&self, turn: Turn<'_>) {
        let Turn { workload, competitor, round, .. } = turn;
        self.pace.begin(format!("{workload} through {competitor}, round {}", round + 1));
    }

    fn keep(&mut self, turn: Turn<'_>, measured: Result<Measured>) -> Result<()> {
        if self.stop.raised() {
            return Ok(());
        }
        let mut record = Record {
            competitor: turn.competitor.to_owned(),
            workload: turn.workload.to_string(),
            round: turn.round,
            position: turn.position,
            figures: None,
            error: None,
            cost: Cost::default(),
            disturbed: false,
            engines: Vec::new(),
            raw: Value::Null,
        };
        match measured {
            Ok((figures, raw, cost, engines)) => {
                record.figures = Some(figures);
                record.raw = raw;
                record.disturbed = cost.is_disturbed();
                record.cost = cost;
                record.engines = engines;
            }
            Err(error) => record.error = Some(format!("{error:#}")),
        }
        self.journal.run(&record)?;
        self.records.push(record);
        self.say_last(turn.workload.lasts(self.seconds));
        Ok(())
    }

    fn measure(
        &self,
        workload: &Workload,
        tunnel: &mut Tunnel,
        route: &Route<'_>,
    ) -> Result<Measured> {
        tunnel.check()?;
        thread::sleep(SETTLE);
        if self.stop.raised() {
            return Err(TrafficError::Stopped.into());
        }
        let before = statuses(tunnel)?;
        let groups = tunnel.groups();
        let (program, seconds, stop) = (self.iperf3.as_path(), self.seconds, self.stop);
        let groups = &groups;
        let run = streams::Run { route, program, seconds, groups, stop };
        let mark = Mark::now(groups)?;
        let Sent { mut figures, raw, cost } = workload.run(run)?;
        let all = mark.cost()?;
        // Whoever disturbed what else was sent had his part in what was found.
        let Cost { steal, other_load, .. } = all;
        let cost = cost.map_or(all, |cost| Cost { steal, other_load, ..cost });
        if let Figures::Idle { wakeups_per_second } = &mut figures {
            *wakeups_per_second = cost.daemon_sleeps as f64 / cost.wall_seconds;
        }
        let pairs = before.into_iter().zip(statuses(tunnel)?);
        let engines = pairs.map(|(before, after)| EngineUse { before, after }).collect();
        Ok((figures, raw, cost, engines))
    }

    fn say_last(&mut self, seconds: f64) {
        let Some(record) = self.records.last() else { return };
        let what = match (&record.figures, &record.error) {
            (Some(figures), _) => figures.text(),
            (None, error) => format!("FAILED: {}", error.as_deref().unwrap_or("unknown")),
        };
        let mark = if record.disturbed {
            let [steal, other] = [record.cost.steal, record.cost.other_load].map(|it| 100.0 * it);
            format!("  ~ steal {steal:.0} %, other load {other:.0} %")
        } else {
            String::new()
        };
        let (round, workload, name) = (record.round + 1, &record.workload, &record.competitor);
        let line = format!("round {round} {workload:<8} {name:<16} {what}{mark}");
        self.pace.end(seconds, &line);
    }
}

/// Where iperf3 is; its name alone where no workload needs it.
///
/// # Errors
/// How to get it.
pub(crate) fn iperf3_for(workloads: &[Workload]) -> Result<PathBuf> {
    match (find(IPERF3.name), workloads.iter().find(|workload| workload.needs_iperf3())) {
        (Err(_), Some(workload)) => {
            bail!("iperf3 makes the traffic of {workload}; {}", explain(&[IPERF3]));
        }
        (found, _) => Ok(found.unwrap_or_else(|_| PathBuf::from(IPERF3.name))),
    }
}

fn statuses(tunnel: &Tunnel) -> Result<Vec<Status>> {
    let ask = |name| Ok(socket::query(&socket::path_of(name))?);
    tunnel.engines.iter().map(ask).collect()
}
