//! Bar charts: a row for each competitor, its median as a bar, smallest and largest as a whisker,
//! and every round as a dot. Positions are in per cent, so a chart is as wide as there is room and
//! its text keeps its size.

use maud::{Markup, html};

use super::axis::{Linear, short};
use crate::statistics::Spread;
use crate::table::figure;

/// An axis ends at so many times the largest median: one slow round does not flatten the rest.
const STRETCH_MAX: f64 = 2.5;
const HEIGHT: u32 = 28;

/// A row.
#[derive(Debug, Default)]
pub(super) struct Bar {
    pub(super) name: String,
    /// Highlighted.
    pub(super) ours: bool,
    /// Next to the name: `~2/5`.
    pub(super) mark: String,
    /// Every round, and whether it was disturbed. No value, no bar.
    pub(super) rounds: Vec<(f64, bool)>,
    /// In place of the median of the rounds.
    pub(super) total: Option<f64>,
    /// After the value.
    pub(super) note: String,
    /// In place of a bar.
    pub(super) why: Option<String>,
    /// That there is none is no failure.
    pub(super) exempt: bool,
}

impl Bar {
    fn spread(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(|(value, _)| *value))
    }

    /// Its length.
    pub(super) fn value(&self) -> Option<f64> {
        self.total.or_else(|| self.spread().map(|spread| spread.median))
    }
}

/// The chart; nothing if there is no value at all.
pub(super) fn chart(caption: &str, unit: &str, bars: &[Bar]) -> Option<Markup> {
    let largest = bars.iter().filter_map(Bar::value).reduce(f64::max)?;
    let whiskers = bars.iter().filter_map(|bar| bar.spread().map(|spread| spread.max));
    let furthest = whiskers.fold(largest, f64::max).min(largest * STRETCH_MAX);
    let axis = Linear::to(furthest);
    Some(html! {
        figure class="chart" {
            figcaption { (caption) " " span class="unit" { (unit) } }
            div class="bars" {
                @for bar in bars { (row(bar, unit, axis)) }
                (ticks(axis))
            }
        }
    })
}

fn row(bar: &Bar, unit: &str, axis: Linear) -> Markup {
    html! {
        div class="row" {
            div class=(if bar.ours { "name ours" } else { "name" }) {
                (bar.name)
                @if !bar.mark.is_empty() {
                    small title="rounds that others disturbed" { (bar.mark) }
                }
            }
            @if let Some(value) = bar.value() {
                (track(bar, value, unit, axis))
                div class="value" { (figure(Some(value))) }
                div class="range" { (range(bar).unwrap_or_default()) }
                div class="ratio" { (bar.note) }
            } @else {
                div class=(if bar.exempt { "why exempt" } else { "why" }) {
                    (bar.why.as_deref().unwrap_or("no figure"))
                }
            }
        }
    }
}

fn range(bar: &Bar) -> Option<String> {
    let spread = bar.spread().filter(|_| bar.rounds.len() > 1)?;
    Some(format!("{}–{}", figure(Some(spread.min)), figure(Some(spread.max))))
}

fn track(bar: &Bar, value: f64, unit: &str, axis: Linear) -> Markup {
    let label = format!(
        "{}: {} {unit}{}",
        bar.name,
        figure(Some(value)),
        range(bar)
            .map_or_else(String::new, |range| format!(", {range} in {} rounds", bar.rounds.len()))
    );
    let percent = |value: f64| format!("{:.3}%", axis.percent(value));
    let middle = HEIGHT / 2;
    html! {
        svg class="track" role="img" aria-label=(label) width="100%" height=(HEIGHT) {
            title { (label) }
            @for (at, _) in axis.ticks().iter().skip(1) {
                line class="grid" x1=(format!("{at}%")) x2=(format!("{at}%")) y1="0" y2=(HEIGHT) {}
            }
            rect class=(if bar.ours { "mark bar ours" } else { "mark bar" }) x="0" y="6"
                width=(percent(value)) height=(HEIGHT - 12) rx="3" {}
            line class="zero" x1="0" x2="0" y1="0" y2=(HEIGHT) {}
            @if let Some(spread) = bar.spread().filter(|_| bar.rounds.len() > 1) {
                line class="whisker" x1=(percent(spread.min)) x2=(percent(spread.max))
                    y1=(middle) y2=(middle) {}
                @for end in [spread.min, spread.max].into_iter().filter(|&it| !axis.is_beyond(it)) {
                    line class="whisker" x1=(percent(end)) x2=(percent(end)) y1="9" y2="19" {}
                }
                @if axis.is_beyond(spread.max) { (beyond(spread.max)) }
            }
            @for &(value, disturbed) in bar.rounds.iter().filter(|(it, _)| !axis.is_beyond(*it)) {
                circle class=(if disturbed { "dot disturbed" } else { "dot" })
                    cx=(percent(value)) cy=(middle) r="3.2" {}
            }
        }
    }
}

/// That the axis ends first.
fn beyond(max: f64) -> Markup {
    html! {
        svg x="100%" y="0" width="1" height=(HEIGHT) {
            path class="more" d="M -7 9 L 1 14 L -7 19 Z" { title { "up to " (short(max)) } }
        }
    }
}

fn ticks(axis: Linear) -> Markup {
    let ticks = axis.ticks();
    let last = ticks.len().saturating_sub(1);
    html! {
        svg class="axis" width="100%" height="18" aria-hidden="true" {
            @for (index, (at, text)) in ticks.iter().enumerate() {
                @let anchor = if index == last { "end" } else { "middle" };
                text x=(format!("{at}%")) y="13" text-anchor=(anchor) { (text) }
            }
        }
    }
}
