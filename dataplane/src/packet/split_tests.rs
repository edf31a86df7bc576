//! Splitting against a reference that builds every segment from its fields.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use super::super::frames::{ACK, CWR, ECE, FIN, Frame, PSH, URG, any_frame, cut, filler};
use super::*;
use proptest::prelude::*;

fn error(hdr: &VirtioHdr, packet: &[u8]) -> SplitError {
    Split::new(hdr, packet).map(|split| split.count()).unwrap_err()
}

#[test]
fn an_ordinary_packet_is_unchanged() {
    let packet = Frame { payload: filler(77, 1), ..Frame::default() }.build();
    assert_eq!(cut(&VirtioHdr::default(), &packet), [packet]);
}

#[test]
fn flags_go_where_the_kernel_puts_them() {
    let flags = FIN | PSH | CWR | ACK | ECE | URG;
    let frame = Frame { flags, payload: filler(300, 1), ..Frame::default() };
    let mut hdr = frame.virtio(100);
    hdr.gso_type |= GSO_ECN;
    let seen: Vec<u8> = cut(&hdr, &frame.build_partial()).iter().map(|p| p[33]).collect();
    assert_eq!(seen, [CWR | ACK | ECE | URG, ACK | ECE | URG, FIN | PSH | ACK | ECE | URG]);
}

#[test]
fn stale_length_fields_do_not_matter() {
    for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
        let frame = Frame { v6, udp, payload: filler(60_000, 3), ..Frame::default() };
        let expected: Vec<_> = frame.segments(1400).iter().map(Frame::build).collect();
        let mut packet = frame.build_partial();
        let (at, hdr) = (if v6 { 4 } else { 2 }, frame.virtio(1400));
        packet[at..at + 2].fill(0);
        if udp {
            packet[frame.ip_len() + 4..][..2].fill(0);
        }
        assert_eq!(cut(&VirtioHdr { hdr_len: 9999, ..hdr }, &packet), expected);
    }
}

#[test]
fn the_largest_frame() {
    let payload = filler(65_535 - 52, 9);
    let frame = Frame { payload, id: 65_530, seq: u32::MAX - 5, ..Frame::default() };
    let expected: Vec<_> = frame.segments(1448).iter().map(Frame::build).collect();
    assert_eq!(cut(&frame.virtio(1448), &frame.build_partial()), expected);
    let longer = [frame.build_partial(), vec![0]].concat();
    assert_eq!(error(&frame.virtio(1448), &longer), SplitError::TooLong);
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    // The first payload word is chosen so that each packet sums up to 0xffff.
    for size in [0, 4] {
        let mut frame = Frame { udp: true, payload: vec![0; 4], ..Frame::default() };
        let sum = frame.build();
        frame.payload[..2].copy_from_slice(&sum[26..28]);
        let packets = cut(&frame.virtio(size), &frame.build_partial());
        assert_eq!(packets, [frame.build()]);
        assert_eq!(packets[0][26..28], [0xff, 0xff]);
    }
}

#[test]
fn what_cannot_be_split_is_refused() {
    let frame = Frame { payload: filler(300, 1), ..Frame::default() };
    let (hdr, packet) = (frame.virtio(100), frame.build_partial());
    assert_eq!(error(&hdr, &[]), SplitError::NotIp);
    assert_eq!(error(&hdr, &[0x20; 60]), SplitError::NotIp);
    assert_eq!(error(&hdr, &packet[..19]), SplitError::NotIp);
    assert_eq!(error(&hdr, &packet[..30]), SplitError::Headers);
    assert_eq!(error(&hdr, &packet[..50]), SplitError::Headers);
    assert_eq!(error(&hdr, &packet[..52]), SplitError::Empty);
    assert_eq!(error(&VirtioHdr { gso_size: 0, ..hdr }, &packet), SplitError::Empty);
    assert_eq!(error(&VirtioHdr { gso_type: 3, ..hdr }, &packet), SplitError::GsoType(3));
    for gso_type in [GSO_TCPV6, GSO_UDP_L4] {
        assert_eq!(error(&VirtioHdr { gso_type, ..hdr }, &packet), SplitError::Mismatch);
    }
    let fragment = Frame { fragment: 0x2000, ..frame.clone() }.build_partial();
    assert_eq!(error(&hdr, &fragment), SplitError::Mismatch);
    let mut short_offset = packet.clone();
    short_offset[32] = 0x40;
    assert_eq!(error(&hdr, &short_offset), SplitError::Headers);
    let many = Frame { v6: true, extensions: 8, ..frame };
    assert_eq!(error(&many.virtio(100), &many.build_partial()), SplitError::Headers);
}

#[test]
fn a_checksum_field_must_lie_inside() {
    let frame = Frame { payload: filler(10, 1), ..Frame::default() };
    let packet = frame.build_partial();
    let hdr = VirtioHdr { csum_start: 60, csum_offset: 0, ..frame.virtio(0) };
    assert_eq!(packet.len(), 62);
    assert!(Split::new(&hdr, &packet).is_ok());
    for (csum_start, csum_offset) in [(61, 0), (60, 1), (u16::MAX, 0), (u16::MAX, u16::MAX)] {
        let hdr = VirtioHdr { csum_start, csum_offset, ..hdr };
        assert_eq!(error(&hdr, &packet), SplitError::Checksum);
    }
}

fn super_packets() -> impl Strategy<Value = (Frame, usize)> {
    (any_frame(9000), 1usize..3000)
        .prop_map(|(frame, size)| (frame.clone(), size.max(frame.payload.len() / 200)))
}

proptest! {
    #[test]
    fn agrees_with_the_reference((frame, size) in super_packets()) {
        let expected: Vec<_> = frame.segments(size).iter().map(Frame::build).collect();
        let hdr = frame.virtio(size);
        prop_assert_eq!(cut(&hdr, &frame.build_partial()), &expected[..]);
        // What is in the length and checksum fields, and in flags, makes no difference.
        prop_assert_eq!(cut(&VirtioHdr { flags: 0, ..hdr }, &frame.build()), &expected[..]);
    }

    #[test]
    fn a_checksum_is_completed(frame in any_frame(3000)) {
        let mut expected = frame.build();
        let field = frame.ip_len() + if frame.udp { 6 } else { 16 };
        if expected[field..field + 2] == [0, 0] {
            expected[field..field + 2].fill(0xff);
        }
        prop_assert_eq!(cut(&frame.virtio(0), &frame.build_partial()), [expected]);
    }

    #[test]
    fn mutated_frames_are_survived(
        (frame, size) in super_packets(),
        places in proptest::collection::vec((0usize..80, any::<u8>()), 0..4),
        hdr in any::<[u8; 10]>(),
        keep in any::<[bool; 10]>(),
        len in 0usize..200,
    ) {
        let mut packet = frame.build_partial();
        for (place, byte) in places {
            let place = place % packet.len();
            packet[place] = byte;
        }
        let mut bytes = frame.virtio(size).encode();
        for i in (0..10).filter(|i| !keep[*i] && i % 3 == 0) {
            bytes[i] = hdr[i];
        }
        let hdr = VirtioHdr::decode(&bytes).unwrap();
        for packet in [&packet[..], &packet[..len.min(packet.len())]] {
            if let Ok(split) = Split::new(&hdr, packet) {
                let mut out = vec![0; 65_535];
                let mut total = 0;
                for i in 0..split.count() {
                    split.write(i, &mut out);
                    total += split.len_of(i);
                }
                prop_assert_eq!(total, split.total_len());
                prop_assert_eq!(split.len_of(split.count()), 0);
            }
        }
    }

    #[test]
    fn random_bytes_are_survived(
        hdr in any::<[u8; 10]>(),
        mut packet in proptest::collection::vec(any::<u8>(), 0..200),
        gso_type in prop::sample::select(vec![0, 1, 4, 5, 0x81]),
    ) {
        let hdr = VirtioHdr { gso_type, ..VirtioHdr::decode(&hdr).unwrap() };
        for first in [0x45, 0x60, 0x4f] {
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            if let Some(byte) = packet.get_mut(if first == 0x60 { 6 } else { 9 }) {
                *byte = if gso_type == 5 { UDP } else { TCP };
            }
            if let Ok(split) = Split::new(&hdr, &packet) {
                let mut out = vec![0; 300];
                (0..split.count()).for_each(|i| split.write(i, &mut out));
            }
        }
    }
}
