//! One test per rule: what merges, and what must not.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use super::super::frames::*;
use super::super::virtio::VirtioHdr;
use super::*;

const SHAPES: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];
const TCP: [(bool, bool); 2] = [(false, false), (true, false)];

/// `count` segments of 100 bytes, as the kernel would have cut them.
fn run((v6, udp): (bool, bool), count: usize) -> Vec<Frame> {
    Frame { v6, udp, payload: filler(count * 100, 5), ..Frame::default() }.segments(100)
}

fn build(frames: &[Frame]) -> Vec<Vec<u8>> {
    frames.iter().map(Frame::build).collect()
}

/// How many packets each write carries, after checking that cutting gives `packets` again.
fn counts_of(packets: &[Vec<u8>]) -> Vec<u32> {
    let writes = merge(packets);
    let cut: Vec<_> = writes.iter().flat_map(|w| cut(&w.hdr, &w.packet)).collect();
    assert_eq!(cut, packets);
    writes.iter().map(|w| w.packets).collect()
}

fn counts(frames: &[Frame]) -> Vec<u32> {
    counts_of(&build(frames))
}

/// Changes the third of five segments: it may be merged with nothing before it.
fn third_differs(shape: (bool, bool), change: impl Fn(&mut Frame)) -> Vec<u32> {
    let mut frames = run(shape, 5);
    change(&mut frames[2]);
    counts(&frames)
}

#[test]
fn a_run_becomes_one_super_packet() {
    for shape in SHAPES {
        let mut frames = run(shape, 10);
        frames[9].payload.truncate(37);
        frames[9].flags |= PSH;
        let writes = merge(&build(&frames));
        assert_eq!(writes.len(), 1);
        let whole = Frame {
            payload: frames.iter().flat_map(|f| f.payload.clone()).collect(),
            flags: ACK | PSH,
            ..frames[0].clone()
        };
        let write = &writes[0];
        assert_eq!((write.hdr, &write.packet), (whole.virtio(100), &whole.build_partial()));
        assert_eq!((write.packets, write.pieces.len()), (10, 10));
        let bytes: usize = build(&frames).iter().map(Vec::len).sum();
        assert_eq!(write.bytes as usize, bytes);
        assert_eq!(write.head_len, virtio::LEN + whole.header_len());
        assert_eq!(write.flow_hash, super::super::ip::flow_hash(&write.packet));
    }
}

#[test]
fn a_packet_alone_goes_as_it_came() {
    for shape in SHAPES {
        let packets = build(&run(shape, 1));
        let writes = merge(&packets);
        assert_eq!((writes.len(), writes[0].hdr), (1, VirtioHdr::default()));
        assert_eq!((&writes[0].packet, writes[0].head_len), (&packets[0], virtio::LEN));
        assert_eq!(writes[0].bytes as usize, packets[0].len());
        assert_eq!(writes[0].flow_hash, super::super::ip::flow_hash(&packets[0]));
    }
}

#[test]
fn nothing_merges_without_the_offload() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let packets = build(&run(shape, 3));
        let config = MergeConfig { tcp4: i != 0, tcp6: i != 1, udp: i < 2 };
        assert_eq!(merge_with(config, &packets).0.len(), 3);
        assert_eq!(merge_with(MergeConfig::default(), &packets).0.len(), 3);
    }
}

#[test]
fn flags_that_mean_something_travel_alone() {
    for shape in TCP {
        for flag in [SYN, FIN, RST, URG, CWR] {
            assert_eq!(third_differs(shape, |f| f.flags |= flag), [2, 1, 2]);
        }
        assert_eq!(third_differs(shape, |f| f.flags = PSH), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.payload.clear()), [2, 1, 2]);
    }
}

#[test]
fn ece_and_reserved_bits_must_agree() {
    for shape in TCP {
        assert_eq!(third_differs(shape, |f| f.flags |= ECE), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.reserved = 1), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.urgent = 1), [2, 1, 2]);
        let mut frames = run(shape, 3);
        frames.iter_mut().for_each(|f| f.flags |= ECE);
        assert_eq!(counts(&frames), [3]);
    }
}

#[test]
fn psh_ends_a_group() {
    for shape in TCP {
        assert_eq!(third_differs(shape, |f| f.flags |= PSH), [3, 2]);
        let mut frames = run(shape, 3);
        frames.iter_mut().for_each(|f| f.flags |= PSH);
        assert_eq!(counts(&frames), [1, 1, 1]);
    }
}

#[test]
fn ip_fields_must_agree() {
    for shape in SHAPES {
        assert_eq!(third_differs(shape, |f| f.ttl = 63), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.tos = 3), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.tos = 0x20), [2, 1, 2]);
        if shape.0 {
            assert_eq!(third_differs(shape, |f| f.label = 1), [2, 1, 2]);
            assert_eq!(third_differs(shape, |f| f.extensions = 1), [2, 1, 2]);
        } else {
            assert_eq!(third_differs(shape, |f| f.fragment = 0), [2, 1, 2]);
            assert_eq!(third_differs(shape, |f| f.fragment = 0x8000), [2, 1, 2]);
            assert_eq!(third_differs(shape, |f| f.ip_options = vec![1; 4]), [2, 1, 2]);
        }
    }
}

#[test]
fn tcp_fields_must_agree() {
    for shape in TCP {
        assert_eq!(third_differs(shape, |f| f.ack += 1), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.window += 1), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.options[11] += 1), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.options.clear()), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.options.extend([1; 4])), [2, 1, 2]);
    }
}

#[test]
fn gaps_and_overlaps_are_kept() {
    for shape in TCP {
        for by in [1, u32::MAX, 100, 0u32.wrapping_sub(100)] {
            assert_eq!(third_differs(shape, |f| f.seq = f.seq.wrapping_add(by)), [2, 1, 2]);
        }
        let mut frames = run(shape, 4);
        frames.swap(1, 2);
        assert_eq!(counts(&frames), [1, 1, 1, 1]);
    }
}

#[test]
fn ids_count_up_or_stay_and_never_mix() {
    for shape in [(false, false), (false, true)] {
        let with_ids = |ids: &[u16], fragment| -> Vec<u32> {
            let mut frames = run(shape, ids.len());
            for (frame, id) in frames.iter_mut().zip(ids) {
                (frame.id, frame.fragment) = (*id, fragment);
            }
            merge(&build(&frames)).iter().map(|w| w.packets).collect()
        };
        for fragment in [0, 0x4000] {
            assert_eq!(with_ids(&[65_534, 65_535, 0, 1], fragment), [4]);
            assert_eq!(with_ids(&[5, 6, 8, 9], fragment), [2, 2]);
            assert_eq!(with_ids(&[5, 4, 3], fragment), [1, 1, 1]);
        }
        assert_eq!(with_ids(&[7, 7, 7], 0x4000), [3]);
        assert_eq!(with_ids(&[7, 7, 7], 0), [1, 1, 1]);
        assert_eq!(with_ids(&[7, 7, 8, 9], 0x4000), [2, 2]);
        assert_eq!(with_ids(&[7, 8, 8, 8], 0x4000), [2, 2]);
    }
}

#[test]
fn bad_checksums_go_alone_unrepaired_and_counted() {
    for shape in SHAPES {
        for place in ["transport", "payload", "ip"] {
            let mut packets = build(&run(shape, 5));
            let at = match place {
                "transport" => run(shape, 1)[0].ip_len() + if shape.1 { 7 } else { 17 },
                "payload" => packets[2].len() - 1,
                _ if shape.0 => continue,
                _ => 11,
            };
            packets[2][at] ^= 0x10;
            let (writes, bad) = merge_with(ALL, &packets);
            let sizes: Vec<u32> = writes.iter().map(|w| w.packets).collect();
            assert_eq!((sizes, bad), (vec![2, 1, 2], 1));
            assert_eq!((writes[1].hdr, &writes[1].packet), (VirtioHdr::default(), &packets[2]));
        }
    }
}

#[test]
fn a_shorter_segment_ends_and_a_longer_one_begins() {
    for shape in SHAPES {
        let of = |lens: &[usize]| -> Vec<u32> {
            let mut frames = run(shape, lens.len());
            let mut seq = 9;
            for (frame, len) in frames.iter_mut().zip(lens) {
                (frame.payload, frame.seq) = (filler(*len, 1), seq);
                seq += *len as u32;
            }
            counts(&frames)
        };
        assert_eq!(of(&[100, 100, 99, 99, 99]), [3, 2]);
        assert_eq!(of(&[100, 100, 101, 101]), [2, 2]);
        assert_eq!(of(&[100, 1, 1, 100]), [2, 1, 1]);
    }
}

#[test]
fn sixty_four_segments_at_most() {
    for shape in SHAPES {
        assert_eq!(counts(&run(shape, 64)), [64]);
        assert_eq!(counts(&run(shape, 130)), [64, 64, 2]);
    }
}

#[test]
fn never_more_than_65_535_bytes() {
    for (v6, udp) in SHAPES {
        let frame = Frame { v6, udp, ..Frame::default() };
        let exact = (65_535 - frame.header_len()) / 5;
        for (size, expected) in [(exact, vec![5]), (exact + 1, vec![4, 1])] {
            let payload = filler(size * 5, 0);
            assert_eq!(counts(&Frame { payload, ..frame.clone() }.segments(size)), expected);
        }
    }
}

#[test]
fn fragments_push_out_everything_between_their_addresses() {
    for shape in [(false, false), (false, true)] {
        for fragment in [0x2000, 0x0010, 0x6000] {
            assert_eq!(third_differs(shape, |f| f.fragment = fragment), [2, 1, 2]);
        }
    }
    let mut v6 = build(&run((true, true), 5));
    let payload = v6[2].split_off(40);
    v6[2][6] = 44;
    v6[2][5] += 8;
    v6[2].extend([&[17, 0, 0, 1, 0, 0, 0, 9], &payload[..]].concat());
    assert_eq!(counts_of(&v6), [2, 1, 2]);
}

#[test]
fn udp_needs_a_checksum_and_the_right_length() {
    for shape in [(false, true), (true, true)] {
        let at = run(shape, 1)[0].ip_len();
        let mut packets = build(&run(shape, 5));
        packets[2][at + 6..at + 8].fill(0);
        assert_eq!(counts_of(&packets), [2, 1, 2]);
        let mut packets = build(&run(shape, 5));
        packets[2][at + 5] -= 1;
        assert_eq!(counts_of(&packets), [2, 1, 2]);
        assert_eq!(third_differs(shape, |f| f.payload.clear()), [2, 1, 2]);
    }
}

#[test]
fn other_ports_addresses_and_protocols_are_other_flows() {
    let changes: [fn(&mut Frame); 5] = [
        |f| f.sport += 1,
        |f| f.dport += 1,
        |f| f.source += 1,
        |f| f.destination += 1,
        |f| f.udp = !f.udp,
    ];
    for shape in SHAPES {
        for change in changes {
            let mut frames = run(shape, 6);
            frames.iter_mut().skip(1).step_by(2).for_each(change);
            frames.iter_mut().for_each(|f| (f.id, f.seq) = (0, 0));
            let writes = merge(&build(&frames));
            assert!(writes.iter().all(|w| w.packets == 1 || shape.1 || w.hdr.gso_type == 5));
            // Seen as flows of their own they do merge.
            let mut a = run(shape, 3);
            let mut b = run(shape, 3);
            b.iter_mut().for_each(change);
            let mixed: Vec<_> =
                a.drain(..).zip(b.drain(..)).flat_map(|(a, b)| [a.build(), b.build()]).collect();
            let sizes: Vec<_> = merge(&mixed).iter().map(|w| w.packets).collect();
            assert_eq!(sizes, [3, 3]);
        }
    }
}

#[test]
fn a_full_table_sends_out_the_oldest() {
    let flows = MAX_FLOWS + 1;
    let of = |i: usize, n: usize| Frame { sport: i as u16, ..run((false, false), 2)[n].clone() };
    let first: Vec<_> = (0..flows).map(|i| of(i, 0)).collect();
    let second: Vec<_> = (0..flows).map(|i| of(i, 1)).collect();
    // As many flows as fit are all merged.
    let writes = merge(&build(&[&first[1..], &second[1..]].concat()));
    assert!(writes.len() == MAX_FLOWS && writes.iter().all(|w| w.packets == 2));
    // One more, and flow 0 makes room for it; the second packet of 0 then puts out 1, and so on.
    let writes = merge(&build(&[&first[..], &second[..]].concat()));
    assert_eq!(writes.len(), 2 * flows);
    assert_eq!(writes[0].packet, first[0].build());
    assert_eq!(writes[1].packet, first[1].build());
}
