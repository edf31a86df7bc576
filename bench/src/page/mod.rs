//! A journal as one page that needs nothing else: no network, no script.
//!
//! ```text
//! html ─► glance     the best of each workload, what failed, an overview
//!         workloads  bars of throughput, round trips and cost     bars, axis
//!         latency    percentile curves                            plot, axis
//!         batches    packets a call, memory                       bars, histograms
//!         history    medians over commits                         plot
//!         facts      machine, settings, versions, commands
//! ```
//!
//! Charts are SVG with coordinates in per cent, so that they are as wide as the window and their
//! text keeps its size. The browser is told to load nothing (Content-Security-Policy). All text
//! from the file is escaped by the template.

mod axis;
mod bars;
mod batches;
mod facts;
mod glance;
mod histograms;
mod history;
mod latency;
mod plot;
mod workloads;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::journal::Recorded;
use crate::journal::groups::{Panel, title};
use plot::Style;

const CSS: &str = include_str!("style.css");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// What every part of the page needs.
struct Page<'a> {
    recorded: &'a Recorded,
    panels: Vec<Panel<'a>>,
    /// Of all competitors, for their colours.
    names: Vec<(&'a str, bool)>,
    baseline: Option<&'a str>,
}

impl<'a> Page<'a> {
    fn new(recorded: &'a Recorded, baseline: Option<&'a str>) -> Self {
        let panels = Panel::newest(recorded);
        let mut names: Vec<(&str, bool)> = Vec::new();
        let is_ours = |name: &str| {
            let mut rows = panels.iter().filter_map(|panel| panel.row(name));
            rows.any(|row| row.ours)
        };
        for (_, run) in recorded.runs() {
            if !names.iter().any(|(name, _)| *name == run.competitor) {
                names.push((&run.competitor, is_ours(&run.competitor)));
            }
        }
        // Ours get the first colours: those with the most contrast, and no dashes.
        names.sort_by_key(|(_, ours)| !ours);
        Self { recorded, panels, names, baseline }
    }

    fn style(&self, name: &str) -> Style {
        let index = self.names.iter().position(|(it, _)| *it == name).unwrap_or(self.names.len());
        Style::new(index, self.names.get(index).is_some_and(|(_, ours)| *ours))
    }
}

/// The page.
pub(crate) fn html(recorded: &Recorded, baseline: Option<&str>) -> String {
    let page = Page::new(recorded, baseline);
    let parts: Vec<(&str, &str, Option<Markup>)> = vec![
        ("workloads", "Workloads", Some(workloads::cards(&page))),
        ("latency", "Latency percentiles", latency::cards(&page)),
        ("batches", "Batches and memory", batches::cards(&page)),
        ("history", "History", Some(history::cards(&page))),
        ("environment", "Environment", Some(facts::cards(&page))),
    ];
    let parts: Vec<_> =
        parts.into_iter().filter_map(|(id, title, body)| Some((id, title, body?))).collect();
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "ringtun-bench: " (glance::subtitle(&page)) }
                style { (PreEscaped(CSS)) }
            }
            body {
                header { (glance::header(&page)) }
                nav aria-label="Parts of this page" {
                    ul {
                        @for (id, title, _) in &parts {
                            li { a href=(format!("#{id}")) { (title) } }
                        }
                    }
                }
                main {
                    @for (id, title, body) in &parts {
                        section aria-labelledby=(id) { h2 id=(id) { (title) } (body) }
                    }
                }
                footer { (how_to_read()) }
            }
        }
    };
    markup.into_string()
}

/// Of a card.
fn heading(panel: &Panel<'_>) -> Markup {
    html! {
        h3 {
            (title(panel.workload, panel.forward)) " "
            span class="unit" { code { (panel.workload) } }
        }
    }
}

fn how_to_read() -> Markup {
    html! {
        p {
            "Bars are medians over all rounds, whiskers go from the smallest to the largest, every "
            "dot is a round; hollow ones were disturbed: other guests of the host or other "
            "processes took more than 5 % of the CPU time. An arrow: the largest is beyond the "
            "axis. ×: median of the ratios within a round, which a slow minute of the machine does "
            "not change. Gb/s is payload at the receiver. Daemon CPU is that of the tunnel's "
            "processes on both ends; busy CPU is all that the machine did, and the only one that "
            "is fair to tunnels in the kernel."
        }
        p {
            "Compare ratios, never absolutes of two runs. Ranges that overlap are equal as far as "
            "one can tell; " code { "ringtun-bench compare" } " says what is sure. Every tool's "
            "own output is in the journal that this page was made of."
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
