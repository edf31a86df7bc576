//! Line charts: curves over two axes, with a legend that is a table of their figures.
//!
//! Axis text and points are in per cent; curves are in a box of their own that is stretched over
//! the same area, with strokes that keep their width.

use maud::{Markup, html};

/// Colours of the style sheet; beyond them, dashes tell curves apart.
const COLOURS: usize = 8;
const DASHES: usize = 4;
const HEIGHT: u32 = 280;

/// How a competitor is drawn, on the whole page alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    index: usize,
    ours: bool,
}

/// One curve; coordinates in per cent from the lower left.
#[derive(Debug)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) style: Style,
    pub(super) points: Vec<Point>,
    /// For the legend.
    pub(super) figures: Vec<String>,
    /// Whether every point is drawn as such.
    pub(super) marked: bool,
}

/// Where a curve passes.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// From and to, where it has a spread.
    pub(super) range: Option<(f64, f64)>,
    /// What it is, for a pointer that rests on it.
    pub(super) label: String,
}

/// A chart without its curves.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) caption: String,
    pub(super) unit: String,
    /// Below the horizontal axis.
    pub(super) x_title: String,
    pub(super) x_ticks: Vec<(f64, String)>,
    pub(super) y_ticks: Vec<(f64, String)>,
    /// Columns of the legend.
    pub(super) headings: Vec<String>,
}

impl Style {
    pub(super) fn new(index: usize, ours: bool) -> Self {
        Self { index, ours }
    }

    fn curve(self) -> String {
        let (colour, dash) = (self.index % COLOURS, self.index / COLOURS % DASHES);
        let ours = if self.ours { " ours" } else { "" };
        format!("curve s{colour} d{dash}{ours}")
    }

    fn fill(self) -> String {
        format!("point f{}", self.index % COLOURS)
    }

    fn range(self) -> String {
        format!("reach s{}", self.index % COLOURS)
    }
}

/// The chart; nothing without curves.
pub(super) fn chart(frame: &Frame, curves: &[Curve]) -> Option<Markup> {
    curves.iter().any(|curve| !curve.points.is_empty()).then(|| {
        html! {
            figure class="chart" {
                figcaption { (frame.caption) " " span class="unit" { (frame.unit) } }
                div class="plot" { (plot(frame, curves)) }
                (legend(frame, curves))
            }
        }
    })
}

fn plot(frame: &Frame, curves: &[Curve]) -> Markup {
    let names: Vec<&str> = curves.iter().map(|curve| curve.name.as_str()).collect();
    let label =
        format!("{}: {}. The figures are in the table below.", frame.caption, names.join(", "));
    // What is ours comes last, on top.
    let (others, ours): (Vec<_>, Vec<_>) = curves.iter().partition(|curve| !curve.style.ours);
    let down = |y: f64| format!("{:.3}%", 100.0 - y);
    html! {
        svg role="img" aria-label=(label) width="100%" height=(HEIGHT) {
            @for (at, text) in &frame.y_ticks {
                line class="grid" x1="0" x2="100%" y1=(down(*at)) y2=(down(*at)) {}
                text x="0" y=(down(*at)) dx="-8" dy="4" text-anchor="end" { (text) }
            }
            @for (at, text) in &frame.x_ticks {
                @let x = format!("{at:.3}%");
                line class="grid" x1=(x) x2=(x) y1="0" y2="100%" {}
                text x=(x) y="100%" dy="17" text-anchor="middle" { (text) }
            }
            line class="zero" x1="0" x2="100%" y1="100%" y2="100%" {}
            text x="50%" y="100%" dy="33" text-anchor="middle" { (frame.x_title) }
            svg width="100%" height="100%" viewBox="0 0 1000 1000" preserveAspectRatio="none" {
                @for curve in others.iter().chain(&ours) {
                    @let class = format!("mark {}", curve.style.curve());
                    polyline class=(class) points=(path(&curve.points)) {
                        title { (curve.name) }
                    }
                }
            }
            @for curve in others.iter().chain(&ours) { (points(curve)) }
        }
    }
}

fn path(points: &[Point]) -> String {
    let at = |point: &Point| format!("{:.1},{:.1}", 10.0 * point.x, 1000.0 - 10.0 * point.y);
    points.iter().map(at).collect::<Vec<_>>().join(" ")
}

fn points(curve: &Curve) -> Markup {
    let percent = |value: f64| format!("{value:.3}%");
    html! {
        @for point in &curve.points {
            @if let Some((from, to)) = point.range {
                line class=(curve.style.range()) x1=(percent(point.x)) x2=(percent(point.x))
                    y1=(percent(100.0 - from)) y2=(percent(100.0 - to)) {}
            }
            @if curve.marked || curve.points.len() == 1 {
                circle class=(format!("mark {}", curve.style.fill()))
                    cx=(percent(point.x)) cy=(percent(100.0 - point.y))
                    r=(if curve.style.ours { "4.5" } else { "3.5" }) {
                    title { (point.label) }
                }
            }
        }
    }
}

fn legend(frame: &Frame, curves: &[Curve]) -> Markup {
    let label = format!("Figures of: {}", frame.caption);
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(label) {
            table {
                thead { tr {
                    th scope="col" { "tunnel" }
                    @for heading in &frame.headings { th scope="col" { (heading) } }
                } }
                tbody {
                    @for curve in curves {
                        tr class=[curve.style.ours.then_some("ours")] {
                            th scope="row" {
                                svg class="swatch" width="28" height="10" aria-hidden="true" {
                                    line class=(curve.style.curve()) x1="1" x2="27" y1="5" y2="5" {}
                                }
                                (curve.name)
                            }
                            @for figure in &curve.figures { td { (figure) } }
                        }
                    }
                }
            }
        }
    }
}
