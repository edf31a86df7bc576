//! Properties of merging: it is undone by splitting, it keeps the order and the bytes of every
//! flow, it survives anything.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use super::super::frames::*;
use super::super::ip::{FlowKey, inner_packet};
use super::super::virtio::VirtioHdr;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// What happens to one packet on its way, most often nothing.
#[derive(Clone, Copy, Debug)]
enum Oddity {
    None,
    Length(usize),
    PureAck,
    Flags(u8),
    BadChecksum(usize),
    Gap(u32),
    SameId,
    IdJump,
    Ttl,
    Window,
    Options,
    IpOptions,
    Fragment(u16),
    NoUdpChecksum,
}

fn oddity() -> impl Strategy<Value = Oddity> {
    use Oddity::*;
    let rare = prop_oneof![
        (1usize..300).prop_map(Length),
        Just(PureAck),
        prop::sample::select(vec![PSH, PSH, ECE, FIN, SYN, RST, URG, CWR]).prop_map(Flags),
        (0usize..400).prop_map(BadChecksum),
        (0u32..300).prop_map(Gap),
        Just(SameId),
        Just(IdJump),
        Just(Ttl),
        Just(Window),
        Just(Options),
        Just(IpOptions),
        prop::sample::select(vec![0x2000, 0x2010, 0x0020, 0]).prop_map(Fragment),
        Just(NoUdpChecksum),
    ];
    prop_oneof![5 => Just(None), 1 => rare]
}

/// One packet of a flow; the flow's state moves on as the sender's would.
fn next_packet(flow: &mut Frame, oddity: Oddity, seed: u8) -> Vec<u8> {
    let mut frame = flow.clone();
    frame.payload = filler(100, seed);
    match oddity {
        Oddity::Length(len) => frame.payload = filler(len, seed),
        Oddity::PureAck => frame.payload.clear(),
        Oddity::Flags(flags) => frame.flags |= flags,
        Oddity::Gap(by) => frame.seq = frame.seq.wrapping_add(by),
        Oddity::SameId => frame.id = frame.id.wrapping_sub(1),
        Oddity::IdJump => frame.id = frame.id.wrapping_add(9),
        Oddity::Ttl => frame.ttl -= 1,
        Oddity::Window => frame.window += 1,
        Oddity::Options => frame.options.extend([1; 4]),
        Oddity::IpOptions => (frame.ip_options, frame.extensions) = (vec![1; 4], 1),
        Oddity::Fragment(field) => frame.fragment = field,
        Oddity::None | Oddity::BadChecksum(_) | Oddity::NoUdpChecksum => {}
    }
    flow.id = frame.id.wrapping_add(1);
    flow.seq = frame.seq.wrapping_add(frame.payload.len() as u32);
    let mut packet = frame.build();
    match oddity {
        Oddity::BadChecksum(at) => {
            let at = frame.ip_len() + at % (packet.len() - frame.ip_len());
            // Not the ports: it would be another flow's.
            packet[at.max(frame.ip_len() + 4)] ^= 0x40;
        }
        Oddity::NoUdpChecksum if frame.udp => packet[frame.ip_len() + 6..][..2].fill(0),
        _ => {}
    }
    packet
}

/// Flow `i`: 0..8 share their addresses and differ in shape and ports, the others do not.
fn flow(i: usize) -> Frame {
    let host = if i < 8 { 1 } else { i as u8 };
    let (v6, udp) = (i & 1 != 0, i & 2 != 0);
    Frame { v6, udp, source: host, sport: 1000 + i as u16 / 4, ..Frame::default() }
}

/// Clears what merging is allowed to change: the id of atomic IPv4 datagrams, and which of its
/// two zeroes a TCP checksum uses.
fn normal(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 && packet[6] & 0x7f == 0x40 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
    if packet.len() >= at + 20 && packet[at + 16..at + 18] == [0xff, 0xff] {
        packet[at + 16..at + 18].fill(0);
    }
    packet
}

fn cut_all(writes: &[Write]) -> Vec<Vec<u8>> {
    writes.iter().flat_map(|w| cut(&w.hdr, &w.packet)).collect()
}

/// Packets of a batch with the flow that each belongs to.
fn batches() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let runs = (0usize..12, proptest::collection::vec((oddity(), any::<u8>()), 1..12));
    proptest::collection::vec(runs, 1..25).prop_map(|runs| {
        let mut flows: Vec<_> = (0..12).map(flow).collect();
        let mut packets = vec![];
        for (i, run) in runs {
            for (oddity, seed) in run {
                packets.push((i, next_packet(&mut flows[i], oddity, seed)));
            }
        }
        packets
    })
}

#[test]
fn memory_is_allocated_once() {
    let mut merger = Merger::new(ALL);
    let before = (merger.flows.capacity(), merger.held.capacity(), merger.free.capacity());
    let mut tun = Slots { slots: vec![], writes: vec![] };
    for i in 0..3 * MAX_FLOWS {
        let packet = Frame { sport: i as u16, payload: vec![1], ..Frame::default() }.build();
        tun.slots.push(packet.clone());
        merger.push(&packet, i as u16, 0, &mut tun);
        if i % 50 == 0 {
            merger.flush(&mut tun);
        }
    }
    merger.flush(&mut tun);
    assert_eq!(tun.writes.len(), 3 * MAX_FLOWS);
    let after = (merger.flows.capacity(), merger.held.capacity(), merger.free.capacity());
    assert_eq!(before, after);
}

proptest! {
    #[test]
    fn merging_undoes_splitting(frame in any_frame(6000), size in 100usize..1500) {
        let plain = Frame {
            extensions: 0,
            ip_options: vec![],
            flags: ACK | frame.flags & (PSH | ECE),
            ..frame
        };
        let (hdr, packet) = (plain.virtio(size), plain.build_partial());
        let writes = merge(&cut(&hdr, &packet));
        prop_assert_eq!(writes.len(), 1);
        if plain.payload.len() > size {
            prop_assert_eq!(writes[0].hdr, hdr);
            prop_assert_eq!(&writes[0].packet, &packet);
        } else {
            prop_assert_eq!(writes[0].hdr, VirtioHdr::default());
        }
    }

    #[test]
    fn every_flow_keeps_its_order_and_bytes(batch in batches()) {
        let packets: Vec<_> = batch.iter().map(|(_, packet)| packet.clone()).collect();
        let writes = merge(&packets);
        prop_assert_eq!(writes.iter().map(|w| w.packets as usize).sum::<usize>(), packets.len());
        let total: usize = packets.iter().map(Vec::len).sum();
        prop_assert_eq!(writes.iter().map(|w| w.bytes as usize).sum::<usize>(), total);
        // Which packets a write carries is in its pieces: slot numbers are packet numbers.
        let order: Vec<usize> =
            writes.iter().flat_map(|w| &w.pieces).map(|p| usize::from(p.slot)).collect();
        let out = cut_all(&writes);
        prop_assert_eq!(order.len(), out.len());
        for (number, packet) in order.iter().zip(&out) {
            prop_assert_eq!(normal(packet), normal(&packets[*number]));
        }
        for flow in 0..12 {
            let of_flow: Vec<_> = order.iter().filter(|n| batch[**n].0 == flow).collect();
            prop_assert!(of_flow.is_sorted(), "flow {} as {:?}", flow, of_flow);
        }
    }

    #[test]
    fn mutated_packets_keep_order_and_bytes(
        batch in batches(),
        places in proptest::collection::vec((any::<u16>(), 0usize..64, any::<u8>()), 0..10),
    ) {
        let mut packets: Vec<_> = batch.into_iter().map(|(_, packet)| packet).collect();
        for (number, place, byte) in places {
            let number = usize::from(number) % packets.len();
            let place = place % packets[number].len();
            packets[number][place] = byte;
        }
        let whole: Vec<_> =
            packets.iter().filter_map(|p| inner_packet(p).ok()).map(<[u8]>::to_vec).collect();
        let writes = merge(&whole);
        let order: Vec<usize> =
            writes.iter().flat_map(|w| &w.pieces).map(|p| usize::from(p.slot)).collect();
        for (number, packet) in order.iter().zip(cut_all(&writes)) {
            prop_assert_eq!(normal(&packet), normal(&whole[*number]));
        }
        for (i, number) in order.iter().enumerate() {
            let key = FlowKey::parse(&whole[*number]);
            let later = |n: &&usize| key.is_some() && FlowKey::parse(&whole[**n]) == key;
            prop_assert!(order[i..].iter().filter(later).all(|n| n >= number));
        }
        // Not even packets that inner_packet would have refused do harm.
        prop_assert!(merge(&packets).len() <= packets.len());
    }

    #[test]
    fn random_bytes_are_survived(
        mut packets in vec(vec(any::<u8>(), 0..90), 1..9),
        first in prop::sample::select(vec![0x45u8, 0x60, 0x46]),
        protocol in prop::sample::select(vec![6u8, 17]),
    ) {
        for packet in &mut packets {
            for (at, byte) in [(0, first), (if first == 0x60 { 6 } else { 9 }, protocol)] {
                if let Some(place) = packet.get_mut(at) {
                    *place = byte;
                }
            }
        }
        prop_assert_eq!(merge(&packets).len(), packets.len());
    }
}
