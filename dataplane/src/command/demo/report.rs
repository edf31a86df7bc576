//! What the demo found out: the document of `--json` and the source of the summary.
//!
//! Version 1; fields are only added within a version.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

use crate::control::status::{Direction, Status};
use crate::lab::LabError;
use crate::lab::traffic::{RoundTripReport, StreamReport, TrafficError};
use crate::worker::counters::DropReason;

const VERSION: u32 = 1;

/// The whole result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: u32,
    /// Traffic passed both ways in every phase.
    pub(super) passed: bool,
    /// Ended by Ctrl-C or SIGTERM.
    pub(super) interrupted: bool,
    /// Why it did not pass.
    pub(super) reason: Option<String>,
    /// The engine's last words, if it failed.
    pub(super) log: Vec<String>,
    pub(super) ringtun: &'static str,
    pub(super) kernel: String,
    pub(super) cpus: usize,
    /// Without root: no forced socket buffers.
    pub(super) user_namespace: bool,
    pub(super) encap: String,
    /// What the user should know about the run itself.
    pub(super) notes: Vec<String>,
    pub(super) phases: Vec<Phase>,
    /// The engines' own last words on themselves.
    pub(super) left: Option<Status>,
    pub(super) right: Option<Status>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Phase {
    /// For programs: `round_trips_idle`, `tcp_1` …
    pub(super) name: String,
    /// For people.
    pub(super) title: String,
    pub(super) streams: Option<StreamReport>,
    pub(super) round_trips: Option<RoundTripReport>,
    pub(super) left: Use,
    pub(super) right: Use,
}

/// What one engine did between two looks at it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Use {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    /// Inner bits, both directions, per second of its CPU time.
    pub(super) gbit_per_cpu_second: Option<f64>,
    pub(super) outbound: Flow,
    pub(super) inbound: Flow,
    /// By reason, the kernel's at the engine's edges included.
    pub(super) drops: BTreeMap<String, u64>,
}

/// One direction of one engine.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Flow {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) packets_per_second: f64,
    pub(super) bits_per_second: f64,
    /// Per tun read or UDP receive.
    pub(super) packets_per_read: Option<f64>,
    /// Per UDP send or tun write.
    pub(super) packets_per_write: Option<f64>,
}

/// Why the demo ended early.
#[derive(Debug, Default)]
pub(super) struct Failure {
    pub(super) interrupted: bool,
    pub(super) reason: String,
    pub(super) log: Vec<String>,
}

impl Failure {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }

    pub(super) fn interrupted() -> Self {
        Self { interrupted: true, reason: "interrupted".to_owned(), log: Vec::new() }
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        Self::because(error.to_string())
    }
}

impl From<TrafficError> for Failure {
    fn from(error: TrafficError) -> Self {
        match error {
            TrafficError::Stopped => Self::interrupted(),
            other => Self::because(other.to_string()),
        }
    }
}

impl Report {
    pub(super) fn new(encap: &str) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            version: VERSION,
            passed: false,
            interrupted: false,
            reason: None,
            log: Vec::new(),
            ringtun: env!("CARGO_PKG_VERSION"),
            kernel: kernel.trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            user_namespace: false,
            encap: encap.to_owned(),
            notes: Vec::new(),
            phases: Vec::new(),
            left: None,
            right: None,
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.interrupted = failure.interrupted;
        self.reason = Some(failure.reason);
        self.log = failure.log;
    }
}

impl Use {
    /// The difference of two looks, `seconds` apart.
    pub(super) fn between(before: &Status, after: &Status, seconds: f64) -> Self {
        let cpu_us = |status: &Status| status.cpu.user_us + status.cpu.system_us;
        let cpu_seconds = cpu_us(after).saturating_sub(cpu_us(before)) as f64 / 1e6;
        let outbound = sum(before, after, |worker| &worker.outbound);
        let inbound = sum(before, after, |worker| &worker.inbound);
        let bits = (outbound.bytes + inbound.bytes) as f64 * 8.0;
        let mut drops = BTreeMap::new();
        let earlier = all_drops(before);
        for (reason, total) in all_drops(after) {
            let new = total.saturating_sub(earlier.get(&reason).copied().unwrap_or(0));
            if new > 0 {
                drops.insert(reason, new);
            }
        }
        Self {
            seconds,
            cpu_seconds,
            gbit_per_cpu_second: (cpu_seconds > 0.0).then(|| bits / 1e9 / cpu_seconds),
            outbound: Flow::from(&outbound, seconds),
            inbound: Flow::from(&inbound, seconds),
            drops,
        }
    }
}

impl Flow {
    fn from(counts: &Direction, seconds: f64) -> Self {
        let per_second = |n: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
        let per = |items: u64| (items > 0).then(|| counts.packets as f64 / items as f64);
        Self {
            packets: counts.packets,
            bytes: counts.bytes,
            packets_per_second: per_second(counts.packets as f64),
            bits_per_second: per_second(counts.bytes as f64 * 8.0),
            packets_per_read: per(counts.reads),
            packets_per_write: per(counts.writes),
        }
    }
}

/// One direction of all workers, `after` less `before`.
fn sum(
    before: &Status,
    after: &Status,
    direction: impl Fn(&crate::control::status::Worker) -> &Direction,
) -> Direction {
    let total = |status: &Status| {
        let workers = status.workers.iter().map(&direction);
        workers.fold(Direction::default(), |sum, one| sum.plus(one))
    };
    total(after).since(&total(before))
}

/// Every drop that an engine knows of, since its start.
pub(super) fn all_drops(status: &Status) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for (reason, packets) in status.workers.iter().flat_map(|worker| &worker.drops) {
        *drops.entry(reason.clone()).or_insert(0) += packets;
    }
    for (reason, packets) in [
        (TUN_QUEUE_FULL, status.kernel_drops.tun_queue_full),
        (SOCKET_BUFFER_FULL, status.kernel_drops.socket_buffer_full),
    ] {
        drops.insert(reason.to_owned(), packets);
    }
    drops.retain(|_, packets| *packets > 0);
    drops
}

const TUN_QUEUE_FULL: &str = "tun_queue_full";
const SOCKET_BUFFER_FULL: &str = "socket_buffer_full";

/// A drop reason in words.
pub(super) fn drop_text(name: &str) -> &str {
    match name {
        TUN_QUEUE_FULL => {
            "by the kernel, outbound: the tun's queue was full, packets came faster than the \
             tunnel carries them (TCP finds its rate this way)"
        }
        SOCKET_BUFFER_FULL => {
            "by the kernel, inbound: the UDP receive buffer was full; a larger \
             net.core.rmem_max helps against bursts"
        }
        _ => DropReason::ALL
            .iter()
            .find(|reason| reason.name() == name)
            .map_or(name, |reason| reason.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{Cpu, Worker};

    fn status(packets: u64, reads: u64, cpu_us: u64, dropped: u64) -> Status {
        let bytes = packets * 1000;
        let outbound = Direction { packets, bytes, reads, writes: reads, ..Direction::default() };
        let mut worker = Worker { outbound, ..Worker::default() };
        worker.drops.insert("send_failed".to_owned(), dropped);
        Status {
            workers: vec![worker.clone(), worker],
            cpu: Cpu { user_us: cpu_us, system_us: 0 },
            ..Status::default()
        }
    }

    #[test]
    fn the_difference_of_two_looks() {
        let used = Use::between(&status(100, 10, 0, 1), &status(1100, 35, 500_000, 3), 2.0);
        assert_eq!(used.outbound.packets, 2000);
        assert_eq!(used.outbound.packets_per_read, Some(40.0));
        assert_eq!(used.inbound.packets_per_read, None);
        assert_eq!(used.outbound.bits_per_second, 8e6);
        assert_eq!(used.drops, BTreeMap::from([("send_failed".to_owned(), 4)]));
        assert_eq!(used.gbit_per_cpu_second, Some(0.032));
    }

    #[test]
    fn an_engine_that_restarted_counts_as_nothing() {
        let used = Use::between(&status(100, 10, 9, 1), &status(0, 0, 0, 0), 1.0);
        assert_eq!((used.outbound.packets, used.drops.len()), (0, 0));
    }

    #[test]
    fn every_reason_has_words() {
        for reason in DropReason::ALL {
            assert_eq!(drop_text(reason.name()), reason.text());
        }
        assert_ne!(drop_text(TUN_QUEUE_FULL), TUN_QUEUE_FULL);
    }
}
