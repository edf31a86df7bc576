//! Percentiles of round trips as curves: how long all but so many of them took.

use maud::{Markup, html};

use super::axis::{Log, time};
use super::plot::{self, Curve, Frame, Point};
use super::workloads::capital;
use super::{Page, heading};
use crate::hgrm::percentiles;
use crate::journal::groups::{Panel, Row};
use crate::journal::run::{CONNECTIONS, HANDSHAKES};
use crate::markdown::origin;

/// Named below the horizontal axis, with the distance to everything.
const NAMED: [(&str, f64); 7] = [
    ("0 %", 1.0),
    ("50 %", 0.5),
    ("90 %", 0.1),
    ("99 %", 0.01),
    ("99.9 %", 0.001),
    ("99.99 %", 0.0001),
    ("99.999 %", 0.00001),
];
/// No further to the right, however many round trips there were.
const DECADES_MAX: f64 = 5.0;

/// One for each workload with round trips; nothing without any.
pub(super) fn cards(page: &Page<'_>) -> Option<Markup> {
    let charts: Vec<(&Panel<'_>, Markup)> =
        page.panels.iter().filter_map(|panel| Some((panel, chart(page, panel)?))).collect();
    (!charts.is_empty()).then(|| {
        html! {
            @for (panel, chart) in charts {
                article class="card" {
                    (heading(panel))
                    p class="muted" { (origin(panel)) }
                    (chart)
                }
            }
        }
    })
}

/// Percentiles, and where the slowest lies: in a round of n, half-way to 1 of n.
struct Shape<'a> {
    row: &'a Row<'a>,
    percentiles: Vec<(f64, f64)>,
    decades: f64,
}

impl<'a> Shape<'a> {
    fn of(row: &'a Row<'a>) -> Option<Self> {
        let (percentiles, received) = percentiles(row)?;
        let rounds = row.good().count().max(1) as f64;
        let decades = (2.0 * received / rounds).max(1.0).log10().clamp(1.0, DECADES_MAX);
        Some(Self { row, percentiles, decades })
    }

    fn x(&self, quantile: f64) -> f64 {
        let distance = 1.0 - quantile;
        if distance > 0.0 { (-distance.log10()).min(self.decades) } else { self.decades }
    }

    fn at(&self, quantile: f64) -> String {
        let exact = self.percentiles.iter().find(|(it, _)| (it - quantile).abs() < 1e-9);
        exact.map_or_else(|| "–".to_owned(), |(_, us)| time(*us))
    }
}

fn chart(page: &Page<'_>, panel: &Panel<'_>) -> Option<Markup> {
    let ranked = panel.ranked();
    let shapes: Vec<Shape<'_>> = ranked.into_iter().filter_map(Shape::of).collect();
    let decades = shapes.iter().map(|shape| shape.decades).reduce(f64::max)?;
    let times = shapes.iter().flat_map(|shape| shape.percentiles.iter().map(|(_, us)| *us));
    let axis = Log::around(times)?;
    let curves: Vec<Curve> =
        shapes.iter().map(|shape| curve(page, shape, &axis, decades)).collect();
    let ticks = NAMED.iter().map(|(name, distance)| (-distance.log10(), (*name).to_owned()));
    let what = match panel.metric.name.as_str() {
        HANDSHAKES => "handshakes",
        CONNECTIONS => "connections",
        _ => "round trips",
    };
    let frame = Frame {
        caption: format!("{} within", capital(what)),
        unit: "logarithmic; medians over the rounds of each percentile".to_owned(),
        x_title: format!("of all {what}"),
        x_ticks: ticks
            .filter(|(at, _)| *at <= decades + 1e-9)
            .map(|(at, name)| (100.0 * at / decades, name))
            .collect(),
        y_ticks: axis.ticks().into_iter().map(|us| (axis.percent(us), time(us))).collect(),
        headings: ["p50", "p90", "p99", "p99.9", "max"].map(str::to_owned).to_vec(),
    };
    plot::chart(&frame, &curves)
}

fn curve(page: &Page<'_>, shape: &Shape<'_>, axis: &Log, decades: f64) -> Curve {
    let name = shape.row.name;
    let points = shape.percentiles.iter().map(|&(quantile, us)| Point {
        x: 100.0 * shape.x(quantile) / decades,
        y: axis.percent(us),
        range: None,
        label: format!("{name}: {:.4} % within {}", 100.0 * quantile, time(us)),
    });
    Curve {
        name: name.to_owned(),
        style: page.style(name),
        points: points.collect(),
        figures: [0.5, 0.9, 0.99, 0.999, 1.0].map(|quantile| shape.at(quantile)).to_vec(),
        // A long list makes a smooth curve; a few points are what was recorded, and no more.
        marked: shape.percentiles.len() < 12,
    }
}
