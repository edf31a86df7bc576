//! `ringtun show`: what the tunnels on this machine do.
//!
//! In: the control sockets of running engines. Out: a summary for people, or with `--json` the
//! status as it is: one object for a name, an array of all without one.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::exit::Exit;
use crate::control::socket::{self, SocketError};
use crate::control::status::{Direction, Peer, Status};
use crate::control::values::InterfaceName;
use crate::worker::counters::DropReason;

/// Options of `ringtun show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the tunnel [default: all that run]
    name: Option<InterfaceName>,

    /// Print JSON (versioned; fields are only added) instead of a summary
    #[arg(long)]
    json: bool,
}

/// Prints the state of one tunnel or of all.
pub fn run(args: &Args) -> Result<Exit> {
    let mut out = io::stdout().lock();
    if let Some(name) = &args.name {
        let status = socket::query(&socket::path_of(name))?;
        if args.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
        } else {
            write!(out, "{}", summary(&status))?;
        }
        return Ok(Exit::Ok);
    }
    let statuses = all()?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&statuses)?)?;
    } else if statuses.is_empty() {
        writeln!(out, "no tunnel runs here (looked in {})", socket::run_dir().display())?;
    } else {
        let summaries: Vec<String> = statuses.iter().map(summary).collect();
        write!(out, "{}", summaries.join("\n"))?;
    }
    Ok(Exit::Ok)
}

fn all() -> Result<Vec<Status>> {
    let paths =
        socket::list().with_context(|| format!("cannot list {}", socket::run_dir().display()))?;
    let mut statuses = Vec::new();
    for path in paths {
        match ask(&path)? {
            Some(status) => statuses.push(status),
            None => tracing::debug!(path = %path.display(), "nobody answers: left behind"),
        }
    }
    Ok(statuses)
}

/// None for a socket that a killed engine left behind.
fn ask(path: &Path) -> Result<Option<Status>, SocketError> {
    match socket::query(path) {
        Ok(status) => Ok(Some(status)),
        Err(SocketError::Absent { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The state of one tunnel in words.
#[must_use]
pub fn summary(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = describe(status, &mut text);
    text
}

/// Peers shown as text.
const PEERS_SHOWN: usize = 20;

fn describe_peer(peer: &Peer, out: &mut String) -> std::fmt::Result {
    let endpoint = peer.endpoint.as_deref().unwrap_or("an unknown endpoint");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let handshake = peer.last_handshake_s.map_or_else(
        || "no handshake yet".to_owned(),
        |at| format!("last handshake {} s ago", now.saturating_sub(at)),
    );
    writeln!(
        out,
        "  peer        {} at {endpoint}, {handshake}, {} bytes in, {} out, allowed {}",
        peer.public_key,
        peer.received_bytes,
        peer.sent_bytes,
        if peer.allowed_ips.is_empty() {
            "nothing".to_owned()
        } else {
            peer.allowed_ips.join(", ")
        },
    )
}

fn describe(status: &Status, out: &mut String) -> std::fmt::Result {
    let seconds = (status.uptime_ms as f64 / 1_000.0).max(0.001);
    let peer = match (&status.peer, status.peers.len()) {
        (Some(peer), _) => format!(" to {peer}"),
        (None, 1) => ", 1 peer".to_owned(),
        (None, count) => format!(", {count} peers"),
    };
    writeln!(out, "{}: {}{peer}, up {}", status.name, status.encap, duration(seconds))?;
    let listen = match status.listen.join(", ") {
        none if none.is_empty() => "nowhere: the link is down".to_owned(),
        listen => listen,
    };
    writeln!(out, "  listening   {listen} (pid {})", status.pid)?;
    describe_peers(status, out)?;
    writeln!(
        out,
        "  device      MTU {}, gso_max_size {}, txqueuelen {}",
        status.mtu, status.gso_max_size, status.tx_queue_len
    )?;
    let backend = &status.backend;
    writeln!(
        out,
        "  backend     {}, tun by {}: {}",
        backend.name, backend.tun_read, backend.reason
    )?;
    if let Some(aead) = &status.aead {
        writeln!(out, "  encryption  {}: {}", aead.name, aead.reason)?;
    }
    let offloads = &status.offloads;
    let on_off = |on: bool| if on { "on" } else { "off" };
    writeln!(
        out,
        "  offloads    tun TSO {}, tun USO {}, UDP GSO {}, UDP GRO {}, merging {}",
        on_off(offloads.tun_tso),
        on_off(offloads.tun_uso),
        offloads.udp_gso,
        on_off(offloads.udp_gro),
        on_off(offloads.tun_gro),
    )?;
    let buffers = &status.socket_buffers;
    let clipped = buffers.receive_bytes.min(buffers.send_bytes) < buffers.wanted_bytes;
    writeln!(
        out,
        "  buffers     {} to receive, {} to send{}",
        bytes(buffers.receive_bytes),
        bytes(buffers.send_bytes),
        if clipped {
            format!(
                " (wanted {}: clipped by net.core.rmem_max, wmem_max)",
                bytes(buffers.wanted_bytes)
            )
        } else {
            String::new()
        }
    )?;
    let outbound = total(status.workers.iter().map(|worker| &worker.outbound));
    let inbound = total(status.workers.iter().map(|worker| &worker.inbound));
    describe_direction(out, "outbound", &outbound, seconds)?;
    describe_direction(out, "inbound", &inbound, seconds)?;
    describe_workers(status, out)?;
    describe_process(status, out, seconds)?;
    describe_drops(status, out)
}

fn describe_peers(status: &Status, out: &mut String) -> std::fmt::Result {
    for peer in status.peers.iter().take(PEERS_SHOWN) {
        describe_peer(peer, out)?;
    }
    if status.peers.len() > PEERS_SHOWN {
        let more = status.peers.len() - PEERS_SHOWN;
        writeln!(out, "  peer        {more} more (`--json` or `wg show` has all)")?;
    }
    Ok(())
}

fn describe_direction(
    out: &mut String,
    name: &str,
    sum: &Direction,
    seconds: f64,
) -> std::fmt::Result {
    let per_second = |count: u64| count as f64 / seconds;
    writeln!(
        out,
        "  {name:<11} {} packets, {} ({}bit/s, {}packets/s on average); {:.1} packets a read, \
         {:.1} a write",
        sum.packets,
        bytes(sum.bytes),
        scaled(per_second(sum.bytes) * 8.0),
        scaled(per_second(sum.packets)),
        ratio(sum.packets, sum.reads),
        ratio(sum.packets, sum.writes),
    )
}

fn describe_workers(status: &Status, out: &mut String) -> std::fmt::Result {
    for worker in &status.workers {
        let core = worker.cpu.map_or_else(|| "any core".to_owned(), |cpu| format!("core {cpu}"));
        writeln!(
            out,
            "  worker {:<4} {core}: {} packets out, {} in, {} turns, {} of them ready to sleep",
            worker.id, worker.outbound.packets, worker.inbound.packets, worker.turns, worker.sleeps
        )?;
    }
    match status.flow_steering.as_str() {
        "kernel program" => {
            writeln!(out, "  flows       to the workers by a program in the kernel")?;
        }
        "learned" => {
            writeln!(out, "  flows       to the workers by what they remember (no right to bpf)")?;
        }
        _ => {}
    }
    match status.peer_steering.as_str() {
        "receiver index" => {
            writeln!(
                out,
                "  peers       to the workers by receiver index, a program in the kernel"
            )?;
        }
        "address hash" if !status.peers.is_empty() => {
            writeln!(out, "  peers       to the workers by a hash of their addresses")?;
        }
        _ => {}
    }
    if status.tun_queue == "refused" {
        let why = "the kernel refuses the program (right to bpf, Linux 5.12)";
        writeln!(out, "  tun queue   transfers that wait in it are not told: {why}")?;
    }
    Ok(())
}

fn describe_process(status: &Status, out: &mut String, seconds: f64) -> std::fmt::Result {
    let cpu_seconds = |micros: u64| micros as f64 / 1_000_000.0;
    let busy = cpu_seconds(status.cpu.user_us) + cpu_seconds(status.cpu.system_us);
    writeln!(
        out,
        "  process     {:.2} s CPU ({:.1} % of a core on average), {} resident",
        busy,
        100.0 * busy / seconds,
        bytes(status.memory_bytes)
    )
}

fn describe_drops(status: &Status, out: &mut String) -> std::fmt::Result {
    let mut lines = Vec::new();
    for reason in DropReason::ALL {
        let of = |worker: &crate::control::status::Worker| worker.drops.get(reason.name()).copied();
        lines.push((status.workers.iter().filter_map(of).sum::<u64>(), reason.text()));
    }
    let sum = |field: fn(&crate::control::status::Worker) -> u64| -> u64 {
        status.workers.iter().map(field).sum()
    };
    let kernel = &status.kernel_drops;
    lines.push((
        kernel.tun_queue_full,
        "outbound, by the kernel: the device's queue was full, more was sent into the tunnel than \
         it carries",
    ));
    lines.push((
        kernel.socket_buffer_full,
        "inbound, by the kernel: the UDP socket's buffer was full",
    ));
    let lines: Vec<_> = lines.into_iter().filter(|(count, _)| *count > 0).collect();
    if lines.is_empty() {
        writeln!(out, "  dropped     nothing")?;
    }
    for (count, text) in lines {
        writeln!(out, "  dropped     {count}: {text}")?;
    }
    let notes = [
        (
            status.refused_handshakes,
            "handshakes refused, the session table is full; sessions that stand go on",
        ),
        (
            sum(|worker| worker.bad_checksums),
            "arrived with a wrong inner checksum, passed on as is",
        ),
        (sum(|worker| worker.receive_starved), "receives paused for want of buffers, nothing lost"),
        (
            sum(|worker| worker.ecn_marks),
            "receives and frames marked (ECN), so that a transfer slows down",
        ),
        (
            sum(|worker| worker.handed_over),
            "batches opened or sealed by a worker other than their own",
        ),
        (sum(|worker| worker.gso_refused), "sends repeated packet by packet, UDP_SEGMENT refused"),
    ];
    for (count, text) in notes.iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "  noted       {count}: {text}")?;
    }
    Ok(())
}

fn total<'a>(directions: impl Iterator<Item = &'a Direction>) -> Direction {
    directions.fold(Direction::default(), |sum, one| sum.plus(one))
}

fn ratio(packets: u64, calls: u64) -> f64 {
    if calls == 0 { 0.0 } else { packets as f64 / calls as f64 }
}

/// `8.53 G`, with a decimal unit prefix.
fn scaled(value: f64) -> String {
    let (divisor, prefix) = match value {
        value if value >= 1e9 => (1e9, "G"),
        value if value >= 1e6 => (1e6, "M"),
        value if value >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    };
    format!("{:.2} {prefix}", value / divisor)
}

/// `7.0 MiB`, with a binary unit.
fn bytes(count: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} bytes"),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds >= 172_800.0 => format!("{:.1} days", seconds / 86_400.0),
        seconds if seconds >= 7_200.0 => format!("{:.1} hours", seconds / 3_600.0),
        seconds if seconds >= 120.0 => format!("{:.1} minutes", seconds / 60.0),
        _ => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{Aead, KernelDrops, SocketBuffers, Worker};

    fn busy() -> Status {
        let mut worker = Worker { id: 0, cpu: Some(1), ..Worker::default() };
        worker.outbound = Direction {
            packets: 4_500,
            bytes: 6_000_000,
            reads: 100,
            writes: 100,
            ..Direction::default()
        };
        worker.drops.insert("unknown_source".to_owned(), 12);
        Status {
            name: "rt0".to_owned(),
            uptime_ms: 1_000,
            encap: "plain".to_owned(),
            peer: Some("192.0.2.2:51820".to_owned()),
            workers: vec![worker.clone(), worker],
            kernel_drops: KernelDrops { tun_queue_full: 5, socket_buffer_full: 0 },
            socket_buffers: SocketBuffers {
                wanted_bytes: 7 << 20,
                receive_bytes: 212_992,
                send_bytes: 7 << 20,
            },
            ..Status::default()
        }
    }

    #[test]
    fn a_summary_says_rates_and_drops_in_words() {
        let text = summary(&busy());
        assert!(text.starts_with("rt0: plain to 192.0.2.2:51820, up 1.0 s\n"), "{text}");
        assert!(text.contains("9000 packets"), "{text}");
        assert!(text.contains("96.00 Mbit/s"), "{text}");
        assert!(text.contains("45.0 packets a read"), "{text}");
        assert!(text.contains("24: inbound: the datagram does not come from the configured peer"));
        assert!(text.contains("5: outbound, by the kernel"), "{text}");
        assert!(text.contains("clipped"), "{text}");
    }

    #[test]
    fn a_summary_says_what_encrypts_if_anything_does() {
        let aead = Aead { name: "ring".to_owned(), reason: "asked for".to_owned() };
        let text = summary(&Status { aead: Some(aead), ..busy() });
        assert!(text.contains("\n  encryption  ring: asked for\n"), "{text}");
        assert!(!summary(&busy()).contains("encryption"));
    }

    #[test]
    fn an_idle_tunnel_divides_by_nothing() {
        let text = summary(&Status::default());
        assert!(text.contains("dropped     nothing"), "{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(scaled(8.53e9), "8.53 G");
        assert_eq!(bytes(7 << 20), "7.0 MiB");
        assert_eq!(bytes(17), "17 bytes");
        assert_eq!(duration(86_400.0), "24.0 hours");
    }
}
