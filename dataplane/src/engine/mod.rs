//! engine: a STUB that the real one replaces at merge. It keeps the seam that control compiles
//! against, starts one sleeping thread a worker and moves no packet.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::ring::probe::UringFeatures;
use crate::worker::counters::Counters;

/// Which super-packets the tun device hands over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunOffloads {
    /// TCP super-packets.
    pub tso: bool,
    /// UDP super-packets.
    pub uso: bool,
}

/// The I/O backend, decided by control from what the machine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoBackend {
    /// io_uring with these features.
    Uring(UringFeatures),
    /// epoll, recvmmsg and sendmmsg.
    Mmsg,
}

/// One worker's UDP sockets: bound, non-blocking, buffers and options set.
#[derive(Debug)]
pub struct WorkerSockets {
    /// For IPv4 peers.
    pub v4: Option<UdpSocket>,
    /// For IPv6 peers.
    pub v6: Option<UdpSocket>,
}

/// Everything an engine needs; the vectors have one entry a worker.
#[derive(Debug)]
pub struct EngineConfig {
    /// Tun queues: non-blocking, virtio header of 10 bytes always present.
    pub queues: Vec<OwnedFd>,
    /// What the device hands over.
    pub tun_offloads: TunOffloads,
    /// UDP sockets.
    pub sockets: Vec<WorkerSockets>,
    /// The cores to pin to.
    pub cpus: Vec<Option<usize>>,
    /// The peer's endpoint.
    pub peer: SocketAddr,
    /// The backend.
    pub backend: IoBackend,
    /// Send with `UDP_SEGMENT`.
    pub udp_gso: bool,
    /// `UDP_GRO` is set on the sockets.
    pub udp_gro: bool,
    /// Merge received segments before the tun write.
    pub tun_gro: bool,
}

/// Why an engine could not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[error("worker {worker}: {message}")]
pub struct EngineError {
    /// The worker.
    pub worker: usize,
    /// What happened, and what to do.
    pub message: String,
}

/// What the engine says about itself.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// `multishot`, `single-shot` (uring) or `read` (mmsg).
    pub tun_read: String,
    /// `on`, `off`, or `refused: …` with the reason.
    pub udp_gso: String,
}

/// A view of a running engine that other threads may keep and ask.
#[derive(Clone, Debug)]
pub struct EngineView {
    counters: Arc<[Arc<Counters>]>,
    description: Description,
}

impl EngineView {
    /// One set of counters a worker.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// What it is doing now.
    #[must_use]
    pub fn describe(&self) -> Description {
        self.description.clone()
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    view: EngineView,
    threads: Vec<JoinHandle<()>>,
    stop: Sender<()>,
    failures: Receiver<EngineError>,
    _failed: Sender<EngineError>,
}

impl Engine {
    /// Starts one worker a queue.
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let counters: Arc<[Arc<Counters>]> =
            config.queues.iter().map(|_| Arc::new(Counters::default())).collect();
        let (stop, stopped) = bounded::<()>(0);
        let (failed, failures) = bounded(config.queues.len());
        let threads = config
            .queues
            .into_iter()
            .zip(config.sockets)
            .map(|held| {
                let stopped = stopped.clone();
                std::thread::spawn(move || {
                    let _held = held;
                    let _ = stopped.recv();
                })
            })
            .collect();
        let tun_read = match config.backend {
            IoBackend::Uring(features) if features.multishot_read => "multishot",
            IoBackend::Uring(_) => "single-shot",
            IoBackend::Mmsg => "read",
        };
        let udp_gso = if config.udp_gso { "on" } else { "off" };
        let description =
            Description { tun_read: tun_read.to_owned(), udp_gso: udp_gso.to_owned() };
        let view = EngineView { counters, description };
        Ok(Self { view, threads, stop, failures, _failed: failed })
    }

    /// A view for status and metrics.
    #[must_use]
    pub fn view(&self) -> EngineView {
        self.view.clone()
    }

    /// Where a worker's fatal error arrives.
    #[must_use]
    pub fn failed(&self) -> Receiver<EngineError> {
        self.failures.clone()
    }

    /// Stops and joins the workers; their descriptors are closed when this returns.
    pub fn stop(self) {
        drop(self.stop);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
