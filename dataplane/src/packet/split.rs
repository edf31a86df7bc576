//! Outbound: one frame read from the tun becomes the packets that go on the wire.
//!
//! In: a virtio header and the packet behind it, whole or a TCP or UDP super-packet of up to
//! 65,535 bytes. Out: packets of at most header + `gso_size` bytes, every length and checksum in
//! them final, written straight to where they will be sealed, payload copied and summed in one
//! pass. Guaranteed: everything is checked in [`Split::new`]; after it, writing cannot fail.
//!
//! The result is what the kernel's own segmentation would send: net/ipv4/tcp_offload.c
//! `tcp_gso_segment`, net/ipv4/udp_offload.c `__udp_gso_segment`, net/ipv4/af_inet.c
//! `inet_gso_segment` (the IPv4 id counts up from segment to segment).

use super::bytes::{get16, get32, low16, low32, put16, put32};
use super::checksum::{Sum, copy_and_sum, pseudo_v4, pseudo_v6, sum};
use super::ip::{Headers, TCP, UDP, Version};
use super::virtio::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VirtioHdr};

/// Longest run of headers that a super-packet may have: IPv4 and TCP with all their options take
/// 120 bytes, IPv6 and TCP leave 28 for extension headers.
pub const HEADER_MAX: usize = 128;

/// Longest frame, in bytes: what an IPv4 length field can say.
pub const PACKET_MAX: usize = 65_535;

const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;

const FIN_PSH: u16 = 0x0009;
pub(super) const CWR: u16 = 0x0080;

/// Why a frame cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The version is neither 4 nor 6, or the IP header is cut short.
    #[error("not an IP packet")]
    NotIp,
    /// More than [`PACKET_MAX`] bytes (BIG TCP is on: lower gso_max_size).
    #[error("frame longer than 65,535 bytes")]
    TooLong,
    /// `csum_start` and `csum_offset` point outside the packet.
    #[error("checksum field outside the packet")]
    Checksum,
    /// A `gso_type` that was never asked for.
    #[error("unknown GSO type {0}")]
    GsoType(u8),
    /// The headers are not those of the `gso_type`: other version or protocol, a fragment, or
    /// extension headers that cannot be followed.
    #[error("headers do not match the GSO type")]
    Mismatch,
    /// The transport header is cut short, or headers exceed [`HEADER_MAX`].
    #[error("headers too short or too long")]
    Headers,
    /// `gso_size` is 0, or there is no payload to cut.
    #[error("nothing to segment")]
    Empty,
}

/// A frame ready to be written out as packets.
#[derive(Debug)]
pub struct Split<'a> {
    packet: &'a [u8],
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    Unchanged,
    /// One packet: sum from `start` on, put the checksum at `field`.
    Checksum {
        start: usize,
        field: usize,
    },
    Segments(Segments),
}

impl<'a> Split<'a> {
    /// Examines `packet`, the frame behind its virtio header `hdr`. `hdr.hdr_len` is ignored,
    /// being wrong on forwarded packets; so are the packet's own length fields, which may be
    /// stale in a super-packet.
    ///
    /// # Errors
    /// See [`SplitError`]; the frame is to be dropped and counted.
    pub fn new(hdr: &VirtioHdr, packet: &'a [u8]) -> Result<Self, SplitError> {
        if packet.len() > PACKET_MAX {
            return Err(SplitError::TooLong);
        }
        let headers = Headers::parse(packet).ok_or(SplitError::NotIp)?;
        let plan = if hdr.gso_type & !GSO_ECN != GSO_NONE {
            Plan::Segments(Segments::new(hdr, packet, &headers)?)
        } else if hdr.flags & NEEDS_CSUM != 0 {
            let start = usize::from(hdr.csum_start);
            let field = start + usize::from(hdr.csum_offset);
            if field + 2 > packet.len() {
                return Err(SplitError::Checksum);
            }
            Plan::Checksum { start, field }
        } else {
            Plan::Unchanged
        };
        Ok(Self { packet, plan })
    }

    /// How many packets come out: 1 for a frame without GSO, else payload / `gso_size` rounded
    /// up. A tiny `gso_size` can make it tens of thousands; the caller sends in portions.
    #[must_use]
    #[inline]
    pub fn count(&self) -> usize {
        match &self.plan {
            Plan::Unchanged | Plan::Checksum { .. } => 1,
            Plan::Segments(segments) => segments.count,
        }
    }

    /// Bytes of packet `i`: the same for all but the last, which may be shorter. 0 beyond it.
    #[must_use]
    #[inline]
    pub fn len_of(&self, i: usize) -> usize {
        match &self.plan {
            _ if i >= self.count() => 0,
            Plan::Unchanged | Plan::Checksum { .. } => self.packet.len(),
            Plan::Segments(segments) => {
                let rest = self.packet.len() - segments.header_len - i * segments.size;
                segments.header_len + rest.min(segments.size)
            }
        }
    }

    /// Bytes of all packets together.
    #[must_use]
    #[inline]
    pub fn total_len(&self) -> usize {
        match &self.plan {
            Plan::Unchanged | Plan::Checksum { .. } => self.packet.len(),
            Plan::Segments(segments) => {
                self.packet.len() + (segments.count - 1) * segments.header_len
            }
        }
    }

    /// Writes packet `i` to `out[..len_of(i)]`. Without such a packet, or if `out` is too short,
    /// nothing is written (and a debug build panics).
    #[inline]
    pub fn write(&self, i: usize, out: &mut [u8]) {
        let len = self.len_of(i);
        debug_assert!(len > 0 && len <= out.len(), "packet {i}: {len} bytes into {}", out.len());
        let Some(out) = out.get_mut(..len) else { return };
        match &self.plan {
            _ if len == 0 => {}
            Plan::Unchanged => out.copy_from_slice(self.packet),
            Plan::Checksum { start, field } => {
                let (before, covered) = self.packet.split_at(*start);
                let (out_before, out_covered) = out.split_at_mut(*start);
                out_before.copy_from_slice(before);
                // The field itself holds the pseudo-header sum and is summed with the rest. Zero
                // is mangled whatever the protocol, as the kernel's skb_checksum_help does.
                let checksum = copy_and_sum(covered, out_covered).finish_nonzero();
                put16(out, *field, checksum);
            }
            Plan::Segments(segments) => segments.write(i, self.packet, out),
        }
    }
}

/// What all segments of a super-packet share.
#[derive(Debug)]
struct Segments {
    /// The headers, with everything zeroed that differs between segments.
    header: [u8; HEADER_MAX],
    header_len: usize,
    /// Where the transport header begins.
    transport: usize,
    version: Version,
    tcp: bool,
    /// Payload bytes of every segment but the last.
    size: usize,
    count: usize,
    /// IPv4 id and TCP sequence number of the first segment.
    id: u16,
    seq: u32,
    /// TCP data offset and flags, with FIN, PSH and CWR as in the super-packet.
    flags: u16,
    /// Sum over the zeroed IPv4 header.
    ip_sum: Sum,
    /// Sum over the pseudo-header without length and the zeroed transport header.
    transport_sum: Sum,
}

impl Segments {
    fn new(hdr: &VirtioHdr, packet: &[u8], headers: &Headers) -> Result<Self, SplitError> {
        let (version, transport) = (headers.version, headers.transport);
        let tcp = match (hdr.gso_type & !GSO_ECN, version, headers.protocol) {
            _ if headers.fragment => return Err(SplitError::Mismatch),
            (GSO_TCPV4, Version::V4, TCP) | (GSO_TCPV6, Version::V6, TCP) => true,
            (GSO_UDP_L4, _, UDP) => false,
            (GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4, ..) => return Err(SplitError::Mismatch),
            (other, ..) => return Err(SplitError::GsoType(other)),
        };
        let header_len = transport + transport_len(packet, transport, tcp)?;
        let mut header = [0; HEADER_MAX];
        header
            .get_mut(..header_len)
            .zip(packet.get(..header_len))
            .ok_or(SplitError::Headers)
            .map(|(to, from)| to.copy_from_slice(from))?;
        let size = usize::from(hdr.gso_size);
        let payload_len = packet.len() - header_len;
        if size == 0 || payload_len == 0 {
            return Err(SplitError::Empty);
        }
        let id = get16(packet, 4);
        let (seq, flags) = (get32(packet, transport + 4), get16(packet, transport + 12));
        let (ip, rest) = header.split_at_mut(transport);
        let pseudo = zero_ip(ip, version, headers.protocol);
        zero_transport(rest, tcp);
        Ok(Self {
            header_len,
            transport,
            version,
            tcp,
            size,
            count: payload_len.div_ceil(size),
            id,
            seq,
            flags,
            ip_sum: sum(ip),
            // Zeroes behind the headers add nothing.
            transport_sum: pseudo.add_bytes(rest),
            header,
        })
    }

    /// Segment `i` of `packet`; `out` has exactly its length.
    #[inline]
    fn write(&self, i: usize, packet: &[u8], out: &mut [u8]) {
        let payload_at = self.header_len + i * self.size;
        let Some((payload, (head, body))) =
            packet.get(payload_at..).zip(out.split_at_mut_checked(self.header_len))
        else {
            return;
        };
        let payload_sum = copy_and_sum(payload, body);
        head.copy_from_slice(&self.header[..self.header_len]);
        let len = self.header_len + body.len();
        match self.version {
            Version::V4 => {
                let id = self.id.wrapping_add(low16(i & 0xffff));
                let checksum = self.ip_sum.add_u16(low16(len)).add_u16(id).finish();
                put16(head, 2, low16(len));
                put16(head, 4, id);
                put16(head, 10, checksum);
            }
            Version::V6 => put16(head, 4, low16(len - super::ip::IPV6_LEN)),
        }
        let transport_len = low16(len - self.transport);
        let sum = self.transport_sum.add_sum(payload_sum).add_u16(transport_len);
        let at = self.transport;
        if self.tcp {
            let seq = self.seq.wrapping_add(low32(i * self.size));
            let flags = self.flags_of(i);
            put32(head, at + 4, seq);
            put16(head, at + 12, flags);
            put16(head, at + 16, sum.add_u32(seq).add_u16(flags).finish());
        } else {
            put16(head, at + 4, transport_len);
            put16(head, at + 6, sum.add_u16(transport_len).finish_nonzero());
        }
    }

    /// FIN and PSH belong to the last segment, CWR to the first (`tcp_gso_segment`).
    #[inline]
    fn flags_of(&self, i: usize) -> u16 {
        let mut flags = self.flags;
        if i + 1 < self.count {
            flags &= !FIN_PSH;
        }
        if i > 0 {
            flags &= !CWR;
        }
        flags
    }
}

/// Bytes of the TCP header with its options, or of the UDP header.
pub(super) fn transport_len(packet: &[u8], at: usize, tcp: bool) -> Result<usize, SplitError> {
    if !tcp {
        return Ok(UDP_LEN);
    }
    let offset = packet.get(at + 12).ok_or(SplitError::Headers)?;
    let len = usize::from(offset >> 4) * 4;
    if len < TCP_LEN { Err(SplitError::Headers) } else { Ok(len) }
}

/// Zeroes length, id and checksum of an IP header; returns the pseudo-header without its length.
fn zero_ip(ip: &mut [u8], version: Version, protocol: u8) -> Sum {
    match version {
        Version::V4 => {
            put32(ip, 2, 0);
            put16(ip, 10, 0);
            let addresses = ip.get(12..).and_then(|b| b.first_chunk());
            addresses.map_or(Sum::default(), |a| pseudo_v4(a, protocol, 0))
        }
        Version::V6 => {
            put16(ip, 4, 0);
            let addresses = ip.get(8..).and_then(|b| b.first_chunk());
            addresses.map_or(Sum::default(), |a| pseudo_v6(a, protocol, 0))
        }
    }
}

/// Zeroes what differs between segments in a transport header.
fn zero_transport(header: &mut [u8], tcp: bool) {
    if tcp {
        put32(header, 4, 0);
        put16(header, 12, 0);
        put16(header, 16, 0);
    } else {
        put32(header, 4, 0);
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
