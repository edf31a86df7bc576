//! Follows the routes to the peers, so that a source address sticks only as long as the way it
//! belongs to is the way.
//!
//! In: rtnetlink notifications about routes and rules, in the namespace of the UDP sockets; an
//! address that goes takes a route with it. Out: [`Peer::way_out`] of every peer, and no source of
//! another interface, nor one that is not ours. The kernel's WireGuard asks
//! its routing table before each send (drivers/net/wireguard/socket.c); a worker cannot, so control
//! asks when there is news, at most once in [`PAUSE`].

use std::collections::HashMap;
use std::io::{self, PipeReader, PipeWriter};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tracing::{debug, warn};

use super::netlink::Netlink;
use crate::sys::host as sys;
use crate::table::Shared;
use crate::table::peer::Peer;

const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_IPV4_RULE: u32 = 8;
const GROUP_IPV6_ROUTE: u32 = 11;
const GROUP_IPV6_RULE: u32 = 19;
/// One change of the network is many notifications; they are waited for this long.
const SETTLE: Duration = Duration::from_millis(20);
/// Between two rounds through all peers, where routes change all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct RouteWatch {
    mark: Arc<AtomicU32>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl RouteWatch {
    /// Starts watching the ways to the peers in `shared`.
    pub fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let mut notifications = Socket::new(NETLINK_ROUTE)?;
        notifications.bind(&SocketAddr::new(0, 0))?;
        notifications.set_non_blocking(true)?;
        for group in [GROUP_IPV4_ROUTE, GROUP_IPV4_RULE, GROUP_IPV6_ROUTE, GROUP_IPV6_RULE] {
            if let Err(error) = notifications.add_membership(group) {
                debug!(group, %error, "no notifications of this kind");
            }
        }
        let netlink = Netlink::open()?;
        let (stopped, stop) = io::pipe()?;
        let mark = Arc::new(AtomicU32::new(0));
        let watch = Watch { shared, mark: Arc::clone(&mark), netlink };
        let thread = thread::Builder::new()
            .name("route-watch".to_owned())
            .spawn(move || watch.run(&notifications, &stopped))?;
        Ok(Self { mark, stop: Some(stop), thread: Some(thread) })
    }

    /// Tells the mark of our datagrams, which rules may look at.
    pub fn set_mark(&self, mark: u32) {
        self.mark.store(mark, Ordering::Relaxed);
    }
}

impl Drop for RouteWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watch {
    shared: Arc<Shared>,
    mark: Arc<AtomicU32>,
    netlink: Netlink,
}

impl Watch {
    fn run(mut self, notifications: &Socket, stopped: &PipeReader) {
        let ended = |wait| match sys::poll_readable(&[stopped.as_fd()], Some(wait)) {
            Ok(readable) => readable.first() == Some(&true),
            Err(_) => true,
        };
        loop {
            match sys::poll_readable(&[stopped.as_fd(), notifications.as_fd()], None).as_deref() {
                Ok([true, ..]) => return,
                Ok([_, true]) => {}
                Ok(_) => continue,
                Err(error) => {
                    warn!(%error, "routes to the peers are no longer watched");
                    return;
                }
            }
            if ended(SETTLE) {
                return;
            }
            // What they say does not matter, nor that some were lost (ENOBUFS).
            while match notifications.recv_from_full() {
                Ok(_) => true,
                Err(error) => error.raw_os_error() == Some(libc::ENOBUFS),
            } {}
            self.ask_for_all();
            if ended(PAUSE) {
                return;
            }
        }
    }

    fn ask_for_all(&mut self) {
        let mark = self.mark.load(Ordering::Relaxed);
        let peers: Vec<Arc<Peer>> = self.shared.table.load().peers.clone();
        let mut own = HashMap::new();
        for peer in peers {
            let Some(endpoint) = peer.endpoint.load().as_ref().map(|endpoint| **endpoint) else {
                continue;
            };
            let to = endpoint.to;
            if let Some(source) = endpoint.source
                && !*own.entry(source.address).or_insert_with(|| is_ours(source.address))
            {
                peer.forget_source(endpoint);
            }
            // Without a route, and on one link, there is nothing to choose from.
            let way = match to.ip() {
                IpAddr::V6(address) if address.is_unicast_link_local() => None,
                address => self.netlink.way_to(address, mark).unwrap_or(None),
            };
            peer.leads_to(to, way.unwrap_or(0));
        }
    }
}

/// Whether packets may be sent from `address`. An unconnected send is refused if not; a connected
/// one, of IPv6, is not (net/ipv6/udp.c `udpv6_sendmsg`).
fn is_ours(address: IpAddr) -> bool {
    let Err(error) = UdpSocket::bind((address, 0)) else { return true };
    // A link-local one needs an interface, and other errors say nothing of the address.
    error.raw_os_error() != Some(libc::EADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn addresses_of_this_host_are_told_from_others() {
        assert!(is_ours("127.0.0.1".parse().unwrap()));
        for foreign in ["192.0.2.77", "2001:db8::7"] {
            assert!(!is_ours(foreign.parse().unwrap()), "{foreign}");
        }
        assert!(is_ours("fe80::77".parse().unwrap()), "nobody can say");
    }
}
