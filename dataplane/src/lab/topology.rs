//! Ready-made networks: two hosts on a wire, and a line of three for forwarding.
//!
//! Addresses come from the documentation ranges, so they cannot meet the machine's own. IPv6
//! addresses are left out on kernels without IPv6.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::LabError;
use super::host::Host;
use super::netlink::Address;

/// The MTU of the wires, in bytes.
pub const WIRE_MTU: u32 = 1500;

/// One end of a veth pair to be.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The host it is plugged into.
    pub host: &'a Host,
    /// Its name there.
    pub interface: &'a str,
    /// Its addresses; those of IPv6 are skipped on a kernel without it.
    pub addresses: &'a [Address],
}

/// Whether hosts of the lab speak IPv6: the kernel has it, and not switched off.
#[must_use]
pub fn has_ipv6() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6")
        .is_ok_and(|text| text.trim() == "0")
}

/// Joins two hosts by a veth pair with `mtu` bytes, addresses at once usable, both ends up.
///
/// Generic receive offload is on, as on a network card. Measured on kernel 6.18 it changes
/// nothing for a tunnel: `UDP_SEGMENT` sends of 45 packets arrive as 45 and single ones as 1
/// either way, throughput and round trips within noise ([`Host::set_receive_offload`] compares).
///
/// # Errors
/// [`LabError::Network`] says which step the kernel refused.
pub fn connect(one: &End<'_>, other: &End<'_>, mtu: u32) -> Result<(), LabError> {
    one.host.add_veth(one.interface, (other.host, other.interface), mtu)?;
    for end in [one, other] {
        for &address in end.addresses {
            if address.ip.is_ipv4() || has_ipv6() {
                end.host.add_address(end.interface, address)?;
            }
        }
        if has_ipv6() {
            // Without its link-local address, tentative for up to two seconds, a gateway cannot
            // ask for neighbours. Where /proc/sys is read-only, the first packets wait that long.
            let key = format!("net.ipv6.conf.{}.accept_dad", end.interface);
            let _ = end.host.set_sysctl(&key, "0");
        }
        end.host.set_receive_offload(end.interface, true)?;
    }
    one.host.set_up(one.interface)?;
    other.host.set_up(other.interface)?;
    one.host.wait_running(one.interface)?;
    other.host.wait_running(other.interface)
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Address {
    Address { ip: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix_len: 24 }
}

const fn v6(network: u16, host: u16) -> Address {
    let ip = Ipv6Addr::new(0xfd00, network, 0, 0, 0, 0, 0, host);
    Address { ip: IpAddr::V6(ip), prefix_len: 64 }
}

/// Two hosts, `left` and `right`, whose interfaces `eth0` are the ends of one wire.
#[derive(Debug)]
pub struct Pair {
    /// 192.0.2.1/24 and fd00:2::1/64.
    pub left: Host,
    /// 192.0.2.2/24 and fd00:2::2/64.
    pub right: Host,
}

impl Pair {
    /// The wire's interface on both hosts.
    pub const INTERFACE: &str = "eth0";
    /// Left's addresses.
    pub const LEFT: [Address; 2] = [v4(192, 0, 2, 1), v6(2, 1)];
    /// Right's addresses.
    pub const RIGHT: [Address; 2] = [v4(192, 0, 2, 2), v6(2, 2)];

    /// Builds it with [`WIRE_MTU`].
    ///
    /// # Errors
    /// As [`Host::new`] and [`connect`].
    pub fn new() -> Result<Self, LabError> {
        let pair = Self { left: Host::new("left")?, right: Host::new("right")? };
        let end = |host, addresses| End { host, interface: Self::INTERFACE, addresses };
        connect(&end(&pair.left, &Self::LEFT), &end(&pair.right, &Self::RIGHT), WIRE_MTU)?;
        Ok(pair)
    }
}

/// Three hosts in a line: `client` — `gateway` — `server`. The gateway forwards, and the outer
/// two route to each other through it.
///
/// ```text
/// client eth0 198.51.100.1 ── 198.51.100.2 eth0 gateway eth1 192.0.2.1 ── 192.0.2.2 eth0 server
///             fd00:1::1       fd00:1::2                      fd00:2::1    fd00:2::2
/// ```
#[derive(Debug)]
pub struct Line {
    /// Sends traffic that others carry.
    pub client: Host,
    /// Forwards; a tunnel started here carries packets it did not make.
    pub gateway: Host,
    /// The far end.
    pub server: Host,
}

impl Line {
    /// The client's addresses.
    pub const CLIENT: [Address; 2] = [v4(198, 51, 100, 1), v6(1, 1)];
    /// The gateway's addresses towards the client, on `eth0`.
    pub const GATEWAY_INSIDE: [Address; 2] = [v4(198, 51, 100, 2), v6(1, 2)];
    /// The gateway's addresses towards the server, on `eth1`.
    pub const GATEWAY_OUTSIDE: [Address; 2] = [v4(192, 0, 2, 1), v6(2, 1)];
    /// The server's addresses.
    pub const SERVER: [Address; 2] = [v4(192, 0, 2, 2), v6(2, 2)];

    /// Builds it with [`WIRE_MTU`]. A test that wants the server's answers in a tunnel replaces
    /// its route to the client's network ([`Host::set_route`]).
    ///
    /// # Errors
    /// As [`Host::new`], [`connect`] and [`Host::set_sysctl`].
    pub fn new() -> Result<Self, LabError> {
        let line = Self {
            client: Host::new("client")?,
            gateway: Host::new("gateway")?,
            server: Host::new("server")?,
        };
        line.gateway.set_sysctl("net.ipv4.ip_forward", "1")?;
        if has_ipv6() {
            line.gateway.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        let end = |host, interface, addresses| End { host, interface, addresses };
        connect(
            &end(&line.client, "eth0", &Self::CLIENT),
            &end(&line.gateway, "eth0", &Self::GATEWAY_INSIDE),
            WIRE_MTU,
        )?;
        connect(
            &end(&line.gateway, "eth1", &Self::GATEWAY_OUTSIDE),
            &end(&line.server, "eth0", &Self::SERVER),
            WIRE_MTU,
        )?;
        for (family, any) in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
            .iter()
            .enumerate()
        {
            if any.is_ipv4() || has_ipv6() {
                let all = Address { ip: *any, prefix_len: 0 };
                line.client.set_route(all, Some(Self::GATEWAY_INSIDE[family].ip), None)?;
                line.server.set_route(all, Some(Self::GATEWAY_OUTSIDE[family].ip), None)?;
            }
        }
        Ok(line)
    }
}
