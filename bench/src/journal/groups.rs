//! Which runs may be shown together: those of one commit on one machine, workload by workload.
//!
//! A [`Panel`] is one workload, with a [`Row`] for each competitor and its runs of all sessions of
//! the panel. Rounds are told apart by session and number, so that ratios compare neighbours only.

use std::collections::BTreeSet;

use serde_json::Value;

use super::run::{Figures, Metric, Run};
use super::{Recorded, Session};
use crate::statistics::{Spread, quotient};

/// Runs of different settings are never mixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) commit: String,
    pub(crate) machine: Machine,
}

/// Where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    user_namespace: bool,
}

/// A round of a session.
pub(crate) type Round = (usize, u64);

/// One workload on one machine at one commit.
#[derive(Debug)]
pub(crate) struct Panel<'a> {
    pub(crate) workload: &'a str,
    /// Through a gateway, see `forward.rs`.
    pub(crate) forward: bool,
    pub(crate) setting: Setting,
    pub(crate) metric: Metric,
    /// When the first and the last session began.
    pub(crate) dates: (&'a str, &'a str),
    /// In the order of the file.
    pub(crate) rows: Vec<Row<'a>>,
}

/// One competitor in a panel.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    /// Whether it is a ringtun.
    pub(crate) ours: bool,
    pub(crate) how: &'a str,
    pub(crate) runs: Vec<(Round, &'a Run)>,
    /// Why there are none, if it did not come up.
    pub(crate) absent: Option<&'a str>,
    /// Why there are none, if the workload is not for it.
    pub(crate) exempt: Option<&'a str>,
}

impl Setting {
    /// That of a session.
    pub(crate) fn of(session: &Session) -> Self {
        let user_namespace = session.environment.get("user_namespace").and_then(Value::as_bool);
        Self {
            commit: session.fact("commit").to_owned(),
            machine: Machine {
                kernel: session.fact("kernel").to_owned(),
                cpu: session.fact("cpu_model").to_owned(),
                user_namespace: user_namespace.unwrap_or_default(),
            },
        }
    }
}

impl<'a> Panel<'a> {
    /// The newest of each workload.
    pub(crate) fn newest(recorded: &'a Recorded) -> Vec<Self> {
        let mut panels: Vec<Self> = Vec::new();
        for (workload, forward) in workloads(recorded) {
            let has = |session: &&Session| {
                session.is_forward() == forward
                    && session.runs.iter().any(|run| run.workload == workload)
            };
            if let Some(last) = recorded.sessions.iter().rfind(has) {
                panels.push(Self::of(recorded, workload, forward, &Setting::of(last)));
            }
        }
        panels
    }

    /// All of a workload on one machine, a panel for each commit, in the order of the file.
    pub(crate) fn history(recorded: &'a Recorded, newest: &Self) -> Vec<Self> {
        let mut settings: Vec<Setting> = Vec::new();
        for session in &recorded.sessions {
            let setting = Setting::of(session);
            let belongs = setting.machine == newest.setting.machine
                && session.is_forward() == newest.forward
                && session.runs.iter().any(|run| run.workload == newest.workload);
            if belongs && !settings.contains(&setting) {
                settings.push(setting);
            }
        }
        let of = |setting| Self::of(recorded, newest.workload, newest.forward, setting);
        settings.iter().map(of).collect()
    }

    fn of(recorded: &'a Recorded, workload: &'a str, forward: bool, setting: &Setting) -> Self {
        let mut rows: Vec<Row<'a>> = Vec::new();
        let mut dates: Option<(&str, &str)> = None;
        for (index, session) in recorded.sessions.iter().enumerate() {
            let runs = || session.runs.iter().filter(|run| run.workload == workload);
            let here = session.is_forward() == forward && Setting::of(session) == *setting;
            if !here || runs().next().is_none() {
                continue;
            }
            let date = session.fact("date");
            dates = Some((dates.map_or(date, |(first, _)| first), date));
            for run in runs() {
                let row = row_of(&mut rows, &run.competitor);
                row.runs.push(((index, run.round), run));
                row.how = session.how(&run.competitor).unwrap_or(row.how);
                row.ours |= !run.engines.is_empty() || row.how.starts_with("ringtun ");
            }
            for (name, why) in &session.absent {
                row_of(&mut rows, name).absent = Some(why);
            }
            for exempt in session.exempt.iter().filter(|it| it.workload == workload) {
                row_of(&mut rows, &exempt.name).exempt = Some(&exempt.why);
            }
        }
        rows.iter_mut().filter(|row| !row.runs.is_empty()).for_each(|row| {
            (row.absent, row.exempt) = (None, None);
        });
        let metric = rows.iter().flat_map(Row::good).next().map(|(_, it)| it.metric.clone());
        Self {
            workload,
            forward,
            setting: setting.clone(),
            metric: metric.unwrap_or_default(),
            dates: dates.unwrap_or_default(),
            rows,
        }
    }

    /// What the others are compared with: the one asked for, or the wire or kernel's tunnel.
    pub(crate) fn baseline(&self, wanted: Option<&str>) -> Option<&Row<'a>> {
        let known = ["vxlan", "veth"];
        let names = wanted.into_iter().chain(known);
        let found = names.filter_map(|name| self.row(name)).find(|row| row.good().next().is_some());
        let others = || self.rows.iter().filter(|row| row.good().next().is_some());
        found.or_else(|| others().find(|row| !row.ours)).or_else(|| others().next())
    }

    /// A competitor.
    pub(crate) fn row(&self, name: &str) -> Option<&Row<'a>> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Best first, those without any figures last.
    pub(crate) fn ranked(&self) -> Vec<&Row<'a>> {
        let mut rows: Vec<(f64, &Row<'a>)> = Vec::new();
        for row in &self.rows {
            let median = row.spread(|_, it| Some(it.value)).map(|spread| spread.median);
            let key = match (median, self.metric.less_is_better) {
                (Some(median), true) => median,
                (Some(median), false) => -median,
                (None, _) => f64::INFINITY,
            };
            rows.push((key, row));
        }
        rows.sort_by(|one, other| one.0.total_cmp(&other.0));
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

impl<'a> Row<'a> {
    /// Runs that came to figures.
    pub(crate) fn good(&self) -> impl Iterator<Item = (&'a Run, &'a Figures)> + '_ {
        self.runs.iter().filter_map(|&(_, run)| Some((run, run.figures.as_ref()?)))
    }

    /// What is compared, by round.
    pub(crate) fn values(&self) -> Vec<(Round, f64)> {
        let value = |&(round, run): &(Round, &Run)| Some((round, run.figures.as_ref()?.value));
        self.runs.iter().filter_map(value).collect()
    }

    /// Over all rounds.
    pub(crate) fn spread(&self, of: impl Fn(&Run, &Figures) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.good().filter_map(|(run, figures)| of(run, figures)))
    }

    /// All of one over all of another.
    pub(crate) fn per(
        &self,
        part: impl Fn(&Figures) -> Option<f64>,
        whole: impl Fn(&Run) -> f64,
    ) -> Option<f64> {
        let (mut parts, mut wholes) = (0.0, 0.0);
        for (run, figures) in self.good() {
            parts += part(figures)?;
            wholes += whole(run);
        }
        quotient(parts, wholes).filter(|it| it.is_finite())
    }

    /// How many of its runs others disturbed.
    pub(crate) fn disturbed(&self) -> usize {
        self.runs.iter().filter(|(_, run)| run.disturbed).count()
    }

    /// How many of its runs failed, with the reasons.
    pub(crate) fn failures(&self) -> Option<(usize, String)> {
        let failed = || self.runs.iter().filter(|(_, run)| run.figures.is_none());
        let reasons: BTreeSet<&str> =
            failed().filter_map(|(_, run)| run.error.as_deref()).collect();
        let reasons: Vec<&str> = reasons.into_iter().collect();
        (failed().count() > 0).then(|| (failed().count(), reasons.join("; ")))
    }
}

fn row_of<'b, 'a>(rows: &'b mut Vec<Row<'a>>, name: &'a str) -> &'b mut Row<'a> {
    let index = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
        let (absent, exempt) = (None, None);
        rows.push(Row { name, ours: false, how: "", runs: Vec::new(), absent, exempt });
        rows.len() - 1
    });
    &mut rows[index]
}

/// In the order of the newest benchmark, those that it has not measured last.
fn workloads(recorded: &Recorded) -> Vec<(&str, bool)> {
    let mut found: Vec<(&str, bool)> = Vec::new();
    for session in recorded.sessions.iter().rev() {
        for run in &session.runs {
            let this = (run.workload.as_str(), session.is_forward());
            if !found.contains(&this) {
                found.push(this);
            }
        }
    }
    found
}

/// A workload's name in words.
pub(crate) fn title(workload: &str, forward: bool) -> String {
    let words = words(workload).unwrap_or_else(|| workload.to_owned());
    if forward { format!("{words}, through a gateway") } else { words }
}

/// None for one that this program does not know.
fn words(workload: &str) -> Option<String> {
    let streams = |count: &str| match count {
        "1" => "One TCP stream".to_owned(),
        count => format!("{count} TCP streams"),
    };
    match workload {
        "ping" => return Some("UDP round trips, otherwise idle".to_owned()),
        "connect" => return Some("Short TCP connections, four at once".to_owned()),
        "idle" => return Some("Idle: wake-ups without traffic".to_owned()),
        "handshakes" => return Some("WireGuard handshakes answered".to_owned()),
        _ => {}
    }
    if let Some(count) = workload.strip_prefix("ping+tcp") {
        let streams = streams(count).replace("One", "one");
        return Some(format!("UDP round trips next to {streams}"));
    }
    if let Some(count) = workload.strip_prefix("tcp") {
        return Some(match count.strip_suffix("-r") {
            Some(count) => format!("{}, right to left", streams(count)),
            None => streams(count),
        });
    }
    if let Some(window) = workload.strip_prefix("handshakes") {
        return Some(format!("WireGuard handshakes answered, {window} under way"));
    }
    if let Some(count) = workload.strip_prefix("peers") {
        return Some(format!(
            "Start of a WireGuard device with {count} peers, until a packet passes"
        ));
    }
    let (what, rate) = workload.split_once('@').map_or((workload, None), |(it, at)| (it, Some(at)));
    let datagrams = match what.strip_prefix("udp") {
        Some(len) => format!("{len}-byte datagrams"),
        None if what == "imix" => "datagrams of 16, 548 and 1372 bytes (IMIX)".to_owned(),
        None => return None,
    };
    Some(match rate {
        None => format!("UDP flood, {datagrams}"),
        Some("max") => format!("UDP, {datagrams}: highest rate with under 0.1 % loss"),
        Some(rate) => format!("UDP, {datagrams} at {rate}bit/s"),
    })
}
