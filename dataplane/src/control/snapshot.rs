//! Gathers one [`Status`]: the workers' counters, the device, the sockets and this process.
//!
//! In: what was decided at start, and views of what changes. Out: a `Status` on demand. It reads
//! counters and asks the kernel a few questions; it never touches a worker.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Instant;

use super::link_watch::{SharedDevice, lock};
use super::netlink::Netlink;
use super::notices::OffloadState;
use super::status::{
    Backend, Cpu, Direction, KernelDrops, Offloads, SocketBuffers, Status, VERSION, Worker,
};
use crate::engine::{EngineView, TunOffloads};
use crate::sys::host as sys;
use crate::worker::counters::{self, Counters, DropReason};

/// What does not change after start.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// When the engine started.
    pub started: Instant,
    /// What travels over the network.
    pub encap: &'static str,
    /// Bound addresses.
    pub listen: Vec<SocketAddr>,
    /// The peer's endpoint, in the clear.
    pub peer: Option<SocketAddr>,
    /// `uring` or `mmsg`.
    pub backend: &'static str,
    /// `multishot`, `single-shot` or `read`.
    pub tun_read: &'static str,
    /// Why that one.
    pub backend_reason: String,
    /// What the tun device hands over.
    pub tun_offloads: TunOffloads,
    /// `UDP_GRO` is on.
    pub udp_gro: bool,
    /// Received segments are merged.
    pub tun_gro: bool,
    /// Granted socket buffers.
    pub buffers: SocketBuffers,
    /// A worker's core.
    pub cpus: Vec<Option<usize>>,
}

/// Everything a status is made of.
#[derive(Debug)]
pub struct Snapshot {
    /// What does not change.
    pub fixed: Fixed,
    /// The workers' counters.
    pub engine: EngineView,
    /// What was refused since.
    pub offloads: OffloadState,
    /// The device as last seen.
    pub device: SharedDevice,
    /// More descriptors of the workers' sockets.
    pub sockets: Vec<UdpSocket>,
    /// Where to ask for the device's own counters.
    pub netlink: Option<Netlink>,
}

impl Snapshot {
    /// The state now.
    pub fn status(&mut self) -> Status {
        let device = lock(&self.device).clone();
        let (user_us, system_us) = sys::process_cpu_us().unwrap_or_default();
        let uptime = self.fixed.started.elapsed();
        Status {
            version: VERSION,
            pid: std::process::id(),
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            encap: self.fixed.encap.to_owned(),
            mtu: device.link.mtu,
            gso_max_size: device.link.gso_max_size,
            tx_queue_len: device.link.tx_queue_len,
            listen: self.fixed.listen.iter().map(ToString::to_string).collect(),
            peer: self.fixed.peer.map(|peer| peer.to_string()),
            backend: Backend {
                name: self.fixed.backend.to_owned(),
                reason: self.fixed.backend_reason.clone(),
                tun_read: self.fixed.tun_read.to_owned(),
            },
            offloads: Offloads {
                tun_tso: self.fixed.tun_offloads.tso,
                tun_uso: self.fixed.tun_offloads.uso,
                udp_gso: self.offloads.udp_gso(),
                udp_gro: self.fixed.udp_gro,
                tun_gro: self.fixed.tun_gro && !self.offloads.merge_refused(),
            },
            socket_buffers: self.fixed.buffers.clone(),
            workers: self.workers(),
            kernel_drops: KernelDrops {
                tun_queue_full: self.tun_queue_drops(device.link.index, device.moved_away),
                socket_buffer_full: self.socket_drops(),
            },
            cpu: Cpu { user_us, system_us },
            memory_bytes: resident_bytes(),
            name: device.link.name,
        }
    }

    fn workers(&self) -> Vec<Worker> {
        let counters = self.engine.counters();
        counters
            .iter()
            .zip(0..)
            .map(|(counters, id)| {
                let cpu = self.fixed.cpus.get(id as usize).copied().flatten();
                let cpu = cpu.and_then(|cpu| u32::try_from(cpu).ok());
                read_worker(id, cpu, counters)
            })
            .collect()
    }

    fn tun_queue_drops(&mut self, index: u32, moved_away: bool) -> u64 {
        let Some(netlink) = self.netlink.as_mut().filter(|_| !moved_away) else { return 0 };
        netlink.link_by_index(index).ok().flatten().map_or(0, |link| link.tx_dropped)
    }

    fn socket_drops(&self) -> u64 {
        let drops = |socket: &UdpSocket| sys::socket_drops(socket.as_fd()).unwrap_or(0);
        self.sockets.iter().map(|socket| u64::from(drops(socket))).sum()
    }
}

fn read_worker(id: u32, cpu: Option<u32>, counters: &Counters) -> Worker {
    let dropped = |reason: &DropReason| (reason.name().to_owned(), counters.dropped(*reason));
    Worker {
        id,
        cpu,
        outbound: read_direction(&counters.outbound),
        inbound: read_direction(&counters.inbound),
        turns: counters.turns.get(),
        sleeps: counters.sleeps.get(),
        bad_checksums: counters.bad_checksums.get(),
        receive_starved: counters.receive_starved.get(),
        gso_refused: counters.gso_refused.get(),
        drops: DropReason::ALL.iter().map(dropped).filter(|(_, count)| *count > 0).collect(),
    }
}

fn read_direction(direction: &counters::Direction) -> Direction {
    Direction {
        packets: direction.packets.get(),
        bytes: direction.bytes.get(),
        reads: direction.reads.get(),
        writes: direction.writes.get(),
    }
}

/// The second word of /proc/self/statm is the resident set in pages.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 =
        statm.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    pages * sys::page_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_reports_what_it_counted_and_no_zero_drops() {
        let counters = Counters::default();
        counters.outbound.packets.add(45);
        counters.outbound.reads.add(1);
        counters.count_drop(DropReason::NotIp, 3);
        let worker = read_worker(1, Some(4), &counters);
        assert_eq!((worker.id, worker.cpu), (1, Some(4)));
        assert_eq!((worker.outbound.packets, worker.outbound.reads), (45, 1));
        assert_eq!(worker.drops.into_iter().collect::<Vec<_>>(), [("not_ip".to_owned(), 3)]);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_bytes() > 100_000);
    }
}
