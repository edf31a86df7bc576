//! The 10-byte header in front of every frame of a tun with `IFF_VNET_HDR`.
//!
//! In, outbound: what the kernel left for us to do (a checksum to finish, a super-packet to cut).
//! Out, inbound: what we leave to the kernel. Layout: `struct virtio_net_hdr`,
//! include/uapi/linux/virtio_net.h; 10 bytes is tun's default (`TUNSETVNETHDRSZ`). Fields are in
//! native byte order, as tun's legacy layout has them: little endian on x86 and arm.

/// Bytes of the header.
pub const LEN: usize = 10;

/// Flag: the checksum at `csum_start + csum_offset` holds only the pseudo-header sum.
pub const NEEDS_CSUM: u8 = 1;
/// Flag: the checksum was verified (tun ignores it on a write).
pub const DATA_VALID: u8 = 2;

/// Type: an ordinary packet.
pub const GSO_NONE: u8 = 0;
/// Type: a TCP super-packet over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// Type: a TCP super-packet over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// Type: a UDP super-packet over either IP version (USO).
pub const GSO_UDP_L4: u8 = 5;
/// Added to a TCP type: CWR is set and belongs on the first segment only.
pub const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`. The default is all zero: an ordinary packet, nothing left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHdr {
    /// [`NEEDS_CSUM`] or 0.
    pub flags: u8,
    /// One of the `GSO_` types, with or without [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers; unreliable on packets that the kernel forwards.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksummed part begins, in bytes from the start of the packet.
    pub csum_start: u16,
    /// Where the checksum field is, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VirtioHdr {
    /// Reads the header at the start of `frame`; `None` if that has fewer than [`LEN`] bytes.
    #[must_use]
    #[inline]
    pub fn decode(frame: &[u8]) -> Option<Self> {
        let b: &[u8; LEN] = frame.first_chunk()?;
        Some(Self {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u16::from_ne_bytes([b[2], b[3]]),
            gso_size: u16::from_ne_bytes([b[4], b[5]]),
            csum_start: u16::from_ne_bytes([b[6], b[7]]),
            csum_offset: u16::from_ne_bytes([b[8], b[9]]),
        })
    }

    /// The header as bytes.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> [u8; LEN] {
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_is_the_kernels() {
        let hdr = VirtioHdr {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 0x0036,
            gso_size: 0x05a8,
            csum_start: 0x0014,
            csum_offset: 0x0010,
        };
        if cfg!(target_endian = "little") {
            assert_eq!(hdr.encode(), [1, 1, 0x36, 0, 0xa8, 5, 0x14, 0, 0x10, 0]);
        }
        assert_eq!(VirtioHdr::default().encode(), [0; LEN]);
    }

    proptest! {
        #[test]
        fn any_bytes_encode_back(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            match VirtioHdr::decode(&bytes) {
                Some(hdr) => prop_assert_eq!(&hdr.encode()[..], &bytes[..LEN]),
                None => prop_assert!(bytes.len() < LEN),
            }
        }
    }
}
