//! The demo's last word: throughput, latency, batches, drops and what moved the packets.

use std::collections::BTreeMap;

use super::engines::PLAIN;
use super::format::{Style, bits, count, micros, ratio, size};
use super::report::{Phase, Report, drop_text};
use super::view::facts;
use crate::control::status::Status;

const WIDTH: usize = 80;

/// The summary as text of at most 80 columns.
pub(super) fn text(report: &Report, style: Style) -> String {
    let mut lines = vec![String::new()];
    if report.passed {
        let how = if report.encap == PLAIN {
            "In the clear: readable by anyone on the way."
        } else {
            "Encrypted by WireGuard's protocol."
        };
        lines.push(format!("{} {how}", style.good("Traffic passed both ways.")));
    } else {
        lines.push(style.bad("The demo did not finish; this is what was measured."));
    }
    throughput(report, style, &mut lines);
    latency(report, style, &mut lines);
    batches(report, style, &mut lines);
    drops(report, style, &mut lines);
    engines(report, style, &mut lines);
    for note in &report.notes {
        lines.push(String::new());
        lines.extend(wrap("Note: ", note));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Those that measure streams for their own sake.
fn stream_phases(report: &Report) -> impl Iterator<Item = &Phase> {
    report.phases.iter().filter(|phase| phase.streams.is_some() && phase.round_trips.is_none())
}

fn throughput(report: &Report, style: Style, lines: &mut Vec<String>) {
    if stream_phases(report).next().is_none() {
        return;
    }
    lines.push(String::new());
    lines.push(style.title(&format!(
        "{:<34}{:>11}{:>17}{:>18}",
        "Throughput", "received", "CPU s", "Gbit per CPU s"
    )));
    let ends = format!("{:<34}{:>11}{:>17}{:>18}", "", "", "left   right", "left   right");
    lines.push(style.faint(&ends));
    let mut tools = Vec::new();
    for phase in stream_phases(report) {
        let Some(streams) = &phase.streams else { continue };
        let per_cpu = |used: &super::report::Use| ratio(used.gbit_per_cpu_second);
        lines.push(format!(
            "  {:<32}{:>11}{:>9.2}{:>8.2}{:>10}{:>8}",
            phase.title,
            bits(streams.bits_per_second),
            phase.left.cpu_seconds,
            phase.right.cpu_seconds,
            per_cpu(&phase.left),
            per_cpu(&phase.right),
        ));
        if !tools.contains(&streams.tool) {
            tools.push(streams.tool.clone());
        }
    }
    let by = format!(
        "{}; both ends, client and server share the {} cores of this machine",
        tools.join(" and "),
        report.cpus,
    );
    lines.extend(wrap("  measured by ", &by).iter().map(|line| style.faint(line)));
}

fn latency(report: &Report, style: Style, lines: &mut Vec<String>) {
    lines.push(String::new());
    lines.push(style.title(&format!(
        "{:<34}{:>9}{:>9}{:>9}{:>9}{:>10}",
        "Round trips", "p50", "p90", "p99", "max", "lost"
    )));
    for phase in &report.phases {
        let Some(trips) = &phase.round_trips else { continue };
        let title = phase.title.strip_prefix("round trips").unwrap_or(&phase.title);
        lines.push(format!(
            "  {:<32}{:>9}{:>9}{:>9}{:>9}{:>10}",
            title.trim_start_matches(',').trim(),
            micros(trips.p50_us),
            micros(trips.p90_us),
            micros(trips.p99_us),
            micros(trips.max_us),
            format!("{}/{}", count(trips.lost), count(trips.sent)),
        ));
    }
}

fn batches(report: &Report, style: Style, lines: &mut Vec<String>) {
    if stream_phases(report).next().is_none() {
        return;
    }
    lines.push(String::new());
    lines.push(style.title(&format!(
        "{:<34}{:>11}{:>11}{:>13}{:>11}",
        "Packets per", "tun read", "UDP send", "UDP receive", "tun write"
    )));
    for phase in stream_phases(report) {
        // Data flows from left to right; the other way there are only acknowledgements.
        let (out, into) = (&phase.left.outbound, &phase.right.inbound);
        lines.push(format!(
            "  {:<32}{:>11}{:>11}{:>13}{:>11}",
            phase.title,
            ratio(out.packets_per_read),
            ratio(out.packets_per_write),
            ratio(into.packets_per_read),
            ratio(into.packets_per_write),
        ));
    }
}

fn drops(report: &Report, style: Style, lines: &mut Vec<String>) {
    lines.push(String::new());
    lines.push(style.title("Dropped"));
    let mut any = false;
    for (name, is_left) in [("left", true), ("right", false)] {
        let mut total: BTreeMap<&str, u64> = BTreeMap::new();
        for phase in &report.phases {
            let used = if is_left { &phase.left } else { &phase.right };
            for (reason, packets) in &used.drops {
                *total.entry(reason).or_insert(0) += packets;
            }
        }
        for (reason, packets) in total {
            any = true;
            let lead = format!("  {name:<6}{:>9}  ", count(packets));
            lines.extend(wrap(&lead, drop_text(reason)));
        }
    }
    if !any {
        lines.push("  nothing".to_owned());
    }
}

fn engines(report: &Report, style: Style, lines: &mut Vec<String>) {
    let (Some(left), Some(right)) = (&report.left, &report.right) else { return };
    lines.push(String::new());
    lines.push(
        style.title(&format!("Engine (ringtun {}, Linux {})", report.ringtun, report.kernel)),
    );
    let mut fact = |name: &str, of: &dyn Fn(&Status) -> String| {
        let (here, there) = (of(left), of(right));
        if here == there {
            lines.extend(wrap(&format!("  {name:<10}"), &here));
        } else {
            lines.extend(wrap(&format!("  {name:<10}"), &format!("left:  {here}")));
            lines.extend(wrap(&" ".repeat(12), &format!("right: {there}")));
        }
    };
    fact("moves", &facts);
    fact("because", &|status| status.backend.reason.clone());
    fact("device", &|status| {
        format!(
            "MTU {}, gso_max_size {}, {} worker{}",
            count(u64::from(status.mtu)),
            count(u64::from(status.gso_max_size)),
            status.workers.len(),
            if status.workers.len() == 1 { "" } else { "s" },
        )
    });
    fact("memory", &|status| size(status.memory_bytes));
    fact("sockets", &|status| sockets(status, report.user_namespace));
}

/// What buffers the UDP sockets got, and what would get them more.
fn sockets(status: &Status, user_namespace: bool) -> String {
    let got = &status.socket_buffers;
    let granted = format!("receive {}, send {}", size(got.receive_bytes), size(got.send_bytes));
    if got.receive_bytes.min(got.send_bytes) >= got.wanted_bytes {
        return format!("{granted}, as asked for");
    }
    let wanted = got.wanted_bytes;
    let sysctl =
        format!("`sudo sysctl net.core.rmem_max={wanted} net.core.wmem_max={wanted}` lifts it");
    let cause = if user_namespace {
        format!("without root the machine's limit holds; running with sudo or {sysctl}")
    } else {
        format!("the machine's limit holds; {sysctl}")
    };
    format!("{granted} of {} asked for: {cause}", size(wanted))
}

/// Breaks `text` at spaces, indented as far as `lead` is long.
fn wrap(lead: &str, text: &str) -> Vec<String> {
    let indent = " ".repeat(lead.chars().count());
    let mut lines = Vec::new();
    let mut line = lead.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::demo::report::Use;
    use crate::lab::traffic::{RoundTripReport, StreamReport};

    fn report() -> Report {
        let mut report = Report::new("plain");
        report.passed = true;
        let streams = StreamReport { tool: "built-in".into(), bytes: 1, ..Default::default() };
        report.phases.push(Phase {
            name: "tcp_1".into(),
            title: "TCP, 1 stream".into(),
            streams: Some(streams.clone()),
            round_trips: None,
            left: Use::default(),
            right: Use::default(),
        });
        let mut left = Use::default();
        left.drops.insert("tun_queue_full".into(), 1234);
        report.phases.push(Phase {
            name: "round_trips_tcp_1".into(),
            title: "round trips under one TCP stream".into(),
            streams: Some(streams),
            round_trips: Some(RoundTripReport { sent: 10, lost: 1, ..Default::default() }),
            left,
            right: Use::default(),
        });
        let mut status = Status::default();
        status.socket_buffers.wanted_bytes = 4 << 20;
        status.socket_buffers.receive_bytes = 425_984;
        (report.left, report.right) = (Some(status.clone()), Some(status));
        report.user_namespace = true;
        report
    }

    #[test]
    fn fits_80_columns_and_says_what_matters() {
        let text = text(&report(), Style::PLAIN);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["1,234 by the kernel, outbound", "1/10", "sudo sysctl net.core.rmem_max"] {
            assert!(words.contains(part), "{part} is missing from\n{text}");
        }
    }

    #[test]
    fn wrapping_keeps_every_word() {
        let words = "one two three ".repeat(30);
        let joined = wrap("  lead ", &words).join(" ");
        assert_eq!(joined.split_whitespace().count(), 91);
    }
}
