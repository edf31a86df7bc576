//! A small synchronous rtnetlink client: one request, its answer, done.
//!
//! In: what to ask or change about links, addresses and routes. Out: plain values, or the kernel's
//! errno as `io::Error`. One socket, used by one thread at a time; no async runtime.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::values::Network;

/// A connection to the kernel's routing tables, in the network namespace where it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// What we know about one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Transmit queue in packets.
    pub tx_queue_len: u32,
    /// Largest super-packet in bytes; 0 when the kernel does not tell.
    pub gso_max_size: u32,
    /// Packets dropped on the way out: for a tun device, those that found its queue full.
    pub tx_dropped: u64,
    /// Whether it is administratively up.
    pub up: bool,
}

/// One change of a link; several go in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// MTU in bytes.
    Mtu(u32),
    /// Transmit queue in packets.
    TxQueueLen(u32),
    /// Largest super-packet in bytes.
    GsoMaxSize(u32),
    /// The same for IPv4 (Linux 6.3; older kernels have one limit for both).
    GsoIpv4MaxSize(u32),
    /// No link-local address, hence no router solicitations into the tunnel.
    NoLinkLocal,
    /// Bring it up.
    Up,
}

impl Netlink {
    /// Opens a connection.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface of this name, if there is one.
    pub fn link_by_name(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get_link(message)
    }

    /// The interface of this index, if there is one.
    pub fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(message)
    }

    /// Changes a link.
    pub fn change_link(&mut self, index: u32, changes: &[LinkChange]) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        for change in changes {
            message.attributes.push(match *change {
                LinkChange::Mtu(bytes) => LinkAttribute::Mtu(bytes),
                LinkChange::TxQueueLen(packets) => LinkAttribute::TxQueueLen(packets),
                LinkChange::GsoMaxSize(bytes) => LinkAttribute::GsoMaxSize(bytes),
                LinkChange::GsoIpv4MaxSize(bytes) => LinkAttribute::GsoIpv4MaxSize(bytes),
                LinkChange::NoLinkLocal => {
                    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
                    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])
                }
                LinkChange::Up => {
                    message.header.flags |= LinkFlags::Up;
                    message.header.change_mask |= LinkFlags::Up;
                    continue;
                }
            });
        }
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives a link an address, usable at once: duplicate detection makes no sense in a tunnel.
    pub fn add_address(&mut self, index: u32, network: Network) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = network.prefix_len;
        message.header.family = family(network.address);
        message.attributes.push(AddressAttribute::Local(network.address));
        message.attributes.push(AddressAttribute::Address(network.address));
        if network.address.is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The MTU of the path to `destination` as far as this host knows it; none without a route.
    pub fn path_mtu(&mut self, destination: IpAddr) -> io::Result<Option<u32>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        let answer = match self.get(RouteNetlinkMessage::GetRoute(message)) {
            Ok(answer) => answer,
            Err(error) if is_no_route(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(RouteNetlinkMessage::NewRoute(route)) = answer else { return Ok(None) };
        let mut device = None;
        let mut route_mtu = None;
        for attribute in &route.attributes {
            if let RouteAttribute::Oif(index) = attribute {
                device = Some(*index);
            }
            if let RouteAttribute::Metrics(metrics) = attribute {
                route_mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
        }
        let device_mtu = match device {
            Some(index) => self.link_by_index(index)?.map(|link| link.mtu),
            None => None,
        };
        Ok([route_mtu, device_mtu].into_iter().flatten().min())
    }

    fn get_link(&mut self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.get(RouteNetlinkMessage::GetLink(message)) {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(read_link(&link))),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn get(
        &mut self,
        request: RouteNetlinkMessage,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        self.send(request, NLM_F_REQUEST)?;
        self.receive()
    }

    pub(super) fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive().map(drop)
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// The answer to the last request: a message, or nothing when the kernel only acknowledged it.
    fn receive(&mut self) -> io::Result<Option<RouteNetlinkMessage>> {
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            if message.header.sequence_number != self.sequence {
                continue;
            }
            return match message.payload {
                NetlinkPayload::InnerMessage(answer) => Ok(Some(answer)),
                NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
                _ => Ok(None),
            };
        }
    }
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Mtu(bytes) = attribute {
            link.mtu = *bytes;
        } else if let LinkAttribute::TxQueueLen(packets) = attribute {
            link.tx_queue_len = *packets;
        } else if let LinkAttribute::GsoMaxSize(bytes) = attribute {
            link.gso_max_size = *bytes;
        } else if let LinkAttribute::Stats64(stats) = attribute {
            link.tx_dropped = stats.tx_dropped;
        }
    }
    link
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(super) fn is_no_route(error: &io::Error) -> bool {
    let no_route = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::ESRCH];
    error.raw_os_error().is_some_and(|errno| no_route.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_both_ways() {
        let mut netlink = Netlink::open().unwrap();
        let by_name = netlink.link_by_name("lo").unwrap().unwrap();
        let by_index = netlink.link_by_index(by_name.index).unwrap().unwrap();
        assert_eq!((by_name.name.as_str(), by_name.index), ("lo", by_index.index));
        assert!(by_name.mtu >= 1_500);
    }

    #[test]
    fn what_is_not_there_is_none() {
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(netlink.link_by_name("no-such-device").unwrap(), None);
        assert_eq!(netlink.link_by_index(0x7fff_fff0).unwrap(), None);
    }

    #[test]
    fn refused_changes_carry_the_errno() {
        let error =
            Netlink::open().unwrap().change_link(0x7fff_fff0, &[LinkChange::Mtu(1)]).unwrap_err();
        let errno = error.raw_os_error().unwrap();
        assert!([libc::ENODEV, libc::EPERM].contains(&errno), "{error}");
    }
}
