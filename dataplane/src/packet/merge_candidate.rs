//! Inbound, first step of merging: can this packet be part of a super-packet at all?
//!
//! In: one IP packet. Out: a [`Candidate`] with the few fields that merging looks at, or nothing.
//! Guaranteed: a candidate has plain headers of a known shape (no IPv4 options, no IPv6 extension
//! headers, no fragment), lengths that agree with the slice, and a payload.
//!
//! The conditions are those of the kernel's own GRO: net/ipv4/af_inet.c `inet_gro_receive`,
//! net/ipv6/ip6_offload.c `ipv6_gro_receive`, net/ipv4/tcp_offload.c `tcp_gro_receive`,
//! net/ipv4/udp_offload.c `udp_gro_receive`.

use super::bytes::{get16, get32, low16, low32};
use super::checksum::{Sum, pseudo_v4, pseudo_v6, sum};
use super::ip::{IPV4_LEN, IPV6_LEN, TCP, UDP};
use super::merge::MergeConfig;
use super::virtio::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4};

const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;

/// Longest headers of a candidate: IPv6 and TCP with 40 bytes of options.
pub(super) const HEADERS_MAX: usize = IPV6_LEN + 60;

const DF: u16 = 0x4000;
const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;
/// PSH, the one flag that may differ within a group.
pub(super) const TCP_PSH: u8 = 0x08;

/// The four shapes of candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

impl Kind {
    pub(super) fn is_v4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Udp4)
    }

    pub(super) fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    /// Where the transport header begins.
    pub(super) fn ip_len(self) -> usize {
        if self.is_v4() { IPV4_LEN } else { IPV6_LEN }
    }

    /// Where the checksum is in the transport header.
    pub(super) fn checksum_offset(self) -> usize {
        if self.is_tcp() { 16 } else { 6 }
    }

    pub(super) fn gso_type(self) -> u8 {
        match self {
            Self::Tcp4 => GSO_TCPV4,
            Self::Tcp6 => GSO_TCPV6,
            Self::Udp4 | Self::Udp6 => GSO_UDP_L4,
        }
    }

    fn protocol(self) -> u8 {
        if self.is_tcp() { TCP } else { UDP }
    }

    /// The pseudo-header of this packet for `len` bytes of transport header and payload.
    #[inline]
    pub(super) fn pseudo(self, packet: &[u8], len: usize) -> Sum {
        if self.is_v4() {
            let addresses = packet.get(12..).and_then(|b| b.first_chunk());
            addresses.map_or(Sum::default(), |a| pseudo_v4(a, self.protocol(), low16(len)))
        } else {
            let addresses = packet.get(8..).and_then(|b| b.first_chunk());
            addresses.map_or(Sum::default(), |a| pseudo_v6(a, self.protocol(), low32(len)))
        }
    }

    /// Whether two candidates of this kind agree in everything that must be the same within a
    /// group, TCP options aside.
    #[inline]
    pub(super) fn same_headers(self, a: &[u8], b: &[u8]) -> bool {
        match self {
            Self::Tcp4 => equal_under(a, b, &TCP4_SAME),
            Self::Tcp6 => equal_under(a, b, &TCP6_SAME),
            Self::Udp4 => equal_under(a, b, &UDP4_SAME),
            Self::Udp6 => equal_under(a, b, &UDP6_SAME),
        }
    }
}

/// A packet that may begin or continue a super-packet, once its checksums proved right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) packet: &'a [u8],
    pub(super) kind: Kind,
    /// IP and transport header together; the payload begins here.
    pub(super) header_len: usize,
    /// IPv4 id, 0 for IPv6.
    pub(super) id: u16,
    /// Whether the id is free to stay the same: IPv4 with DF.
    pub(super) dont_fragment: bool,
    /// TCP sequence number, 0 for UDP.
    pub(super) seq: u32,
    /// TCP PSH.
    pub(super) push: bool,
}

impl<'a> Candidate<'a> {
    /// Examines `packet`; `None` if it must travel alone.
    #[inline]
    pub(super) fn parse(packet: &'a [u8], config: &MergeConfig) -> Option<Self> {
        let (kind, id, dont_fragment) = match *packet.first()? >> 4 {
            4 => {
                let ip: &[u8; IPV4_LEN] = packet.first_chunk()?;
                let fragment = u16::from_be_bytes([ip[6], ip[7]]);
                let len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                // The reserved bit next to DF disqualifies as well, as in the kernel.
                if ip[0] != 0x45 || fragment & !DF != 0 || len != packet.len() {
                    return None;
                }
                let kind = match ip[9] {
                    TCP if config.tcp4 => Kind::Tcp4,
                    UDP if config.udp => Kind::Udp4,
                    _ => return None,
                };
                (kind, u16::from_be_bytes([ip[4], ip[5]]), fragment & DF != 0)
            }
            6 => {
                let ip: &[u8; IPV6_LEN] = packet.first_chunk()?;
                let len = usize::from(u16::from_be_bytes([ip[4], ip[5]])) + IPV6_LEN;
                let kind = match ip[6] {
                    TCP if config.tcp6 => Kind::Tcp6,
                    UDP if config.udp => Kind::Udp6,
                    _ => return None,
                };
                if len != packet.len() {
                    return None;
                }
                (kind, 0, false)
            }
            _ => return None,
        };
        let transport = packet.get(kind.ip_len()..)?;
        let (transport_len, seq, push) =
            if kind.is_tcp() { parse_tcp(transport)? } else { parse_udp(transport)? };
        let header_len = kind.ip_len() + transport_len;
        (packet.len() > header_len).then_some(Self {
            packet,
            kind,
            header_len,
            id,
            dont_fragment,
            seq,
            push,
        })
    }

    /// Whether the transport checksum and, for IPv4, the header checksum are right.
    #[inline]
    pub(super) fn checksums_valid(&self) -> bool {
        if self.kind.is_v4() {
            match self.packet.first_chunk::<IPV4_LEN>() {
                Some(head) if sum(head).is_valid() => {}
                _ => return false,
            }
        }
        let transport = self.packet.get(self.kind.ip_len()..).unwrap_or_default();
        self.kind.pseudo(self.packet, transport.len()).add_bytes(transport).is_valid()
    }

    pub(super) fn payload_len(&self) -> usize {
        self.packet.len() - self.header_len
    }
}

/// Header length, sequence number and PSH of a TCP segment whose flags allow merging.
#[inline]
fn parse_tcp(transport: &[u8]) -> Option<(usize, u32, bool)> {
    let tcp: &[u8; TCP_LEN] = transport.first_chunk()?;
    let len = usize::from(tcp[12] >> 4) * 4;
    // ACK alone, but for PSH and ECE: SYN, FIN, RST, URG and CWR each mean something here and now.
    let flags_fit = tcp[13] & !(TCP_PSH | TCP_ECE) == TCP_ACK;
    (flags_fit && len >= TCP_LEN).then_some((len, get32(tcp, 4), tcp[13] & TCP_PSH != 0))
}

/// The same for a UDP datagram that has a checksum and fills its packet.
#[inline]
fn parse_udp(transport: &[u8]) -> Option<(usize, u32, bool)> {
    let fits = usize::from(get16(transport, 4)) == transport.len() && get16(transport, 6) != 0;
    fits.then_some((UDP_LEN, 0, false))
}

// What must be the same within a group: a set bit is compared, a clear one may differ.

/// All but total length, id and checksum: TOS with ECN, DF, TTL, protocol, addresses.
const V4_SAME: [u8; IPV4_LEN] = {
    let mut same = [0xff; IPV4_LEN];
    (same[2], same[3], same[4], same[5], same[10], same[11]) = (0, 0, 0, 0, 0, 0);
    same
};
/// All but payload length: traffic class with ECN, flow label, hop limit, addresses.
const V6_SAME: [u8; IPV6_LEN] = {
    let mut same = [0xff; IPV6_LEN];
    (same[4], same[5]) = (0, 0);
    same
};
/// All but sequence number, PSH and checksum: ports, ack, offset, reserved bits, ECE, window.
const TCP_SAME: [u8; TCP_LEN] = {
    let mut same = [0xff; TCP_LEN];
    (same[4], same[5], same[6], same[7], same[16], same[17]) = (0, 0, 0, 0, 0, 0);
    same[13] = !TCP_PSH;
    same
};
/// The ports.
const UDP_SAME: [u8; UDP_LEN] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

const TCP4_SAME: [u8; IPV4_LEN + TCP_LEN] = join(&V4_SAME, &TCP_SAME);
const TCP6_SAME: [u8; IPV6_LEN + TCP_LEN] = join(&V6_SAME, &TCP_SAME);
const UDP4_SAME: [u8; IPV4_LEN + UDP_LEN] = join(&V4_SAME, &UDP_SAME);
const UDP6_SAME: [u8; IPV6_LEN + UDP_LEN] = join(&V6_SAME, &UDP_SAME);

const fn join<const N: usize>(front: &[u8], back: &[u8]) -> [u8; N] {
    let mut joined = [0; N];
    let mut i = 0;
    while i < N {
        joined[i] = if i < front.len() { front[i] } else { back[i - front.len()] };
        i += 1;
    }
    joined
}

/// Whether the first `N` bytes agree wherever `same` has bits; one branch for all of them.
#[inline]
fn equal_under<const N: usize>(a: &[u8], b: &[u8], same: &[u8; N]) -> bool {
    let Some((a, b)) = a.first_chunk::<N>().zip(b.first_chunk::<N>()) else { return false };
    // By words: of single bytes the compiler makes a long row of shuffles.
    let (words, rest) = a.as_chunks::<8>();
    let (words_b, rest_b) = b.as_chunks::<8>();
    let (words_same, rest_same) = same.as_chunks::<8>();
    let mut difference = 0;
    for ((a, b), same) in words.iter().zip(words_b).zip(words_same) {
        let [a, b, same] = [a, b, same].map(|word| u64::from_ne_bytes(*word));
        difference |= (a ^ b) & same;
    }
    for ((a, b), same) in rest.iter().zip(rest_b).zip(rest_same) {
        difference |= u64::from((a ^ b) & same);
    }
    difference == 0
}
