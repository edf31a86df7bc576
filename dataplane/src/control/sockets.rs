//! The UDP sockets: one `SO_REUSEPORT` socket a worker and address family, and for WireGuard one
//! more of each for connecting (`io::connected`).
//!
//! In: where to listen and how many workers. Out: [`Bound`] sockets, non-blocking, with their
//! options set and bound in worker order before any traffic, or a [`SocketsError`].
//!
//! A second `SO_REUSEPORT` bind by the same user joins the group silently and takes a share of the
//! packets, so a plain bind asks first whether the port is free. Two ringtuns that start at the
//! same instant take turns at asking and binding, by an abstract Unix socket that exists, like the
//! port, once in a network namespace.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

use super::plan::{ListenAt, Plan, family_name};
use super::{port_owner, status};
use crate::engine::WorkerSockets;
use crate::sys::{host as sys, reuseport};

const TURN_WAIT: Duration = Duration::from_secs(2);
const TURN_POLL: Duration = Duration::from_millis(10);
/// How long a port may stay taken that no process has: the kernel closes the files of a killed
/// process's rings a moment after the process is gone.
const RELEASE_WAIT: Duration = Duration::from_secs(1);
/// Ports tried when the kernel may pick one.
const PORT_TRIES: u32 = 20;

/// Why the sockets could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// Somebody has the port.
    #[error(
        "UDP {address} is in use{}; stop that program or listen on another port",
        owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default()
    )]
    InUse {
        /// The address.
        address: SocketAddr,
        /// `name (pid N)`.
        owner: Option<String>,
    },
    /// The address is not this host's.
    #[error(
        "cannot listen on {address}: no interface of this host has that address; use one that \
         `ip addr` shows, or 0.0.0.0 or [::] for all"
    )]
    NotLocal {
        /// The address.
        address: SocketAddr,
    },
    /// A port below 1024 without the right to it.
    #[error(
        "not permitted to listen on {address}: {error}. Ports below 1024 need \
         CAP_NET_BIND_SERVICE; choose a higher port or run as root"
    )]
    Forbidden {
        /// The address.
        address: SocketAddr,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The address family does not exist here.
    #[error(
        "cannot listen on {address}: this host has no {family}; leave that --listen out or enable \
         {family}"
    )]
    NoFamily {
        /// The address.
        address: SocketAddr,
        /// IPv4 or IPv6.
        family: &'static str,
    },
    /// Only the family that does not exist here reaches the peer.
    #[error("the peer {peer} is an IPv6 address but this host has no IPv6")]
    PeerUnreachable {
        /// The peer.
        peer: SocketAddr,
    },
    /// Another step failed.
    #[error("cannot {what} for UDP {address}: {error}")]
    Step {
        /// The step.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// Sockets ready for the workers.
#[derive(Debug)]
pub struct Bound {
    /// One entry a worker.
    pub workers: Vec<WorkerSockets>,
    /// Where they listen.
    pub listen: Vec<SocketAddr>,
    /// Buffers as granted, the smallest of all sockets.
    pub buffers: status::SocketBuffers,
    /// Whether `UDP_GRO` is on; off when asked for or refused (which is logged).
    pub udp_gro: bool,
    /// How peers find their worker: `one worker`, `receiver index`, or `address hash`.
    pub peer_steering: &'static str,
}

/// How sockets are bound.
#[derive(Clone, Debug)]
pub struct BindOptions {
    /// How many workers want sockets.
    pub workers: usize,
    /// Where to receive.
    pub listen: Vec<ListenAt>,
    /// Buffer each way.
    pub buffer_bytes: u32,
    /// Receive coalesced.
    pub udp_gro: bool,
    /// Be told when datagrams came, so that no queue stands.
    pub aqm: bool,
    /// For WireGuard: each datagram's traffic class and the address it was sent to are told, each
    /// worker has a second socket, to be connected, and messages go to the worker that their
    /// receiver index names.
    pub wireguard: bool,
    /// Mark of what is sent; 0 is none.
    pub fwmark: u32,
}

impl Bound {
    /// Binds what `plan` listens on.
    pub fn bind(plan: &Plan) -> Result<Self, SocketsError> {
        let bound = Self::bind_with(&BindOptions {
            workers: plan.cpus.len(),
            listen: plan.listen.clone(),
            buffer_bytes: plan.tuning.socket_buffer_bytes,
            udp_gro: plan.tuning.udp_gro,
            aqm: plan.tuning.aqm,
            wireguard: false,
            fwmark: 0,
        })?;
        let reaches =
            |peer: SocketAddr| bound.listen.iter().any(|at| at.is_ipv4() == peer.is_ipv4());
        match plan.peer {
            Some(peer) if !reaches(peer) => Err(SocketsError::PeerUnreachable { peer }),
            _ => Ok(bound),
        }
    }

    /// Binds one port of all addresses for WireGuard; 0 is one that the kernel picks.
    pub fn bind_wireguard(plan: &Plan, port: u16, fwmark: u32) -> Result<Self, SocketsError> {
        let listen_at = |port| {
            vec![
                ListenAt { address: (Ipv4Addr::UNSPECIFIED, port).into(), required: true },
                ListenAt { address: (Ipv6Addr::UNSPECIFIED, port).into(), required: false },
            ]
        };
        let mut options = BindOptions {
            workers: plan.cpus.len(),
            listen: listen_at(port),
            buffer_bytes: plan.tuning.socket_buffer_bytes,
            udp_gro: plan.tuning.udp_gro,
            aqm: plan.tuning.aqm,
            wireguard: true,
            fwmark,
        };
        if port != 0 {
            return Self::bind_with(&options);
        }
        let mut tries = 0;
        loop {
            options.listen = listen_at(free_port()?);
            tries += 1;
            match Self::bind_with(&options) {
                // Somebody was faster, or has it for the other family.
                Err(SocketsError::InUse { .. }) if tries < PORT_TRIES => {}
                result => return result,
            }
        }
    }

    fn bind_with(options: &BindOptions) -> Result<Self, SocketsError> {
        let mut workers: Vec<_> = (0..options.workers).map(|_| WorkerSockets::default()).collect();
        let wanted_bytes = u64::from(options.buffer_bytes);
        let mut bound = Self {
            workers: Vec::new(),
            listen: Vec::new(),
            buffers: status::SocketBuffers { wanted_bytes, ..Default::default() },
            udp_gro: options.udp_gro,
            peer_steering: "",
        };
        let several = workers.len() > 1;
        let mut steered = options.wireguard && several;
        for at in &options.listen {
            // The kernel counts a group's sockets in the order in which they were bound, and puts
            // the last one in the place of one that leaves it, as those do that are connected
            // (net/core/sock_reuseport.c `__reuseport_detach_sock`): these come last.
            let each = if options.wireguard { 2 } else { 1 };
            let Some(sockets) = bind_group(at, workers.len() * each)? else { continue };
            if steered && let Some(first) = sockets.first() {
                steered = steer(first.as_fd(), workers.len());
            }
            for (i, socket) in sockets.into_iter().enumerate() {
                let is_first = i < options.workers;
                bound.prepare(&socket, at.address, options)?;
                let worker = &mut workers[i % options.workers];
                match (is_first, at.address.is_ipv4()) {
                    (true, true) => worker.v4 = Some(socket.into()),
                    (true, false) => worker.v6 = Some(socket.into()),
                    (false, _) => worker.connected.push(socket.into()),
                }
            }
            bound.listen.push(at.address);
        }
        bound.peer_steering = match (several, steered) {
            (false, _) => "one worker",
            (true, true) => "receiver index",
            (true, false) => "address hash",
        };
        if several && !steered {
            // By the hash, a sender would change workers when a socket leaves the group.
            workers.iter_mut().for_each(|worker| worker.connected.clear());
        }
        bound.workers = workers;
        Ok(bound)
    }

    /// More descriptors of the same sockets, to read their drop counters from.
    #[must_use]
    pub fn watchers(&self) -> Vec<UdpSocket> {
        let sockets = self.workers.iter().flat_map(|worker| {
            let connected = worker.connected.iter();
            worker.v4.iter().chain(&worker.v6).chain(connected)
        });
        sockets.filter_map(|socket| socket.try_clone().ok()).collect()
    }

    fn prepare(
        &mut self,
        socket: &Socket,
        address: SocketAddr,
        options: &BindOptions,
    ) -> Result<(), SocketsError> {
        let fd = socket.as_fd();
        let (receive, send) = grow_buffers(socket, options.buffer_bytes);
        let smaller = |old: u64, new: u64| if old == 0 { new } else { old.min(new) };
        self.buffers.receive_bytes = smaller(self.buffers.receive_bytes, receive);
        self.buffers.send_bytes = smaller(self.buffers.send_bytes, send);
        allow_fragments(fd, address)
            .map_err(|error| failed("allow fragments (IP_MTU_DISCOVER)", address, error))?;
        if options.wireguard {
            ask_for_packet_info(fd, address)
                .map_err(|error| failed("ask for packet information", address, error))?;
        }
        if options.fwmark != 0 {
            set_fwmark(fd, options.fwmark)
                .map_err(|error| failed("set the firewall mark (SO_MARK)", address, error))?;
        }
        if self.udp_gro
            && let Err(error) = sys::set_socket_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
        {
            warn!(%error, "UDP_GRO refused: datagrams arrive singly, several times slower");
            self.udp_gro = false;
        }
        // Transfers are known by their coalesced receives.
        if options.aqm
            && self.udp_gro
            && let Err(error) =
                sys::set_socket_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
        {
            warn!(%error, "the kernel does not say when packets came: queues are not managed");
        }
        Ok(())
    }
}

/// Has messages find the worker that their receiver index names; false if the kernel will not.
fn steer(socket: BorrowedFd<'_>, workers: usize) -> bool {
    let steered = reuseport::steer_by_receiver(socket, workers);
    steered
        .inspect_err(|error| debug!(%error, "no program picks the workers of peers: a hash does"))
        .is_ok()
}

/// A port that is free for IPv4 at this moment.
fn free_port() -> Result<u16, SocketsError> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let bound = UdpSocket::bind(any).and_then(|socket| socket.local_addr());
    bound.map(|address| address.port()).map_err(|error| failed("find a port", any, error))
}

/// Marks what a socket sends; needs CAP_NET_ADMIN.
pub fn set_fwmark(fd: BorrowedFd<'_>, mark: u32) -> io::Result<()> {
    sys::set_socket_option(fd, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
}

/// The traffic class, for ECN, and the address a datagram was sent to, to answer from.
fn ask_for_packet_info(fd: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    let options = if address.is_ipv4() {
        [(libc::IPPROTO_IP, libc::IP_RECVTOS), (libc::IPPROTO_IP, libc::IP_PKTINFO)]
    } else {
        [(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS), (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)]
    };
    options.into_iter().try_for_each(|(level, option)| sys::set_socket_option(fd, level, option, 1))
}

/// One socket a worker on one address; none when the address may be skipped and its family is
/// missing.
fn bind_group(at: &ListenAt, workers: usize) -> Result<Option<Vec<Socket>>, SocketsError> {
    let _turn = take_turn(at.address.port());
    let probe = match new_socket(at.address) {
        Err(SocketsError::NoFamily { .. }) if !at.required => {
            debug!(address = %at.address, "skipped: this host has no such address family");
            return Ok(None);
        }
        probe => probe?,
    };
    match bind_when_released(&probe, at.address) {
        Err(SocketsError::NotLocal { .. } | SocketsError::NoFamily { .. }) if !at.required => {
            debug!(address = %at.address, "skipped: this host has no such address family");
            return Ok(None);
        }
        result => result?,
    }
    drop(probe);
    let sockets = (0..workers).map(|_| {
        let socket = new_socket(at.address)?;
        socket
            .set_reuse_port(true)
            .map_err(|error| failed("set SO_REUSEPORT", at.address, error))?;
        bind(&socket, at.address)?;
        Ok(socket)
    });
    sockets.collect::<Result<_, _>>().map(Some)
}

fn new_socket(address: SocketAddr) -> Result<Socket, SocketsError> {
    let domain = Domain::for_address(address);
    let socket =
        Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP)).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EAFNOSUPPORT) => {
                    SocketsError::NoFamily { address, family: family_name(address.ip()) }
                }
                _ => failed("create a socket", address, error),
            }
        })?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(|error| failed("set IPV6_V6ONLY", address, error))?;
    }
    Ok(socket)
}

/// Binds, after waiting for what a killed predecessor leaves taken.
fn bind_when_released(socket: &Socket, address: SocketAddr) -> Result<(), SocketsError> {
    let deadline = Instant::now() + RELEASE_WAIT;
    loop {
        match bind(socket, address) {
            Err(SocketsError::InUse { owner: None, .. }) if Instant::now() < deadline => {
                thread::sleep(TURN_POLL);
            }
            result => return result,
        }
    }
}

fn bind(socket: &Socket, address: SocketAddr) -> Result<(), SocketsError> {
    socket.bind(&address.into()).map_err(|error| match error.raw_os_error() {
        Some(libc::EADDRINUSE) => SocketsError::InUse { address, owner: port_owner::find(address) },
        Some(libc::EADDRNOTAVAIL) => SocketsError::NotLocal { address },
        Some(libc::EACCES | libc::EPERM) => SocketsError::Forbidden { address, error },
        _ => failed("bind", address, error),
    })
}

fn failed(what: &'static str, address: SocketAddr, error: io::Error) -> SocketsError {
    SocketsError::Step { what, address, error }
}

/// Waits for our turn at this port. Without one we go on: the plain bind still catches every port
/// in use, only not one that is taken in the same millisecond.
fn take_turn(port: u16) -> Option<UnixDatagram> {
    let name = format!("ringtun/bind-udp/{port}");
    let address = UnixAddr::from_abstract_name(name.as_bytes()).ok()?;
    let deadline = Instant::now() + TURN_WAIT;
    loop {
        match UnixDatagram::bind_addr(&address) {
            Ok(turn) => return Some(turn),
            Err(error) if Instant::now() > deadline => {
                warn!(port, %error, "another ringtun has been binding this port for 2 s; going on");
                return None;
            }
            Err(_) => thread::sleep(TURN_POLL),
        }
    }
}

/// Asks for buffers of `bytes`, past the sysctl limits where we may, and tells what was granted.
pub(super) fn grow_buffers(socket: &Socket, bytes: u32) -> (u64, u64) {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    let set = |option| sys::set_socket_option(socket.as_fd(), libc::SOL_SOCKET, option, value);
    let receive = set(libc::SO_RCVBUFFORCE).or_else(|_| set(libc::SO_RCVBUF));
    let send = set(libc::SO_SNDBUFFORCE).or_else(|_| set(libc::SO_SNDBUF));
    if let Err(error) = receive.and(send) {
        debug!(%error, "socket buffers stay at their default");
    }
    // The kernel doubles what is asked for, to cover its own overhead, and reports the double.
    let granted = |size: io::Result<usize>| size.map_or(0, |size| size as u64 / 2);
    (granted(socket.recv_buffer_size()), granted(socket.send_buffer_size()))
}

/// As the kernel's WireGuard does: a datagram too large for the path is fragmented, not refused.
fn allow_fragments(fd: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    let (level, option, value) = if address.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    };
    sys::set_socket_option(fd, level, option, value)
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
