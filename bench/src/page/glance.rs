//! The top of the page: what it is about, the best of each workload, and what went wrong.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::Page;
use super::axis::short;
use crate::journal::groups::{Panel, Row, title};
use crate::statistics::median_ratio;

/// One line for the title.
pub(super) fn subtitle(page: &Page<'_>) -> String {
    let last = page.recorded.sessions.iter().rfind(|session| !session.runs.is_empty());
    last.map_or_else(
        || "no runs".to_owned(),
        |session| format!("{}, commit {}", session.fact("date"), session.fact("commit")),
    )
}

/// Everything above the parts.
pub(super) fn header(page: &Page<'_>) -> Markup {
    let last = page.recorded.sessions.iter().rfind(|session| !session.runs.is_empty());
    let runs = page.recorded.runs().count();
    let sessions = page.recorded.sessions.iter().filter(|it| !it.runs.is_empty()).count();
    html! {
        h1 { "ringtun and its peers, side by side" }
        p class="muted" {
            (subtitle(page))
            @if let Some(session) = last {
                " · kernel " (session.fact("kernel"))
                " · " @if let Some(cpus) = session.environment.get("cpus") { (cpus) " × " }
                (session.fact("cpu_model"))
            }
            " · " (count(runs, "run")) " in " (count(sessions, "benchmark"))
        }
        div class="tiles" { @for panel in &page.panels { (tile(page, panel)) } }
        (notes(page))
    }
}

/// The best ringtun, and how it stands.
fn tile(page: &Page<'_>, panel: &Panel<'_>) -> Markup {
    let ranked = panel.ranked();
    let measured = || ranked.iter().copied().filter(|row| row.good().next().is_some());
    let best = measured().find(|row| row.ours).or_else(|| measured().next());
    let Some(best) = best else { return html! {} };
    let median = best.spread(|_, it| Some(it.value)).map(|spread| spread.median);
    let base = panel.baseline(page.baseline).filter(|row| row.name != best.name);
    let ratio = |base: &Row<'_>| median_ratio(&best.values(), &base.values());
    let is_base = |row: &Row<'_>| base.is_some_and(|base| base.name == row.name);
    let other = measured().find(|row| !row.ours && row.name != "veth" && !is_base(row));
    let versus = [base, other];
    let versus: Vec<(&str, f64)> = versus
        .into_iter()
        .flatten()
        .filter_map(|row| Some((row.name, ratio(row)?.median)))
        .collect();
    html! {
        div class="card" {
            div class="tile-name" { (title(panel.workload, panel.forward)) }
            div class="tile-value" {
                (median.map(short).unwrap_or_default()) " "
                span class="unit" { (panel.metric.unit) }
            }
            div class="muted" {
                span class=[best.ours.then_some("tile-by")] { (best.name) }
                @for (name, ratio) in versus { ", " (short(ratio)) " × " (name) }
            }
        }
    }
}

fn notes(page: &Page<'_>) -> Markup {
    let (disturbed, all) =
        page.panels.iter().flat_map(|panel| &panel.rows).fold((0, 0), |(disturbed, all), row| {
            (disturbed + row.disturbed(), all + row.runs.len())
        });
    let failures = failures(page);
    html! {
        @if !failures.is_empty() {
            div class="note bad" {
                strong { "Not everything could be measured" }
                ul { @for failure in &failures { li { (failure) } } }
            }
        }
        @if disturbed > 0 {
            p class="note" {
                "Others disturbed " (disturbed) " of the " (all) " runs shown here (hollow dots)."
                @if 2 * disturbed > all { " Most are: measure again on a quiet machine." }
            }
        }
        @if let Some(skipped) = page.recorded.skipped_text() {
            p class="note" { "Of the journal, " (skipped) "." }
        }
    }
}

/// Peers that did not come up, and runs that failed.
fn failures(page: &Page<'_>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for panel in &page.panels {
        for row in &panel.rows {
            if let Some(why) = row.absent {
                found.insert(format!("{}: {why}", row.name));
            }
            if let Some((count, why)) = row.failures() {
                let (name, all, workload) = (row.name, row.runs.len(), panel.workload);
                found.insert(format!("{name}, {workload}: {count} of {all} runs failed: {why}"));
            }
        }
    }
    found.into_iter().collect()
}

fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
