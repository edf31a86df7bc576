//! IPv4 and IPv6 headers: is this one whole packet, where is its transport, which flow is it.
//!
//! In: bytes from the tun or from a decapsulated datagram. Out: the packet without trailing
//! padding, a [`Headers`] view, a [`FlowKey`] and its hash. Guaranteed: any bytes are accepted
//! and nothing is read outside them; offsets in [`Headers`] lie within the packet.
//!
//! Layouts: RFC 791 section 3.1, RFC 8200 sections 3 and 4, RFC 4302 section 2.2 (AH length).

use std::net::IpAddr;

use super::bytes::get16;

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

pub(super) const IPV4_LEN: usize = 20;
pub(super) const IPV6_LEN: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Extension headers walked before giving up; hosts send two or three at most.
const EXTENSIONS_MAX: usize = 8;

/// Why bytes are not an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InnerError {
    /// Empty, or the version is neither 4 nor 6.
    #[error("neither IPv4 nor IPv6")]
    NotIp,
    /// The header is cut short, or announces more bytes than there are, or fewer than itself.
    #[error("the length in the IP header does not fit the bytes received")]
    LengthMismatch,
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The packet at the start of `bytes`, without what follows it (WireGuard pads to 16 bytes).
///
/// # Errors
/// [`InnerError::NotIp`] by the version; [`InnerError::LengthMismatch`] unless header ≤ announced
/// length ≤ `bytes.len()`. An IPv6 jumbogram (payload length 0) counts as its header alone.
#[inline]
pub fn inner_packet(bytes: &[u8]) -> Result<&[u8], InnerError> {
    let first = bytes.first().ok_or(InnerError::NotIp)?;
    let (min, len) = match first >> 4 {
        4 if bytes.len() >= IPV4_LEN => (usize::from(first & 15) * 4, usize::from(get16(bytes, 2))),
        6 if bytes.len() >= IPV6_LEN => (IPV6_LEN, IPV6_LEN + usize::from(get16(bytes, 4))),
        4 | 6 => return Err(InnerError::LengthMismatch),
        _ => return Err(InnerError::NotIp),
    };
    if min < IPV4_LEN || len < min {
        return Err(InnerError::LengthMismatch);
    }
    bytes.get(..len).ok_or(InnerError::LengthMismatch)
}

/// Where things are in a packet. Length fields are not looked at: the slice is the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// IP version.
    pub version: Version,
    /// Bytes of the IP header: 20..=60 for IPv4 with its options, 40 for IPv6.
    pub ip_len: usize,
    /// Where the transport header begins, behind IPv6 extension headers; at most the packet's
    /// length.
    pub transport: usize,
    /// Protocol found at `transport`. If the walk over IPv6 extension headers had to stop (cut
    /// short, too many, or a routing header still in use, whose true destination the checksum
    /// covers), it is the number of the header that stopped it.
    pub protocol: u8,
    /// A fragment: what lies at `transport` may be anything. An IPv6 atomic fragment
    /// (RFC 6946) counts too.
    pub fragment: bool,
}

impl Headers {
    /// Reads the headers of `packet`; `None` if it is not IP or has no complete IP header.
    #[must_use]
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    #[inline]
    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let head: &[u8; IPV4_LEN] = packet.first_chunk()?;
        let ip_len = usize::from(head[0] & 15) * 4;
        if ip_len < IPV4_LEN || ip_len > packet.len() {
            return None;
        }
        let fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0;
        let (version, protocol) = (Version::V4, head[9]);
        Some(Self { version, ip_len, transport: ip_len, protocol, fragment })
    }

    #[inline]
    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let head: &[u8; IPV6_LEN] = packet.first_chunk()?;
        let headers = Self {
            version: Version::V6,
            ip_len: IPV6_LEN,
            transport: IPV6_LEN,
            protocol: head[6],
            fragment: false,
        };
        Some(match headers.protocol {
            TCP | UDP => headers,
            _ => headers.walk(packet),
        })
    }

    /// Follows IPv6 extension headers as far as they can be understood (RFC 8200 section 4).
    fn walk(mut self, packet: &[u8]) -> Self {
        for _ in 0..EXTENSIONS_MAX {
            let Some(head) = packet.get(self.transport..).and_then(|b| b.first_chunk::<8>()) else {
                break;
            };
            let units = usize::from(head[1]);
            let len = match self.protocol {
                HOP_BY_HOP | DESTINATION => (units + 1) * 8,
                ROUTING if head[3] == 0 => (units + 1) * 8,
                AUTHENTICATION => (units + 2) * 4,
                FRAGMENT => 8,
                _ => break,
            };
            if self.transport + len > packet.len() {
                break;
            }
            self.fragment |= self.protocol == FRAGMENT;
            self.protocol = head[0];
            self.transport += len;
            if self.fragment {
                break;
            }
        }
        self
    }
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it (or an IPv6 fragment behind other extension headers, which are rare).
    Whole,
    /// A fragment that others follow.
    Leading,
    /// The last fragment.
    Last,
}

impl Part {
    /// Reads it off `packet` (RFC 791 section 3.1, RFC 8200 section 4.5).
    #[must_use]
    #[inline]
    pub fn of(packet: &[u8]) -> Self {
        let (offset, more) = match packet.first().map(|byte| byte >> 4) {
            Some(4) if packet.len() >= IPV4_LEN => {
                let field = get16(packet, 6);
                (field & 0x1fff, field & 0x2000 != 0)
            }
            Some(6) if packet.len() >= IPV6_LEN + 8 && packet[6] == FRAGMENT => {
                let field = get16(packet, IPV6_LEN + 2);
                (field >> 3, field & 1 != 0)
            }
            _ => return Self::Whole,
        };
        match (offset, more) {
            (0, false) => Self::Whole,
            (_, true) => Self::Leading,
            (_, false) => Self::Last,
        }
    }
}

/// What tells one direction of a flow from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// Source address; an IPv4 one fills the first four bytes.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// Source and destination port of unfragmented TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// As [`Headers::protocol`].
    pub protocol: u8,
    /// IP version.
    pub version: Version,
}

impl FlowKey {
    /// The key of `packet`; `None` where [`Headers::parse`] gives none.
    #[must_use]
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let headers = Headers::parse(packet)?;
        let (mut source, mut destination) = ([0; 16], [0; 16]);
        match headers.version {
            Version::V4 => {
                source[..4].copy_from_slice(packet.get(12..16)?);
                destination[..4].copy_from_slice(packet.get(16..20)?);
            }
            Version::V6 => {
                source.copy_from_slice(packet.get(8..24)?);
                destination.copy_from_slice(packet.get(24..40)?);
            }
        }
        let at = headers.transport;
        let ports = match headers.protocol {
            TCP | UDP if !headers.fragment && packet.len() >= at + 4 => {
                Some((get16(packet, at), get16(packet, at + 2)))
            }
            _ => None,
        };
        let (protocol, version) = (headers.protocol, headers.version);
        Some(Self { source, destination, ports, protocol, version })
    }

    /// Same in both directions of a flow. Not keyed: fit to spread load, not to resist an
    /// attacker who picks addresses and ports.
    #[must_use]
    #[inline]
    pub fn hash(&self) -> u32 {
        let (from, to) = self.ports.unwrap_or((0, 0));
        // A commutative sum of the two ends makes the hash symmetric.
        let ends = end(&self.source, from).wrapping_add(end(&self.destination, to));
        let mixed = mix(ends ^ u64::from(self.protocol));
        (mixed >> 32) as u32
    }

    /// Whether `other` goes between the same addresses in the same direction.
    #[must_use]
    #[inline]
    pub fn same_addresses(&self, other: &Self) -> bool {
        self.version == other.version
            && self.source == other.source
            && self.destination == other.destination
    }
}

/// The source address of an IP packet.
#[must_use]
#[inline]
pub fn source(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 12, 8)
}

/// The destination address of an IP packet.
#[must_use]
#[inline]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 16, 24)
}

#[inline]
fn address(packet: &[u8], v4_at: usize, v6_at: usize) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(v4_at..)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        6 => packet.get(v6_at..)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}

/// A hash of addresses, protocol and, for unfragmented TCP and UDP, ports; the same in both
/// directions of a flow. Fragments of a flow share a hash, but not the one of its whole packets.
/// Bytes that are no IP packet hash to 0.
#[must_use]
#[inline]
pub fn flow_hash(packet: &[u8]) -> u32 {
    FlowKey::parse(packet).map_or(0, |key| key.hash())
}

#[inline]
fn end(address: &[u8; 16], port: u16) -> u64 {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *address;
    let (first, second) = (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest));
    mix(mix(first ^ (u64::from(port) << 48)).wrapping_add(second))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
#[inline]
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[path = "ip_tests.rs"]
mod tests;
