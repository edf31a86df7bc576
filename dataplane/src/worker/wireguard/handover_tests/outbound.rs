//! Frames of two workers, sealed by both: order, bytes and counters.

use std::collections::VecDeque;

use super::*;
use crate::io::{SEGMENTS_MAX, SEND_MAX};
use crate::packet::ip::inner_packet;
use crate::packet::virtio::{self, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, VirtioHdr};
use crate::worker::wireguard::sealing::split;

/// Bytes of a slot, either kind.
const SLOT_LEN: usize = 66_000;
const FRAMES: u16 = 64;
const SEND_SLOTS: u16 = crate::io::SEND_SLOTS;
/// Send slots without which a backend hands over no frame.
const SPARE_MIN: usize = 4;

/// One worker's backend: opens what is sent as the peer does.
struct Wire {
    peer: Session,
    frames: Vec<Slot>,
    waiting: VecDeque<(Slot, usize)>,
    sends: Vec<Slot>,
    /// The packets that have left, and their counters.
    packets: Vec<Vec<u8>>,
    counters: Vec<u64>,
    bytes: u64,
}

impl Transmit for Wire {
    fn send_slot(&mut self) -> Option<Slot> {
        self.sends.pop()
    }
    fn send(&mut self, mut slot: Slot, _: Destination, len: usize, segment_len: usize) {
        assert!(len <= SEND_MAX && len.div_ceil(segment_len) <= SEGMENTS_MAX);
        for message in slot[..len].chunks_mut(segment_len) {
            self.bytes += message.len() as u64;
            self.counters.push(self.peer.open(&Aead::Ring, message).unwrap());
            let plain = &message[TRANSPORT_HEADER_LEN..message.len() - TAG_LEN];
            self.packets.push(inner_packet(plain).unwrap().to_vec());
        }
        self.sends.push(slot);
    }
    fn write(&mut self, _: u16, _: &[u8], _: &[Piece], _: u32, _: u32) {}
    fn give_back(&mut self, _: Slot) {}
    fn give_back_frame(&mut self, slot: Slot) {
        self.frames.push(slot);
    }
    fn merge_refused(&self) -> bool {
        false
    }
}

impl Wire {
    fn new(peer: Session) -> Self {
        Self {
            peer,
            frames: Pool::new(FRAMES, SLOT_LEN).unwrap().1,
            waiting: VecDeque::new(),
            sends: Pool::new(SEND_SLOTS, SLOT_LEN).unwrap().1,
            packets: Vec::new(),
            counters: Vec::new(),
            bytes: 0,
        }
    }

    fn read(&mut self, frame: &[u8]) {
        let mut slot = self.frames.pop().unwrap();
        slot[..frame.len()].copy_from_slice(frame);
        self.waiting.push_back((slot, frame.len()));
    }

    /// A turn of `worker`, as a backend takes it.
    fn turn(&mut self, worker: &mut WireGuard) {
        worker.start_of_turn(self);
        while self.sends.len() >= SPARE_MIN
            && let Some((slot, len)) = self.waiting.pop_front()
        {
            if let Err(slot) = worker.take_on_frame(slot, len, self) {
                worker.frame(&slot[..len], self);
                self.frames.push(slot);
            }
        }
        worker.end_of_turn(self);
    }

    fn all_is_back(&self) -> bool {
        self.frames.len() == usize::from(FRAMES) && self.sends.len() == usize::from(SEND_SLOTS)
    }
}

/// A frame from 10.0.0.1 to 10.0.0.`to`: one TCP packet, or a super-packet of several.
fn frame(to: u8, number: u32, size: usize, payload_len: usize) -> Vec<u8> {
    let large = payload_len > size;
    let header = VirtioHdr {
        flags: if large { NEEDS_CSUM } else { 0 },
        gso_type: if large { GSO_TCPV4 } else { 0 },
        gso_size: if large { u16::try_from(size).unwrap() } else { 0 },
        csum_start: 20,
        csum_offset: 16,
        ..VirtioHdr::default()
    };
    let mut frame = header.encode().to_vec();
    let len = u16::try_from(40 + payload_len).unwrap().to_be_bytes();
    frame.extend([0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, to]);
    frame.extend([0x9c, 0x40, 1, 0xbb]);
    frame.extend(number.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, 0x10, 1, 0xf4, 0, 0, 0, 0]);
    frame.extend((0..payload_len).map(|i| u8::try_from((i + number as usize) % 251).unwrap()));
    frame
}

fn packets(frame: &[u8]) -> Vec<Vec<u8>> {
    let split = split(frame).unwrap();
    let packet = |i| {
        let mut packet = vec![0; split.len_of(i)];
        split.write(i, &mut packet);
        packet
    };
    (0..split.count()).map(packet).collect()
}

struct Ends {
    pair: Pair,
    wires: [Wire; 2],
    expected: [Vec<Vec<u8>>; 2],
    number: u32,
}

impl Ends {
    fn new(seed: u64) -> Self {
        let pair = Pair::new(seed);
        let to = SocketAddr::from(([192, 0, 2, 1], 51820));
        pair.shared.table.load().peers[0].endpoint.store(Some(Arc::new(to.into())));
        let keys = TransportKeys { send: [1; 32].into(), receive: [1; 32].into() };
        let index = pair.peer.remote_index;
        let wire = |_| Wire::new(Session::new(&keys, 7, index, true, 1_000).unwrap());
        Self { pair, wires: [0, 1].map(wire), expected: [vec![], vec![]], number: 0 }
    }

    /// Something for worker `me`; now and then what is not to be sent at all.
    fn read(&mut self, me: usize) {
        self.number += 1;
        let frame = match self.pair.random(20) {
            0 => frame(2, self.number, 1_380, 100),
            1 => frame(2, self.number, 1_380, 5 * 1_380 + 7),
            // More than one send: by segments, and by bytes.
            2 => frame(2, self.number, 20, 1_500),
            3 => frame(2, self.number, 1_300, 65_000),
            4 => {
                self.pair.spoil(DropReason::NoPeer);
                let frame = frame(3, self.number, 1_380, 30_000);
                return self.wires[me].read(&frame);
            }
            5 => {
                self.pair.spoil(DropReason::TunMalformed);
                let mut frame = frame(2, self.number, 1_380, 30_000);
                frame[1] = GSO_UDP_L4;
                return self.wires[me].read(&frame);
            }
            n => frame(2, self.number, 1_380, 22_000 + 2_000 * usize::try_from(n).unwrap()),
        };
        self.expected[me].extend(packets(&frame));
        self.wires[me].read(&frame);
    }

    fn turn(&mut self, me: usize) {
        self.wires[me].turn(&mut self.pair.workers[me]);
    }

    fn drain(&mut self) {
        while !(0..2).all(|me| self.wires[me].all_is_back() && self.pair.workers[me].may_sleep()) {
            self.turn(0);
            self.turn(1);
        }
    }

    fn live(&self) -> std::sync::Weak<crate::table::sessions::Live> {
        let index = self.pair.peer.remote_index;
        Arc::downgrade(self.pair.shared.sessions.get(index).unwrap().as_ref().unwrap())
    }

    fn load_until_under_way(&mut self) {
        while self.wires[0].frames.len() == usize::from(FRAMES) {
            for _ in 0..2 {
                self.wires[0].read(&frame(2, 0, 1_380, 60_000));
            }
            self.turn(0);
        }
    }
}

fn run(seed: u64) {
    let mut ends = Ends::new(seed);
    for turn in 0..400 {
        for _ in 0..3 {
            if ends.wires[0].frames.len() > 8 {
                ends.read(0);
            }
        }
        if turn % 5 == 0 && ends.wires[1].frames.len() > 8 {
            ends.read(1);
        }
        ends.turn(0);
        for _ in 0..ends.pair.random(3) {
            ends.turn(1);
        }
    }
    ends.drain();
    for me in 0..2 {
        assert!(ends.wires[me].packets == ends.expected[me], "seed {seed}: worker {me}");
        let counters = &ends.wires[me].counters;
        assert!(counters.is_sorted(), "seed {seed}: counters leave in order");
    }
    // Every counter once, and none left out.
    let mut counters: Vec<_> = ends.wires.iter().flat_map(|wire| wire.counters.clone()).collect();
    counters.sort_unstable();
    let sent = ends.live().upgrade().unwrap().session.sent_count();
    assert!(counters.into_iter().eq(0..sent), "seed {seed}: counters");
    let peer = Arc::clone(&ends.pair.shared.table.load().peers[0]);
    let bytes: u64 = ends.wires.iter().map(|wire| wire.bytes).sum();
    assert_eq!(peer.sent_bytes.load(Ordering::Relaxed), bytes);
    let [owner, helper] = &ends.pair.counters;
    assert!(owner.handed_over.get() > 50, "{}", owner.handed_over.get());
    let sum = |of: fn(&Counters) -> u64| of(owner) + of(helper);
    assert_eq!(sum(|worker| worker.handed_over.get()), sum(|worker| worker.helped.get()));
    for &reason in DropReason::ALL {
        let spoilt = ends.pair.spoilt.get(reason.name()).copied().unwrap_or_default();
        assert_eq!(sum_of(&ends.pair.counters, reason), spoilt, "seed {seed}: {}", reason.name());
    }
}

fn sum_of(counters: &[Arc<Counters>; 2], reason: DropReason) -> u64 {
    counters.iter().map(|counters| counters.dropped(reason)).sum()
}

#[test]
fn frames_sealed_by_two_workers_leave_in_order_with_every_counter_once() {
    (1..=20).for_each(run);
}

#[test]
fn what_a_worker_seals_itself_waits_for_what_was_handed_over() {
    let mut ends = Ends::new(1);
    ends.load_until_under_way();
    let before = ends.wires[0].packets.len();
    let small = frame(2, 0, 1_380, 100);
    ends.wires[0].read(&small);
    // A turn that brings something takes no batch back, and the helper has not come yet.
    ends.turn(0);
    assert_eq!(ends.wires[0].packets.len(), before);
    ends.turn(1);
    ends.drain();
    assert!(ends.wires[0].packets.len() > before + 16);
    assert_eq!(ends.wires[0].packets.last().unwrap(), &small[virtio::LEN..]);
}

#[test]
fn a_session_that_is_removed_is_gone_when_the_frames_under_way_have_left() {
    let mut ends = Ends::new(1);
    ends.load_until_under_way();
    let keeper = ends.live();
    let peer = Arc::clone(&ends.pair.shared.table.load().peers[0]);
    peer.clear_sessions(&ends.pair.shared.sessions);
    assert!(keeper.upgrade().is_some(), "frames are under way");
    let sent = ends.wires[0].packets.len();
    ends.drain();
    assert!(ends.wires[0].packets.len() > sent, "and leave");
    assert!(keeper.upgrade().is_none(), "its keys are gone");
    let sent = ends.wires[0].packets.len();
    ends.wires[0].read(&frame(2, 0, 1_380, 60_000));
    ends.drain();
    assert_eq!(ends.wires[0].packets.len(), sent, "what comes later waits for a session");
}

#[test]
fn workers_that_stop_leave_nothing_behind() {
    let mut ends = Ends::new(1);
    ends.load_until_under_way();
    let keeper = ends.live();
    let peer = Arc::clone(&ends.pair.shared.table.load().peers[0]);
    peer.clear_sessions(&ends.pair.shared.sessions);
    let Pair { workers, .. } = ends.pair;
    assert!(keeper.upgrade().is_some(), "frames are under way");
    drop(workers);
    assert!(keeper.upgrade().is_none(), "they are gone, keys and all");
}
