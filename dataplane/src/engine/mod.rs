//! Starts and stops the workers, and knows what they are made of.
//!
//! In: an open device, bound sockets and choices already made ([`EngineConfig`]). Out: threads
//! that forward packets until [`Engine::stop`], an [`EngineView`] with their figures, and news
//! when something changes that the user should know.

pub mod aead;
pub mod backend;

use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::debug;

pub use crate::io::BusyPoll;
use crate::io::counters::Counters;
pub use crate::io::outbox::Notice;
use crate::io::{Claims, Files, IoError};
use crate::packet::merge::MergeConfig;
use crate::sys;
use crate::sys::tun_stamps::TunStamps;
use crate::table::Shared;
use crate::worker::handover::{Exchange, Wake};
use crate::worker::inbound::Inbound;
use crate::worker::outbound::Outbound;
use crate::worker::path::Path;
use crate::worker::steering::Steering;
pub use crate::worker::wireguard::ToControl;
use crate::worker::wireguard::{Job, WireGuard};
pub use aead::AeadLibrary;
pub use backend::BackendChoice;

/// News waiting for control at most; more are lost, and counted nowhere: they only inform.
const NOTICES_MAX: usize = 64;

/// Which super-packets the tun device exchanges with us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunOffloads {
    /// TCP super-packets.
    pub tso: bool,
    /// UDP super-packets.
    pub uso: bool,
}

/// One worker's UDP sockets: bound, non-blocking, buffers and options set.
#[derive(Debug, Default)]
pub struct WorkerSockets {
    /// For IPv4 peers.
    pub v4: Option<UdpSocket>,
    /// For IPv6 peers.
    pub v6: Option<UdpSocket>,
    /// None, or one more for each of those, in their order: to be connected to the endpoint in use.
    pub connected: Vec<UdpSocket>,
}

impl WorkerSockets {
    /// The port that both are bound to; 0 if there is none.
    fn port(&self) -> u16 {
        let bound = self.v4.as_ref().or(self.v6.as_ref()).map(UdpSocket::local_addr);
        bound.and_then(Result::ok).map_or(0, |address| address.port())
    }
}

/// What travels over the network, and between whom.
#[derive(Clone)]
pub enum Traffic {
    /// IP in UDP to and from one peer.
    Plain {
        /// The peer's endpoint.
        peer: SocketAddr,
    },
    /// WireGuard.
    WireGuard {
        /// Peers and sessions.
        shared: Arc<Shared>,
        /// Where workers take what they cannot do.
        control: ToControl,
        /// What they seal and open by.
        aead: AeadLibrary,
    },
}

/// Everything a set of workers needs, decided before; the vectors have one entry a worker.
pub struct EngineConfig {
    /// Tun queues: non-blocking, with a virtio header of 10 bytes.
    pub queues: Vec<OwnedFd>,
    /// What the device exchanges with us.
    pub tun_offloads: TunOffloads,
    /// UDP sockets.
    pub sockets: Vec<WorkerSockets>,
    /// The cores to pin to.
    pub cpus: Vec<Option<usize>>,
    /// What travels over the network.
    pub traffic: Traffic,
    /// What moves the packets.
    pub backend: BackendChoice,
    /// Send by `UDP_SEGMENT`.
    pub udp_gso: bool,
    /// Merge received segments before the tun write.
    pub tun_gro: bool,
    /// Look for packets before sleeping.
    pub busy_poll: BusyPoll,
    /// Tell transfers that keep a tun queue waiting; for those that wait at the sockets, these must
    /// have been asked for time stamps.
    pub aqm: bool,
}

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No thread, or no descriptor.
    #[error("cannot start worker {worker}: {error}")]
    Thread {
        /// Its number.
        worker: usize,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The backend could not be set up.
    #[error("worker {worker}: cannot set up the {backend} backend: {error}")]
    Backend {
        /// Its number.
        worker: usize,
        /// `uring` or `mmsg`.
        backend: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A worker panicked.
    #[error("worker {0} died of a bug in ringtun; please report what it said above")]
    Died(usize),
    /// A worker ended by itself; the engine should be stopped.
    #[error("worker {worker} cannot go on: {error}")]
    Failed {
        /// Its number.
        worker: usize,
        /// Why.
        error: IoError,
    },
}

/// A view of a running engine that other threads may keep and ask.
#[derive(Clone, Debug)]
pub struct EngineView {
    counters: Arc<[Arc<Counters>]>,
    flow_steering: &'static str,
    tun_queue: &'static str,
}

impl EngineView {
    /// One set of counters a worker.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// How outbound flows find their tun queue: `one queue`, `kernel program`, or `learned`.
    #[must_use]
    pub fn flow_steering(&self) -> &'static str {
        self.flow_steering
    }

    /// Whether transfers that keep the tun queues waiting are told: `managed`, `off`, or `refused`.
    #[must_use]
    pub fn tun_queue(&self) -> &'static str {
        self.tun_queue
    }
}

struct Worker {
    thread: JoinHandle<()>,
    wake: Arc<OwnedFd>,
}

/// Running workers. Dropping it stops them.
pub struct Engine {
    workers: Vec<Worker>,
    view: EngineView,
    stop: Arc<AtomicBool>,
    notices: Receiver<Notice>,
    failures: Receiver<EngineError>,
}

/// What all workers of one engine have in common.
struct Common {
    queues: Vec<Arc<OwnedFd>>,
    traffic: Traffic,
    backend: BackendChoice,
    udp_gso: bool,
    busy_poll: BusyPoll,
    merge: MergeConfig,
    steering: Steering,
    claims: Arc<Claims>,
    stamps: Option<Arc<TunStamps>>,
    /// Where workers help each other, if there are several.
    exchange: Option<Arc<Exchange<Job>>>,
    notices: Sender<Notice>,
    failures: Sender<EngineError>,
}

impl Common {
    /// The packet path of the worker of `queue`.
    fn path(&self, queue: u16, own_port: u16, counters: &Arc<Counters>) -> io::Result<Path> {
        let (steering, counters) = (self.steering.of_worker(queue), Arc::clone(counters));
        Ok(match &self.traffic {
            Traffic::Plain { peer } => Path::Plain {
                outbound: Outbound::new(*peer, queue, steering.clone(), Arc::clone(&counters)),
                inbound: Inbound::new(*peer, steering, self.merge, counters),
            },
            Traffic::WireGuard { shared, control, aead } => {
                let (shared, control) = (Arc::clone(shared), control.clone());
                let both = WireGuard::new(shared, control, queue, steering, self.merge, counters);
                let both = both.listening_on(own_port).sealing_by(aead.for_worker()?);
                let both = match &self.exchange {
                    Some(exchange) => both.sharing_by(Arc::clone(exchange), queue),
                    None => both,
                };
                Path::WireGuard(Box::new(both))
            }
        })
    }
}

/// Wakes all workers of an engine.
#[derive(Clone, Debug)]
pub struct Waker(Vec<Arc<OwnedFd>>);

impl Waker {
    /// Has every worker take a turn.
    pub fn wake(&self) {
        self.0.iter().for_each(|wake| sys::event::signal(wake));
    }
}

/// Decides how flows find their queue.
fn steer(queues: &[OwnedFd]) -> (Steering, &'static str) {
    let count = u16::try_from(queues.len()).unwrap_or(u16::MAX);
    let Some(first) = queues.first().filter(|_| count > 1) else {
        return (Steering::new(count), "one queue");
    };
    match sys::steer::by_flow(first.as_fd()) {
        Ok(()) => (Steering::by_kernel(), "kernel program"),
        Err(error) => {
            debug!(%error, "no program picks the tun queues: workers remember the flows' queues");
            (Steering::new(count), "learned")
        }
    }
}

/// Has the kernel note when packets come to the queues, where that is allowed.
fn stamps(queues: &[Arc<OwnedFd>]) -> (Option<TunStamps>, &'static str) {
    let count = u16::try_from(queues.len()).unwrap_or(u16::MAX);
    let Some(first) = queues.first() else { return (None, "off") };
    match TunStamps::attach(Arc::clone(first), count) {
        Ok(stamps) => (Some(stamps), "managed"),
        Err(error) => {
            debug!(%error, "no program notes when packets come to the tun");
            (None, "refused")
        }
    }
}

/// Where workers help each other: several of WireGuard, whose cryptography is worth the way. Those
/// of `mmsg` have nowhere to leave what they cannot take on.
fn exchange(config: &EngineConfig, wakes: &[Arc<OwnedFd>]) -> Option<Arc<Exchange<Job>>> {
    let uring = matches!(config.backend, BackendChoice::Uring { .. });
    let wireguard = matches!(config.traffic, Traffic::WireGuard { .. });
    let wake = |wake: &Arc<OwnedFd>| {
        let wake = Arc::clone(wake);
        Box::new(move || sys::event::signal(&wake)) as Wake
    };
    (uring && wireguard && wakes.len() > 1).then(|| Arc::new(Exchange::new(wakes.iter().map(wake))))
}

impl Engine {
    /// Starts one thread for each queue and returns when all of them are ready.
    ///
    /// # Errors
    /// The first worker's that could not be set up; those already running are stopped.
    pub fn start(mut config: EngineConfig) -> Result<Self, EngineError> {
        let count = config.queues.len();
        let (notice_sender, notices) = bounded(NOTICES_MAX);
        let (failure_sender, failures) = bounded(count.max(1));
        let TunOffloads { tso, uso } = config.tun_offloads;
        let (tcp, udp) = (tso && config.tun_gro, uso && config.tun_gro);
        let (steering, flow_steering) = steer(&config.queues);
        let queues: Vec<_> = mem::take(&mut config.queues).into_iter().map(Arc::new).collect();
        let (stamps, tun_queue) = if config.aqm { stamps(&queues) } else { (None, "off") };
        let wakes = (0..count).map(|worker| {
            let event = sys::event::create();
            event.map(Arc::new).map_err(|error| EngineError::Thread { worker, error })
        });
        let wakes: Vec<_> = wakes.collect::<Result<_, _>>()?;
        let exchange = exchange(&config, &wakes);
        let common = Common {
            queues,
            traffic: config.traffic,
            backend: config.backend,
            udp_gso: config.udp_gso,
            busy_poll: config.busy_poll,
            merge: MergeConfig { tcp4: tcp, tcp6: tcp, udp },
            steering,
            claims: Arc::new(Claims::new(count)),
            stamps: stamps.map(Arc::new),
            exchange,
            notices: notice_sender,
            failures: failure_sender,
        };
        let counters = (0..count).map(|_| Arc::default()).collect();
        let view = EngineView { counters, flow_steering, tun_queue };
        let stop = Arc::new(AtomicBool::new(false));
        let mut engine = Self { workers: Vec::new(), view, stop, notices, failures };
        let cpus = config.cpus.into_iter().chain(std::iter::repeat(None));
        let workers = wakes.into_iter().zip(config.sockets).zip(cpus);
        for (queue, ((wake, sockets), cpu)) in (0..).zip(workers) {
            engine.start_worker(&common, queue, wake, sockets, cpu)?;
        }
        Ok(engine)
    }

    fn start_worker(
        &mut self,
        common: &Common,
        queue: u16,
        wake: Arc<OwnedFd>,
        sockets: WorkerSockets,
        cpu: Option<usize>,
    ) -> Result<(), EngineError> {
        let worker = usize::from(queue);
        let thread_error = |error| EngineError::Thread { worker, error };
        let counters = Arc::clone(&self.view.counters[worker]);
        let own_port = sockets.port();
        let shared = |socket: UdpSocket| Arc::new(OwnedFd::from(socket));
        let files = Files {
            queues: common.queues.clone(),
            queue,
            sockets: [sockets.v4, sockets.v6].into_iter().flatten().map(shared).collect(),
            connected: sockets.connected.into_iter().map(shared).collect(),
            wake: Arc::clone(&wake),
            claims: Arc::clone(&common.claims),
            stamps: common.stamps.clone(),
        };
        let start = backend::Start {
            files,
            path: common.path(queue, own_port, &counters).map_err(thread_error)?,
            counters,
            notices: common.notices.clone(),
            stop: Arc::clone(&self.stop),
            backend: common.backend,
            udp_gso: common.udp_gso,
            busy_poll: common.busy_poll,
            cpu,
        };
        let (ready_sender, ready) = bounded(1);
        let failures = common.failures.clone();
        let thread = std::thread::Builder::new()
            .name(format!("worker-{worker}"))
            .spawn(move || {
                // A panic is a bug of ours; the others must not go on without this queue.
                let ended = catch_unwind(AssertUnwindSafe(|| start.run(&ready_sender)));
                let failure = match ended {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => EngineError::Failed { worker, error },
                    Err(_) => EngineError::Died(worker),
                };
                let _ = failures.try_send(failure);
            })
            .map_err(thread_error)?;
        self.workers.push(Worker { thread, wake });
        match ready.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(EngineError::Backend { worker, backend: common.backend.name(), error })
            }
            Err(_) => Err(EngineError::Died(worker)),
        }
    }

    /// A view for status and metrics.
    #[must_use]
    pub fn view(&self) -> EngineView {
        self.view.clone()
    }

    /// What wakes its workers.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(self.workers.iter().map(|worker| Arc::clone(&worker.wake)).collect())
    }

    /// Where workers tell what the user should know.
    #[must_use]
    pub fn notices(&self) -> Receiver<Notice> {
        self.notices.clone()
    }

    /// Where a worker that ended by itself says why; disconnected when all have ended.
    #[must_use]
    pub fn failed(&self) -> Receiver<EngineError> {
        self.failures.clone()
    }

    /// Stops all workers and waits until they are gone.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for worker in &self.workers {
            sys::event::signal(&worker.wake);
        }
        for worker in self.workers.drain(..) {
            // A worker that panicked has already told on stderr.
            let _ = worker.thread.join();
        }
    }
}
