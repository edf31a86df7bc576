//! How many packets the calls to the kernel moved: a histogram for each kind of call and tunnel.
//!
//! Engines count calls by powers of two of their packets; of those that are older there is none.

use maud::{Markup, html};
use ringtun::control::status::Direction;

use super::batches::{inbound, outbound};
use crate::journal::groups::{Panel, Row};
use crate::journal::run::Run;
use crate::table::figure;

/// Of the bars, in the order of the status.
const SIZES: [&str; 8] = ["1", "2", "3–4", "5–8", "9–16", "17–32", "33–64", "65+"];
/// Pixels: of the tallest bar, of what is written above it, and of the axis below.
const TALLEST: f64 = 56.0;
const ABOVE: f64 = 15.0;
const BELOW: f64 = 18.0;
/// A bar that is not zero is seen.
const SHORTEST: f64 = 1.5;

/// One kind of call: its caption, whose it is, and its counts in a run.
type Kind = (&'static str, &'static str, fn(&Run) -> Vec<u64>);

const KINDS: [Kind; 4] = [
    ("Tun reads", "by the packets in one, left engine", |run| sizes(outbound(run), Way::Reads)),
    ("UDP sends", "by their datagrams, left engine", |run| sizes(outbound(run), Way::Writes)),
    ("UDP receives", "by their datagrams, right engine", |run| sizes(inbound(run), Way::Reads)),
    ("Tun writes", "by the packets merged in one, right engine", |run| {
        sizes(inbound(run), Way::Writes)
    }),
];

enum Way {
    Reads,
    Writes,
}

fn sizes(direction: Option<Direction>, way: Way) -> Vec<u64> {
    let direction = direction.unwrap_or_default();
    match way {
        Way::Reads => direction.read_sizes,
        Way::Writes => direction.write_sizes,
    }
}

/// A chart for each kind of call that any tunnel of the panel counted.
pub(super) fn charts(panel: &Panel<'_>) -> Vec<Markup> {
    KINDS.iter().filter_map(|kind| chart(panel, kind)).collect()
}

fn chart(panel: &Panel<'_>, &(caption, unit, of): &Kind) -> Option<Markup> {
    let rows = panel.ranked().into_iter().filter(|row| row.ours);
    let counted: Vec<(&str, [u64; SIZES.len()])> = rows
        .map(|row| (row.name, total(row, of)))
        .filter(|(_, counts)| counts.iter().any(|count| *count > 0))
        .collect();
    (!counted.is_empty()).then(|| {
        html! {
            figure class="chart" {
                figcaption { (caption) " " span class="unit" { (unit) "; % of all" } }
                @for (name, counts) in &counted {
                    div class="histogram" {
                        div class="name" { (name) }
                        (bars(name, caption, *counts))
                    }
                }
            }
        }
    })
}

/// Over all rounds. Sizes that came later than this program are in the last one.
fn total(row: &Row<'_>, of: impl Fn(&Run) -> Vec<u64>) -> [u64; SIZES.len()] {
    let mut total = [0_u64; SIZES.len()];
    for (run, _) in row.good() {
        for (size, count) in of(run).into_iter().enumerate() {
            let sum = &mut total[size.min(SIZES.len() - 1)];
            *sum = sum.saturating_add(count);
        }
    }
    total
}

fn bars(name: &str, caption: &str, counts: [u64; SIZES.len()]) -> Markup {
    let all = counts.iter().map(|count| *count as f64).sum::<f64>();
    let shares = counts.map(|count| 100.0 * count as f64 / all);
    let highest = shares.into_iter().fold(0.0, f64::max);
    let width = 100.0 / SIZES.len() as f64;
    let bottom = ABOVE + TALLEST;
    let height_of = |share: f64| (TALLEST * share / highest).max(SHORTEST);
    let words = SIZES.iter().zip(shares).filter(|(_, share)| *share > 0.0);
    let words: Vec<String> =
        words.map(|(size, share)| format!("{} % of {size}", figure(Some(share)))).collect();
    let label = format!("{name}, {caption}: {} packets", words.join(", "));
    html! {
        svg role="img" aria-label=(label) width="100%" height=(bottom + BELOW) {
            @for (index, (size, share)) in SIZES.iter().zip(shares).enumerate() {
                @let left = index as f64 * width;
                @let middle = format!("{:.2}%", left + width / 2.0);
                @if share > 0.0 {
                    @let height = height_of(share);
                    rect class="mark bar ours" x=(format!("{:.2}%", left + width * 0.1))
                        width=(format!("{:.2}%", width * 0.8)) y=(format!("{:.1}", bottom - height))
                        height=(format!("{height:.1}")) {
                        title { (counts[index]) " calls of " (size) " packets" }
                    }
                    text x=(middle) y=(format!("{:.1}", bottom - height - 4.0))
                        text-anchor="middle" { (short(share)) }
                }
                text x=(middle) y=(bottom + 14.0) text-anchor="middle" { (size) }
            }
            line class="zero" x1="0" x2="100%" y1=(bottom) y2=(bottom) {}
        }
    }
}

/// Per cent without digits that nobody compares.
fn short(share: f64) -> String {
    if share < 1.0 { "<1".to_owned() } else { format!("{share:.0}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::journal::Recorded;

    fn journal(sizes: &serde_json::Value) -> String {
        let engine = |way: &str, read: &serde_json::Value, write: &serde_json::Value| {
            let direction = json!({ "packets": 100, "reads": 40, "writes": 20, "read_sizes": read,
                "write_sizes": write });
            json!({ "before": {}, "after": { "workers": [{ way: direction }] } })
        };
        let none = json!([]);
        let run = json!({ "version": 1, "kind": "run", "competitor": "uring", "workload": "tcp1",
            "figures": { "stream": { "bytes": 1, "seconds": 1 } },
            "engines": [engine("outbound", sizes, &none), engine("inbound", &none, sizes)] });
        run.to_string()
    }

    fn charts_of(lines: &str) -> Vec<String> {
        let recorded = Recorded::of(lines.as_bytes());
        let panels = Panel::newest(&recorded);
        panels.iter().flat_map(charts).map(Markup::into_string).collect()
    }

    #[test]
    fn every_size_that_was_counted_has_a_bar() {
        let line = journal(&json!([30, 0, 0, 0, 0, 0, 9, 1]));
        let charts = charts_of(&format!("{line}\n{line}"));
        // Nothing was recorded of sends and receives.
        assert_eq!(charts.len(), 2, "{charts:?}");
        let reads = &charts[0];
        assert!(reads.contains("Tun reads") && charts[1].contains("Tun writes"));
        assert_eq!(reads.matches("<rect class=\"mark bar ours\"").count(), 3, "{reads}");
        assert!(reads.contains("<title>60 calls of 1 packets"), "both rounds: {reads}");
        let words = "uring, Tun reads: 75.0 % of 1, 22.5 % of 33–64, 2.50 % of 65+ packets";
        assert!(reads.contains(words), "{reads}");
        // The tallest is as tall as can be.
        assert!(reads.contains("height=\"56.0\""), "{reads}");
    }

    #[test]
    fn older_and_newer_journals_are_read() {
        for old in [json!([]), json!(null), json!([0, 0, 0])] {
            assert_eq!(charts_of(&journal(&old)), Vec::<String>::new(), "{old}");
        }
        let without = journal(&json!([1])).replace("read_sizes", "x").replace("write_sizes", "y");
        assert_eq!(charts_of(&without), Vec::<String>::new());
        let newer = &charts_of(&journal(&json!([1, 0, 0, 0, 0, 0, 0, 2, 3, 4])))[0];
        assert!(newer.contains("<title>9 calls of 65+ packets"), "{newer}");
    }
}
