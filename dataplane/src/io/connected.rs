//! The sockets that are connected to the endpoint in use.
//!
//! A send on an unconnected socket looks its route up, and an arriving datagram looks for its
//! socket among all that are bound to the port: 2 µs and 1 µs of an idle tunnel's way. So each
//! worker has one more socket an address family, bound to the same port, and connects it to the
//! endpoint that it sends to again and again.
//!
//! Nothing depends on it. What the connected socket refuses, be it for an ICMP error that it has
//! got in the meantime, goes again by the other one; and it is used only as long as it would send
//! from the very address that the endpoint says. Where the peer roams, or the route changes
//! (`control::route_watch`), the endpoint says another, and the socket is left alone until sends
//! to one endpoint follow each other again.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use super::Files;
use crate::packet::endpoint::Endpoint;
use crate::ring::sends::SendQueue;
use crate::sys;

/// Sends in a row to one endpoint after which its socket is connected: three system calls that
/// 32 sends have earned.
const RUN_LEN: u32 = 32;
/// Sends in a row before the next try after one that did not lead to the address wanted.
const RETRY_LEN: u32 = 4_096;

/// What the connected sockets of one worker are good for, by address family.
#[derive(Debug, Default)]
pub(super) struct Connected([Family; 2]);

#[derive(Debug, Default)]
struct Family {
    /// Where its socket leads.
    to: Option<Endpoint>,
    /// Where sends went lately, …
    lately: Option<Endpoint>,
    /// … how often in a row, …
    run: u32,
    /// … and how often they must.
    wanted: u32,
    /// Who was heard last.
    heard: Option<SocketAddr>,
    /// Whom the next send is for, if nothing but single packets comes from there.
    quiet: Option<SocketAddr>,
}

/// To whom each worker has connected a socket, by address family: of two sockets that are connected
/// to one endpoint, the kernel would choose.
#[derive(Debug, Default)]
pub struct Claims(Mutex<Vec<[Option<SocketAddr>; 2]>>);

impl Claims {
    /// Whether `worker` may connect to `to`, instead of whom it had before. Not while another asks.
    fn take(&self, worker: u16, to: SocketAddr) -> bool {
        let (worker, family) = (usize::from(worker), usize::from(to.is_ipv6()));
        let Ok(mut claims) = self.0.try_lock() else { return false };
        if claims.len() <= worker {
            claims.resize(worker + 1, [None; 2]);
        }
        let mut others = claims.iter().enumerate().filter(|&(other, _)| other != worker);
        let free = others.all(|(_, claim)| claim[family] != Some(to));
        if free {
            claims[worker][family] = Some(to);
        }
        free
    }

    fn release(&self, worker: u16, ipv6: bool) {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claim) = claims.get_mut(usize::from(worker)) {
            claim[usize::from(ipv6)] = None;
        }
    }
}

impl Connected {
    /// Notes where a peer was heard.
    #[inline]
    pub(super) fn heard(&mut self, from: SocketAddr) {
        self.0[usize::from(from.is_ipv6())].heard = Some(from);
    }

    /// Notes whether nothing but single packets comes from `to`.
    #[inline]
    pub(super) fn quiet(&mut self, to: SocketAddr, quiet: bool) {
        self.0[usize::from(to.is_ipv6())].quiet = quiet.then_some(to);
    }

    /// The index of the socket that sends to `endpoint`, and whether it is connected to it.
    #[inline]
    pub(super) fn socket_for(&mut self, files: &Files, endpoint: &Endpoint) -> (u16, bool) {
        let socket = files.socket_for(endpoint.to);
        if files.connected.is_empty() {
            return (files.socket_index(socket), false);
        }
        let family = &mut self.0[usize::from(endpoint.to.is_ipv6())];
        let connected = files.sockets.len() + socket;
        if family.to.as_ref() == Some(endpoint) || family.connect(files, connected, endpoint) {
            (files.socket_index(connected), true)
        } else {
            (files.socket_index(socket), false)
        }
    }

    /// Has the front of the queue go again by the unconnected socket if `result` is that of a
    /// connected one, and an error that is not only "later".
    pub(super) fn take_back(&mut self, files: &Files, sends: &mut SendQueue, result: i32) -> bool {
        let Some(front) = sends.get(0).filter(|front| front.connected) else { return false };
        if result >= 0 || matches!(-result, libc::EAGAIN | libc::EINTR | libc::ECANCELED) {
            return false;
        }
        let to = front.to.endpoint.to;
        self.0[usize::from(to.is_ipv6())].leave();
        files.claims.release(files.queue, to.is_ipv6());
        sends.unconnect_front(files.socket_index(files.socket_for(to)));
        true
    }
}

impl Family {
    fn leave(&mut self) {
        (self.to, self.lately, self.run) = (None, None, 0);
    }

    /// Connects the socket if it is time to; true if it leads to `endpoint` now.
    fn connect(&mut self, files: &Files, socket: usize, endpoint: &Endpoint) -> bool {
        if self.lately.as_ref() != Some(endpoint) {
            (self.lately, self.run, self.wanted) = (Some(*endpoint), 0, RUN_LEN);
        }
        self.run += 1;
        if self.run < self.wanted {
            return false;
        }
        (self.run, self.wanted) = (0, RETRY_LEN);
        // Of several workers, the one that hears the peer; or, as long as packets come singly, the
        // one that sends to it, which then hears it too: who looks for an answer is who gets it.
        let here = [self.heard, self.quiet].contains(&Some(endpoint.to));
        let Some(source) = endpoint.source.filter(|_| here) else { return false };
        if !is_routed(endpoint.to.ip()) || !files.claims.take(files.queue, endpoint.to) {
            return false;
        }
        self.to = None;
        let file = files.get(files.socket_index(socket));
        let local = sys::datagram::connect_anew(file, endpoint.to, source.address);
        if local.is_ok_and(|local| local.ip() == source.address) {
            self.to = Some(*endpoint);
        }
        if self.to.is_none() {
            files.claims.release(files.queue, endpoint.to.is_ipv6());
        }
        self.to.is_some()
    }
}

/// Whether routes lead to `address`: connecting to a link-local one binds the socket to an
/// interface for good (net/ipv6/datagram.c `__ip6_datagram_connect`).
fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_broadcast() && !address.is_multicast(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_multicast(),
    }
}

/// Errors of what was sent before, which connected sockets are told at the next receive
/// (net/ipv4/icmp.c `icmp_err_convert`, net/ipv6/icmp.c `icmpv6_err_convert`).
pub(super) fn is_of_icmp(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EPROTO
            | libc::EMSGSIZE
            | libc::EOPNOTSUPP
            | libc::EACCES
    )
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;

    use super::*;
    use crate::io::{Datagrams, Destination};
    use crate::packet::endpoint::Source;
    use crate::ring::memory::Pool;

    /// A worker's sockets on one port, and two peers.
    struct Bench {
        files: Files,
        own: SocketAddr,
        peers: [UdpSocket; 2],
    }

    impl Bench {
        fn new() -> Self {
            let port = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
            let bound = || {
                let kind = socket2::Type::DGRAM.nonblocking();
                let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
                socket.set_reuse_port(true).unwrap();
                socket.bind(&SocketAddr::from(([0; 4], port)).into()).unwrap();
                Arc::new(socket.into())
            };
            let files = Files {
                queues: vec![Arc::new(sys::event::create().unwrap())],
                queue: 0,
                connected: vec![bound()],
                sockets: vec![bound()],
                wake: Arc::new(sys::event::create().unwrap()),
                claims: Arc::default(),
            };
            let peer = || {
                let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
                peer.set_nonblocking(true).unwrap();
                peer
            };
            Self { files, own: ([127, 0, 0, 1], port).into(), peers: [peer(), peer()] }
        }

        fn endpoint(&self, peer: usize, source: &str) -> Endpoint {
            let source = Some(Source { address: source.parse().unwrap(), interface: 1 });
            Endpoint { to: self.peers[peer].local_addr().unwrap(), source }
        }

        /// Whether the last of `count` sends to `endpoint` would leave by the connected socket.
        fn sends(&self, connected: &mut Connected, endpoint: &Endpoint, count: u32) -> bool {
            let mut last = (0, false);
            (0..count).for_each(|_| last = connected.socket_for(&self.files, endpoint));
            assert_eq!(last.0, if last.1 { 2 } else { 1 });
            last.1
        }

        fn send(&self, queue: &mut SendQueue) -> i32 {
            let socket = queue.get(0).unwrap().socket;
            crate::io::outcome(queue.send_front(self.files.get(socket)))
        }
    }

    #[test]
    fn sends_in_a_row_to_who_is_heard_connect_a_socket() {
        let (bench, mut connected) = (Bench::new(), Connected::default());
        let endpoint = bench.endpoint(0, "127.0.0.1");
        assert!(!bench.sends(&mut connected, &endpoint, RETRY_LEN), "another worker hears it");
        connected.heard(endpoint.to);
        assert!(!bench.sends(&mut connected, &bench.endpoint(1, "127.0.0.1"), 1));
        assert!(!bench.sends(&mut connected, &endpoint, RUN_LEN - 1));
        assert!(bench.sends(&mut connected, &endpoint, 1));
        assert!(!bench.sends(&mut connected, &bench.endpoint(1, "127.0.0.1"), RUN_LEN));
        assert!(bench.sends(&mut connected, &endpoint, 1), "others in between do not matter");
        // What arrives from it does so at the connected socket.
        bench.peers[0].send_to(b"x", bench.own).unwrap();
        let socket = socket2::SockRef::from(&bench.files.connected[0]).try_clone().unwrap();
        let socket = UdpSocket::from(socket);
        assert_eq!(socket.recv_from(&mut [0; 8]).unwrap(), (1, endpoint.to));
    }

    #[test]
    fn it_follows_where_most_go_and_never_sends_from_another_address() {
        let (bench, mut connected) = (Bench::new(), Connected::default());
        let [first, second] = [0, 1].map(|peer| bench.endpoint(peer, "127.0.0.1"));
        connected.heard(first.to);
        assert!(bench.sends(&mut connected, &first, RUN_LEN));
        let elsewhere = bench.endpoint(0, "127.0.0.2");
        assert!(!bench.sends(&mut connected, &elsewhere, RETRY_LEN), "the route says 127.0.0.1");
        let nowhere = Endpoint::from(first.to);
        assert!(!bench.sends(&mut connected, &nowhere, RETRY_LEN), "the address may change");
        connected.heard(second.to);
        assert!(bench.sends(&mut connected, &second, RUN_LEN));
        assert!(!bench.sends(&mut connected, &first, 1));
        assert!(!is_routed("fe80::1".parse().unwrap()) && is_routed("fd00::1".parse().unwrap()));
    }

    /// The worker that sends while packets come singly need not have heard the peer; two do not
    /// connect to one endpoint.
    #[test]
    fn one_worker_connects_to_an_endpoint() {
        let bench = Bench::new();
        let endpoint = bench.endpoint(0, "127.0.0.1");
        let mut connected = Connected::default();
        assert!(!bench.sends(&mut connected, &endpoint, RUN_LEN), "never heard");
        let mut connected = Connected::default();
        connected.quiet(endpoint.to, true);
        assert!(bench.files.claims.take(1, endpoint.to), "another worker's");
        assert!(!bench.sends(&mut connected, &endpoint, RUN_LEN));
        bench.files.claims.release(1, false);
        assert!(bench.sends(&mut connected, &endpoint, RETRY_LEN));
        assert!(!bench.files.claims.take(1, endpoint.to));
        assert!(bench.files.claims.take(1, bench.endpoint(1, "127.0.0.1").to));
    }

    #[test]
    fn what_an_error_of_icmp_refuses_goes_again() {
        let (mut bench, mut connected) = (Bench::new(), Connected::default());
        let endpoint = bench.endpoint(0, "127.0.0.1");
        connected.heard(endpoint.to);
        assert!(bench.sends(&mut connected, &endpoint, RUN_LEN));
        let [gone, other] = std::mem::replace(&mut bench.peers, Bench::new().peers);
        drop(gone);
        let (_pool, slots) = Pool::new(2, 64).unwrap();
        let mut queue = SendQueue::new();
        let to = Destination { endpoint, class: 0 };
        for slot in slots {
            let (socket, connected) = connected.socket_for(&bench.files, &endpoint);
            let datagrams = Datagrams { socket, connected, to, len: 5, segment_len: 5 };
            queue.push(slot, datagrams, true).unwrap();
        }
        assert_eq!(bench.send(&mut queue), 5);
        assert!(!connected.take_back(&bench.files, &mut queue, 5));
        queue.pop();
        // Nobody is there: told of the first, the second is not sent.
        let refused = bench.send(&mut queue);
        assert_eq!(refused, -libc::ECONNREFUSED);
        assert!(!connected.take_back(&bench.files, &mut queue, -libc::EAGAIN));
        assert!(connected.take_back(&bench.files, &mut queue, refused));
        let front = queue.get(0).unwrap();
        assert!(!front.connected && front.socket == 1);
        // In the meantime somebody is.
        let back = UdpSocket::bind(endpoint.to).unwrap();
        assert_eq!(bench.send(&mut queue), 5);
        assert_eq!(back.recv_from(&mut [0; 8]).unwrap(), (5, bench.own));
        assert!(!bench.sends(&mut connected, &endpoint, RUN_LEN - 1));
        assert!(bench.sends(&mut connected, &endpoint, 1));
        drop(other);
    }
}
