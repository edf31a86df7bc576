//! The foreground life of one engine: set up, run, undo.
//!
//! In: a [`Plan`]. Out: why it [`Ended`], or a [`RunError`]; in both cases the host is as it was.
//! Set-up goes from what conflicts (name, port) to what is visible (the device), and everything is
//! held by values that undo themselves when dropped, so every way out undoes what was done.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, bounded, never, select};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use tracing::{info, warn};

use super::backend::{self, ChosenBackend};
use super::device::Running as Now;
use super::host::{self, HostError, TunDevice};
use super::link_watch::{DeviceState, LinkWatch, SharedDevice};
use super::netlink::Netlink;
use super::notices::OffloadState;
use super::notify::notify;
use super::plan::{Encap, Plan};
use super::snapshot::{Fixed, Snapshot, Workers};
use super::socket::{ControlSocket, SocketError};
use super::sockets::{Bound, SocketsError};
use super::uapi::UapiError;
use crate::engine::aead::AeadError;
use crate::engine::{Engine, EngineConfig, EngineError, Traffic};
use crate::ring::probe::UringError;

/// How a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// SIGINT or SIGTERM.
    Signal(i32),
    /// Somebody deleted the device.
    DeviceDeleted,
    /// Somebody deleted the configuration socket.
    SocketDeleted,
}

/// Why a run could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The device.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The UDP sockets.
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] SocketError),
    /// io_uring was asked for and is not to be had.
    #[error("--io uring cannot be had (`--io auto` would fall back to mmsg)")]
    Backend(#[from] UringError),
    /// IPsec-MB was asked for and is not to be had.
    #[error(
        "--aead ipsec-mb cannot be had (`--aead auto` would use ring; in Debian the library is \
         the package libipsec-mb1)"
    )]
    Aead(#[from] AeadError),
    /// The configuration socket.
    #[error(transparent)]
    Uapi(#[from] UapiError),
    /// The engine.
    #[error("the engine failed")]
    Engine(#[from] EngineError),
    /// What the device was to be configured with.
    #[error(transparent)]
    Configure(Box<dyn std::error::Error + Send + Sync>),
    /// Signals or threads.
    #[error("cannot {what}: {error}")]
    Setup {
        /// The step.
        what: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// Carries out `plan` until a signal, the device's deletion or a worker's failure.
pub fn run(plan: &Plan) -> Result<Ended, RunError> {
    // Before anything exists, so that no signal can find something that nobody would undo.
    let signals = SignalThread::start()?;
    host::preflight(plan)?;
    let chosen = backend::choose(plan.io, plan.tuning.multishot)?;
    let mut control = ControlSocket::bind(&plan.name)?;
    let bound = Bound::bind(plan)?;
    let device = TunDevice::create(plan)?;

    let result = start(plan, &chosen, bound, &device, &mut control)
        .and_then(|running| running.wait(&signals, &device));
    notify("STOPPING=1");
    drop(control);
    device.remove();
    result
}

/// What runs between set-up and undoing.
struct Running {
    engine: Engine,
    watch: LinkWatch,
    offloads: OffloadState,
}

fn start(
    plan: &Plan,
    chosen: &ChosenBackend,
    bound: Bound,
    device: &TunDevice,
    control: &mut ControlSocket,
) -> Result<Running, RunError> {
    let shared: SharedDevice = SharedDevice::default();
    *super::link_watch::lock(&shared) =
        DeviceState { link: device.link().clone(), ..DeviceState::default() };
    let mut queues = device.queue_descriptors()?;
    let watched = queues[0]
        .try_clone()
        .map_err(|error| RunError::Setup { what: "duplicate a tun descriptor", error })?;
    let fixed = Fixed {
        started: Instant::now(),
        encap: plan.encap.name(),
        peer: plan.peer,
        backend: chosen.name(),
        tun_read: chosen.backend.tun_read(),
        backend_reason: chosen.reason.clone(),
        aead: None,
        tun_offloads: device.offloads(),
        tun_gro: plan.tuning.tun_gro,
        cpus: plan.cpus.clone(),
    };
    let (sockets, listen) = (bound.watchers(), bound.listen.clone());
    let (buffers, udp_gro) = (bound.buffers.clone(), bound.udp_gro);
    let peer_steering = bound.peer_steering;
    let peer = plan.peer.ok_or_else(no_peer)?;
    let traffic = Traffic::Plain { peer };
    let engine = Engine::start(EngineConfig {
        queues: std::mem::take(&mut queues),
        tun_offloads: device.offloads(),
        sockets: bound.workers,
        cpus: plan.cpus.clone(),
        traffic,
        backend: chosen.backend,
        udp_gso: plan.tuning.udp_gso,
        tun_gro: plan.tuning.tun_gro,
        busy_poll: plan.tuning.busy_poll,
        aqm: plan.tuning.aqm,
    })?;
    let view = engine.view();
    let watch = match LinkWatch::start(shared.clone(), watched, plan.tuning.gso_size, plan.encap) {
        Ok(watch) => watch,
        Err(error) => {
            engine.stop();
            return Err(RunError::Setup { what: "watch the device", error });
        }
    };
    let offloads = OffloadState::new(plan.tuning.udp_gso);
    let running = Running { engine, watch, offloads: offloads.clone() };
    let now = Now { view, sockets, listen, buffers, udp_gro, peer_steering };
    announce(plan, &fixed, &now, device);
    let netlink = Netlink::open().ok();
    let workers = Workers { running: Arc::new(Some(now).into()), device: None };
    let mut snapshot = Snapshot { fixed, workers, offloads, device: shared, netlink };
    if let Err(error) = control.serve(move || snapshot.status()) {
        running.stop();
        return Err(error.into());
    }
    notify("READY=1");
    Ok(running)
}

impl Running {
    fn wait(self, signals: &SignalThread, device: &TunDevice) -> Result<Ended, RunError> {
        let deleted = self.watch.deleted();
        let failed = self.engine.failed();
        let mut notices = self.engine.notices();
        let name = &device.link().name;
        let outcome = loop {
            select! {
                recv(notices) -> notice => match notice {
                    Ok(notice) => self.offloads.take(notice),
                    // All workers have ended; `failed` says why.
                    Err(_) => notices = never(),
                },
                recv(signals.received) -> signal => {
                    break Ok(Ended::Signal(signal.unwrap_or(SIGTERM)));
                }
                recv(deleted) -> gone => match gone {
                    Ok(_) => break Ok(Ended::DeviceDeleted),
                    Err(_) => break Err(watch_ended()),
                },
                // A worker may see the deletion before the notification arrives, and in another
                // namespace there is no notification for us at all.
                recv(failed) -> failure => match failure {
                    _ if device.is_deleted() => break Ok(Ended::DeviceDeleted),
                    Ok(error) => break Err(RunError::Engine(error)),
                    Err(_) => break Err(workers_ended()),
                },
            }
        };
        match &outcome {
            Ok(Ended::Signal(signal)) => info!(name, signal, "stopping"),
            Ok(Ended::DeviceDeleted | Ended::SocketDeleted) => {
                info!(name, "the device was deleted, stopping");
            }
            Err(_) => {}
        }
        self.stop();
        outcome
    }

    fn stop(self) {
        drop(self.watch);
        self.engine.stop();
    }
}

fn no_peer() -> RunError {
    RunError::Setup { what: "start", error: io::Error::other("plain needs a peer") }
}

pub(super) fn workers_ended() -> RunError {
    RunError::Setup { what: "go on", error: io::Error::other("every worker has ended") }
}

fn watch_ended() -> RunError {
    RunError::Setup {
        what: "go on",
        error: io::Error::other("the thread that watches the device has ended"),
    }
}

fn announce(plan: &Plan, fixed: &Fixed, now: &Now, device: &TunDevice) {
    let link = device.link();
    let on_off = |on: bool| if on { "on" } else { "off" };
    let cores: Vec<String> = plan.cpus.iter().flatten().map(|cpu| format!("core {cpu}")).collect();
    let place = if cores.is_empty() { String::new() } else { format!(" on {}", cores.join(", ")) };
    info!(
        "{} is up: {} to {}, {} worker{}{}, MTU {}, {} ({})",
        link.name,
        plan.encap.name(),
        plan.peer.map_or_else(String::new, |peer| peer.to_string()),
        plan.cpus.len(),
        if plan.cpus.len() == 1 { "" } else { "s" },
        place,
        link.mtu,
        fixed.backend,
        fixed.backend_reason,
    );
    info!(
        "offloads: tun TSO {}, tun USO {}, UDP GSO {}, UDP GRO {}, merging {}; gso_max_size {}, \
         txqueuelen {}",
        on_off(fixed.tun_offloads.tso),
        on_off(fixed.tun_offloads.uso),
        on_off(plan.tuning.udp_gso),
        on_off(now.udp_gro),
        on_off(fixed.tun_gro),
        link.gso_max_size,
        link.tx_queue_len,
    );
    let buffers = &now.buffers;
    info!(
        "socket buffers: {} bytes to receive, {} to send (wanted {})",
        buffers.receive_bytes, buffers.send_bytes, buffers.wanted_bytes
    );
    if plan.encap == Encap::Plain {
        warn!(
            "plain: packets are readable on the way, and whoever can forge the peer's address and \
             port can inject packets into this tunnel"
        );
    }
    if buffers.receive_bytes.min(buffers.send_bytes) < buffers.wanted_bytes {
        warn!(
            "socket buffers are clipped by net.core.rmem_max and wmem_max: bursts may be dropped. \
             Run with CAP_NET_ADMIN in the host's namespace, or raise both to {} by sysctl",
            buffers.wanted_bytes
        );
    }
}

/// Turns SIGINT and SIGTERM into messages; SIGHUP is ignored until there is something to reload.
pub(super) struct SignalThread {
    received: Receiver<i32>,
    handle: Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SignalThread {
    pub(super) fn start() -> Result<Self, RunError> {
        let failed = |error| RunError::Setup { what: "handle signals", error };
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        let handle = signals.handle();
        let (tell, received) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in signals.forever().filter(|signal| *signal != SIGHUP) {
                    // A second signal while the first is being acted on changes nothing.
                    let _ = tell.try_send(signal);
                }
            })
            .map_err(failed)?;
        Ok(Self { received, handle, thread: Some(thread) })
    }
}

impl SignalThread {
    /// Where signals arrive.
    pub(super) fn received(&self) -> &Receiver<i32> {
        &self.received
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
