//! A running WireGuard device: the thread that drives the protocol, its sockets and its workers.
//!
//! ```text
//! uapi, config file ── requests ─►┐                    ┌─► Engine: workers, started when the link
//! workers ── events, handshakes ─►│ device thread ─────┤    is up and a port is bound
//! link watch ── up, down, MTU ───►┘  (Protocol)        └─► UDP: handshake messages, keepalives
//! ```
//! In: a [`Plan`] with an open device. Out: [`DeviceHandle`] for whoever configures it.

mod running;

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::backend::ChosenBackend;
use super::link_watch::SharedDevice;
use super::notices::OffloadState;
use super::plan::Plan;
use super::status::SocketBuffers;
use super::uapi::{Device, DeviceStatus};
use crate::engine::{AeadLibrary, EngineError, EngineView, TunOffloads};
use crate::protocol::config::DeviceUpdate;
use crate::wire::wireguard::keys::PublicKey;
use running::RunningDevice;

/// News of peers waiting at most; workers ask again later.
const EVENTS_MAX: usize = 4096;
/// Handshake messages waiting at most, of each kind.
const HANDSHAKES_MAX: usize = 512;
/// Messages handled before the timers and requests are looked at again.
const BURST: usize = 64;
const REQUESTS_MAX: usize = 16;
/// Peers that do not answer, for whoever looks their names up; more come again later.
const UNANSWERED_MAX: usize = 64;
/// How long a request may take, with ten thousands of peers.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// What runs while the link is up.
pub struct Running {
    /// The workers' figures.
    pub view: EngineView,
    /// More descriptors of their sockets.
    pub sockets: Vec<UdpSocket>,
    /// Bound addresses.
    pub listen: Vec<std::net::SocketAddr>,
    /// Granted buffers.
    pub buffers: SocketBuffers,
    /// `UDP_GRO` is on.
    pub udp_gro: bool,
    /// How peers find their worker.
    pub peer_steering: &'static str,
}

/// What runs now, for whoever reports it; none while the link is down.
pub type SharedRunning = Arc<Mutex<Option<Running>>>;

/// Locks it, whatever happened to others who did.
pub fn lock_running(running: &SharedRunning) -> MutexGuard<'_, Option<Running>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Request {
    Get(Sender<DeviceStatus>),
    Set(Box<DeviceUpdate>, Sender<Result<(), i32>>),
}

/// The way to a running device.
#[derive(Clone)]
pub struct DeviceHandle {
    requests: Sender<Request>,
    unanswered: Receiver<PublicKey>,
}

impl DeviceHandle {
    /// Peers that did not answer an initiation; disconnected when the device's thread has ended.
    #[must_use]
    pub fn unanswered(&self) -> Receiver<PublicKey> {
        self.unanswered.clone()
    }
}

impl Device for DeviceHandle {
    fn get(&self) -> Result<DeviceStatus, i32> {
        let (answer, answered) = bounded(1);
        self.requests.send_timeout(Request::Get(answer), ANSWER_WAIT).map_err(|_| libc::EIO)?;
        answered.recv_timeout(ANSWER_WAIT).map_err(|_| libc::EIO)
    }

    fn set(&self, update: DeviceUpdate) -> Result<(), i32> {
        let (answer, answered) = bounded(1);
        let request = Request::Set(Box::new(update), answer);
        self.requests.send_timeout(request, ANSWER_WAIT).map_err(|_| libc::EIO)?;
        answered.recv_timeout(ANSWER_WAIT).map_err(|_| libc::EIO)?
    }
}

/// What a device starts from.
pub struct DeviceConfig {
    /// How its workers are to run.
    pub plan: Plan,
    /// What moves the packets.
    pub backend: ChosenBackend,
    /// What encrypts them.
    pub aead: AeadLibrary,
    /// Tun queues.
    pub queues: Vec<OwnedFd>,
    /// What the tun hands over.
    pub tun_offloads: TunOffloads,
    /// The link as it is, and where changes are told.
    pub device: SharedDevice,
    /// See [`super::link_watch::LinkWatch::changed`].
    pub link_changed: Receiver<()>,
    /// What was refused.
    pub offloads: OffloadState,
}

/// Where the device's thread tells what it cannot settle itself.
struct Tell {
    failed: Sender<EngineError>,
    unanswered: Sender<PublicKey>,
}

/// A device's thread; dropping it stops the workers and forgets all keys.
pub struct DeviceThread {
    handle: Option<DeviceHandle>,
    running: SharedRunning,
    failures: Receiver<EngineError>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DeviceThread {
    /// Starts it.
    pub fn start(config: DeviceConfig) -> std::io::Result<Self> {
        let (requests, asked) = bounded(REQUESTS_MAX);
        let (stop, stopped) = bounded(0);
        let (failed, failures) = bounded(1);
        let (tell_unanswered, unanswered) = bounded(UNANSWERED_MAX);
        let running = SharedRunning::default();
        let tell = Tell { failed, unanswered: tell_unanswered };
        let device = RunningDevice::new(config, asked, stopped, tell, Arc::clone(&running));
        let thread =
            thread::Builder::new().name("device".to_owned()).spawn(move || device.run())?;
        let handle = Some(DeviceHandle { requests, unanswered });
        Ok(Self { handle, running, failures, stop: Some(stop), thread: Some(thread) })
    }

    /// Who may configure it.
    #[must_use]
    pub fn handle(&self) -> DeviceHandle {
        // Only taken in drop.
        let gone = || DeviceHandle { requests: bounded(0).0, unanswered: bounded(0).1 };
        self.handle.clone().unwrap_or_else(gone)
    }

    /// What runs now.
    #[must_use]
    pub fn running(&self) -> SharedRunning {
        Arc::clone(&self.running)
    }

    /// Where it is told that a worker cannot go on.
    #[must_use]
    pub fn failed(&self) -> Receiver<EngineError> {
        self.failures.clone()
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        drop((self.stop.take(), self.handle.take()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "simulation_tests.rs"]
mod simulation;
