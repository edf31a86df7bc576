//! The sockets that are connected to the endpoint in use.
//!
//! A send on an unconnected socket looks its route up, and an arriving datagram looks for its
//! socket among all that are bound to the port: 2 µs and 1 µs of an idle tunnel's way. So each
//! worker has one more socket an address family, bound to the same port, and connects it to the
//! endpoint that it sends to again and again. What a peer sends comes to that socket then: of
//! several workers, to the one that sends to it, and that looks for an answer (`poll`).
//!
//! That is worth it, and safe, while packets come and go singly. In the middle of a transfer what
//! arrives at another socket would overtake what still waits at the one before; so a transfer
//! stays where it began. Two workers never connect to one endpoint ([`Claims`](super::Claims)).
//!
//! Nothing depends on it. What the connected socket refuses, be it for an ICMP error that it has
//! got in the meantime, goes again by the other one; and it is used only as long as it would send
//! from the very address that the endpoint says. Where the peer roams, or the route changes
//! (`control::route_watch`), the endpoint says another, and the socket is left alone until sends
//! to one endpoint follow each other again.

use std::net::{IpAddr, SocketAddr};

use super::Files;
use super::claims::Way;
use crate::packet::endpoint::Endpoint;
use crate::ring::sends::SendQueue;
use crate::sys;

/// Single packets in a row to one endpoint after which its socket is connected: three system calls
/// that have been earned, while there is time for them.
const RUN_LEN: u32 = 8;
/// How many before the next try after one that did not lead to the address wanted.
const RETRY_LEN: u32 = 4_096;
/// What is heard singly without a send in between, after which another worker may have the peer.
const LISTENS_ONLY: u32 = 8;

/// What the connected sockets of one worker are good for, by address family.
#[derive(Debug, Default)]
pub(super) struct Connected([Family; 2]);

#[derive(Debug, Default)]
struct Family {
    /// Where its socket leads.
    to: Option<Endpoint>,
    /// Where sends went lately, …
    lately: Option<Endpoint>,
    /// … how often in a row, while the peer was quiet, …
    run: u32,
    /// … and how often they must.
    wanted: u32,
    /// Who is quiet, with the time, of those to whom something is to be sent now: the last one.
    quiet: Option<(SocketAddr, u64)>,
    /// How its socket is connected, whether or not it is used, …
    claim: Option<Way>,
    /// … and how often that one was heard, singly, since the last send there.
    heard_only: u32,
}

impl Connected {
    /// Notes where a peer was heard. With the time if another worker may have it from here on:
    /// nothing waits to be sent, and nothing that arrives in a row could change places.
    #[inline]
    pub(super) fn heard(&mut self, files: &Files, from: SocketAddr, free_ms: Option<u64>) {
        let family = &mut self.0[usize::from(from.is_ipv6())];
        if family.claim.is_none_or(|(to, _)| to != from) {
            return;
        }
        let Some(now_ms) = free_ms else {
            // Of a transfer, which must not lose the socket.
            (family.heard_only, family.run) = (0, 0);
            return;
        };
        family.heard_only += 1;
        if family.heard_only >= LISTENS_ONLY && files.claims.is_asked(files.queue, now_ms) {
            family.give_up(files, from);
        }
    }

    /// Notes before a send to `to` whether the peer is quiet.
    #[inline]
    pub(super) fn quiet(&mut self, to: SocketAddr, quiet_ms: Option<u64>) {
        self.0[usize::from(to.is_ipv6())].quiet = quiet_ms.map(|now_ms| (to, now_ms));
    }

    /// The index of the socket that sends to `endpoint`, and whether it is connected to it.
    #[inline]
    pub(super) fn socket_for(
        &mut self,
        files: &Files,
        endpoint: &Endpoint,
        sends_wait: bool,
    ) -> (u16, bool) {
        let socket = files.socket_for(endpoint.to);
        if files.connected.is_empty() {
            return (files.socket_index(socket), false);
        }
        let family = &mut self.0[usize::from(endpoint.to.is_ipv6())];
        let connected = files.sockets.len() + socket;
        let quiet_ms = family.quiet.take().filter(|(to, _)| *to == endpoint.to).map(|it| it.1);
        if family.to.as_ref() == Some(endpoint) {
            // As above.
            family.run = if quiet_ms.is_some() { family.run } else { 0 };
        } else {
            let due_ms = family.due(endpoint, quiet_ms).filter(|_| !sends_wait);
            if !due_ms.is_some_and(|now_ms| family.connect(files, connected, endpoint, now_ms)) {
                return (files.socket_index(socket), false);
            }
        }
        family.heard_only = 0;
        (files.socket_index(connected), true)
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
        sends.unconnect_front(files.socket_index(files.socket_for(to)));
        true
    }
}

impl Family {
    fn leave(&mut self) {
        (self.to, self.lately, self.run) = (None, None, 0);
    }

    /// Notes a send; the time if it is time to connect the socket to `endpoint`.
    #[inline]
    fn due(&mut self, endpoint: &Endpoint, quiet_ms: Option<u64>) -> Option<u64> {
        if self.lately.as_ref() != Some(endpoint) {
            // To change its own address it must be connected to nobody for a moment, in which it
            // gets what is for others.
            let moves = |(_, from)| endpoint.source.is_some_and(|source| source.address != from);
            self.wanted = if self.claim.is_some_and(moves) { RETRY_LEN } else { RUN_LEN };
            (self.lately, self.run) = (Some(*endpoint), 0);
        }
        self.run = if quiet_ms.is_some() { self.run + 1 } else { 0 };
        quiet_ms.filter(|_| self.run >= self.wanted)
    }

    /// Connects the socket; true if it leads to `endpoint` now.
    #[cold]
    fn connect(&mut self, files: &Files, socket: usize, endpoint: &Endpoint, now_ms: u64) -> bool {
        self.run = 0;
        let Some(source) = endpoint.source else { return false };
        let way = (endpoint.to, source.address);
        if !is_routed(endpoint.to.ip()) || !files.claims.take(files.queue, way, now_ms) {
            return false;
        }
        (self.to, self.claim) = (None, Some(way));
        let file = files.get(files.socket_index(socket));
        let local = sys::datagram::connect_anew(file, endpoint.to, source.address);
        if local.is_ok_and(|local| local.ip() == source.address) {
            (self.to, self.wanted) = (Some(*endpoint), RUN_LEN);
            return true;
        }
        self.wanted = RETRY_LEN;
        self.give_up(files, endpoint.to);
        false
    }

    /// Has nobody arrive at the socket any more: another worker may have `to`.
    #[cold]
    fn give_up(&mut self, files: &Files, to: SocketAddr) {
        self.heard_only = 0;
        let socket = files.socket_index(files.sockets.len() + files.socket_for(to));
        let park = || sys::datagram::park(files.get(socket), to.is_ipv6()).is_ok();
        if files.claims.release(files.queue, to.is_ipv6(), park) {
            (self.to, self.claim) = (None, None);
        }
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
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use super::*;
    use crate::io::{Claims, Datagrams, Destination};
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
                claims: Claims::new(2).into(),
                stamps: None,
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
            for _ in 0..count {
                connected.quiet(endpoint.to, Some(1));
                last = connected.socket_for(&self.files, endpoint, false);
            }
            assert_eq!(last.0, if last.1 { 2 } else { 1 });
            last.1
        }

        /// From whom something arrives at `socket`.
        fn arrives(&self, socket: &OwnedFd) -> SocketAddr {
            let socket = UdpSocket::from(socket.try_clone().unwrap());
            let bound = socket.local_addr().unwrap().port();
            assert_eq!(bound, self.own.port());
            socket.recv_from(&mut [0; 8]).unwrap().1
        }

        fn send(&self, queue: &mut SendQueue) -> i32 {
            let socket = queue.get(0).unwrap().socket;
            crate::io::outcome(queue.send_front(self.files.get(socket)))
        }
    }

    #[test]
    fn single_packets_in_a_row_connect_a_socket() {
        let (bench, mut connected) = (Bench::new(), Connected::default());
        let endpoint = bench.endpoint(0, "127.0.0.1");
        let other = bench.endpoint(1, "127.0.0.1");
        assert!(!bench.sends(&mut connected, &endpoint, RUN_LEN - 1));
        assert!(!connected.socket_for(&bench.files, &endpoint, false).1, "a transfer begins");
        assert!(!bench.sends(&mut connected, &endpoint, RUN_LEN - 1), "in a row");
        connected.quiet(other.to, Some(1));
        assert!(!connected.socket_for(&bench.files, &endpoint, false).1, "somebody else is quiet");
        assert!(!bench.sends(&mut connected, &endpoint, RUN_LEN - 1));
        connected.quiet(endpoint.to, Some(1));
        assert!(!connected.socket_for(&bench.files, &endpoint, true).1, "others wait");
        assert!(bench.sends(&mut connected, &endpoint, 1));
        assert!(!bench.sends(&mut connected, &other, RUN_LEN - 1));
        assert!(bench.sends(&mut connected, &endpoint, 1), "others in between do not matter");
        // A transfer keeps the socket, whether it goes or comes.
        assert!(connected.socket_for(&bench.files, &endpoint, true).1);
        assert!(!bench.sends(&mut connected, &other, RUN_LEN - 1));
        connected.heard(&bench.files, endpoint.to, None);
        assert!(!bench.sends(&mut connected, &other, RUN_LEN - 1));
        // What arrives from it does so at the connected socket.
        bench.peers[0].send_to(b"x", bench.own).unwrap();
        assert_eq!(bench.arrives(&bench.files.connected[0]), endpoint.to);
    }

    #[test]
    fn it_follows_where_most_go_and_never_sends_from_another_address() {
        let (bench, mut connected) = (Bench::new(), Connected::default());
        let [first, second] = [0, 1].map(|peer| bench.endpoint(peer, "127.0.0.1"));
        assert!(bench.sends(&mut connected, &first, RUN_LEN));
        let elsewhere = bench.endpoint(0, "127.0.0.2");
        assert!(!bench.sends(&mut connected, &elsewhere, RETRY_LEN), "the route says 127.0.0.1");
        let nowhere = Endpoint::from(first.to);
        assert!(!bench.sends(&mut connected, &nowhere, RETRY_LEN), "the address may change");
        assert!(bench.sends(&mut connected, &second, RUN_LEN));
        assert!(!bench.sends(&mut connected, &first, 1));
        let elsewhere = bench.endpoint(1, "127.0.0.2");
        assert!(!bench.sends(&mut connected, &elsewhere, RETRY_LEN - 1), "not often");
        assert!(!is_routed("fe80::1".parse().unwrap()) && is_routed("fd00::1".parse().unwrap()));
    }

    /// The one that is asked keeps its peer while it sends there, or has something to send, or
    /// while more than single packets come; else what the peer sends no longer comes to it.
    #[test]
    fn one_worker_connects_to_an_endpoint_and_gives_it_up_when_asked() {
        let (bench, mut connected) = (Bench::new(), Connected::default());
        let endpoint = bench.endpoint(0, "127.0.0.1");
        let way = (endpoint.to, [127, 0, 0, 1].into());
        let take = || bench.files.claims.take(1, way, 1);
        let release = || assert!(bench.files.claims.release(1, false, || true));
        let hears = |connected: &mut Connected, count, free_ms| {
            (0..count).for_each(|_| connected.heard(&bench.files, endpoint.to, free_ms));
        };
        assert!(take(), "another worker's");
        assert!(!bench.sends(&mut connected, &endpoint, RUN_LEN * 2));
        release();
        assert!(bench.sends(&mut connected, &endpoint, RUN_LEN));
        hears(&mut connected, LISTENS_ONLY * 2, Some(1));
        assert!(!take(), "not asked before");
        assert!(bench.sends(&mut connected, &endpoint, 1));
        hears(&mut connected, LISTENS_ONLY - 1, Some(1));
        assert!(bench.sends(&mut connected, &endpoint, 1));
        hears(&mut connected, LISTENS_ONLY * 2, None);
        assert!(!take());
        hears(&mut connected, LISTENS_ONLY - 1, Some(1));
        assert!(!take());
        hears(&mut connected, 1, Some(1));
        assert!(take());
        assert!(!bench.sends(&mut connected, &endpoint, RUN_LEN));
        release();
        assert!(bench.sends(&mut connected, &endpoint, RUN_LEN), "and may have it again");
        assert!(!take());
        hears(&mut connected, LISTENS_ONLY, Some(1));
        bench.peers[0].send_to(b"x", bench.own).unwrap();
        assert_eq!(bench.arrives(&bench.files.sockets[0]), endpoint.to);
    }

    #[test]
    fn what_an_error_of_icmp_refuses_goes_again() {
        let (mut bench, mut connected) = (Bench::new(), Connected::default());
        let endpoint = bench.endpoint(0, "127.0.0.1");
        assert!(bench.sends(&mut connected, &endpoint, RUN_LEN));
        let [gone, other] = std::mem::replace(&mut bench.peers, Bench::new().peers);
        drop(gone);
        let (_pool, slots) = Pool::new(2, 64).unwrap();
        let mut queue = SendQueue::new();
        let to = Destination { endpoint, class: 0 };
        for slot in slots {
            let (socket, connected) = connected.socket_for(&bench.files, &endpoint, false);
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
