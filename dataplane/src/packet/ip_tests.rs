//! Header views on whole, cut, padded and random packets.
#![allow(clippy::unwrap_used)]

use super::super::frames::{Frame, any_frame, filler};
use super::*;
use proptest::prelude::*;

#[test]
fn inner_packet_trims_and_refuses() {
    for v6 in [false, true] {
        let whole = Frame { v6, payload: filler(100, 0), ..Frame::default() }.build();
        let padded = [&whole[..], &[0; 15]].concat();
        assert_eq!(inner_packet(&whole), Ok(&whole[..]));
        assert_eq!(inner_packet(&padded), Ok(&whole[..]));
        for len in 1..whole.len() {
            assert_eq!(inner_packet(&whole[..len]), Err(InnerError::LengthMismatch));
        }
    }
    assert_eq!(inner_packet(&[]), Err(InnerError::NotIp));
    for version in [0, 1, 5, 7, 15] {
        assert_eq!(inner_packet(&[version << 4; 60]), Err(InnerError::NotIp));
    }
}

#[test]
fn inner_packet_refuses_lengths_below_the_header() {
    let mut packet = Frame { payload: filler(9, 0), ..Frame::default() }.build();
    packet[3] = 19;
    assert_eq!(inner_packet(&packet), Err(InnerError::LengthMismatch));
    packet[3] = 20;
    assert_eq!(inner_packet(&packet).map(<[u8]>::len), Ok(20));
    packet[0] = 0x44;
    assert_eq!(inner_packet(&packet), Err(InnerError::LengthMismatch));
    packet[0] = 0x46;
    assert_eq!(inner_packet(&packet), Err(InnerError::LengthMismatch));
}

#[test]
fn parts_of_datagrams_are_told_apart() {
    let mut packet = Frame { payload: filler(64, 0), ..Frame::default() }.build();
    for (field, part) in [
        (0x0000u16, Part::Whole),
        (0x4000, Part::Whole),
        (0x2000, Part::Leading),
        (0x20b1, Part::Leading),
        (0x00b1, Part::Last),
    ] {
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        assert_eq!(Part::of(&packet), part, "{field:#06x}");
    }
    let mut packet = Frame { v6: true, payload: filler(64, 0), ..Frame::default() }.build();
    assert_eq!(Part::of(&packet), Part::Whole);
    packet[6] = FRAGMENT;
    for (field, part) in [(0u16, Part::Whole), (1, Part::Leading), (8, Part::Last)] {
        packet[42..44].copy_from_slice(&field.to_be_bytes());
        assert_eq!(Part::of(&packet), part, "{field:#06x}");
    }
    for len in 0..48 {
        assert_eq!(Part::of(&packet[..len]), Part::Whole, "cut to {len}");
    }
}

#[test]
fn extension_headers_are_followed() {
    let frame = Frame { v6: true, extensions: 3, payload: filler(9, 0), ..Frame::default() };
    let mut packet = frame.build();
    let headers = Headers::parse(&packet).unwrap();
    assert_eq!((headers.transport, headers.protocol, headers.fragment), (64, TCP, false));
    assert_eq!(FlowKey::parse(&packet).unwrap().ports, Some((40_000, 443)));
    // A routing header that is used up is one more to step over; one still in use ends the walk.
    packet[6] = 43;
    packet[43] = 0;
    assert_eq!(Headers::parse(&packet).unwrap().protocol, TCP);
    packet[43] = 1;
    assert_eq!(Headers::parse(&packet).unwrap().protocol, 43);
    packet[6] = 51;
    packet[41] = 0;
    assert_eq!(Headers::parse(&packet).unwrap().transport, 64);
    packet[6] = 44;
    let headers = Headers::parse(&packet).unwrap();
    assert_eq!((headers.transport, headers.protocol, headers.fragment), (48, 60, true));
    packet[6] = 60;
    packet[41] = 255;
    let headers = Headers::parse(&packet).unwrap();
    assert_eq!((headers.transport, headers.protocol), (40, 60));
}

#[test]
fn fragments_have_no_ports() {
    for fragment in [0x2000, 0x0001, 0x3fff] {
        let packet = Frame { fragment, payload: filler(9, 0), ..Frame::default() }.build();
        assert!(Headers::parse(&packet).unwrap().fragment);
        assert_eq!(FlowKey::parse(&packet).unwrap().ports, None);
    }
}

#[test]
fn hashes_spread_flows_that_differ_in_a_port_only() {
    let mut buckets = [0; 16];
    for sport in 0..1600 {
        let packet = Frame { sport: 30_000 + sport, ..Frame::default() }.build();
        buckets[flow_hash(&packet) as usize % 16] += 1;
    }
    assert!(buckets.iter().all(|n| (60..150).contains(n)), "{buckets:?}");
}

proptest! {
    #[test]
    fn hash_is_symmetric_and_of_the_flow_only(frame in any_frame(100), other in any_frame(100)) {
        let mut back = other.clone();
        (back.v6, back.udp) = (frame.v6, frame.udp);
        (back.source, back.destination) = (frame.destination, frame.source);
        (back.sport, back.dport) = (frame.dport, frame.sport);
        prop_assert_eq!(flow_hash(&frame.build()), flow_hash(&back.build()));
        let elsewhere = Frame { source: 9, ..frame.clone() };
        prop_assert_ne!(flow_hash(&frame.build()), flow_hash(&elsewhere.build()));
    }

    #[test]
    fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        for first in [0x45, 0x4f, 0x60] {
            let _ = (inner_packet(&bytes), flow_hash(&bytes));
            if let Some(headers) = Headers::parse(&bytes) {
                prop_assert!(headers.ip_len <= headers.transport);
                prop_assert!(headers.transport <= bytes.len());
            }
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
        }
    }
}
