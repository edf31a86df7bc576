//! Round trips as `.hgrm` files, the text that HdrHistogram's tools print and its plotter reads.
//!
//! One file for each workload and competitor. A journal holds percentiles and not every sample, so
//! a line is the median, over the rounds, of what was recorded at that percentile.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::journal::Recorded;
use crate::journal::groups::{Panel, Row};
use crate::statistics::Spread;

/// Writes them all, and returns how many there are.
///
/// # Errors
/// A folder that cannot be made or written to.
pub(crate) fn write(recorded: &Recorded, folder: &Path) -> Result<usize> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let files = files(recorded);
    for (name, text) in &files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(files.len())
}

/// Names and texts.
pub(crate) fn files(recorded: &Recorded) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for panel in Panel::newest(recorded) {
        for row in &panel.rows {
            let Some(text) = text(row) else { continue };
            files.push((format!("{}-{}.hgrm", plain(panel.workload), plain(row.name)), text));
        }
    }
    files
}

/// The percentiles over all rounds: (quantile, median in µs), and how many round trips there were.
/// Only quantiles that every round has.
pub(crate) fn percentiles(row: &Row<'_>) -> Option<(Vec<(f64, f64)>, f64)> {
    let trips: Vec<_> = row.good().filter_map(|(_, figures)| figures.trips.as_ref()).collect();
    let first = trips.first()?;
    let of = |quantile: f64| {
        let values: Option<Vec<f64>> = trips.iter().map(|it| it.at(quantile)).collect();
        Some((quantile, Spread::of(values?)?.median))
    };
    let all: Vec<(f64, f64)> =
        first.percentiles.iter().filter_map(|(quantile, _)| of(*quantile)).collect();
    let received = trips.iter().map(|it| it.received).sum();
    (!all.is_empty()).then_some((all, received))
}

fn text(row: &Row<'_>) -> Option<String> {
    let (percentiles, received) = percentiles(row)?;
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    for (quantile, us) in &percentiles {
        let count = (received * quantile).round();
        // The plotter leaves out the last line, which has no fourth column, as it should.
        let inverse = if *quantile < 1.0 {
            format!("{:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            String::new()
        };
        text.push_str(format!("{us:>12.3} {quantile:>14.12} {count:>10.0} {inverse}").trim_end());
        text.push('\n');
    }
    let max = percentiles.last().map_or(0.0, |(_, us)| *us);
    let rounds = row.good().count();
    text.push_str(&format!("#[Max     = {max:>12.3}, Total count    = {received:>12.0}]\n"));
    text.push_str(&format!(
        "# µs; medians over {rounds} round(s) of the percentiles that were recorded.\n"
    ));
    Some(text)
}

/// A name that is safe in a path.
fn plain(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_+@".contains(c) { c } else { '_' };
    name.chars().take(64).map(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"version":1,"kind":"run","competitor":"a b/../c","workload":"ping",
        "round":0,"figures":{"round_trips":{"sent":1000,"received":1000,"lost":0,"min_us":10.5,
        "p50_us":50,"p90_us":90,"p99_us":99,"max_us":500}}}"#;

    #[test]
    fn lines_are_those_of_the_plotter() {
        let line = LINES.replace('\n', " ");
        let second =
            line.replace("\"p50_us\":50", "\"p50_us\":70").replace("\"round\":0", "\"round\":1");
        let recorded = Recorded::of(format!("{line}\n{second}").as_bytes());
        assert_eq!(recorded.skipped, []);
        let panels = Panel::newest(&recorded);
        let text = text(&panels[0].rows[0]).unwrap();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect())
            .filter(|words: &Vec<&str>| words.len() == 4)
            .collect();
        assert_eq!(rows[0][0], "Value");
        assert_eq!(rows[2], ["60.000", "0.500000000000", "1000", "2.00"]);
        assert_eq!(rows.last().unwrap(), &["99.000", "0.990000000000", "1980", "100.00"]);
        assert!(text.contains("     500.000 1.000000000000       2000\n"), "{text}");
    }

    #[test]
    fn names_do_not_leave_the_folder() {
        assert_eq!(plain("a b/../c"), "a_b____c");
        assert_eq!([".", "..", "ping+tcp4"].map(plain), ["_", "__", "ping+tcp4"]);
        assert_eq!(plain("local, 65536"), "local__65536");
    }
}
