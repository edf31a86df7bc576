//! The life of one WireGuard device: set up, run, undo.
//!
//! As [`super::run`], but the device is configured by others: the configuration socket is there
//! before anything else can be seen, workers start when the link comes up. The process ends when
//! the device or its configuration socket is deleted, as wireguard-go does.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, select};
use tracing::info;

use super::aead::{self, ChosenAead};
use super::backend::{self, ChosenBackend};
use super::device::{DeviceConfig, DeviceHandle, DeviceThread};
use super::host::{self, TunDevice};
use super::inherited_tun::InheritedTun;
use super::link_watch::{DeviceDeleted, DeviceState, LinkWatch, SharedDevice};
use super::netlink::Netlink;
use super::notices::OffloadState;
use super::notify::notify;
use super::plan::Plan;
use super::run::{Ended, RunError, SignalThread};
use super::snapshot::{Fixed, Snapshot, Workers};
use super::socket::ControlSocket;
use super::status::Aead;
use super::uapi::listener::{self, Listener};
use super::uapi::server::Server;

/// What is done to a device once it answers, before it is announced; what it returns undoes it
/// when dropped, while the device still answers.
pub trait Configure {
    /// Undoes the configuration when dropped.
    type Undo;
    /// Does it; `ends` says when to stop waiting for something.
    ///
    /// # Errors
    /// The start is given up.
    fn configure(
        self,
        device: &DeviceHandle,
        tun: &TunDevice,
        ends: &Ends,
    ) -> Result<Self::Undo, NotConfigured>;
}

/// Why a device is not configured.
pub enum NotConfigured {
    /// Somebody wanted an end before it was done.
    Ended(Ended),
    /// It could not be done.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// What ends a device in good order.
pub struct Ends {
    signals: Receiver<i32>,
    deleted: Receiver<DeviceDeleted>,
    socket_removed: Receiver<()>,
}

impl Ends {
    /// Waits for a word on `channel`, or its end (`None`).
    ///
    /// # Errors
    /// The device is to end.
    pub fn wait_for<T>(&self, channel: &Receiver<T>) -> Result<Option<T>, Ended> {
        select! {
            recv(channel) -> word => Ok(word.ok()),
            recv(self.signals) -> signal => Err(Ended::Signal(signal.unwrap_or(0))),
            recv(self.deleted) -> _ => Err(Ended::DeviceDeleted),
            recv(self.socket_removed) -> _ => Err(Ended::SocketDeleted),
        }
    }
}

/// Leaves the configuration to others.
pub struct ByOthers;

impl Configure for ByOthers {
    type Undo = ();

    fn configure(self, _: &DeviceHandle, _: &TunDevice, _: &Ends) -> Result<(), NotConfigured> {
        Ok(())
    }
}

/// Runs the device until a signal, its deletion or a worker's failure; `ready` is called when it
/// can be configured. It is the one that was handed over, or a new one.
pub fn run(
    plan: &Plan,
    inherited: Option<InheritedTun>,
    configure: impl Configure,
    ready: impl FnOnce(),
) -> Result<Ended, RunError> {
    let signals = SignalThread::start()?;
    if inherited.is_none() {
        host::preflight(plan)?;
    }
    let chosen = Chosen {
        backend: backend::choose(plan.io, plan.tuning.multishot)?,
        aead: aead::choose(plan.tuning.aead)?,
    };
    let mut control = ControlSocket::bind(&plan.name)?;
    let uapi = match Listener::inherited()? {
        Some(listener) => listener,
        None => Listener::bind(Path::new(listener::DIR), &plan.name)?,
    };
    let device = match inherited {
        Some(inherited) => inherited.take_over(plan)?,
        None => TunDevice::create(plan)?,
    };

    let started = Running::start(plan, &chosen, &device, uapi);
    let result = started.and_then(|(running, mut snapshot)| {
        let ends = running.ends(&signals);
        let undo = match configure.configure(&running.device.handle(), &device, &ends) {
            Ok(undo) => undo,
            Err(NotConfigured::Ended(ended)) => return Ok(announce_end(ended, &device)),
            Err(NotConfigured::Failed(error)) => return Err(RunError::Configure(error)),
        };
        // Who sees it answer finds it configured.
        control.serve(move || snapshot.status())?;
        announce(plan, &chosen);
        notify("READY=1");
        ready();
        let ended = running.wait(&ends, &device);
        drop(undo);
        ended
    });
    notify("STOPPING=1");
    drop(control);
    device.remove();
    result
}

/// What was decided by looking at this machine.
struct Chosen {
    backend: ChosenBackend,
    aead: ChosenAead,
}

/// What runs between set-up and undoing.
struct Running {
    uapi: Server,
    device: DeviceThread,
    watch: LinkWatch,
}

impl Running {
    fn start(
        plan: &Plan,
        chosen: &Chosen,
        tun: &TunDevice,
        uapi: Listener,
    ) -> Result<(Self, Snapshot), RunError> {
        let state = DeviceState { link: tun.link().clone(), ..DeviceState::default() };
        let shared = SharedDevice::new(state.into());
        let setup = |what| move |error| RunError::Setup { what, error };
        let queues = tun.queue_descriptors()?;
        let watched = queues[0].try_clone().map_err(setup("duplicate a tun descriptor"))?;
        let watch = LinkWatch::start(shared.clone(), watched, plan.tuning.gso_size, plan.encap)
            .map_err(setup("watch the device"))?;
        let offloads = OffloadState::new(plan.tuning.udp_gso);
        let device = DeviceThread::start(DeviceConfig {
            plan: plan.clone(),
            backend: chosen.backend.clone(),
            aead: chosen.aead.library.clone(),
            queues,
            tun_offloads: tun.offloads(),
            device: shared.clone(),
            link_changed: watch.changed(),
            offloads: offloads.clone(),
        })
        .map_err(setup("start the device's thread"))?;
        let snapshot = Snapshot {
            fixed: Fixed {
                started: Instant::now(),
                encap: plan.encap.name(),
                peer: None,
                backend: chosen.backend.name(),
                tun_read: chosen.backend.backend.tun_read(),
                backend_reason: chosen.backend.reason.clone(),
                aead: Some(Aead {
                    name: chosen.aead.library.to_string(),
                    reason: chosen.aead.reason.clone(),
                }),
                tun_offloads: tun.offloads(),
                tun_gro: plan.tuning.tun_gro,
                cpus: plan.cpus.clone(),
            },
            workers: Workers { running: device.running(), device: Some(device.handle()) },
            offloads,
            device: shared,
            netlink: Netlink::open().ok(),
        };
        let uapi = Server::start(uapi, Arc::new(device.handle()))?;
        Ok((Self { uapi, device, watch }, snapshot))
    }

    fn ends(&self, signals: &SignalThread) -> Ends {
        Ends {
            signals: signals.received().clone(),
            deleted: self.watch.deleted(),
            socket_removed: self.uapi.removed(),
        }
    }

    fn wait(&self, ends: &Ends, tun: &TunDevice) -> Result<Ended, RunError> {
        match ends.wait_for(&self.device.failed()) {
            Err(ended) => Ok(announce_end(ended, tun)),
            Ok(_) if tun.is_deleted() => Ok(announce_end(Ended::DeviceDeleted, tun)),
            Ok(Some(error)) => Err(RunError::Engine(error)),
            Ok(None) => Err(super::run::workers_ended()),
        }
    }
}

fn announce_end(ended: Ended, tun: &TunDevice) -> Ended {
    let name = &tun.link().name;
    match ended {
        Ended::Signal(signal) => info!(name, signal, "stopping"),
        Ended::DeviceDeleted => info!(name, "the device was deleted, stopping"),
        Ended::SocketDeleted => info!(name, "the configuration socket was deleted, stopping"),
    }
    ended
}

fn announce(plan: &Plan, Chosen { backend, aead }: &Chosen) {
    info!(
        "{} answers to `wg` ({} worker{}, {}: {}; encryption by {}: {})",
        plan.name,
        plan.cpus.len(),
        if plan.cpus.len() == 1 { "" } else { "s" },
        backend.name(),
        backend.reason,
        aead.library,
        aead.reason,
    );
}
