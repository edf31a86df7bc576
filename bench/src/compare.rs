//! `compare`: two competitors, or two commits, out of a journal, with a verdict in plain words that
//! is never surer than the data.
//!
//! Two that ran in the same rounds are compared pair by pair. Two commits never did, and between
//! two runs a machine may change by a factor of two: both are first divided by a reference that ran
//! in the same rounds as each. Without one, no verdict is given.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::inference::{Estimate, pairs_needed};
use crate::journal::groups::{Round, title};
use crate::journal::run::{Metric, Run};
use crate::journal::{Recorded, Session};
use crate::statistics::{Spread, ratios};
use crate::table::{Table, figure, spread};
use crate::{Outcome, progress};

/// What `compare` is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What `ab --json` appended to
    file: PathBuf,

    /// A competitor, or one at a commit: NAME or NAME@COMMIT
    a: String,

    /// The other one
    b: String,

    /// Divides out what the machine did between two runs; both must have it
    #[arg(long, value_name = "NAME")]
    reference: Option<String>,
}

/// Compares and prints.
pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let recorded = Recorded::read(&args.file)?;
    if let Some(skipped) = recorded.skipped_text() {
        progress(&skipped);
    }
    let sides = [&args.a, &args.b].map(|text| Side::parse(text, &recorded));
    for side in &sides {
        if side.runs(&recorded).next().is_none() {
            bail!(
                "{} has no run of {}: there are {}",
                args.file.display(),
                side.text,
                names(&recorded)
            );
        }
    }
    let [a, b] = &sides;
    let found = comparisons(&recorded, a, b, args.reference.as_deref());
    if found.is_empty() {
        bail!("{} and {} have no workload in common", a.text, b.text);
    }
    let mut out = io::stdout().lock();
    write!(out, "{}", text(a, b, &found))?;
    Ok(Outcome::Complete)
}

/// `NAME` or `NAME@COMMIT`.
#[derive(Debug)]
struct Side {
    text: String,
    name: String,
    commit: Option<String>,
}

/// How two came to be compared.
#[derive(Clone, Debug, PartialEq)]
enum Basis {
    /// Round by round.
    Pairs,
    /// In different runs, each in relation to this one.
    Reference(String),
    /// In different runs, with nothing in common.
    Nothing,
}

/// One workload.
#[derive(Debug)]
struct Comparison {
    title: String,
    workload: String,
    metric: Metric,
    medians: [Option<Spread>; 2],
    basis: Basis,
    /// B in relation to A.
    estimate: Option<Estimate>,
    /// How many of the runs others disturbed, and of how many.
    disturbed: (usize, usize),
}

impl Side {
    fn parse(text: &str, recorded: &Recorded) -> Self {
        let is_name = recorded.runs().any(|(_, run)| run.competitor == text);
        let (name, commit) = match text.rsplit_once('@') {
            Some((name, commit)) if !is_name => (name, Some(commit.to_owned())),
            _ => (text, None),
        };
        Self { text: text.to_owned(), name: name.to_owned(), commit }
    }

    fn has(&self, session: &Session) -> bool {
        let commit = session.fact("commit");
        self.commit.as_deref().is_none_or(|wanted| {
            // A dirty tree is another one, unless it is asked for.
            commit == wanted || (commit.starts_with(wanted) && !commit.ends_with("-dirty"))
        })
    }

    fn runs<'a>(&self, recorded: &'a Recorded) -> impl Iterator<Item = (Round, &'a Run)> {
        let sessions = recorded.sessions.iter().enumerate().filter(|(_, it)| self.has(it));
        let runs = sessions.flat_map(|(index, session)| {
            session.runs.iter().map(move |run| ((index, run.round), run))
        });
        runs.filter(|(_, run)| run.competitor == self.name)
    }
}

/// Values of one side in one workload.
struct Sample<'a> {
    runs: Vec<(Round, &'a Run)>,
    values: Vec<(Round, f64)>,
}

impl<'a> Sample<'a> {
    fn of(side: &Side, recorded: &'a Recorded, (workload, forward): (&str, bool)) -> Self {
        let here = |(round, run): &(Round, &Run)| {
            run.workload == workload && recorded.sessions[round.0].is_forward() == forward
        };
        let runs: Vec<_> = side.runs(recorded).filter(here).collect();
        let value = |&(round, run): &(Round, &Run)| Some((round, run.figures.as_ref()?.value));
        let values = runs.iter().filter_map(value).collect();
        Self { runs, values }
    }

    fn spread(&self) -> Option<Spread> {
        Spread::of(self.values.iter().map(|(_, value)| *value))
    }

    fn disturbed(&self) -> usize {
        self.runs.iter().filter(|(_, run)| run.disturbed).count()
    }
}

fn comparisons(
    recorded: &Recorded,
    a: &Side,
    b: &Side,
    reference: Option<&str>,
) -> Vec<Comparison> {
    let mut workloads: Vec<(&str, bool)> = Vec::new();
    for (round, run) in a.runs(recorded) {
        let this = (run.workload.as_str(), recorded.sessions[round.0].is_forward());
        if !workloads.contains(&this) {
            workloads.push(this);
        }
    }
    let compare = |&workload: &(&str, bool)| compare(recorded, [a, b], workload, reference);
    workloads.iter().filter_map(compare).collect()
}

fn compare(
    recorded: &Recorded,
    sides: [&Side; 2],
    workload: (&str, bool),
    reference: Option<&str>,
) -> Option<Comparison> {
    let samples = sides.map(|side| Sample::of(side, recorded, workload));
    let [a, b] = &samples;
    if a.runs.is_empty() || b.runs.is_empty() {
        return None;
    }
    let pairs = ratios(&b.values, &a.values);
    let (basis, estimate) = if pairs.is_empty() {
        apart(recorded, &samples, sides, workload, reference)
    } else {
        (Basis::Pairs, Estimate::of_pairs(&pairs))
    };
    let figures = a.runs.iter().chain(&b.runs).find_map(|(_, run)| run.figures.as_ref());
    Some(Comparison {
        title: title(workload.0, workload.1),
        workload: workload.0.to_owned(),
        metric: figures.map(|figures| figures.metric.clone()).unwrap_or_default(),
        medians: [a.spread(), b.spread()],
        basis,
        estimate,
        disturbed: (a.disturbed() + b.disturbed(), a.runs.len() + b.runs.len()),
    })
}

/// Two that never ran in the same round.
fn apart(
    recorded: &Recorded,
    samples: &[Sample<'_>; 2],
    sides: [&Side; 2],
    workload: (&str, bool),
    reference: Option<&str>,
) -> (Basis, Option<Estimate>) {
    let known = ["veth", "vxlan"];
    let candidates: Vec<&str> = match reference {
        Some(name) => vec![name],
        None => {
            let all = recorded.runs().map(|(_, run)| run.competitor.as_str());
            // A competitor of this tree would divide out the very change that is looked for.
            let ours = |name: &str| {
                recorded.runs().any(|(_, run)| run.competitor == name && !run.engines.is_empty())
            };
            let mut all: Vec<&str> = known.into_iter().chain(all).collect();
            let mut seen = std::collections::BTreeSet::new();
            all.retain(|name| seen.insert(*name) && !ours(name));
            all
        }
    };
    for name in candidates {
        if sides.iter().any(|side| side.name == name) {
            continue;
        }
        let relative = [0, 1].map(|at| {
            let side = Side {
                text: name.to_owned(),
                name: name.to_owned(),
                commit: sides[at].commit.clone(),
            };
            let reference = Sample::of(&side, recorded, workload);
            ratios(&samples[at].values, &reference.values)
        });
        if relative.iter().all(|values| !values.is_empty()) {
            let estimate = Estimate::of_samples(&relative[0], &relative[1]);
            return (Basis::Reference(name.to_owned()), estimate);
        }
    }
    let [a, b] = samples;
    let plain = |sample: &Sample<'_>| -> Vec<f64> {
        sample.values.iter().map(|(_, value)| *value).collect()
    };
    (Basis::Nothing, Estimate::of_samples(&plain(a), &plain(b)))
}

impl Comparison {
    /// In plain words.
    fn verdict(&self, a: &str, b: &str) -> String {
        let Some(estimate) = &self.estimate else {
            return "nothing to compare: every run of one of them failed".to_owned();
        };
        let median = figure(Some(estimate.ratios.median));
        let words = match (&self.basis, estimate.interval) {
            (Basis::Nothing, _) => format!(
                "not decided: {median} ×, but in different runs and without a reference that both \
                 have, which tells nothing of {a} and {b} apart from the machine"
            ),
            (Basis::Pairs, None) => format!(
                "not decided: {} round(s) say nothing for sure, {} at least are needed \
                 ({median} × so far)",
                estimate.count,
                pairs_needed()
            ),
            (Basis::Reference(_), None) => format!(
                "not decided: {} round(s) are too few for runs at different times \
                 ({median} × so far)",
                estimate.count
            ),
            (_, Some((low, high))) => {
                let range = format!("[{}–{}]", figure(Some(low)), figure(Some(high)));
                let better = (low > 1.0) != self.metric.less_is_better;
                let adjective = if better { "faster" } else { "slower" };
                if estimate.differs() {
                    format!("{b} is {adjective}: {median} × {range}")
                } else {
                    format!("cannot be told apart: {median} × {range}")
                }
            }
        };
        let (disturbed, all) = self.disturbed;
        let warning = if 2 * disturbed > all {
            format!(" (others disturbed {disturbed} of {all} runs: measure again)")
        } else {
            String::new()
        };
        format!("{words}{warning}")
    }
}

fn text(a: &Side, b: &Side, found: &[Comparison]) -> String {
    let columns = ["workload", &a.text, &b.text, "B / A", "95 % interval", "min–max", "rounds"];
    let mut table = Table::new(&columns);
    let mut verdicts = String::new();
    for comparison in found {
        let Comparison { workload, metric, medians, estimate, .. } = comparison;
        let interval = estimate
            .and_then(|it| it.interval)
            .map(|(low, high)| format!("{}–{}", figure(Some(low)), figure(Some(high))));
        let range = estimate
            .map(|it| format!("{}–{}", figure(Some(it.ratios.min)), figure(Some(it.ratios.max))));
        let dash = || "–".to_owned();
        table.push(vec![
            format!("{workload}, {}", metric.unit),
            spread(medians[0]),
            spread(medians[1]),
            figure(estimate.map(|it| it.ratios.median)),
            interval.unwrap_or_else(dash),
            range.unwrap_or_else(dash),
            estimate.map_or_else(dash, |it| it.count.to_string()),
        ]);
        let verdict = comparison.verdict(&a.text, &b.text);
        verdicts.push_str(&format!("{workload} ({}): {verdict}\n", comparison.title));
    }
    let mut notes = String::from(
        "B / A: median of the ratios within a round; below 1 is less, which is better for round \
         trips, starts\nand wake-ups. An interval holds the true ratio in 95 of 100 cases whatever \
         the noise looks like (sign\ntest, or Mann and Whitney's for different runs); of 20 \
         workloads that are equal, one will look different.\n",
    );
    if let Some(Basis::Reference(name)) =
        found.iter().map(|it| &it.basis).find(|it| matches!(it, Basis::Reference(_)))
    {
        notes.push_str(&format!(
            "In different runs: both were first divided by {name} of the same round.\n"
        ));
    }
    format!("A = {}, B = {}\n\n{verdicts}\n{}\n{notes}", a.text, b.text, table.text())
}

/// What one could have asked for.
fn names(recorded: &Recorded) -> String {
    let mut names: Vec<String> = Vec::new();
    for (session, run) in recorded.runs() {
        let name = format!("{}@{}", run.competitor, session.fact("commit"));
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
}

/// Everybody with everybody, for tests of broken journals.
#[cfg(test)]
pub(crate) fn all_of(recorded: &Recorded) {
    let mut sides: Vec<Side> = Vec::new();
    for (session, run) in recorded.runs() {
        let name = format!("{}@{}", run.competitor, session.fact("commit"));
        if !sides.iter().any(|side| side.text == name) {
            sides.push(Side::parse(&name, recorded));
        }
    }
    for [a, b] in sides.windows(2).flat_map(<&[Side; 2]>::try_from) {
        assert!(!text(a, b, &comparisons(recorded, a, b, None)).is_empty());
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
