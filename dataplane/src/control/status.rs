//! The live state of one engine as its control socket tells it: versioned JSON.
//!
//! One request line (`status`), one response line. Fields are only ever added within a version;
//! a reader ignores what it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of this schema.
pub const VERSION: u32 = 1;

/// The whole answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The interface's name now.
    pub name: String,
    /// The engine's process.
    pub pid: u32,
    /// Milliseconds since the engine started.
    pub uptime_ms: u64,
    /// `plain` or `wireguard`.
    pub encap: String,
    /// The tun device's MTU in bytes.
    pub mtu: u32,
    /// The tun device's `gso_max_size` in bytes; 0 when the kernel would not take one.
    pub gso_max_size: u32,
    /// The tun device's transmit queue length in packets.
    pub tx_queue_len: u32,
    /// Bound UDP addresses.
    pub listen: Vec<String>,
    /// The peer's endpoint.
    pub peer: Option<String>,
    /// Which I/O backend moves the packets, and why that one.
    pub backend: Backend,
    /// What encrypts the packets; none in the clear.
    pub aead: Option<Aead>,
    /// Offloads in use.
    pub offloads: Offloads,
    /// How outbound flows find their tun queue: `one queue`, `kernel program`, or `learned`.
    pub flow_steering: String,
    /// How peers find their worker: `one worker`, `receiver index`, or `address hash`.
    pub peer_steering: String,
    /// Whether transfers that keep the tun queues waiting are told: `managed`, `off`, or `refused`
    /// by the kernel, which has to take a program for it.
    pub tun_queue: String,
    /// UDP socket buffers as the kernel granted them, in bytes (one socket).
    pub socket_buffers: SocketBuffers,
    /// One entry a worker.
    pub workers: Vec<Worker>,
    /// WireGuard's peers, in the order they were added.
    pub peers: Vec<Peer>,
    /// WireGuard handshakes, of either end, that found the session table full.
    pub refused_handshakes: u64,
    /// Packets that the kernel dropped before or after us.
    pub kernel_drops: KernelDrops,
    /// CPU time of this process so far (all threads), in microseconds.
    pub cpu: Cpu,
    /// Resident memory of this process, in bytes.
    pub memory_bytes: u64,
}

/// A WireGuard peer, without secrets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// Who, in base64.
    pub public_key: String,
    /// Whether there is a preshared key.
    pub preshared_key: bool,
    /// Where it is, if known.
    pub endpoint: Option<String>,
    /// What may come from it and goes to it.
    pub allowed_ips: Vec<String>,
    /// When the last handshake was completed, in seconds since the Unix epoch.
    pub last_handshake_s: Option<u64>,
    /// Seconds; 0 is off.
    pub persistent_keepalive_s: u16,
    /// Bytes received from it, as on the wire.
    pub received_bytes: u64,
    /// Bytes sent to it, as on the wire.
    pub sent_bytes: u64,
}

/// The I/O backend in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Backend {
    /// `uring` or `mmsg`.
    pub name: String,
    /// Why this one, in words.
    pub reason: String,
    /// `multishot`, `single-shot` (uring) or `read` (mmsg).
    pub tun_read: String,
}

/// The AEAD in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Aead {
    /// `ring`, or `ipsec-mb` with its version and instruction set.
    pub name: String,
    /// Why this one, in words.
    pub reason: String,
}

/// Offloads in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Offloads {
    /// The tun hands over TCP super-packets.
    pub tun_tso: bool,
    /// The tun hands over UDP super-packets.
    pub tun_uso: bool,
    /// `on`, `off`, or `refused: …` with the reason.
    pub udp_gso: String,
    /// The UDP socket delivers coalesced datagrams.
    pub udp_gro: bool,
    /// Received segments are merged before the tun write.
    pub tun_gro: bool,
}

/// Granted socket buffers, in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SocketBuffers {
    /// Asked for, each way.
    pub wanted_bytes: u64,
    /// SO_RCVBUF as granted.
    pub receive_bytes: u64,
    /// SO_SNDBUF as granted.
    pub send_bytes: u64,
}

/// One direction of one worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Direction {
    /// Wire packets handed on.
    pub packets: u64,
    /// Bytes of the inner IP packets.
    pub bytes: u64,
    /// Items the kernel delivered (tun reads, UDP receives).
    pub reads: u64,
    /// Items handed to the kernel (UDP sends, tun writes).
    pub writes: u64,
    /// How many of `reads` brought 1, 2, 3–4, 5–8, 9–16, 17–32, 33–64, and more packets; drops and
    /// messages without a packet are among them.
    pub read_sizes: Vec<u64>,
    /// How many of `writes` carried so many packets, likewise.
    pub write_sizes: Vec<u64>,
}

impl Direction {
    /// What both counted, as of two workers.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// What was counted since `before`; nothing where that is not less, as after a restart.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    fn with(&self, other: &Self, combine: fn(u64, u64) -> u64) -> Self {
        let sizes = |ours: &[u64], others: &[u64]| {
            let of = |all: &[u64], size| all.get(size).copied().unwrap_or_default();
            let count = ours.len().max(others.len());
            (0..count).map(|size| combine(of(ours, size), of(others, size))).collect()
        };
        Self {
            packets: combine(self.packets, other.packets),
            bytes: combine(self.bytes, other.bytes),
            reads: combine(self.reads, other.reads),
            writes: combine(self.writes, other.writes),
            read_sizes: sizes(&self.read_sizes, &other.read_sizes),
            write_sizes: sizes(&self.write_sizes, &other.write_sizes),
        }
    }
}

/// One worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// 0, 1, 2 …
    pub id: u32,
    /// The core it is pinned to.
    pub cpu: Option<u32>,
    /// tun → wire.
    pub outbound: Direction,
    /// wire → tun.
    pub inbound: Direction,
    /// Turns of its loop.
    pub turns: u64,
    /// Those of them that had nothing left to do and would have slept had nothing come; fewer did.
    pub sleeps: u64,
    /// Times that it looked for packets instead of sleeping …
    pub polls: u64,
    /// … and found some.
    pub polls_won: u64,
    /// Segments passed on with a wrong inner checksum.
    pub bad_checksums: u64,
    /// Receives that ran out of buffers.
    pub receive_starved: u64,
    /// Receives marked as having met congestion (ECN).
    pub ecn_marks: u64,
    /// Batches that another worker opened or sealed for this one.
    pub handed_over: u64,
    /// Batches that this worker opened or sealed for others.
    pub helped: u64,
    /// Sends repeated unsegmented.
    pub gso_refused: u64,
    /// Dropped packets by reason (`worker::counters::DropReason::name`); zero ones left out.
    pub drops: BTreeMap<String, u64>,
}

/// Drops by the kernel at our edges.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelDrops {
    /// The tun's queue was full: packets sent into the tunnel faster than it carries them.
    pub tun_queue_full: u64,
    /// The UDP receive buffers were full.
    pub socket_buffer_full: u64,
}

/// CPU time in microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// In user mode.
    pub user_us: u64,
    /// In the kernel.
    pub system_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_added_and_subtracted_figure_by_figure() {
        let direction = |n: u64, sizes: &[u64]| Direction {
            packets: n,
            bytes: 2 * n,
            reads: 3 * n,
            writes: 4 * n,
            read_sizes: sizes.to_vec(),
            write_sizes: vec![n],
        };
        let sum = direction(1, &[1, 2]).plus(&direction(10, &[10, 20, 30]));
        assert_eq!((sum.packets, sum.bytes, sum.reads, sum.writes), (11, 22, 33, 44));
        assert_eq!((sum.read_sizes, sum.write_sizes), (vec![11, 22, 30], vec![11]));
        // Of an engine that did not count by size, and of one that was started again.
        let rise = direction(10, &[10, 20]).since(&direction(4, &[]));
        assert_eq!((rise.packets, rise.read_sizes), (6, vec![10, 20]));
        assert_eq!(direction(1, &[1]).since(&direction(2, &[2])).read_sizes, [0]);
    }

    #[test]
    fn an_older_engine_is_understood() {
        let text = r#"{"packets":1,"bytes":2,"reads":3,"writes":4,"of_tomorrow":5}"#;
        let direction: Direction = serde_json::from_str(text).unwrap();
        assert_eq!((direction.reads, direction.read_sizes), (3, Vec::new()));
    }
}
