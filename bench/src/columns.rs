//! The figures of a panel as columns of text, the same for Markdown and for the page.
//!
//! A column in which nobody has a figure is left out, so that TCP has no loss and idle round trips
//! have no Gb/s.

use crate::journal::groups::{Panel, Row};
use crate::journal::run::{CONNECTIONS, Figures, HANDSHAKES, Run, START_UP, Stream, WAKEUPS};
use crate::statistics::{Spread, median_ratio};
use crate::table::{Table, count, disturbed, figure, spread};

const NOTHING: &str = "–";

/// Headings, and a line for each competitor.
#[derive(Debug)]
pub(crate) struct Grid<'a> {
    pub(crate) headings: Vec<String>,
    pub(crate) lines: Vec<(&'a Row<'a>, Vec<String>)>,
}

type Column<'a> = (String, Box<dyn Fn(&Row<'_>) -> String + 'a>);

impl<'a> Grid<'a> {
    /// Of a panel, in the order given.
    pub(crate) fn of(panel: &Panel<'_>, rows: &[&'a Row<'a>], baseline: Option<&str>) -> Self {
        let columns: Vec<Column<'_>> = columns(panel, baseline)
            .into_iter()
            .filter(|(_, cell)| rows.iter().any(|row| !matches!(cell(row).as_str(), NOTHING | "")))
            .collect();
        let lines = rows.iter().map(|&row| {
            let cells = match row.absent {
                Some(_) => vec!["not measured".to_owned()],
                None if row.exempt.is_some() => vec!["does not apply".to_owned()],
                None => columns.iter().map(|(_, cell)| cell(row)).collect(),
            };
            (row, cells)
        });
        Self {
            lines: lines.collect(),
            headings: columns.iter().map(|(heading, _)| heading.clone()).collect(),
        }
    }

    /// As text, which is Markdown.
    pub(crate) fn text(&self) -> String {
        let headings: Vec<&str> =
            ["tunnel"].into_iter().chain(self.headings.iter().map(String::as_str)).collect();
        let mut table = Table::new(&headings);
        for (row, cells) in &self.lines {
            // Names come from a file.
            let name = row.name.replace(['|', '\n', '\r'], " ");
            table.push([vec![name], cells.clone()].concat());
        }
        table.text()
    }
}

fn columns<'a>(panel: &Panel<'a>, wanted: Option<&str>) -> Vec<Column<'a>> {
    let metric = &panel.metric;
    let heading = match metric.name.as_str() {
        "median round trip" => "p50 µs".to_owned(),
        "99 % of round trips within" => "p99 µs".to_owned(),
        START_UP => "first packet s".to_owned(),
        _ => metric.unit.clone(),
    };
    let is_p50 = heading.starts_with("p50");
    let is_p99 = heading.starts_with("p99");
    let mut columns: Vec<Column<'a>> = vec![(heading, spread_of(|_, it| Some(it.value)))];
    let percentile = |quantile| spread_of(move |_, it| it.trips.as_ref()?.at_exactly(quantile));
    if !is_p50 {
        columns.push(("p50 µs".to_owned(), percentile(0.5)));
    }
    if !is_p99 {
        columns.push(("p99 µs".to_owned(), percentile(0.99)));
    }
    columns.push(("p99.9 µs".to_owned(), percentile(0.999)));
    columns.push((
        "kpps".to_owned(),
        spread_of(|_, it| {
            let stream = it.stream.as_ref()?;
            Some(stream.kilo_packets()? / stream.seconds)
        }),
    ));
    if let Some(base) = panel.baseline(wanted) {
        let (name, values) = (base.name.to_owned(), base.values());
        let ratio = move |row: &Row<'_>| {
            figure(median_ratio(&row.values(), &values).map(|ratio| ratio.median))
        };
        columns.push((format!("× {name}"), Box::new(ratio)));
    }
    columns.extend(match metric.name.as_str() {
        HANDSHAKES => handshake_columns(),
        CONNECTIONS => connection_columns(),
        WAKEUPS => idle_columns(),
        START_UP => start_up_columns(),
        _ => cost_columns(metric.less_is_better),
    });
    let marks = |row: &Row<'_>| disturbed(row.disturbed(), row.runs.len());
    columns.push(("~".to_owned(), Box::new(marks)));
    columns
}

fn handshake_columns<'a>() -> Vec<Column<'a>> {
    let mut columns: Vec<Column<'a>> = Vec::new();
    for (whole, field) in [("daemon", DAEMON), ("busy", BUSY)] {
        let per = move |row: &Row<'_>| {
            figure(row.per(|it| Some(it.trips.as_ref()?.received), |run| run.cost(field)))
        };
        columns.push((format!("/{whole} CPU-s"), Box::new(per)));
    }
    columns.push(("unanswered".to_owned(), Box::new(lost)));
    columns
}

fn connection_columns<'a>() -> Vec<Column<'a>> {
    vec![
        ("failed".to_owned(), Box::new(lost)),
        ("daemon CPU µs each".to_owned(), Box::new(|row| figure(cpu_us_per_trip(row)))),
    ]
}

fn idle_columns<'a>() -> Vec<Column<'a>> {
    let ms = |run: &Run, _: &Figures| {
        Some(1e3 * run.cost(DAEMON) / run.cost(WALL)).filter(|ms| ms.is_finite())
    };
    vec![("daemon CPU ms/s".to_owned(), spread_of(ms))]
}

fn start_up_columns<'a>() -> Vec<Column<'a>> {
    let cost = |field: &'static str, unit: f64| {
        spread_of(move |run, _| Some(run.cost(field) / unit).filter(|cost| *cost > 0.0))
    };
    vec![
        ("configured s".to_owned(), spread_of(|_, it| it.configured_seconds)),
        ("daemon CPU s".to_owned(), cost(DAEMON, 1.0)),
        ("peak MB".to_owned(), cost(PEAK, 1e6)),
    ]
}

/// What was not answered, over all rounds.
fn lost(row: &Row<'_>) -> String {
    let lost: Vec<f64> = row.good().filter_map(|(_, it)| Some(it.trips.as_ref()?.lost)).collect();
    if lost.is_empty() { NOTHING.to_owned() } else { count(lost.iter().sum()) }
}

fn cost_columns<'a>(round_trips: bool) -> Vec<Column<'a>> {
    let column = |name: &str, cell: Box<dyn Fn(&Row<'_>) -> String>| (name.to_owned(), cell);
    let mut columns: Vec<Column<'a>> = Vec::new();
    if round_trips {
        columns.push(column(
            "Gb/s meanwhile",
            spread_of(|_, it| {
                let stream = it.stream.as_ref()?;
                Some(stream.gbit() / stream.seconds)
            }),
        ));
        columns.push(column("lost", Box::new(lost)));
        columns.push(column("daemon CPU µs/trip", Box::new(|row| figure(cpu_us_per_trip(row)))));
    } else {
        columns.push(column("loss %", median_of(Stream::loss_percent)));
        for (whole, field) in [("daemon", DAEMON), ("busy", BUSY)] {
            columns.push(column(
                &format!("Gbit/{whole} CPU-s"),
                Box::new(move |row| figure(gbit_per(row, field))),
            ));
            columns.push(column(
                &format!("kpkt/{whole} CPU-s"),
                Box::new(move |row| {
                    figure(row.per(|it| it.stream.as_ref()?.kilo_packets(), |run| run.cost(field)))
                }),
            ));
        }
        columns.push(column(
            "retr",
            Box::new(|row| {
                let counts = row.spread(|_, it| {
                    it.stream.as_ref().filter(|it| it.datagrams.is_none())?.retransmits
                });
                counts.map_or_else(|| NOTHING.to_owned(), |spread| count(spread.median))
            }),
        ));
    }
    columns
}

const WALL: &str = "wall_seconds";
/// The tunnel's own processes.
pub(crate) const DAEMON: &str = "daemon_cpu_seconds";
/// All that the machine did.
pub(crate) const BUSY: &str = "busy_cpu_seconds";

/// The most memory.
pub(crate) const PEAK: &str = "daemon_peak_memory_bytes";

/// What a second of CPU time carried.
pub(crate) fn gbit_per(row: &Row<'_>, cost: &str) -> Option<f64> {
    row.per(|it| Some(it.stream.as_ref()?.gbit()), |run| run.cost(cost))
}

/// What a round trip cost the tunnel's processes; none where they do nothing or are not there.
pub(crate) fn cpu_us_per_trip(row: &Row<'_>) -> Option<f64> {
    let trips: f64 = row.good().filter_map(|(_, it)| Some(it.trips.as_ref()?.received)).sum();
    // Next to other traffic, the cost is that of both.
    let alone = row.good().all(|(_, it)| it.stream.is_none());
    let cpu_us: f64 = row.good().map(|(run, _)| run.cost(DAEMON) * 1e6).sum();
    (alone && trips > 0.0 && cpu_us > 0.0).then(|| cpu_us / trips)
}

fn spread_of<'a>(
    of: impl Fn(&Run, &Figures) -> Option<f64> + 'a,
) -> Box<dyn Fn(&Row<'_>) -> String + 'a> {
    Box::new(move |row| spread(row.spread(&of)))
}

fn median_of<'a>(of: fn(&Stream) -> Option<f64>) -> Box<dyn Fn(&Row<'_>) -> String + 'a> {
    Box::new(move |row| {
        let values = row.spread(|_, it| of(it.stream.as_ref()?));
        figure(values.map(|Spread { median, .. }| median))
    })
}
