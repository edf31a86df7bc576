//! `forward`: what `gso_max_size` does to traffic that a tunnel's host forwards.
//!
//! ```text
//! client ── veth, TSO ── gateway ══ ringtun over veth ══ server
//! ```
//!
//! Two tunnels between gateway and server, one with the full size and one with the size matched to
//! one UDP send, each carrying (a) what iperf3 on the gateway sends and (b) what iperf3 on the
//! client sends: four cells. The kernel cuts a forwarded super-packet that is larger than the
//! device's limit into single packets, one tun read each; that is what this shows.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use ringtun::control::gso_size::{FULL, gso_max_size};
use ringtun::control::values::GsoSize;
use ringtun::lab::traffic::Stop;
use ringtun::lab::{Address, Entered, Line, WIRE_MTU};

use crate::competitors::{self, Competitor, End, Engine, Slot, Tunnel};
use crate::environment::Environment;
use crate::figures::Figures;
use crate::pace::Plan;
use crate::provenance::Provenance;
use crate::record::{Journal, Record};
use crate::session::{Session, Turn, iperf3_for};
use crate::statistics::{Spread, median_ratio, quotient};
use crate::table::{Table, disturbed, figure, spread};
use crate::workload::{Route, Workload};
use crate::{Outcome, progress};

/// Outer IPv4 and UDP headers.
const OVERHEAD: u32 = 28;

/// What `forward` is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// Length of one measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// How packets are moved: uring or mmsg
    #[arg(long, value_name = "BACKEND", default_value = "uring", value_parser = ["uring", "mmsg"])]
    io: String,

    /// Appends every run, with iperf3's own output, to this file (NDJSON)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One of the four.
struct Cell {
    name: String,
    /// Which tunnel.
    tunnel: usize,
    forwarded: bool,
}

/// Measures and prints.
pub(crate) fn run(args: &Args, entered: Entered, stop: &Stop) -> Result<Outcome> {
    let line = Line::new()?;
    let matched = gso_max_size(GsoSize::Auto, WIRE_MTU - OVERHEAD, 0, false);
    let sizes = [FULL, matched];
    let iperf3 = iperf3_for(&[Workload::Tcp(1)])?;
    let mut tunnels = Vec::new();
    for (index, size) in (0_u8..).zip(sizes) {
        tunnels.push(start(&line, index, size, &args.io, stop)?);
        progress(&format!("gso_max_size {size}: passes packets"));
    }
    let environment = Environment::look(entered, &line.gateway);
    let cells = cells(sizes);
    let hows: Vec<_> =
        sizes.iter().zip(&tunnels).map(|(size, it)| (size.to_string(), it.how.clone())).collect();
    let mut journal = Journal::open(args.json.as_deref(), &environment, &hows)?;
    for ((name, _), tunnel) in hows.iter().zip(&tunnels) {
        journal.tunnel(name, &Provenance::of(tunnel))?;
    }
    let runs = usize::from(args.rounds) * cells.len();
    let plan = Plan::default().and(runs, Workload::Tcp(1).lasts(args.seconds));
    let mut session = Session::new(iperf3, args.seconds, plan, journal, stop);
    rounds(args.rounds, &line, &cells, &mut tunnels, &mut session)?;
    session.pace.clear();
    print(args, &environment, &hows, &cells, &session.records)?;
    Ok(session.outcome())
}

fn rounds(
    rounds: u16,
    line: &Line,
    cells: &[Cell],
    tunnels: &mut [Tunnel],
    session: &mut Session<'_>,
) -> Result<()> {
    for round in 0..usize::from(rounds) {
        for position in 0..cells.len() {
            let cell = &cells[(position + round) % cells.len()];
            let tunnel = &mut tunnels[cell.tunnel];
            let from = cell.forwarded.then(|| client_address(cell.tunnel));
            let client = if cell.forwarded { &line.client } else { &line.gateway };
            let route = Route { client, server: &line.server, to: tunnel.to, from };
            let workload = &Workload::Tcp(1);
            let turn = Turn { competitor: &cell.name, workload, round, position };
            session.run(turn, tunnel, &route)?;
            if session.stop.raised() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn cells(sizes: [u32; 2]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for forwarded in [false, true] {
        for (tunnel, size) in sizes.iter().enumerate() {
            let whose = if forwarded { "forwarded" } else { "local" };
            cells.push(Cell { name: format!("{whose}, {size}"), tunnel, forwarded });
        }
    }
    cells
}

/// The client has an address for each tunnel: by it, the server's answers find the same tunnel.
fn client_address(tunnel: usize) -> IpAddr {
    let last = if tunnel == 0 { 10 } else { 11 };
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, last))
}

fn start(line: &Line, index: u8, size: u32, io: &str, stop: &Stop) -> Result<Tunnel> {
    let gateway = End { host: &line.gateway, wire: Line::GATEWAY_OUTSIDE[0].ip, underlay: "eth1" };
    let server = End { host: &line.server, wire: Line::SERVER[0].ip, underlay: "eth0" };
    let slot = Slot { ends: [gateway, server], index, stop };
    let name = format!("gso_max_size {size}");
    let size = size.to_string();
    let flags = ["--io", io, "--workers", "1", "--gso-max-size", &size];
    let engine: &dyn Competitor = &Engine::of_this_build(&name, &flags);
    let tunnel = competitors::start(engine, &slot).context(name)?;
    let from = client_address(usize::from(index));
    line.client.add_address("eth0", Address { ip: from, prefix_len: 24 })?;
    let back = Address { ip: from, prefix_len: 32 };
    line.server.set_route(back, None, Some(&slot.device(1)))?;
    Ok(tunnel)
}

fn print(
    args: &Args,
    environment: &Environment,
    hows: &[(String, String)],
    cells: &[Cell],
    records: &[Record],
) -> Result<()> {
    let columns = [
        "one TCP stream, gso_max_size",
        "Gb/s",
        "× full size",
        "packets/tun read",
        "sends/tun read",
        "Gbit/daemon CPU-s",
        "Gbit/busy CPU-s",
        "~",
    ];
    let mut table = Table::new(&columns);
    let mut notes = String::new();
    for cell in cells {
        let full = cells.iter().find(|it| it.forwarded == cell.forwarded && it.tunnel == 0);
        let base = full.map(|full| values(&full.name, records)).unwrap_or_default();
        table.push(row(&cell.name, records, &base));
        let of_cell = records.iter().filter(|record| record.competitor == cell.name);
        for error in of_cell.filter_map(|record| record.error.as_ref()) {
            notes.push_str(&format!("{}: a run FAILED: {error}\n", cell.name));
        }
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}", environment.text())?;
    for (size, how) in hows {
        writeln!(out, "{size:<8} {how}")?;
    }
    writeln!(
        out,
        "\n{}{notes}\nMedian [min–max] of {} rounds of {} s, interleaved. Reads and sends are \
         those of the gateway's engine, from its control socket.",
        table.text(),
        args.rounds,
        args.seconds
    )?;
    Ok(())
}

fn good<'a>(
    name: &'a str,
    records: &'a [Record],
) -> impl Iterator<Item = (&'a Record, &'a Figures)> {
    let of_cell = records.iter().filter(move |record| record.competitor == name);
    of_cell.filter_map(|record| Some((record, record.figures.as_ref()?)))
}

fn values(name: &str, records: &[Record]) -> Vec<(usize, f64)> {
    good(name, records).map(|(record, figures)| (record.round, figures.value())).collect()
}

fn row(name: &str, records: &[Record], base: &[(usize, f64)]) -> Vec<String> {
    let values = values(name, records);
    let gbps = Spread::of(values.iter().map(|(_, value)| *value));
    let (mut packets, mut reads, mut sends) = (0, 0, 0);
    let (mut gbit, mut daemon, mut busy) = (0.0, 0.0, 0.0);
    for (record, figures) in good(name, records) {
        // The left engine: the gateway's.
        if let Some(engine) = record.engines.first() {
            let outbound = engine.outbound();
            packets += outbound.packets;
            reads += outbound.reads;
            sends += outbound.writes;
        }
        if let Figures::Stream(received) = figures {
            gbit += received.gbit();
        }
        daemon += record.cost.daemon_cpu_seconds;
        busy += record.cost.busy_cpu_seconds;
    }
    let marked = good(name, records).filter(|(record, _)| record.disturbed).count();
    vec![
        name.to_owned(),
        spread(gbps),
        figure(median_ratio(&values, base).map(|ratio| ratio.median)),
        figure(quotient(packets as f64, reads as f64)),
        figure(quotient(sends as f64, reads as f64)),
        figure(quotient(gbit, daemon)),
        figure(quotient(gbit, busy)),
        disturbed(marked, values.len()),
    ]
}
