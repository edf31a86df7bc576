//! What the device's thread does: one loop over messages, requests, the link and the timers.

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Select, Sender, bounded, never};
use tracing::{debug, info, warn};

use super::{
    BURST, DeviceConfig, EVENTS_MAX, HANDSHAKES_MAX, Request, Running, SharedRunning, Tell,
    lock_running,
};
use crate::control::link_watch::lock;
use crate::control::route_watch::RouteWatch;
use crate::control::sockets::{self, Bound, SocketsError};
use crate::control::uapi::DeviceStatus;
use crate::engine::{Engine, EngineConfig, EngineError, Notice, ToControl, Traffic, Waker};
use crate::packet::endpoint::Endpoint;
use crate::protocol::config::{DeviceUpdate, UpdateError};
use crate::protocol::{INDEXES_MAX, Output, Protocol};
use crate::sys;
use crate::table::clock::Clock;
use crate::table::event::Event;
use crate::table::sessions::SessionTable;
use crate::table::shares::Shares;
use crate::table::{Shared, Table};
use crate::wire::wireguard::keys::PublicKey;
use crate::wire::wireguard::messages::traffic_class;

/// Between two tries to bind a port that was in use: sockets that a ring had requests on outlive
/// their process by a moment, so a quick restart finds its own port taken.
const BIND_AGAIN_MS: u64 = 200;

/// Where the protocol's datagrams go.
#[derive(Default)]
struct Wires {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    waker: Option<Waker>,
    unanswered: Option<Sender<PublicKey>>,
}

impl Output for Wires {
    fn send(&mut self, to: Endpoint, datagram: &[u8]) {
        let socket = if to.to.is_ipv4() { &self.v4 } else { &self.v6 };
        let Some(socket) = socket else {
            return debug!(to = %to.to, "no socket of this family: handshake message not sent");
        };
        let class = traffic_class(datagram);
        if let Err(error) = sys::datagram::send_from(socket.as_fd(), to, class, datagram) {
            debug!(to = %to.to, %error, "handshake message or keepalive not sent");
        }
    }

    fn wake_workers(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    fn unanswered(&mut self, peer: &PublicKey) {
        if let Some(unanswered) = &self.unanswered {
            // Full: it will be told again with the next try.
            let _ = unanswered.try_send(*peer);
        }
    }
}

pub(super) struct RunningDevice {
    config: DeviceConfig,
    requests: Receiver<Request>,
    stopped: Receiver<()>,
    tell: Tell,
    running: SharedRunning,
    protocol: Protocol,
    wires: Wires,
    control: ToControl,
    events: Receiver<Event>,
    handshakes: Receiver<Event>,
    proven: Receiver<Event>,
    engine: Option<Engine>,
    /// As it was set; 0 leaves it to the kernel.
    listen_port: u16,
    /// What was made of that last; kept when the link goes down and up.
    last_port: u16,
    /// Times that the link went down, as far as they have been followed.
    downs: u64,
    fwmark: u32,
    /// None where routes cannot be watched.
    routes: Option<RouteWatch>,
    /// The port could not be bound when the link came up: said once, tried again.
    unbound: bool,
}

impl RunningDevice {
    pub(super) fn new(
        config: DeviceConfig,
        requests: Receiver<Request>,
        stopped: Receiver<()>,
        tell: Tell,
        running: SharedRunning,
    ) -> Self {
        let (events_in, events) = bounded(EVENTS_MAX);
        let (handshakes_in, handshakes) = bounded(HANDSHAKES_MAX);
        let (proven_in, proven) = bounded(HANDSHAKES_MAX);
        let shared = Arc::new(Shared {
            table: Arc::new(Table::default()).into(),
            sessions: SessionTable::with_workers(INDEXES_MAX, config.plan.cpus.len()),
            checker: Option::default().into(),
            under_load: false.into(),
            generation: 0.into(),
            mtu: lock(&config.device).link.mtu.into(),
            clock: Clock::of(sys::clock::boottime_ms),
        });
        let routes = RouteWatch::start(Arc::clone(&shared))
            .inspect_err(|error| warn!(%error, "routes to the peers are not followed"));
        Self {
            routes: routes.ok(),
            protocol: Protocol::new(shared, since_epoch),
            config,
            requests,
            stopped,
            tell,
            running,
            wires: Wires::default(),
            control: ToControl {
                events: events_in,
                handshakes: handshakes_in,
                proven: proven_in,
                shares: Shares::new(),
            },
            events,
            handshakes,
            proven,
            engine: None,
            listen_port: 0,
            last_port: 0,
            downs: 0,
            fwmark: 0,
            unbound: false,
        }
    }

    pub(super) fn run(mut self) {
        self.link_changed();
        while !self.is_stopped() {
            let next_ms = self.protocol.poll(&mut self.wires);
            let again_ms = self.unbound.then(|| sys::clock::boottime_ms() + BIND_AGAIN_MS);
            self.wait([next_ms, again_ms].into_iter().flatten().min());
            self.take_messages();
            if self.config.link_changed.try_recv().is_ok() || self.unbound {
                self.link_changed();
            }
            while let Ok(request) = self.requests.try_recv() {
                self.answer(request);
            }
            self.watch_engine();
        }
        self.protocol.set_up(false);
        self.stop_engine();
    }

    fn is_stopped(&self) -> bool {
        matches!(self.stopped.try_recv(), Err(crossbeam::channel::TryRecvError::Disconnected))
    }

    /// Sleeps until somebody wants something or the time has come.
    fn wait(&self, next_ms: Option<u64>) {
        let notices = self.engine.as_ref().map_or_else(never, Engine::notices);
        let failures = self.engine.as_ref().map_or_else(never, Engine::failed);
        let mut select = Select::new();
        select.recv(&self.stopped);
        select.recv(&self.proven);
        select.recv(&self.handshakes);
        select.recv(&self.events);
        select.recv(&self.requests);
        select.recv(&self.config.link_changed);
        select.recv(&notices);
        select.recv(&failures);
        match next_ms {
            None => {
                select.ready();
            }
            Some(next_ms) => {
                let wait_ms = next_ms.saturating_sub(sys::clock::boottime_ms());
                let _ = select.ready_timeout(Duration::from_millis(wait_ms));
            }
        }
    }

    /// A bounded number of messages, those of proven senders first.
    fn take_messages(&mut self) {
        self.protocol.note_queue(self.handshakes.len(), HANDSHAKES_MAX);
        for queue in [self.proven.clone(), self.events.clone(), self.handshakes.clone()] {
            for event in queue.try_iter().take(BURST) {
                self.protocol.event(event, &mut self.wires);
            }
        }
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Get(answer) => {
                let bound = lock_running(&self.running);
                let port = bound.as_ref().and_then(|running| running.listen.first());
                let listen_port = port.map_or(self.last_port, std::net::SocketAddr::port);
                let status =
                    DeviceStatus { view: self.protocol.view(), listen_port, fwmark: self.fwmark };
                let _ = answer.send(status);
            }
            Request::Set(update, answer) => {
                let _ = answer.send(self.set(*update));
            }
        }
    }

    /// All of `update` or nothing: what may be refused comes first.
    fn set(&mut self, update: DeviceUpdate) -> Result<(), i32> {
        self.protocol.check(&update).map_err(errno_of_update)?;
        let fwmark = update.fwmark.unwrap_or(self.fwmark);
        let bound = match update.listen_port {
            Some(port) => self.bind_anew(port, fwmark)?,
            None => None,
        };
        if bound.is_none() && update.fwmark.is_some() {
            self.mark_sockets(fwmark)?;
        }
        if let Some(port) = update.listen_port {
            (self.listen_port, self.last_port) = (port, port);
        }
        if let Some(fwmark) = update.fwmark {
            self.fwmark = fwmark;
            if let Some(routes) = &self.routes {
                routes.set_mark(fwmark);
            }
        }
        if let Some(bound) = bound {
            // If not, the device ends.
            self.start_engine(bound).map_err(|()| libc::EIO)?;
        }
        self.protocol.update(update, &mut self.wires).map_err(errno_of_update)
    }

    /// Sockets on another port than now, if they are needed: with the link down they are bound when
    /// it comes up; up but unbound, another port may be free.
    fn bind_anew(&self, port: u16, fwmark: u32) -> Result<Option<Bound>, i32> {
        let running = lock_running(&self.running);
        let now = running.as_ref().and_then(|running| running.listen.first());
        if now.is_some_and(|now| now.port() == port) || !self.is_link_up() {
            return Ok(None);
        }
        drop(running);
        let bound = Bound::bind_wireguard(&self.config.plan, port, fwmark);
        bound.map(Some).map_err(|error| errno_of(&error))
    }

    /// Marks what the present sockets send; all of them or none.
    fn mark_sockets(&self, fwmark: u32) -> Result<(), i32> {
        let running = lock_running(&self.running);
        let sockets = || running.iter().flat_map(|running| &running.sockets);
        for (place, socket) in sockets().enumerate() {
            if let Err(error) = sockets::set_fwmark(socket.as_fd(), fwmark) {
                for socket in sockets().take(place) {
                    let _ = sockets::set_fwmark(socket.as_fd(), self.fwmark);
                }
                warn!(fwmark, %error, "the firewall mark (SO_MARK) is refused; CAP_NET_ADMIN?");
                return Err(error.raw_os_error().unwrap_or(libc::EIO));
            }
        }
        Ok(())
    }

    /// What happens to the device in another namespace we do not hear of: it is taken to be up.
    fn is_link_up(&self) -> bool {
        let device = lock(&self.config.device);
        device.link.up || device.moved_away
    }

    /// The link went up or down, or has another MTU.
    fn link_changed(&mut self) {
        let device = lock(&self.config.device).clone();
        let shared = self.protocol.shared();
        shared.mtu.store(device.link.mtu, std::sync::atomic::Ordering::Relaxed);
        let went_down = std::mem::replace(&mut self.downs, device.downs) != device.downs;
        let up = device.link.up || device.moved_away;
        // As the kernel and wireguard-go: down, nothing is kept of sessions and sockets, even if
        // the link is up again by now.
        if (went_down || !up) && self.engine.is_some() {
            self.protocol.set_up(false);
            self.stop_engine();
        }
        if !up {
            self.unbound = false;
        } else if self.engine.is_none() {
            match self.bind_again() {
                Ok(bound) => {
                    self.unbound = false;
                    let _ = self.start_engine(bound);
                }
                Err(error) if !self.unbound => {
                    self.unbound = true;
                    warn!("the link is up but {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// Sockets on the port of before, so that peers find us; on another one if it is taken and
    /// nobody asked for it.
    fn bind_again(&self) -> Result<Bound, SocketsError> {
        let bind = |port| Bound::bind_wireguard(&self.config.plan, port, self.fwmark);
        match bind(self.last_port) {
            Err(SocketsError::InUse { .. }) if self.listen_port == 0 && self.last_port != 0 => {
                bind(0)
            }
            bound => bound,
        }
    }

    fn start_engine(&mut self, bound: Bound) -> Result<(), ()> {
        self.stop_engine();
        let config = &self.config;
        let duplicate = |fd: &OwnedFd| fd.try_clone();
        let queues = config.queues.iter().map(duplicate).collect::<Result<Vec<_>, _>>();
        let copy = |socket: Option<&UdpSocket>| socket.and_then(|socket| socket.try_clone().ok());
        let first = bound.workers.first();
        let wires = Wires {
            v4: copy(first.and_then(|worker| worker.v4.as_ref())),
            v6: copy(first.and_then(|worker| worker.v6.as_ref())),
            ..Wires::default()
        };
        let sockets = bound.watchers();
        let shared = Arc::clone(self.protocol.shared());
        let started =
            queues.map_err(|error| EngineError::Thread { worker: 0, error }).and_then(|queues| {
                Engine::start(EngineConfig {
                    queues,
                    tun_offloads: config.tun_offloads,
                    sockets: bound.workers,
                    cpus: config.plan.cpus.clone(),
                    traffic: Traffic::WireGuard {
                        shared,
                        control: self.control.clone(),
                        aead: config.aead.clone(),
                    },
                    backend: config.backend.backend,
                    udp_gso: config.plan.tuning.udp_gso,
                    tun_gro: config.plan.tuning.tun_gro,
                    busy_poll: config.plan.tuning.busy_poll,
                    aqm: config.plan.tuning.aqm,
                })
            });
        let engine = match started {
            Ok(engine) => engine,
            Err(error) => {
                let _ = self.tell.failed.try_send(error);
                return Err(());
            }
        };
        let port = bound.listen.first().map_or(0, std::net::SocketAddr::port);
        info!(port, "listening");
        self.last_port = port;
        *lock_running(&self.running) = Some(Running {
            view: engine.view(),
            sockets,
            listen: bound.listen,
            buffers: bound.buffers,
            udp_gro: bound.udp_gro,
            peer_steering: bound.peer_steering,
        });
        self.wires = Wires {
            waker: Some(engine.waker()),
            unanswered: Some(self.tell.unanswered.clone()),
            ..wires
        };
        self.engine = Some(engine);
        self.unbound = false;
        self.protocol.set_up(true);
        Ok(())
    }

    fn stop_engine(&mut self) {
        *lock_running(&self.running) = None;
        self.wires = Wires::default();
        if let Some(engine) = self.engine.take() {
            engine.stop();
        }
    }

    /// Passes on what the workers say of themselves.
    fn watch_engine(&mut self) {
        let Some(engine) = &self.engine else { return };
        for notice in engine.notices().try_iter() {
            if let Notice::SourceLost { to } = notice {
                self.protocol.source_lost(to);
            }
            self.config.offloads.take(notice);
        }
        if let Ok(error) = engine.failed().try_recv() {
            let _ = self.tell.failed.try_send(error);
            self.stop_engine();
        }
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn errno_of_update(error: UpdateError) -> i32 {
    warn!("{error}");
    match error {
        UpdateError::TooManyPeers { .. } => libc::ENOSPC,
    }
}

fn errno_of(error: &SocketsError) -> i32 {
    warn!("{error}");
    match error {
        SocketsError::InUse { .. } => libc::EADDRINUSE,
        SocketsError::NotLocal { .. } => libc::EADDRNOTAVAIL,
        SocketsError::Forbidden { .. } => libc::EACCES,
        SocketsError::Step { error, .. } => error.raw_os_error().unwrap_or(libc::EIO),
        _ => libc::EAFNOSUPPORT,
    }
}
