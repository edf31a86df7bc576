//! Records of `ab` to tables: one a workload, one for memory.
//!
//! A cell is the median of the rounds with the smallest and largest in brackets. Ratios are medians
//! of ratios within a round. Cost is all that was carried by all that was used, over all rounds.

use std::collections::BTreeSet;

use crate::alone::{Alone, HandshakeReport};
use crate::figures::Figures;
use crate::iperf3::Received;
use crate::record::Record;
use crate::statistics::{Spread, median_ratio, quotient};
use crate::streams::LOSS_MAX_PERCENT;
use crate::table::{Table, count, disturbed, figure, spread};
use crate::workload::{Rate, Sizes, Workload};

/// What WireGuards are compared with where the baseline is none.
const WIREGUARD_BASELINE: &str = "wireguard-go";

/// A competitor's name, and why it is not there if it is not.
pub(crate) type Entry = (String, Result<String, String>);

/// The table of one workload, with its heading.
pub(crate) fn workload(
    workload: &Workload,
    entries: &[Entry],
    records: &[Record],
    baseline: &str,
    exempt: &[&str],
) -> String {
    let name = workload.to_string();
    let rows: Vec<Row<'_>> = entries.iter().map(|entry| Row::new(entry, &name, records)).collect();
    let exempt_base = workload.alone().is_some() && !rows.iter().any(|row| row.name == baseline)
        || exempt.contains(&baseline);
    let baseline = if exempt_base { WIREGUARD_BASELINE } else { baseline };
    let base: Vec<(usize, f64)> =
        rows.iter().find(|row| row.name == baseline).map(Row::values).unwrap_or_default();
    let versus = format!("× {baseline}");
    let mut table = Table::new(columns(workload, &versus).as_slice());
    let mut notes = String::new();
    for row in &rows {
        let ratio = median_ratio(&row.values(), &base).map(|ratio| ratio.median);
        let mut cells = vec![row.name.to_owned()];
        if exempt.contains(&row.name) {
            cells.push("does not apply".to_owned());
        } else {
            cells.extend(row.cells(workload, ratio));
        }
        table.push(cells);
        notes.extend(row.failures());
    }
    format!("{name}: {}\n\n{}{notes}", title(workload), table.text())
}

/// Headings; `versus` names the ratio.
fn columns<'a>(workload: &Workload, versus: &'a str) -> Vec<&'a str> {
    let columns: &[&str] = match workload {
        Workload::Tcp(_) | Workload::TcpBack(_) => {
            &["tunnel", "Gb/s", versus, "Gbit/daemon CPU-s", "Gbit/busy CPU-s", "retr", "~"]
        }
        Workload::Udp(..) => &[
            "tunnel",
            "Gb/s",
            "kpps",
            versus,
            "loss %",
            "Gbit/daemon CPU-s",
            "kpkt/daemon CPU-s",
            "kpkt/busy CPU-s",
            "~",
        ],
        Workload::Ping => {
            &["tunnel", "p50 µs", "p99 µs", versus, "lost", "daemon CPU µs/trip", "~"]
        }
        Workload::Connect => &[
            "tunnel",
            "per second",
            "p50 µs",
            "p99 µs",
            versus,
            "failed",
            "daemon CPU µs each",
            "~",
        ],
        Workload::Idle => &["tunnel", "wake-ups/s", versus, "daemon CPU ms/s", "~"],
        Workload::Alone(Alone::Handshakes(_)) => &[
            "tunnel",
            "handshakes/s",
            versus,
            "p50 µs",
            "p99 µs",
            "/daemon CPU-s",
            "/busy CPU-s",
            "cookies",
            "unanswered",
            "invalid",
            "~",
        ],
        Workload::Alone(Alone::StartUp(_)) => {
            &["tunnel", "first packet s", versus, "configured s", "daemon CPU s", "peak MB", "~"]
        }
        Workload::PingUnder(_) => {
            &["tunnel", "p99 µs", "p50 µs", "p99.9 µs", versus, "lost", "Gb/s meanwhile", "~"]
        }
    };
    columns.to_vec()
}

/// Resident memory of ringtun's engines after each TCP run, in MB.
pub(crate) fn memory(entries: &[Entry], records: &[Record]) -> Option<String> {
    let mut table = Table::new(&["memory of one engine, MB", "after the first run", "largest"]);
    let mut any = false;
    for (name, _) in entries {
        let runs = records
            .iter()
            .filter(|record| record.competitor == *name && record.workload.starts_with("tcp"));
        let sizes: Vec<f64> = runs
            .filter_map(|run| run.engines.iter().map(|engine| engine.after.memory_bytes).max())
            .map(|bytes| bytes as f64 / 1e6)
            .collect();
        if let Some(spread) = Spread::of(sizes.iter().copied()) {
            any = true;
            let first = figure(sizes.first().copied());
            table.push(vec![name.clone(), first, figure(Some(spread.max))]);
        }
    }
    any.then(|| table.text())
}

/// What each tunnel is, and what is missing.
pub(crate) fn legend(entries: &[Entry]) -> String {
    let line = |(name, how): &Entry| match how {
        Ok(how) => format!("{name:<13} {how}\n"),
        Err(why) => format!("{name:<13} NOT MEASURED: {why}\n"),
    };
    entries.iter().map(line).collect()
}

fn title(workload: &Workload) -> String {
    match workload {
        Workload::Tcp(1) => "one TCP stream".to_owned(),
        Workload::Tcp(streams) => format!("{streams} TCP streams"),
        Workload::TcpBack(streams) => format!("{streams} TCP stream(s) from right to left"),
        Workload::Udp(sizes, rate) => {
            let what = match sizes {
                Sizes::One(len) => format!("UDP datagrams of {len} bytes"),
                Sizes::Imix => "UDP datagrams of 16, 548 and 1372 bytes, 7 : 4 : 1".to_owned(),
            };
            let how = match rate {
                Rate::Free => "one sender without pause; what was received".to_owned(),
                Rate::Bits(_, rate) => format!("at {rate}bit/s; what was received"),
                Rate::Highest => {
                    format!("the highest rate with less than {LOSS_MAX_PERCENT} % loss")
                }
            };
            format!("{what}, {how}")
        }
        Workload::Ping => "UDP round trips at a fixed 500 a second, otherwise idle".to_owned(),
        Workload::Connect => "short TCP connections, four clients at once".to_owned(),
        Workload::Idle => "no traffic".to_owned(),
        Workload::Alone(Alone::Handshakes(window)) => format!(
            "WireGuard handshakes that a device answers, 1,000 initiators, {window} under way"
        ),
        Workload::Alone(Alone::StartUp(peers)) => format!(
            "a WireGuard device with {peers} peers of ten allowed IPs, from the start of the \
             program to a packet at the last peer"
        ),
        Workload::PingUnder(streams) => format!(
            "UDP round trips at a fixed 500 a second, while {streams} TCP stream(s) fill the same \
             tunnel"
        ),
    }
}

/// One competitor's runs of one workload.
struct Row<'a> {
    name: &'a str,
    /// Why there are none.
    absent: Option<&'a str>,
    runs: Vec<&'a Record>,
}

impl<'a> Row<'a> {
    fn new(entry: &'a Entry, workload: &str, records: &'a [Record]) -> Self {
        let (name, how) = entry;
        let belongs = |record: &&Record| record.competitor == *name && record.workload == workload;
        let absent = how.as_ref().err().map(String::as_str);
        Self { name, absent, runs: records.iter().filter(belongs).collect() }
    }

    fn good(&self) -> impl Iterator<Item = (&'a Record, &'a Figures)> + '_ {
        self.runs.iter().filter_map(|&run| Some((run, run.figures.as_ref()?)))
    }

    fn values(&self) -> Vec<(usize, f64)> {
        self.good().map(|(run, figures)| (run.round, figures.value())).collect()
    }

    fn spread(&self, of: impl Fn(&Figures) -> Option<f64>) -> String {
        spread(Spread::of(self.good().filter_map(|(_, figures)| of(figures))))
    }

    /// All of one over all of another.
    fn per(&self, part: fn(&Figures) -> f64, whole: fn(&Record) -> f64) -> String {
        let parts = self.good().map(|(_, figures)| part(figures)).sum();
        let wholes = self.good().map(|(run, _)| whole(run)).sum();
        figure(quotient(parts, wholes))
    }

    fn cells(&self, workload: &Workload, ratio: Option<f64>) -> Vec<String> {
        if self.absent.is_some() {
            return vec!["not measured".to_owned()];
        }
        let daemon = |run: &Record| run.cost.daemon_cpu_seconds;
        let busy = |run: &Record| run.cost.busy_cpu_seconds;
        let value = self.spread(|figures| Some(figures.value()));
        let ratio = figure(ratio);
        let disturbed = self.disturbed();
        match workload {
            Workload::Tcp(_) | Workload::TcpBack(_) => vec![
                value,
                ratio,
                self.per(gbit, daemon),
                self.per(gbit, busy),
                self.retransmits(),
                disturbed,
            ],
            Workload::Udp(..) => vec![
                value,
                self.spread(kpps),
                ratio,
                self.median(loss),
                self.per(gbit, daemon),
                self.per(kpackets, daemon),
                self.per(kpackets, busy),
                disturbed,
            ],
            Workload::Connect => vec![
                value,
                self.spread(|figures| Some(figures.connections()?.p50_us)),
                self.spread(|figures| Some(figures.connections()?.p99_us)),
                ratio,
                count(
                    self.good()
                        .filter_map(|(_, it)| it.connections())
                        .map(|it| it.failed as f64)
                        .sum(),
                ),
                self.cpu_us_per_trip(),
                disturbed,
            ],
            Workload::Idle => {
                let ms_per_second = |run: &Record| {
                    quotient(1e3 * run.cost.daemon_cpu_seconds, run.cost.wall_seconds)
                };
                let cpu = Spread::of(self.good().filter_map(|(run, _)| ms_per_second(run)));
                vec![value, ratio, spread(cpu), disturbed]
            }
            Workload::Alone(alone) => self.alone_cells(*alone, value, ratio),
            Workload::PingUnder(_) => vec![
                value,
                self.spread(|figures| Some(figures.round_trips()?.p50_us)),
                self.spread(|figures| Some(figures.round_trips()?.p999_us)),
                ratio,
                count(self.good().map(|(_, figures)| lost(figures)).sum()),
                self.spread(|figures| Some(figures.stream()?.gbit_per_second())),
                disturbed,
            ],
            Workload::Ping => vec![
                value,
                self.spread(p99),
                ratio,
                count(self.good().map(|(_, figures)| lost(figures)).sum()),
                self.cpu_us_per_trip(),
                disturbed,
            ],
        }
    }

    fn alone_cells(&self, alone: Alone, value: String, ratio: String) -> Vec<String> {
        let completed = |it: &Figures| it.handshakes().map_or(0.0, |it| it.completed as f64);
        let sum = |of: fn(&HandshakeReport) -> u64| {
            count(self.good().filter_map(|(_, it)| Some(of(it.handshakes()?) as f64)).sum())
        };
        let of_runs = |of: fn(&Record) -> f64| spread(Spread::of(self.good().map(|it| of(it.0))));
        match alone {
            Alone::Handshakes(_) => vec![
                value,
                ratio,
                self.spread(|it| Some(it.handshakes()?.p50_us)),
                self.spread(|it| Some(it.handshakes()?.p99_us)),
                self.per(completed, |run| run.cost.daemon_cpu_seconds),
                self.per(completed, |run| run.cost.busy_cpu_seconds),
                sum(|it| it.cookie_replies),
                sum(|it| it.unanswered),
                sum(|it| it.invalid),
                self.disturbed(),
            ],
            Alone::StartUp(_) => vec![
                value,
                ratio,
                self.spread(|it| Some(it.start_up()?.configured_seconds)),
                of_runs(|run| run.cost.daemon_cpu_seconds),
                of_runs(|run| run.cost.daemon_peak_memory_bytes as f64 / 1e6),
                self.disturbed(),
            ],
        }
    }

    fn median(&self, of: fn(&Figures) -> Option<f64>) -> String {
        let values = self.good().filter_map(|(_, figures)| of(figures));
        figure(Spread::of(values).map(|spread| spread.median))
    }

    fn retransmits(&self) -> String {
        let counts = self.good().filter_map(|(_, figures)| retransmits(figures));
        Spread::of(counts).map_or_else(|| "–".to_owned(), |spread| count(spread.median))
    }

    fn cpu_us_per_trip(&self) -> String {
        let cpu_us: f64 = self.good().map(|(run, _)| run.cost.daemon_cpu_seconds * 1e6).sum();
        let trips: f64 = self.good().map(|(_, figures)| trips(figures)).sum();
        figure(quotient(cpu_us, trips).filter(|_| cpu_us > 0.0))
    }

    /// How many of its runs others disturbed.
    fn disturbed(&self) -> String {
        disturbed(self.runs.iter().filter(|run| run.disturbed).count(), self.runs.len())
    }

    fn failures(&self) -> Option<String> {
        let errors: BTreeSet<&str> =
            self.runs.iter().filter_map(|run| run.error.as_deref()).collect();
        if errors.is_empty() {
            return None;
        }
        let count = self.runs.iter().filter(|run| run.error.is_some()).count();
        let errors: Vec<&str> = errors.into_iter().collect();
        let (name, all) = (self.name, self.runs.len());
        Some(format!("{name}: {count} of {all} runs FAILED: {}\n", errors.join("; ")))
    }
}

fn gbit(figures: &Figures) -> f64 {
    figures.stream().map_or(0.0, Received::gbit)
}

fn retransmits(figures: &Figures) -> Option<f64> {
    figures.stream()?.retransmits.map(|count| count as f64)
}

/// Thousands of datagrams received.
fn kpackets(figures: &Figures) -> f64 {
    let datagrams = figures.stream().and_then(|received| received.datagrams);
    datagrams.map_or(0.0, |datagrams| datagrams.received as f64 / 1e3)
}

fn kpps(figures: &Figures) -> Option<f64> {
    quotient(kpackets(figures), figures.stream()?.seconds)
}

fn loss(figures: &Figures) -> Option<f64> {
    Some(figures.stream()?.datagrams?.loss_percent())
}

fn p99(figures: &Figures) -> Option<f64> {
    Some(figures.round_trips()?.p99_us)
}

fn lost(figures: &Figures) -> f64 {
    figures.round_trips().map_or(0.0, |report| report.lost as f64)
}

fn trips(figures: &Figures) -> f64 {
    let connections = || Some(figures.connections()?.connections);
    let trips = figures.round_trips().map(|report| report.received).or_else(connections);
    trips.unwrap_or(0) as f64
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
