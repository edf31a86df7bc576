//! Gathers one [`Status`]: the workers' counters, the device, the sockets and this process.
//!
//! In: what was decided at start, and views of what changes. Out: a `Status` on demand. It reads
//! counters and asks the kernel a few questions; it never touches a worker.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::device::{DeviceHandle, SharedRunning, lock_running};
use super::link_watch::{SharedDevice, lock};
use super::netlink::Netlink;
use super::notices::OffloadState;
use super::status::{
    self, Backend, Cpu, Direction, KernelDrops, Offloads, Status, VERSION, Worker,
};
use super::uapi::Device;
use crate::engine::{EngineView, TunOffloads};
use crate::protocol::config::PeerView;
use crate::sys::host as sys;
use crate::worker::counters::{self, Calls, Counters, DropReason};

/// What does not change after start.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// When the engine started.
    pub started: Instant,
    /// What travels over the network.
    pub encap: &'static str,
    /// The peer's endpoint, in the clear.
    pub peer: Option<SocketAddr>,
    /// `uring` or `mmsg`.
    pub backend: &'static str,
    /// `multishot`, `single-shot` or `read`.
    pub tun_read: &'static str,
    /// Why that one.
    pub backend_reason: String,
    /// What encrypts the packets, and why that.
    pub aead: Option<status::Aead>,
    /// What the tun device hands over.
    pub tun_offloads: TunOffloads,
    /// Received segments are merged.
    pub tun_gro: bool,
    /// A worker's core.
    pub cpus: Vec<Option<usize>>,
}

/// Who moves the packets now, and for which peers.
pub struct Workers {
    /// The engine, unless the link is down.
    pub running: SharedRunning,
    /// WireGuard's peers.
    pub device: Option<DeviceHandle>,
}

/// Everything a status is made of.
pub struct Snapshot {
    /// What does not change.
    pub fixed: Fixed,
    /// Who moves the packets.
    pub workers: Workers,
    /// What was refused since.
    pub offloads: OffloadState,
    /// The device as last seen.
    pub device: SharedDevice,
    /// Where to ask for the device's own counters.
    pub netlink: Option<Netlink>,
}

impl Snapshot {
    /// The state now.
    pub fn status(&mut self) -> Status {
        let device = lock(&self.device).clone();
        // Before the lock, which the device's thread takes to answer.
        let (peers, refused_handshakes) = self.peers();
        let running = Arc::clone(&self.workers.running);
        let running = lock_running(&running);
        let running = running.as_ref();
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
            listen: running.map_or_else(Vec::new, |running| {
                running.listen.iter().map(ToString::to_string).collect()
            }),
            peer: self.fixed.peer.map(|peer| peer.to_string()),
            backend: Backend {
                name: self.fixed.backend.to_owned(),
                reason: self.fixed.backend_reason.clone(),
                tun_read: self.fixed.tun_read.to_owned(),
            },
            aead: self.fixed.aead.clone(),
            offloads: Offloads {
                tun_tso: self.fixed.tun_offloads.tso,
                tun_uso: self.fixed.tun_offloads.uso,
                udp_gso: self.offloads.udp_gso(),
                udp_gro: running.is_some_and(|running| running.udp_gro),
                tun_gro: self.fixed.tun_gro && !self.offloads.merge_refused(),
            },
            flow_steering: running
                .map_or_else(String::new, |running| running.view.flow_steering().to_owned()),
            tun_queue: running
                .map_or_else(String::new, |running| running.view.tun_queue().to_owned()),
            peer_steering: running
                .map_or_else(String::new, |running| running.peer_steering.to_owned()),
            socket_buffers: running.map(|running| running.buffers.clone()).unwrap_or_default(),
            workers: running.map_or_else(Vec::new, |running| self.workers(&running.view)),
            peers,
            refused_handshakes,
            kernel_drops: KernelDrops {
                tun_queue_full: self.tun_queue_drops(device.link.index, device.moved_away),
                socket_buffer_full: running.map_or(0, |running| socket_drops(&running.sockets)),
            },
            cpu: Cpu { user_us, system_us },
            memory_bytes: resident_bytes(),
            name: device.link.name,
        }
    }

    /// The peers, and the handshakes that were refused.
    fn peers(&self) -> (Vec<status::Peer>, u64) {
        let status = self.workers.device.as_ref().and_then(|device| device.get().ok());
        let Some(status) = status else { return (Vec::new(), 0) };
        (status.view.peers.iter().map(read_peer).collect(), status.view.refused_handshakes)
    }

    fn workers(&self, view: &EngineView) -> Vec<Worker> {
        let counters = view.counters();
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
}

fn socket_drops(sockets: &[UdpSocket]) -> u64 {
    let drops = |socket: &UdpSocket| sys::socket_drops(socket.as_fd()).unwrap_or(0);
    sockets.iter().map(|socket| u64::from(drops(socket))).sum()
}

fn read_peer(peer: &PeerView) -> status::Peer {
    status::Peer {
        public_key: peer.public_key.to_string(),
        preshared_key: !peer.preshared_key.is_none(),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
        allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
        last_handshake_s: peer.last_handshake.map(|time| time.as_secs()),
        persistent_keepalive_s: peer.persistent_keepalive_s,
        received_bytes: peer.received_bytes,
        sent_bytes: peer.sent_bytes,
    }
}

fn read_worker(id: u32, cpu: Option<u32>, counters: &Counters) -> Worker {
    let dropped = |reason: &DropReason| (reason.name().to_owned(), counters.dropped(*reason));
    Worker {
        id,
        cpu,
        outbound: read_direction(&counters.outbound, counters.tun_reads(), counters.sends()),
        inbound: read_direction(&counters.inbound, counters.receives(), counters.tun_writes()),
        turns: counters.turns.get(),
        sleeps: counters.sleeps.get(),
        polls: counters.polls.get(),
        polls_won: counters.polls_won.get(),
        bad_checksums: counters.bad_checksums.get(),
        receive_starved: counters.receive_starved.get(),
        ecn_marks: counters.ecn_marks.get(),
        handed_over: counters.handed_over.get(),
        helped: counters.helped.get(),
        gso_refused: counters.gso_refused.get(),
        drops: DropReason::ALL.iter().map(dropped).filter(|(_, count)| *count > 0).collect(),
    }
}

fn read_direction(
    direction: &counters::Direction,
    reads: Calls<'_>,
    writes: Calls<'_>,
) -> Direction {
    // Each is looked at once, so that the sum fits.
    let (reads, writes) = (reads.by_size(), writes.by_size());
    Direction {
        packets: direction.packets.get(),
        bytes: direction.bytes.get(),
        reads: reads.iter().sum(),
        writes: writes.iter().sum(),
        read_sizes: reads.to_vec(),
        write_sizes: writes.to_vec(),
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
        counters.tun_reads().count(40);
        counters.tun_reads().count(5);
        counters.sends().count(45);
        counters.count_drop(DropReason::NotIp, 3);
        let worker = read_worker(1, Some(4), &counters);
        assert_eq!((worker.id, worker.cpu), (1, Some(4)));
        let outbound = worker.outbound;
        assert_eq!((outbound.packets, outbound.reads, outbound.writes), (45, 2, 1));
        assert_eq!(outbound.read_sizes, [0, 0, 0, 1, 0, 0, 1, 0]);
        assert_eq!(outbound.write_sizes, [0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(worker.drops.into_iter().collect::<Vec<_>>(), [("not_ip".to_owned(), 3)]);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_bytes() > 100_000);
    }
}
