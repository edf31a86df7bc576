//! Telling the sender of a super-packet that there is congestion, before it goes on its way.

use super::bytes::{get16, get32, low16, low32, put16, put32};
use super::ecn;
use super::ip::{Headers, IPV6_LEN, TCP, Version};
use super::split::{CWR, PACKET_MAX, transport_len};
use super::virtio::{self, VirtioHdr};

/// How the sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Not at all: this is not several packets, or is marked already.
    Nothing,
    /// By a mark (ECN, RFC 3168) on all packets.
    Marked,
    /// By the loss of the first packet: the frame has this many bytes now.
    Shortened(usize),
}

/// Marks the packets of `frame`, virtio header first, if their ends know of ECN, and takes the
/// first one away otherwise. Lengths and the transport's checksum are final only once the frame is
/// cut, see [`Split`](super::split::Split).
pub fn tell(frame: &mut [u8]) -> Told {
    let Some(hdr) = VirtioHdr::decode(frame) else { return Told::Nothing };
    let packet = frame.get_mut(virtio::LEN..).unwrap_or_default();
    let Some(headers) = Headers::parse(packet) else { return Told::Nothing };
    let tcp = headers.protocol == TCP;
    let Ok(transport_len) = transport_len(packet, headers.transport, tcp) else {
        return Told::Nothing;
    };
    let (size, payload) = (usize::from(hdr.gso_size), headers.transport + transport_len);
    // One that is too long is no frame, and shall not become one.
    let whole = payload + size < packet.len() && packet.len() <= PACKET_MAX;
    if size == 0 || headers.fragment || !whole {
        return Told::Nothing;
    }
    match ecn::class(packet) & ecn::MASK {
        ecn::CE => return Told::Nothing,
        0 => {}
        _ => {
            ecn::mark(packet, ecn::CE);
            return Told::Marked;
        }
    }
    packet.copy_within(payload + size.., payload);
    let len = packet.len() - size;
    match headers.version {
        Version::V4 => {
            let id = get16(packet, 4).wrapping_add(1);
            put16(packet, 4, id);
            put16(packet, 2, low16(len));
        }
        Version::V6 => put16(packet, 4, low16(len - IPV6_LEN)),
    }
    let at = headers.transport;
    if tcp {
        let (seq, flags) = (get32(packet, at + 4), get16(packet, at + 12));
        put32(packet, at + 4, seq.wrapping_add(low32(size)));
        // It was the first packet's (net/ipv4/tcp_offload.c, `tcp_gso_segment`).
        put16(packet, at + 12, flags & !CWR);
    } else {
        put16(packet, at + 4, low16(len - at));
    }
    Told::Shortened(virtio::LEN + len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::frames::{ACK, CWR, Frame, PSH, any_frame, cut, filler};

    fn told(frame: &Frame, size: usize) -> (Told, Vec<Vec<u8>>) {
        let hdr = frame.virtio(size);
        let mut bytes = [&hdr.encode()[..], &frame.build_partial()].concat();
        let told = tell(&mut bytes);
        if let Told::Shortened(len) = told {
            bytes.truncate(len);
        }
        (told, cut(&hdr, &bytes[virtio::LEN..]))
    }

    #[test]
    fn the_first_packet_is_missing_and_the_others_are_as_they_were() {
        for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
            let flags = ACK | PSH | CWR;
            let frame = Frame { v6, udp, flags, payload: filler(9_500, 3), ..Frame::default() };
            let (how, packets) = told(&frame, 1_000);
            assert!(matches!(how, Told::Shortened(_)), "{how:?}");
            let expected: Vec<_> = frame.segments(1_000).iter().skip(1).map(Frame::build).collect();
            assert_eq!(packets, expected, "IPv6 {v6}, UDP {udp}");
        }
    }

    #[test]
    fn who_knows_of_ecn_is_marked() {
        for (v6, tos) in [(false, 1), (false, 0xba), (true, 2)] {
            let frame = Frame { v6, tos, payload: filler(5_000, 3), ..Frame::default() };
            let (how, packets) = told(&frame, 1_000);
            let marked = Frame { tos: tos | 3, ..frame };
            let expected: Vec<_> = marked.segments(1_000).iter().map(Frame::build).collect();
            assert_eq!((how, packets), (Told::Marked, expected));
        }
    }

    #[test]
    fn one_packet_and_one_that_is_marked_stay() {
        for (tos, len) in [(0, 1_000), (0, 1), (3, 5_000)] {
            let frame = Frame { tos, payload: filler(len, 3), ..Frame::default() };
            let (how, packets) = told(&frame, 1_000);
            let expected: Vec<_> = frame.segments(1_000).iter().map(Frame::build).collect();
            assert_eq!((how, packets), (Told::Nothing, expected));
        }
    }

    proptest! {
        /// Whatever a frame is: what remains of it are the last of its packets.
        #[test]
        fn a_suffix_remains(frame in any_frame(9_000), size in 100_usize..2_000) {
            let whole = cut(&frame.virtio(size), &frame.build_partial());
            let (how, packets) = told(&frame, size);
            match how {
                Told::Nothing => prop_assert_eq!(packets, whole),
                Told::Marked => {
                    let marked = Frame { tos: frame.tos | 3, ..frame };
                    let expected: Vec<_> = marked.segments(size).iter().map(Frame::build).collect();
                    prop_assert_eq!(packets, expected);
                }
                // CWR goes with the first.
                Told::Shortened(_) => prop_assert_eq!(&packets[..], &whole[1..]),
            }
        }

        #[test]
        fn garbage_does_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let before = bytes.len();
            if let Told::Shortened(len) = tell(&mut bytes) {
                prop_assert!(len < before);
            }
        }
    }
}
