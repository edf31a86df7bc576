//! Starts and stops the workers, and knows what they are made of.
//!
//! In: an open device, bound sockets and choices already made ([`EngineConfig`]). Out: threads
//! that forward packets until [`Engine::stop`], counters anyone may read, and [`Event`]s when
//! something changes that the user should know.

pub mod backend;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::io::counters::Counters;
use crate::io::outbox::Notice;
use crate::io::{Files, IoError};
use crate::packet::merge::MergeConfig;
use crate::sys;
use crate::worker::inbound::Inbound;
use crate::worker::outbound::Outbound;
use crate::worker::path::Path;
use crate::worker::steering::Steering;
pub use backend::BackendChoice;

/// News waiting for control at most; more are lost, and counted nowhere: they only inform.
const NOTICES_MAX: usize = 64;

/// Everything a set of workers needs. All of it is decided before: the engine only runs it.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// One queue of the tun device a worker, non-blocking, with a 10-byte virtio header.
    pub queues: Vec<Arc<OwnedFd>>,
    /// For each worker its UDP sockets (IPv4 before IPv6), non-blocking.
    pub sockets: Vec<Vec<Arc<OwnedFd>>>,
    /// For each worker the core it is pinned to.
    pub cpus: Vec<Option<usize>>,
    /// The peer's endpoint.
    pub peer: SocketAddr,
    /// What moves the packets.
    pub backend: BackendChoice,
    /// Send by `UDP_SEGMENT`.
    pub udp_gso: bool,
    /// Merge received packets into super-packets of these kinds.
    pub merge: MergeConfig,
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
    /// A worker ended before it was ready.
    #[error("worker {0} died during start")]
    Died(usize),
}

/// What the engine has to tell.
#[derive(Debug)]
pub enum Event {
    /// From a worker's path.
    Notice(Notice),
    /// A worker ended by itself; the engine should be stopped.
    WorkerFailed {
        /// Its number.
        worker: usize,
        /// Why.
        error: IoError,
    },
}

struct Worker {
    thread: JoinHandle<()>,
    wake: Arc<OwnedFd>,
}

/// Running workers. Dropping it stops them.
pub struct Engine {
    workers: Vec<Worker>,
    counters: Vec<Arc<Counters>>,
    stop: Arc<AtomicBool>,
    notices: Receiver<Notice>,
    failures: Receiver<(usize, IoError)>,
}

impl Engine {
    /// Starts one thread for each queue and returns when all of them are ready.
    ///
    /// # Errors
    /// The first worker's that could not be set up; those already running are stopped.
    pub fn start(config: &EngineConfig) -> Result<Self, EngineError> {
        let (notice_sender, notices) = bounded(NOTICES_MAX);
        let (failure_sender, failures) = bounded(config.queues.len().max(1));
        let counters = config.queues.iter().map(|_| Arc::new(Counters::default())).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let mut engine = Self { workers: Vec::new(), counters, stop, notices, failures };
        let queues = u16::try_from(config.queues.len()).unwrap_or(u16::MAX);
        let steering = Steering::new(queues);
        for worker in 0..queues {
            engine.start_worker(config, worker, &steering, &notice_sender, &failure_sender)?;
        }
        Ok(engine)
    }

    fn start_worker(
        &mut self,
        config: &EngineConfig,
        queue: u16,
        steering: &Steering,
        notices: &Sender<Notice>,
        failures: &Sender<(usize, IoError)>,
    ) -> Result<(), EngineError> {
        let worker = usize::from(queue);
        let thread_error = |error| EngineError::Thread { worker, error };
        let wake = Arc::new(sys::event::create().map_err(thread_error)?);
        let counters = Arc::clone(&self.counters[worker]);
        let files = Files {
            queues: config.queues.clone(),
            queue,
            sockets: config.sockets.get(worker).cloned().unwrap_or_default(),
            wake: Arc::clone(&wake),
        };
        let outbound = Outbound::new(config.peer, queue, steering.clone(), Arc::clone(&counters));
        let inbound =
            Inbound::new(config.peer, steering.clone(), config.merge, Arc::clone(&counters));
        let start = backend::Start {
            files,
            path: Path { outbound, inbound },
            counters,
            notices: notices.clone(),
            stop: Arc::clone(&self.stop),
            backend: config.backend,
            udp_gso: config.udp_gso,
            cpu: config.cpus.get(worker).copied().flatten(),
        };
        let (ready_sender, ready) = bounded(1);
        let failures = failures.clone();
        let thread = std::thread::Builder::new()
            .name(format!("worker-{worker}"))
            .spawn(move || {
                if let Err(error) = start.run(&ready_sender) {
                    let _ = failures.try_send((worker, error));
                }
            })
            .map_err(thread_error)?;
        self.workers.push(Worker { thread, wake });
        match ready.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(EngineError::Backend { worker, backend: config.backend.name(), error })
            }
            Err(_) => Err(EngineError::Died(worker)),
        }
    }

    /// Each worker's figures.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Where notices arrive.
    #[must_use]
    pub fn notices(&self) -> &Receiver<Notice> {
        &self.notices
    }

    /// Where a worker that ended by itself says why: (worker, reason).
    #[must_use]
    pub fn failures(&self) -> &Receiver<(usize, IoError)> {
        &self.failures
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
