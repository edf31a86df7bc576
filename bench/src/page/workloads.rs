//! A card for each workload: what it came to, what it cost, and both as a table.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::bars::{self, Bar};
use super::{Page, heading};
use crate::columns::{BUSY, DAEMON, Grid, PEAK, cpu_us_per_trip, gbit_per};
use crate::journal::groups::{Panel, Row};
use crate::journal::run::{CONNECTIONS, HANDSHAKES, Run, START_UP};
use crate::markdown::origin;
use crate::statistics::{Spread, median_ratio};
use crate::table::{disturbed, figure};

/// All of them.
pub(super) fn cards(page: &Page<'_>) -> Markup {
    html! {
        @for panel in &page.panels {
            article class="card" {
                (heading(panel))
                p class="muted" { (origin(panel)) }
                @match main_chart(page, panel) {
                    Some(chart) => (chart),
                    None => p class="note bad" { "No run came to a figure." },
                }
                (cost_charts(panel))
                (table(page, panel))
            }
        }
    }
}

/// A row without a value yet.
pub(super) fn bar(row: &Row<'_>) -> Bar {
    let failed = row.failures().map(|(count, why)| format!("{count} run(s) failed: {why}"));
    Bar {
        name: row.name.to_owned(),
        ours: row.ours,
        mark: disturbed(row.disturbed(), row.runs.len()),
        exempt: row.exempt.is_some(),
        why: row
            .absent
            .map(|why| format!("not measured: {why}"))
            .or_else(|| row.exempt.map(|why| format!("does not apply: {why}")))
            .or(failed),
        ..Bar::default()
    }
}

fn main_chart(page: &Page<'_>, panel: &Panel<'_>) -> Option<Markup> {
    let base = panel.baseline(page.baseline);
    let bars: Vec<Bar> = panel
        .ranked()
        .into_iter()
        .map(|row| {
            let rounds = row.good().map(|(run, it)| (it.value, run.disturbed)).collect();
            let ratio = base.filter(|base| base.name != row.name).and_then(|base| {
                let ratio = median_ratio(&row.values(), &base.values())?.median;
                Some(format!("{} × {}", figure(Some(ratio)), base.name))
            });
            Bar { rounds, note: ratio.unwrap_or_default(), ..bar(row) }
        })
        .collect();
    let metric = &panel.metric;
    let better = if metric.less_is_better { "less is better" } else { "more is better" };
    bars::chart(&capital(&metric.name), &format!("{}, {better}", metric.unit), &bars)
}

/// What a figure of the cost is over all rounds, and in each.
fn cost_bar(
    row: &Row<'_>,
    total: Option<f64>,
    of_run: impl Fn(&Run, f64) -> Option<f64>,
    amount: impl Fn(&crate::journal::run::Figures) -> Option<f64>,
) -> Option<Bar> {
    let each = row.good().filter_map(|(run, it)| {
        Some((of_run(run, amount(it)?).filter(|value| value.is_finite())?, run.disturbed))
    });
    total.map(|total| Bar { total: Some(total), rounds: each.collect(), ..bar(row) })
}

fn cost_charts(panel: &Panel<'_>) -> Markup {
    let rows = panel.ranked();
    let per = |cost: &'static str| -> Vec<Bar> {
        let of_run = move |run: &Run, gbit: f64| {
            let seconds = run.cost(cost);
            (seconds > 0.0).then(|| gbit / seconds)
        };
        let each = |row: &&Row<'_>| {
            cost_bar(row, gbit_per(row, cost), of_run, |it| Some(it.stream.as_ref()?.gbit()))
        };
        rows.iter().filter_map(each).collect()
    };
    let us = |run: &Run, trips: f64| (trips > 0.0).then(|| run.cost(DAEMON) * 1e6 / trips);
    let trips: Vec<Bar> = rows
        .iter()
        .filter_map(|row| {
            cost_bar(row, cpu_us_per_trip(row), us, |it| Some(it.trips.as_ref()?.received))
        })
        .collect();
    let each = match panel.metric.name.as_str() {
        HANDSHAKES => "Daemon CPU a handshake",
        CONNECTIONS => "Daemon CPU a connection",
        _ => "Daemon CPU a round trip",
    };
    let unit = "Gbit a second of CPU time, more is better";
    let charts = [
        bars::chart("Carried for daemon CPU", unit, &sorted(per(DAEMON), false)),
        bars::chart("Carried for all busy CPU", unit, &sorted(per(BUSY), false)),
        bars::chart(each, "µs, less is better", &sorted(trips, true)),
        bars::chart("Peak memory", "MB, less is better", &sorted(peak_memory(panel), true)),
    ];
    html! { div class="pair" { @for chart in charts.into_iter().flatten() { (chart) } } }
}

/// Of devices with many peers.
fn peak_memory(panel: &Panel<'_>) -> Vec<Bar> {
    if panel.metric.name != START_UP {
        return Vec::new();
    }
    let bars = panel.ranked().into_iter().map(|row| {
        let megabytes = |run: &Run| run.cost(PEAK) / 1e6;
        let rounds = row.good().map(|(run, _)| (megabytes(run), run.disturbed));
        Bar { rounds: rounds.filter(|(value, _)| *value > 0.0).collect(), ..bar(row) }
    });
    bars.filter(|bar| !bar.rounds.is_empty()).collect()
}

fn sorted(mut bars: Vec<Bar>, less_is_better: bool) -> Vec<Bar> {
    bars.sort_by(|one, other| {
        let [one, other] = [one, other].map(|bar| bar.value().unwrap_or(0.0));
        let order = one.total_cmp(&other);
        if less_is_better { order } else { order.reverse() }
    });
    bars
}

fn table(page: &Page<'_>, panel: &Panel<'_>) -> Markup {
    let rows = panel.ranked();
    let grid = Grid::of(panel, &rows, page.baseline);
    html! {
        details {
            summary { "All figures as a table" }
            (scroll(&format!("Figures of {}", panel.workload), &html! {
                thead { tr {
                    th scope="col" { "tunnel" }
                    @for heading in &grid.headings { th scope="col" { (heading) } }
                } }
                tbody { @for (row, cells) in &grid.lines {
                    tr class=[row.ours.then_some("ours")] {
                        th scope="row" { (row.name) }
                        @for cell in cells { td { (cell) } }
                    }
                } }
            }))
            (cost_table(panel, &rows))
        }
    }
}

/// Every figure of the cost that was recorded, whatever it is called.
fn cost_table(panel: &Panel<'_>, rows: &[&Row<'_>]) -> Markup {
    let names: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| row.good())
        .flat_map(|(run, _)| run.cost.keys().map(String::as_str))
        .collect();
    scroll(
        &format!("Cost of {}", panel.workload),
        &html! {
            thead { tr {
                th scope="col" { "cost, median" }
                @for name in &names { th scope="col" { (name.replace('_', " ")) } }
            } }
            tbody { @for row in rows {
                tr class=[row.ours.then_some("ours")] {
                    th scope="row" { (row.name) }
                    @for name in &names {
                        @let values = row.spread(|run, _| run.cost.get(*name).copied());
                        td { (figure(values.map(|Spread { median, .. }| median))) }
                    }
                }
            } }
        },
    )
}

/// A table that scrolls in its own box.
pub(super) fn scroll(label: &str, rows: &Markup) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(label) { table { (rows) } }
    }
}

/// With a capital letter at the beginning.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
