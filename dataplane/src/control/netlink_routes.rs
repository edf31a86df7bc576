//! Routes and rules: added, and taken away again exactly as they were added.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Netlink, is_no_route};
use crate::table::allowed_ips::Prefix;

/// The table that `ip route` shows.
pub const TABLE_MAIN: u32 = 254;

/// A route to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub prefix: Prefix,
    /// The device's index.
    pub index: u32,
    /// The table it is in.
    pub table: u32,
}

/// A policy rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Whatever is not marked with this looks at this table.
    NotMarked {
        /// The mark.
        mark: u32,
        /// The table.
        table: u32,
        /// Of IPv6.
        ipv6: bool,
    },
    /// The main table counts, but for its default routes.
    MainWithoutDefault {
        /// Of IPv6.
        ipv6: bool,
    },
}

impl Netlink {
    /// The index of the interface by which datagrams with `mark` leave for `destination`; none
    /// without a route.
    pub fn way_to(&mut self, destination: IpAddr, mark: u32) -> io::Result<Option<u32>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination.is_ipv6());
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        if mark != 0 {
            message.attributes.push(RouteAttribute::Mark(mark));
        }
        let answer = match self.get(RouteNetlinkMessage::GetRoute(message)) {
            Err(error) if is_no_route(&error) => None,
            answer => answer?,
        };
        let Some(RouteNetlinkMessage::NewRoute(route)) = answer else { return Ok(None) };
        Ok(route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        }))
    }

    /// Adds a route; `AlreadyExists` if it is there.
    pub fn add_route(&mut self, route: Route) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRoute(route.message());
        self.change(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes a route away.
    pub fn remove_route(&mut self, route: Route) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelRoute(route.message()), 0)
    }

    /// Adds a rule; `AlreadyExists` if it is there.
    pub fn add_rule(&mut self, rule: Rule) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRule(rule.message());
        self.change(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes a rule away.
    pub fn remove_rule(&mut self, rule: Rule) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelRule(rule.message()), 0)
    }
}

impl Route {
    fn message(self) -> RouteMessage {
        let address = self.prefix.address();
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(address.is_ipv6()),
            destination_prefix_length: self.prefix.len(),
            table: u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
            protocol: RouteProtocol::Boot,
            scope: if address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes =
            vec![RouteAttribute::Oif(self.index), RouteAttribute::Table(self.table)];
        if !self.prefix.is_default() {
            let to = match address {
                IpAddr::V4(v4) => RouteAddress::Inet(v4),
                IpAddr::V6(v6) => RouteAddress::Inet6(v6),
            };
            message.attributes.push(RouteAttribute::Destination(to));
        }
        message
    }
}

impl Rule {
    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.action = RuleAction::ToTable;
        match self {
            Self::NotMarked { mark, table, ipv6 } => {
                message.header.family = family(ipv6);
                message.header.flags = RuleFlags::Invert;
                message.header.table = u8::try_from(table).unwrap_or(0);
                message.attributes = vec![RuleAttribute::FwMark(mark), RuleAttribute::Table(table)];
            }
            Self::MainWithoutDefault { ipv6 } => {
                message.header.family = family(ipv6);
                message.header.table = RouteHeader::RT_TABLE_MAIN;
                message.attributes =
                    vec![RuleAttribute::SuppressPrefixLen(0), RuleAttribute::Table(TABLE_MAIN)];
            }
        }
        message
    }
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}
