//! Socket addresses and control messages as the kernel lays them out, built and read as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::packet::endpoint::Source;

/// Room for a `sockaddr_in6` (28 bytes) or `sockaddr_in` (16), rounded up.
pub(super) const NAME_LEN: usize = 32;
/// The same in the type of `msg_namelen`.
pub(super) const NAME_LEN_U32: u32 = 32;
const _: () = assert!(NAME_LEN_U32 as usize == NAME_LEN);
/// Room for the control messages of one receive: UDP_GRO, packet info, TOS, time, each with its
/// header.
pub(super) const CONTROL_LEN: usize = 128;
/// Room for those of one send: `UDP_SEGMENT`, traffic class, packet info.
pub(super) const SEND_CONTROL_LEN: usize = 24 + 24 + 40;
/// `struct cmsghdr` on 64-bit Linux: length, level, type.
const CMSG_HEADER: usize = 16;

/// Encodes `address` as a sockaddr; returns its length.
pub(super) fn encode_name(address: SocketAddr, name: &mut [u8; NAME_LEN]) -> usize {
    name.fill(0);
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    name[..2].copy_from_slice(&u16::try_from(family).unwrap_or(0).to_ne_bytes());
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            name[4..8].copy_from_slice(&v4.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            name[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            size_of::<libc::sockaddr_in6>()
        }
    }
}

/// Reads a sockaddr that the kernel wrote; `None` for another family or a short one.
pub(super) fn decode_name(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*name.first_chunk()?));
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match family {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(*name.get(4..)?.first_chunk::<4>()?);
            Some(SocketAddr::new(IpAddr::V4(ip), port))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(*name.get(8..)?.first_chunk::<16>()?);
            // The flow label says nothing about who sent it; the scope does for link-local.
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
        _ => None,
    }
}

/// What goes along with a send: segment size, traffic class, our own address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SendControl {
    /// `UDP_SEGMENT`, if the bytes are to be cut.
    pub(super) segment_len: Option<u16>,
    /// Traffic class byte; 0 is not written.
    pub(super) class: u8,
    /// The address to send from.
    pub(super) source: Option<Source>,
}

/// Writes the control messages of a send; returns their length, 0 for none. Layouts:
/// include/uapi/linux/udp.h, ip(7), RFC 3542 section 6.
pub(super) fn encode_control(
    send: SendControl,
    ipv6: bool,
    control: &mut [u8; SEND_CONTROL_LEN],
) -> usize {
    let mut at = 0;
    let mut put = |level: i32, kind: i32, data: &[u8]| {
        let end = at + (CMSG_HEADER + data.len()).next_multiple_of(8);
        let Some(place) = control.get_mut(at..end) else { return };
        place.fill(0);
        place[..8].copy_from_slice(&(CMSG_HEADER + data.len()).to_ne_bytes());
        place[8..12].copy_from_slice(&level.to_ne_bytes());
        place[12..16].copy_from_slice(&kind.to_ne_bytes());
        place[CMSG_HEADER..CMSG_HEADER + data.len()].copy_from_slice(data);
        at = end;
    };
    if let Some(segment_len) = send.segment_len {
        put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_len.to_ne_bytes());
    }
    if send.class != 0 {
        let (level, kind) = if ipv6 {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        } else {
            (libc::IPPROTO_IP, libc::IP_TOS)
        };
        put(level, kind, &i32::from(send.class).to_ne_bytes());
    }
    match send.source.map(|source| (source.address, source.interface)) {
        Some((IpAddr::V4(address), interface)) if !ipv6 => {
            let mut info = [0; 12];
            info[..4].copy_from_slice(&interface.to_ne_bytes());
            info[4..8].copy_from_slice(&address.octets());
            put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some((IpAddr::V6(address), interface)) if ipv6 => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&address.octets());
            info[16..].copy_from_slice(&interface.to_ne_bytes());
            put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        _ => {}
    }
    at
}

/// What came along with a receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReceiveControl {
    /// Size of the coalesced datagrams (`UDP_GRO`).
    pub(super) segment_len: Option<usize>,
    /// Traffic class byte of the outer header; 0 if nobody said.
    pub(super) class: u8,
    /// The address it was sent to, and the interface it came by.
    pub(super) source: Option<Source>,
    /// When it came to the socket, in ns of CLOCK_REALTIME; 0 if nobody said.
    pub(super) came_ns: u64,
}

/// Reads the control messages of a receive; stops at the first that is cut short.
pub(super) fn decode_control(mut control: &[u8]) -> ReceiveControl {
    let mut found = ReceiveControl::default();
    while let Some((len, level, kind)) = cmsg_header(control) {
        let data = control.get(CMSG_HEADER..len).unwrap_or_default();
        decode_message(level, kind, data, &mut found);
        // CMSG_NXTHDR: lengths are padded to 8 bytes; a length below the header ends the walk.
        let next = len.checked_next_multiple_of(8).and_then(|next| control.get(next..));
        let Some(rest) = next.filter(|_| len >= CMSG_HEADER) else { break };
        control = rest;
    }
    found
}

fn cmsg_header(control: &[u8]) -> Option<(usize, i32, i32)> {
    let header: &[u8; CMSG_HEADER] = control.first_chunk()?;
    let len = usize::from_ne_bytes(*header.first_chunk()?);
    let level = i32::from_ne_bytes(*header[8..].first_chunk()?);
    Some((len, level, i32::from_ne_bytes(*header[12..].first_chunk()?)))
}

#[inline]
fn decode_message(level: i32, kind: i32, data: &[u8], found: &mut ReceiveControl) {
    let number = |at: usize| data.get(at..)?.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    match (level, kind) {
        (libc::SOL_UDP, libc::UDP_GRO) => {
            let size = number(0).and_then(|size| usize::try_from(size).ok());
            found.segment_len = size.filter(|&size| size > 0);
        }
        (libc::IPPROTO_IP, libc::IP_TOS) => found.class = data.first().copied().unwrap_or(0),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            found.class = number(0).and_then(|class| u8::try_from(class).ok()).unwrap_or(0);
        }
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
            let part = |at: usize| data.get(at..)?.first_chunk().map(|it| u64::from_ne_bytes(*it));
            if let (Some(seconds), Some(ns)) = (part(0), part(8)) {
                found.came_ns = seconds.saturating_mul(1_000_000_000).saturating_add(ns);
            }
        }
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // Interface, the address to answer from, the header's destination.
            let address = data.get(4..).and_then(|d| d.first_chunk::<4>());
            found.source = source(address.map(|bytes| IpAddr::from(*bytes)), number(0));
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let address = data.first_chunk::<16>();
            found.source = source(address.map(|bytes| IpAddr::from(*bytes)), number(16));
        }
        _ => {}
    }
}

fn source(address: Option<IpAddr>, interface: Option<i32>) -> Option<Source> {
    Some(Source { address: address?, interface: u32::try_from(interface?).ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_come_back_as_they_went() {
        for text in ["192.0.2.7:51820", "[fd00::1]:9", "[fe80::2%3]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut name = [0xaa; NAME_LEN];
            let len = encode_name(address, &mut name);
            assert_eq!(decode_name(&name[..len]), Some(address), "{text}");
        }
        assert_eq!(decode_name(&[]), None);
        assert_eq!(decode_name(&[1, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn a_segment_size_is_found_behind_other_messages() {
        let segment = |control: &[u8]| decode_control(control).segment_len;
        let mut gro = [0; 24];
        gro[..8].copy_from_slice(&20usize.to_ne_bytes());
        gro[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        gro[12..16].copy_from_slice(&libc::UDP_GRO.to_ne_bytes());
        gro[16..20].copy_from_slice(&1452i32.to_ne_bytes());
        assert_eq!(segment(&gro), Some(1452));
        let mut both = vec![0; 24];
        both[..8].copy_from_slice(&17usize.to_ne_bytes());
        both.extend_from_slice(&gro);
        assert_eq!(segment(&both), Some(1452));
        assert_eq!(segment(&both[..30]), None);
        assert_eq!(segment(&[0; 24]), None);
        both[..8].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(segment(&both), None);
    }

    #[test]
    fn sources_are_written_as_they_are_read() {
        for (address, ipv6) in [("192.0.2.7", false), ("fd00::1", true)] {
            let source = Some(Source { address: address.parse().unwrap(), interface: 7 });
            let send = SendControl { segment_len: Some(1452), class: 2, source };
            let mut control = [0xaa; SEND_CONTROL_LEN];
            let len = encode_control(send, ipv6, &mut control);
            // TCLASS is read as it is written; IP_TOS is written as an int, and read as a byte.
            let found = decode_control(&control[..len]);
            assert_eq!((found.class, found.source), (2, source), "{address}");
            assert_eq!(len, if ipv6 { 24 + 24 + 40 } else { 24 + 24 + 32 });
            assert_eq!(encode_control(send, !ipv6, &mut control), 48, "of the other family: no");
        }
        assert_eq!(encode_control(SendControl::default(), false, &mut [0; SEND_CONTROL_LEN]), 0);
    }
}
