//! Socket addresses and control messages as the kernel lays them out, built and read as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for a `sockaddr_in6` (28 bytes) or `sockaddr_in` (16), rounded up.
pub(super) const NAME_LEN: usize = 32;
/// The same in the type of `msg_namelen`.
pub(super) const NAME_LEN_U32: u32 = 32;
const _: () = assert!(NAME_LEN_U32 as usize == NAME_LEN);
/// Room for the control messages of one receive: UDP_GRO, packet info, TOS, each with its header.
pub(super) const CONTROL_LEN: usize = 96;
/// `CMSG_LEN(2)` and `CMSG_SPACE(2)`: one u16 of `UDP_SEGMENT`.
const SEGMENT_CMSG_LEN: usize = CMSG_HEADER + 2;
pub(super) const SEGMENT_CMSG_SPACE: usize = CMSG_HEADER + 8;
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

/// Writes the `UDP_SEGMENT` control message (include/uapi/linux/udp.h).
pub(super) fn encode_segment(segment_len: u16, control: &mut [u8; SEGMENT_CMSG_SPACE]) {
    control.fill(0);
    control[..8].copy_from_slice(&SEGMENT_CMSG_LEN.to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[16..18].copy_from_slice(&segment_len.to_ne_bytes());
}

/// The segment size in a receive's `UDP_GRO` control message, if it has one.
pub(super) fn decode_segment(mut control: &[u8]) -> Option<usize> {
    while let Some((header, _)) = control.split_first_chunk::<CMSG_HEADER>() {
        let len = usize::from_ne_bytes(*header.first_chunk::<8>()?);
        let level = i32::from_ne_bytes(*header[8..].first_chunk::<4>()?);
        let kind = i32::from_ne_bytes(*header[12..].first_chunk::<4>()?);
        if level == libc::SOL_UDP && kind == libc::UDP_GRO {
            let size = i32::from_ne_bytes(*control.get(CMSG_HEADER..)?.first_chunk()?);
            return usize::try_from(size).ok().filter(|&size| size > 0);
        }
        // CMSG_NXTHDR: lengths are padded to 8 bytes; a length below the header ends the walk.
        if len < CMSG_HEADER {
            return None;
        }
        control = control.get(len.checked_next_multiple_of(8)?..)?;
    }
    None
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
        let mut gro = [0; 24];
        gro[..8].copy_from_slice(&20usize.to_ne_bytes());
        gro[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        gro[12..16].copy_from_slice(&libc::UDP_GRO.to_ne_bytes());
        gro[16..20].copy_from_slice(&1452i32.to_ne_bytes());
        assert_eq!(decode_segment(&gro), Some(1452));
        let mut both = vec![0; 24];
        both[..8].copy_from_slice(&17usize.to_ne_bytes());
        both.extend_from_slice(&gro);
        assert_eq!(decode_segment(&both), Some(1452));
        assert_eq!(decode_segment(&both[..30]), None);
        assert_eq!(decode_segment(&[0; 24]), None);
        both[..8].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(decode_segment(&both), None);
    }
}
