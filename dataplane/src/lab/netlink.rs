//! Network settings of one namespace by rtnetlink: links, addresses, routes.
//!
//! A [`Netlink`] belongs to the namespace of the thread that opened it, and works from any thread
//! afterwards. One request, one acknowledgement; the kernel's errno comes back unchanged.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::error::LabError;

/// An address and the length of its network's prefix: `192.0.2.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network part.
    pub prefix_len: u8,
}

impl FromStr for Address {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let parse = || {
            let (ip, prefix_len) = text.split_once('/')?;
            let (ip, prefix_len) = (ip.parse::<IpAddr>().ok()?, prefix_len.parse().ok()?);
            let limit = if ip.is_ipv4() { 32 } else { 128 };
            (prefix_len <= limit).then_some(Self { ip, prefix_len })
        };
        parse().ok_or_else(|| LabError::Address { text: text.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_len)
    }
}

/// A VXLAN device of the kernel's, for comparison.
#[derive(Clone, Debug)]
pub struct Vxlan<'a> {
    /// The device's name.
    pub interface: &'a str,
    /// The network identifier.
    pub id: u32,
    /// Outer source.
    pub local: IpAddr,
    /// Outer destination.
    pub remote: IpAddr,
    /// UDP destination port, usually 4789.
    pub port: u16,
    /// The interface its datagrams leave by.
    pub underlay: &'a str,
}

/// What passed an interface so far (`/proc/net/dev`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStatistics {
    /// Bytes received.
    pub receive_bytes: u64,
    /// Packets received (a super-packet counts as one).
    pub receive_packets: u64,
    /// Packets dropped on receipt.
    pub receive_drops: u64,
    /// Bytes sent.
    pub transmit_bytes: u64,
    /// Packets sent (a super-packet counts as one).
    pub transmit_packets: u64,
    /// Packets dropped on the way out.
    pub transmit_drops: u64,
}

/// One end of a veth pair as the kernel needs it.
pub(super) struct VethEnd<'a> {
    pub(super) interface: &'a str,
    pub(super) namespace: BorrowedFd<'a>,
}

/// A request socket in one namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(super) fn add_veth(&mut self, here: &str, there: &VethEnd<'_>, mtu: u32) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.header.index = new_index();
        peer.attributes = vec![
            LinkAttribute::IfName(there.interface.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NetNsFd(there.namespace.as_raw_fd()),
        ];
        let data = InfoData::Veth(InfoVeth::Peer(peer));
        self.add_link(here, InfoKind::Veth, data, vec![LinkAttribute::Mtu(mtu)])
    }

    pub(super) fn add_vxlan(&mut self, vxlan: &Vxlan<'_>) -> io::Result<()> {
        let (local, remote) = match (vxlan.local, vxlan.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                (InfoVxlan::Local(local), InfoVxlan::Group(remote))
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                (InfoVxlan::Local6(local), InfoVxlan::Group6(remote))
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let underlay = self.index_of(vxlan.underlay)?;
        let data = InfoData::Vxlan(vec![
            InfoVxlan::Id(vxlan.id),
            InfoVxlan::Link(underlay),
            local,
            remote,
            InfoVxlan::Port(vxlan.port),
        ]);
        self.add_link(vxlan.interface, InfoKind::Vxlan, data, Vec::new())
    }

    fn add_link(
        &mut self,
        interface: &str,
        kind: InfoKind,
        data: InfoData,
        mut attributes: Vec<LinkAttribute>,
    ) -> io::Result<()> {
        attributes.push(LinkAttribute::IfName(interface.to_owned()));
        attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
        let mut message = LinkMessage::default();
        message.header.index = new_index();
        message.attributes = attributes;
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    pub(super) fn delete_link(&mut self, interface: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index_of(interface)?;
        self.request(RouteNetlinkMessage::DelLink(message), 0).map(drop)
    }

    pub(super) fn set_up(&mut self, interface: &str) -> io::Result<()> {
        self.set_link(interface, Some(true), Vec::new())
    }

    pub(super) fn set_down(&mut self, interface: &str) -> io::Result<()> {
        self.set_link(interface, Some(false), Vec::new())
    }

    pub(super) fn set_mtu(&mut self, interface: &str, mtu: u32) -> io::Result<()> {
        self.set_link(interface, None, vec![LinkAttribute::Mtu(mtu)])
    }

    pub(super) fn move_link(&mut self, interface: &str, to: BorrowedFd<'_>) -> io::Result<()> {
        self.set_link(interface, None, vec![LinkAttribute::NetNsFd(to.as_raw_fd())])
    }

    fn set_link(
        &mut self,
        interface: &str,
        up: Option<bool>,
        attributes: Vec<LinkAttribute>,
    ) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index_of(interface)?;
        if let Some(up) = up {
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            message.header.change_mask = LinkFlags::Up;
        }
        message.attributes = attributes;
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Whether the interface is up and has a carrier as far as routing knows.
    pub(super) fn is_running(&mut self, interface: &str) -> io::Result<bool> {
        Ok(self.link(interface)?.header.flags.contains(LinkFlags::Running))
    }

    fn index_of(&mut self, interface: &str) -> io::Result<u32> {
        Ok(self.link(interface)?.header.index)
    }

    fn link(&mut self, interface: &str) -> io::Result<LinkMessage> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(interface.to_owned()));
        match self.request(RouteNetlinkMessage::GetLink(message), 0)? {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(link),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Adds an address at once usable: no duplicate address detection.
    pub(super) fn add_address(&mut self, interface: &str, address: Address) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.ip);
        message.header.prefix_len = address.prefix_len;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.header.index = self.index_of(interface)?;
        message.attributes = vec![
            AddressAttribute::Local(address.ip),
            AddressAttribute::Address(address.ip),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Adds or replaces a route through `gateway`, through `interface`, or both.
    pub(super) fn set_route(
        &mut self,
        destination: Address,
        gateway: Option<IpAddr>,
        interface: Option<&str>,
    ) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination.ip);
        message.header.destination_prefix_length = destination.prefix_len;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope =
            if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Destination(destination.ip.into()));
        if let Some(gateway) = gateway {
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        if let Some(interface) = interface {
            message.attributes.push(RouteAttribute::Oif(self.index_of(interface)?));
        }
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Sends one request and reads up to its acknowledgement; returns the answer before it.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = None;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let ours = message.header.sequence_number == self.sequence;
                // Messages are padded to four bytes.
                let len = usize::try_from(message.header.length).unwrap_or(usize::MAX);
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::Error(error) if ours => {
                        return if error.code.is_none() { Ok(answer) } else { Err(error.to_io()) };
                    }
                    NetlinkPayload::InnerMessage(inner) if ours => answer = Some(inner),
                    _ => {}
                }
            }
        }
    }
}

/// A new interface's index. Left to itself the kernel gives both ends of a veth pair the same one
/// (the first free in each namespace), takes them for one device without a peer, and reports the
/// carrier up to a second late.
fn new_index() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(100);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Reads the table of `/proc/net/dev`: interface names and what passed them.
pub(super) fn parse_statistics(table: &str) -> Vec<(String, InterfaceStatistics)> {
    let mut interfaces = Vec::new();
    for line in table.lines().skip(2) {
        let Some((name, figures)) = line.split_once(':') else { continue };
        let figures: Vec<u64> =
            figures.split_whitespace().map(|figure| figure.parse().unwrap_or(0)).collect();
        let figure = |column: usize| figures.get(column).copied().unwrap_or(0);
        let statistics = InterfaceStatistics {
            receive_bytes: figure(0),
            receive_packets: figure(1),
            receive_drops: figure(3),
            transmit_bytes: figure(8),
            transmit_packets: figure(9),
            transmit_drops: figure(11),
        };
        interfaces.push((name.trim().to_owned(), statistics));
    }
    interfaces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_refused() {
        let address: Address = "192.0.2.1/24".parse().expect("an address");
        assert_eq!(address.to_string(), "192.0.2.1/24");
        assert!("fd00:2::1/64".parse::<Address>().is_ok());
        for wrong in ["192.0.2.1", "192.0.2.1/33", "fd00::1/129", "x/8", ""] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn statistics_are_read() {
        let table =
            "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let (name, statistics) = parse_statistics(table).remove(0);
        assert_eq!(name, "lo");
        assert_eq!((statistics.receive_bytes, statistics.receive_packets), (1, 2));
        assert_eq!((statistics.transmit_packets, statistics.transmit_drops), (10, 12));
    }
}
