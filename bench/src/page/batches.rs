//! What ringtun's engines say of themselves: how many packets one call to the kernel moves, and how
//! much memory they hold. Traffic goes from left to right, so reads of the tun and sends are those
//! of the left engine, receives and writes those of the right one.

use maud::{Markup, html};
use ringtun::control::status::{Direction, Status, Worker};

use super::bars::{self, Bar};
use super::workloads::bar;
use super::{Page, heading, histograms};
use crate::columns::PEAK;
use crate::journal::groups::Panel;
use crate::journal::run::Run;
use crate::record::EngineUse;
use crate::statistics::quotient;

/// One kind of batch.
type Batch = (&'static str, &'static str, fn(&Run) -> Option<f64>);

const BATCHES: [Batch; 5] = [
    ("Packets a tun read", "super-packets from the kernel, left engine", |run| {
        outbound(run).and_then(|it| ratio(it.packets, it.reads))
    }),
    ("Packets a UDP send", "segments by GSO, left engine", |run| {
        outbound(run).and_then(|it| ratio(it.packets, it.writes))
    }),
    ("Packets a UDP receive", "coalesced by GRO, right engine", |run| {
        inbound(run).and_then(|it| ratio(it.packets, it.reads))
    }),
    ("Packets a tun write", "merged by ringtun, right engine", |run| {
        inbound(run).and_then(|it| ratio(it.packets, it.writes))
    }),
    ("Packets a turn", "of a worker's loop, left engine", |run| {
        let engine = run.engines.first()?;
        let packets = engine.outbound().packets.saturating_add(engine.inbound().packets);
        ratio(packets, turns(engine))
    }),
];

/// Cards for all workloads that ringtun carried; nothing without any.
pub(super) fn cards(page: &Page<'_>) -> Option<Markup> {
    let cards: Vec<Markup> = page.panels.iter().filter_map(batches).collect();
    let memory: Vec<Markup> = [memory(page), peak_memory(page)].into_iter().flatten().collect();
    (!cards.is_empty() || !memory.is_empty()).then(|| {
        html! {
            p class="muted" {
                "From the counters of the engines' control sockets: means over each run, and, "
                "where the engines counted it, how many calls moved how many packets over all "
                "rounds."
            }
            @for card in cards { (card) }
            @if !memory.is_empty() {
                article class="card" { div class="pair" { @for it in memory { (it) } } }
            }
        }
    })
}

fn batches(panel: &Panel<'_>) -> Option<Markup> {
    // Round trips alone are one packet a call, whatever the engine does.
    panel.rows.iter().flat_map(|row| row.good()).find_map(|(_, it)| it.stream)?;
    let chart = |&(caption, unit, of): &Batch| bars::chart(caption, unit, &bars_of(panel, of));
    let charts: Vec<Markup> = BATCHES.iter().filter_map(chart).collect();
    let histograms = histograms::charts(panel);
    (!charts.is_empty()).then(|| {
        html! {
            article class="card" {
                (heading(panel))
                div class="pair" { @for chart in charts { (chart) } }
                @if !histograms.is_empty() {
                    div class="pair" { @for chart in histograms { (chart) } }
                }
            }
        }
    })
}

fn bars_of(panel: &Panel<'_>, of: impl Fn(&Run) -> Option<f64>) -> Vec<Bar> {
    let rows = panel.ranked().into_iter().filter(|row| row.ours);
    let bars = rows.map(|row| {
        let rounds = row.good().filter_map(|(run, _)| Some((of(run)?, run.disturbed)));
        Bar { rounds: rounds.collect(), ..bar(row) }
    });
    bars.filter(|bar| !bar.rounds.is_empty()).collect()
}

/// The larger of both ends after each run, over all workloads.
fn memory(page: &Page<'_>) -> Option<Markup> {
    let bars = over_all(page, |run| {
        let bytes = run.engines.iter().map(|engine| engine.after.memory_bytes).max()?;
        Some(bytes as f64)
    });
    let unit = "MB resident, the larger end after each run; less is better";
    bars::chart("Memory of one engine", unit, &bars)
}

/// Of the processes of every tunnel that has some; those that are started for a workload have a
/// chart there.
fn peak_memory(page: &Page<'_>) -> Option<Markup> {
    let bars = over_all(page, |run| {
        let is_tunnel = run.figures.as_ref().is_some_and(|it| !it.metric.is_of_a_device());
        is_tunnel.then(|| run.cost(PEAK))
    });
    let unit = "MB resident, the largest process of a tunnel up to each run; less is better";
    bars::chart("Peak memory", unit, &bars)
}

/// A bar for each tunnel with every run of every workload, of what is counted in bytes.
fn over_all(page: &Page<'_>, bytes: impl Fn(&Run) -> Option<f64>) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    for row in page.panels.iter().flat_map(|panel| &panel.rows) {
        let megabytes = |run: &Run| {
            let bytes = bytes(run).filter(|bytes| *bytes > 0.0)?;
            Some((bytes / 1e6, run.disturbed))
        };
        let rounds: Vec<_> = row.good().filter_map(|(run, _)| megabytes(run)).collect();
        if rounds.is_empty() {
            continue;
        }
        match bars.iter_mut().find(|bar| bar.name == row.name) {
            Some(bar) => bar.rounds.extend(rounds),
            None => bars.push(Bar { rounds, mark: String::new(), ..bar(row) }),
        }
    }
    bars
}

pub(super) fn outbound(run: &Run) -> Option<Direction> {
    run.engines.first().map(EngineUse::outbound)
}

pub(super) fn inbound(run: &Run) -> Option<Direction> {
    run.engines.last().map(EngineUse::inbound)
}

fn turns(engine: &EngineUse) -> u64 {
    let sum = |status: &Status| {
        let turns = status.workers.iter().map(|worker: &Worker| worker.turns);
        turns.fold(0, u64::saturating_add)
    };
    sum(&engine.after).saturating_sub(sum(&engine.before))
}

fn ratio(packets: u64, calls: u64) -> Option<f64> {
    quotient(packets as f64, calls as f64).filter(|_| packets > 0)
}
