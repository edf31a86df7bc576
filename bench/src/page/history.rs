//! Medians over commits: in relation to the baseline of the same rounds, which is what may be
//! compared between runs, and as measured.

use maud::{Markup, html};

use super::axis::{Linear, short};
use super::plot::{self, Curve, Frame, Point};
use super::workloads::capital;
use super::{Page, heading};
use crate::journal::groups::{Panel, Row};
use crate::statistics::{Spread, median_ratio};

/// So many commits are named below an axis.
const NAMED_MAX: usize = 4;
/// So much of a commit's hash is shown.
const HASH_LEN: usize = 7;

/// A card for each workload measured at several commits; or what to do to get one.
pub(super) fn cards(page: &Page<'_>) -> Markup {
    let of = |panel: &Panel<'_>| card(page, panel);
    let cards: Vec<Markup> = page.panels.iter().filter_map(of).collect();
    html! {
        @if cards.is_empty() {
            p class="muted" {
                "One commit on this machine so far. Measure the next one into the same journal "
                "(" code { "ab --json FILE" } ") to see what changed."
            }
        }
        @for card in cards { (card) }
    }
}

fn card(page: &Page<'_>, newest: &Panel<'_>) -> Option<Markup> {
    let commits = Panel::history(page.recorded, newest);
    if commits.len() < 2 {
        return None;
    }
    let base = newest.baseline(page.baseline).map(|row| row.name);
    let relative = base.and_then(|base| {
        let of = |panel: &Panel<'_>, row: &Row<'_>| {
            let base = panel.row(base).filter(|it| it.name != row.name)?;
            median_ratio(&row.values(), &base.values())
        };
        let caption = format!("In relation to {base}");
        chart(page, &commits, (&caption, "×"), of)
    });
    let metric = &newest.metric;
    let caption = format!("{} as measured", capital(&metric.name));
    let absolute = chart(page, &commits, (&caption, &metric.unit), |_, row| {
        row.spread(|_, it| Some(it.value))
    });
    Some(html! {
        article class="card" {
            (heading(newest))
            p class="muted" {
                (if metric.less_is_better { "Less is better" } else { "More is better" })
                "; medians with the smallest and largest of each commit. What was measured at "
                "different times may differ by the machine, which the ratio divides out."
            }
            div class="pair" {
                @for chart in [relative, absolute].into_iter().flatten() { (chart) }
            }
        }
    })
}

fn chart(
    page: &Page<'_>,
    commits: &[Panel<'_>],
    (caption, unit): (&str, &str),
    of: impl Fn(&Panel<'_>, &Row<'_>) -> Option<Spread>,
) -> Option<Markup> {
    let mut curves: Vec<(&str, Vec<(usize, Spread)>)> = Vec::new();
    for (name, _) in &page.names {
        let points = commits
            .iter()
            .enumerate()
            .filter_map(|(index, panel)| Some((index, of(panel, panel.row(name)?)?)));
        let points: Vec<_> = points.collect();
        if !points.is_empty() {
            curves.push((name, points));
        }
    }
    let spreads = || curves.iter().flat_map(|(_, points)| points.iter().map(|(_, it)| it));
    let largest = spreads().map(|it| it.median).reduce(f64::max)?;
    let axis = Linear::to(spreads().map(|it| it.max).fold(largest, f64::max).min(1.6 * largest));
    let x = |index: usize| 5.0 + 90.0 * index as f64 / (commits.len().max(2) - 1) as f64;
    let last = commits.len().saturating_sub(1);
    let curve = |(name, points): &(&str, Vec<(usize, Spread)>)| Curve {
        name: (*name).to_owned(),
        style: page.style(name),
        points: points
            .iter()
            .map(|(index, spread)| Point {
                x: x(*index),
                y: axis.percent(spread.median),
                range: Some((axis.percent(spread.min), axis.percent(spread.max))),
                label: format!(
                    "{name} at {}: {} {unit}",
                    commits[*index].setting.commit,
                    short(spread.median)
                ),
            })
            .collect(),
        figures: [0, last]
            .map(|at| points.iter().find(|(index, _)| *index == at))
            .map(|point| point.map_or_else(|| "–".to_owned(), |(_, it)| short(it.median)))
            .to_vec(),
        marked: true,
    };
    let frame = Frame {
        caption: caption.to_owned(),
        unit: unit.to_owned(),
        x_title: "commits, in the order measured".to_owned(),
        x_ticks: named(commits)
            .into_iter()
            .map(|index| (x(index), hash(&commits[index])))
            .collect(),
        y_ticks: axis.ticks(),
        headings: ["first", "last"].map(str::to_owned).to_vec(),
    };
    plot::chart(&frame, &curves.iter().map(curve).collect::<Vec<_>>())
}

/// Evenly spaced, with the first and the last.
fn named(commits: &[Panel<'_>]) -> Vec<usize> {
    let last = commits.len().saturating_sub(1);
    let count = commits.len().min(NAMED_MAX);
    let mut indices: Vec<usize> =
        (0..count).map(|it| it * last / count.saturating_sub(1).max(1)).collect();
    indices.dedup();
    indices
}

fn hash(panel: &Panel<'_>) -> String {
    let commit = &panel.setting.commit;
    let short: String = commit.chars().take(HASH_LEN).collect();
    if commit.ends_with("-dirty") { format!("{short}+") } else { short }
}
