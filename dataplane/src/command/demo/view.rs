//! What one sees while the demo runs: a panel redrawn in place on a terminal, a line a second
//! otherwise, nothing for `--json`.
//!
//! The panel is plain text of at most 80 columns and a handful of escape sequences; the terminal
//! is put back in order by [`View::finish`] and, should that not be reached, by `Drop`.

use std::io::{self, Write};
use std::time::Duration;

use super::format::{Style, bits, count, packets, ratio, sparkline};
use super::report::{Flow, Use, all_drops};
use crate::control::status::Status;
use crate::io::counters::DropReason;

const WIDTH: usize = 80;
const CURVE_WIDTH: usize = 60;
/// Kept of the curve; the view never grows with the length of the run.
const CURVE_LEN_MAX: usize = CURVE_WIDTH;

/// One look at both engines: what they did since the last one.
pub(super) struct Live<'a> {
    /// Of the phase.
    pub(super) elapsed: Duration,
    pub(super) left: Use,
    pub(super) right: Use,
    pub(super) left_status: &'a Status,
    pub(super) right_status: &'a Status,
}

enum Kind {
    Silent,
    /// Seconds told so far.
    Lines(u64),
    /// Lines on the screen that belong to the panel.
    Terminal(Style, usize),
}

/// The view and what it remembers.
pub(super) struct View {
    kind: Kind,
    phase: String,
    place: String,
    planned: Duration,
    /// Bits received per second, look by look.
    curve: Vec<f64>,
}

impl View {
    pub(super) fn silent() -> Self {
        Self::new(Kind::Silent)
    }

    pub(super) fn lines() -> Self {
        Self::new(Kind::Lines(0))
    }

    pub(super) fn terminal(style: Style) -> Self {
        Self::new(Kind::Terminal(style, 0))
    }

    fn new(kind: Kind) -> Self {
        let (phase, place) = (String::new(), String::new());
        Self { kind, phase, place, planned: Duration::ZERO, curve: Vec::new() }
    }

    /// A phase begins.
    pub(super) fn begin(&mut self, number: usize, total: usize, title: &str, planned: Duration) {
        title.clone_into(&mut self.phase);
        self.place = format!("{number} of {total}");
        self.planned = planned;
        if let Kind::Lines(told) = &mut self.kind {
            *told = 0;
        }
    }

    /// Shows one look. A terminal that went away is no reason to end the demo.
    pub(super) fn update(&mut self, live: &Live<'_>) {
        let received = live.left.inbound.bits_per_second.max(live.right.inbound.bits_per_second);
        self.curve.push(received);
        if self.curve.len() > CURVE_LEN_MAX {
            self.curve.remove(0);
        }
        match self.kind {
            Kind::Silent => {}
            Kind::Lines(told) => {
                let second = live.elapsed.as_secs();
                if second > told {
                    self.kind = Kind::Lines(second);
                    let _ = writeln!(io::stdout().lock(), "{}", self.line(live));
                }
            }
            Kind::Terminal(style, drawn) => {
                let panel = self.panel(live, style);
                if draw(&panel, drawn).is_ok() {
                    self.kind = Kind::Terminal(style, panel.len());
                }
            }
        }
    }

    /// Takes the panel away and gives the terminal back.
    pub(super) fn finish(&mut self) {
        if let Kind::Terminal(style, drawn) = self.kind
            && drawn > 0
        {
            // Up to the panel's first line, clear from there on; wrapping and cursor back on.
            let _ = write!(io::stdout().lock(), "\x1b[{drawn}A\r\x1b[J\x1b[?7h\x1b[?25h");
            let _ = io::stdout().lock().flush();
            self.kind = Kind::Terminal(style, 0);
        }
    }

    fn seconds_left(&self, live: &Live<'_>) -> u64 {
        let left = self.planned.saturating_sub(live.elapsed);
        left.as_secs() + u64::from(left.subsec_nanos() > 0)
    }

    fn line(&self, live: &Live<'_>) -> String {
        let received = self.curve.last().copied().unwrap_or(0.0);
        let (left, right) = (dropped(live.left_status), dropped(live.right_status));
        let (lost, told) = (left.0 + right.0, left.1 + right.1);
        let end = |name: &str, used: &Use| format!("{name} {:>3.0} % CPU", cpu_percent(used));
        format!(
            "{} {:<32} {:>9}  {:>11}  {}  {}  dropped {}{}",
            self.place,
            self.phase,
            bits(received),
            packets(live.right.inbound.packets_per_second),
            end("left", &live.left),
            end("right", &live.right),
            count(lost),
            if told > 0 { format!(", {} on purpose", count(told)) } else { String::new() },
        )
    }

    fn panel(&self, live: &Live<'_>, style: Style) -> Vec<String> {
        let mut lines = vec![
            spread(
                &format!(" ringtun demo · {} over UDP, two hosts", live.left_status.encap),
                &format!("part {} ", self.place),
                |text| style.title(text),
            ),
            spread(
                &format!(" {}", self.phase),
                &format!("{} s left ", self.seconds_left(live)),
                ToOwned::to_owned,
            ),
            String::new(),
        ];
        let received = self.curve.last().copied().unwrap_or(0.0);
        let curve = sparkline(&self.curve, CURVE_WIDTH);
        let gap = " ".repeat(CURVE_WIDTH - curve.chars().count());
        let figure = format!("{:>17}", bits(received));
        lines.push(format!(" {gap}{}{} ", style.curve(&curve), style.title(&figure)));
        lines.push(String::new());
        let heads = format!(
            " {:<13}{:>12}{:>13}{:>12}{:>13}{:>9}",
            "", "throughput", "packets", "per read", "per write", "CPU"
        );
        lines.push(style.faint(&heads));
        for (name, used) in [("left", &live.left), ("right", &live.right)] {
            let cpu = format!("{:.0} %", cpu_percent(used));
            lines.push(row(name, "out", &used.outbound, &cpu));
            lines.push(row("", "in", &used.inbound, ""));
        }
        lines.push(String::new());
        for (name, status) in [("left", live.left_status), ("right", live.right_status)] {
            lines.push(format!(" {name:<6} {}", clip(&facts(status), WIDTH - 9)));
        }
        for (name, status) in [("left", live.left_status), ("right", live.right_status)] {
            let drops = drops_so_far(status);
            lines.push(format!(" {:<6} dropped: {}", name, clip(&drops, WIDTH - 18)));
        }
        lines
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.finish();
    }
}

fn row(name: &str, way: &str, flow: &Flow, cpu: &str) -> String {
    format!(
        " {name:<6} {way:<6}{:>12}{:>13}{:>12}{:>13}{cpu:>9}",
        bits(flow.bits_per_second),
        packets(flow.packets_per_second),
        ratio(flow.packets_per_read),
        ratio(flow.packets_per_write),
    )
}

fn cpu_percent(used: &Use) -> f64 {
    if used.seconds > 0.0 { used.cpu_seconds / used.seconds * 100.0 } else { 0.0 }
}

/// Backend and offloads in one line.
pub(super) fn facts(status: &Status) -> String {
    let backend = &status.backend;
    let tun = match (status.offloads.tun_tso, status.offloads.tun_uso) {
        (true, true) => "TSO+USO",
        (true, false) => "TSO",
        (false, true) => "USO",
        (false, false) => "no segmentation",
    };
    let on_off = |on: bool| if on { "on" } else { "off" };
    format!(
        "{}, {} reads · tun {tun} · UDP GSO {}, GRO {} · merge {}",
        backend.name,
        backend.tun_read,
        status.offloads.udp_gso,
        on_off(status.offloads.udp_gro),
        on_off(status.offloads.tun_gro),
    )
}

/// Packets lost, and packets taken away so that their transfers slow down.
fn dropped(status: &Status) -> (u64, u64) {
    let is_signal =
        |name: &str| DropReason::ALL.iter().any(|it| it.is_signal() && it.name() == name);
    all_drops(status).into_iter().fold((0, 0), |(lost, told), (name, packets)| {
        if is_signal(&name) { (lost, told + packets) } else { (lost + packets, told) }
    })
}

fn drops_so_far(status: &Status) -> String {
    let drops = all_drops(status);
    if drops.is_empty() {
        return "nothing".to_owned();
    }
    let each: Vec<String> =
        drops.iter().map(|(reason, packets)| format!("{} {reason}", count(*packets))).collect();
    each.join(", ")
}

/// Two texts at the two edges.
fn spread(left: &str, right: &str, paint: impl Fn(&str) -> String) -> String {
    let used = left.chars().count() + right.chars().count();
    format!("{}{}{right}", paint(left), " ".repeat(WIDTH.saturating_sub(used)))
}

fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        text.to_owned()
    } else {
        text.chars().take(width - 1).chain(['…']).collect()
    }
}

/// Draws over the `drawn` lines of the last time, in one write so that it does not flicker.
fn draw(panel: &[String], drawn: usize) -> io::Result<()> {
    // Cursor off, and no wrapping: a narrow terminal cuts lines instead of losing count of them.
    let mut text = String::from("\x1b[?25l\x1b[?7l");
    if drawn > 0 {
        text.push_str("\x1b[");
        text.push_str(&drawn.to_string());
        text.push_str("A\r");
    }
    for line in panel {
        text.push_str(line);
        text.push_str("\x1b[K\n");
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
