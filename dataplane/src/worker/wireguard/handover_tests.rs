//! Two workers in one thread: a loaded one and one that helps, step by step from a seed.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam::channel::bounded;
use zeroize::Zeroizing;

use super::*;
use crate::io::counters::DropReason;
use crate::io::{Destination, Pool};
use crate::packet::merge::Piece;
use crate::table::allowed_ips::AllowedIps;
use crate::table::clock::Clock;
use crate::table::sessions::SessionTable;
use crate::table::{Shared, Table};
use crate::wire::wireguard::keys::PublicKey;
use crate::wire::wireguard::messages::{TAG_LEN, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD};
use crate::wire::wireguard::session::{Session, TransportKeys};

mod outbound;

const PACKET_LEN: usize = 64;
const STEP: usize = PACKET_LEN + TRANSPORT_OVERHEAD;

/// Takes tun writes, and the slots that they point into.
#[derive(Default)]
struct Tun {
    written: Vec<Piece>,
    slots: HashMap<u16, Slot>,
}

impl Transmit for Tun {
    fn send_slot(&mut self) -> Option<Slot> {
        None
    }
    fn send(&mut self, _: Slot, _: Destination, _: usize, _: usize) {}
    fn write(&mut self, _: u16, _: &[u8], pieces: &[Piece], _: u32, _: u32) {
        self.written.extend_from_slice(pieces);
    }
    fn give_back(&mut self, slot: Slot) {
        self.slots.insert(slot.index(), slot);
    }
    fn merge_refused(&self) -> bool {
        false
    }
}

impl Tun {
    /// The numbers in the packets written in this turn, whose slots are free now.
    fn end_of_turn(&mut self, free: &mut Vec<Slot>) -> Vec<u32> {
        let number = |piece: &Piece| {
            let slot = &self.slots[&piece.slot];
            let end = (piece.offset + piece.len) as usize;
            u32::from_be_bytes(*slot[..end].last_chunk().unwrap())
        };
        let numbers = self.written.iter().map(number).collect();
        self.written.clear();
        free.extend(self.slots.drain().map(|(_, slot)| slot));
        numbers
    }
}

struct Pair {
    shared: Arc<Shared>,
    workers: [WireGuard; 2],
    counters: [Arc<Counters>; 2],
    /// The peer's end of the session.
    peer: Session,
    free: Vec<Slot>,
    random: u64,
    /// The next packet's number.
    next: u32,
    /// What has been made to be dropped, by reason.
    spoilt: HashMap<&'static str, u64>,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let peer = Arc::new(Peer::new(PublicKey::from_bytes([1; 32])));
        let allowed_ips = AllowedIps::new([("10.0.0.2/32".parse().unwrap(), 0)]);
        let table = Table { allowed_ips, peers: vec![Arc::clone(&peer)] };
        let shared = Arc::new(Shared {
            table: Arc::new(table).into(),
            sessions: SessionTable::new(64),
            checker: Option::default().into(),
            under_load: false.into(),
            generation: 0.into(),
            mtu: 1420.into(),
            clock: Clock::new(|| 1_000),
        });
        let index = shared.sessions.reserve(None).unwrap();
        let keys = |byte| Zeroizing::new([byte; 32]);
        let keys = TransportKeys { send: keys(1), receive: keys(1) };
        let session = |local, remote| Session::new(&keys, local, remote, true, 1_000).unwrap();
        let live = Arc::new(Live { session: session(index, 7), peer: Arc::clone(&peer) });
        peer.install_initiated(live, &shared.sessions);
        let wakes = (0..2).map(|_| Box::new(|| ()) as crate::worker::handover::Wake);
        let exchange = Arc::new(Exchange::new(wakes));
        let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        let (events, _) = bounded(1);
        let (handshakes, proven) = (events.clone(), events.clone());
        let control = ToControl { events, handshakes, proven, shares: Shares::new() };
        let worker = |me: u16| {
            let (shared, counters) = (Arc::clone(&shared), Arc::clone(&counters[usize::from(me)]));
            let (steering, merge) = (Steering::new(1), MergeConfig::default());
            WireGuard::new(shared, control.clone(), me, steering, merge, counters)
                .sharing_by(Arc::clone(&exchange), me)
        };
        let workers = [worker(0), worker(1)];
        let (_, free) = Pool::new(128, 8_192).unwrap();
        let peer = session(7, index);
        let spoilt = HashMap::new();
        Self { shared, workers, counters, peer, free, random: seed | 1, next: 0, spoilt }
    }

    /// A number below `limit` (xorshift64).
    fn random(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    /// A receive of numbered packets, now and then with something that is not to be delivered.
    fn receive(&mut self, count: usize) -> (Slot, Arrival, Vec<u32>) {
        let mut slot = self.free.pop().unwrap();
        let from = SocketAddr::from(([192, 0, 2, 1], 51820));
        let len = count * STEP;
        let arrival = Arrival::of(from, len, STEP);
        let bytes = Received::new(&mut slot, arrival).bytes;
        let (mut numbers, mut again) = (Vec::new(), None);
        for i in 0..count {
            let (before, message) = bytes.split_at_mut(i * STEP);
            let message = &mut message[..STEP];
            let what = self.random(40);
            if what == 0
                && let Some(reason) = again
            {
                message.copy_from_slice(&before[(i - 1) * STEP..]);
                self.spoil(reason);
                continue;
            }
            let packet = &mut message[TRANSPORT_HEADER_LEN..STEP - TAG_LEN];
            packet.fill(0);
            packet[..20].copy_from_slice(&[
                0x45, 0, 0, 64, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1,
            ]);
            packet[PACKET_LEN - 4..].copy_from_slice(&self.next.to_be_bytes());
            let counter = self.peer.reserve(1).unwrap();
            self.peer.seal(&Aead::Ring, counter, message);
            let reason = match what {
                1 => {
                    message[STEP / 2] ^= 1;
                    DropReason::NotAuthentic
                }
                // In the middle of a run, what is no message at all: the run ends there.
                2 => {
                    message[1] = 1;
                    DropReason::BadMessage
                }
                _ => {
                    numbers.push(self.next);
                    self.next += 1;
                    again = Some(DropReason::Replayed);
                    continue;
                }
            };
            self.spoil(reason);
            again = Some(reason);
        }
        (slot, arrival, numbers)
    }

    fn spoil(&mut self, reason: DropReason) {
        *self.spoilt.entry(reason.name()).or_default() += 1;
    }

    /// One turn of worker `me` with these receives; returns the numbers written.
    fn turn(&mut self, me: usize, receives: Vec<(Slot, Arrival)>) -> Vec<u32> {
        let (worker, mut tun) = (&mut self.workers[me], Tun::default());
        worker.start_of_turn(&mut tun);
        for (slot, arrival) in receives {
            assert!(worker.has_room());
            if let Err(mut slot) = worker.take_on(slot, arrival) {
                worker.datagrams(Received::new(&mut slot, arrival), &mut tun);
                tun.give_back(slot);
            }
        }
        worker.end_of_turn(&mut tun);
        tun.end_of_turn(&mut self.free)
    }
}

fn run(seed: u64) {
    let mut pair = Pair::new(seed);
    let (mut expected, mut written) = (Vec::new(), Vec::new());
    for turn in 0..400 {
        let mut receives = Vec::new();
        if pair.workers[0].has_room() {
            // Now and then a short one, which is not worth it and yet must not overtake.
            for count in [40, if turn % 7 == 0 { 3 } else { 30 }] {
                let (slot, arrival, numbers) = pair.receive(count);
                expected.extend(numbers);
                receives.push((slot, arrival));
            }
        }
        if !pair.workers[0].has_room() || pair.free.len() < 4 {
            pair.turn(1, Vec::new());
        }
        written.extend(pair.turn(0, receives));
        for _ in 0..pair.random(3) {
            assert!(pair.turn(1, Vec::new()).is_empty());
        }
    }
    while !(pair.workers[0].may_sleep() && pair.free.len() == 128) {
        written.extend(pair.turn(0, Vec::new()));
    }
    assert!(written == expected, "seed {seed}: order");
    let [owner, helper] = &pair.counters;
    assert!(owner.handed_over.get() > 50, "{}", owner.handed_over.get());
    assert_eq!((owner.handed_over.get(), owner.helped.get()), (helper.helped.get(), 0));
    for &reason in DropReason::ALL {
        let spoilt = pair.spoilt.get(reason.name()).copied().unwrap_or_default();
        assert_eq!(owner.dropped(reason), spoilt, "seed {seed}: {}", reason.name());
        assert_eq!(helper.dropped(reason), 0);
    }
}

#[test]
fn batches_opened_by_two_workers_come_out_in_order() {
    (1..=20).for_each(run);
}

#[test]
fn a_session_that_is_removed_ends_with_the_batches_under_way() {
    let mut pair = Pair::new(1);
    let index = pair.peer.remote_index;
    let keeper = Arc::downgrade(pair.shared.sessions.get(index).unwrap().as_ref().unwrap());
    while pair.free.len() == 128 {
        let receives = (0..2).map(|_| pair.receive(40)).map(|(slot, arrival, _)| (slot, arrival));
        let receives = receives.collect();
        pair.turn(0, receives);
    }
    let peer = Arc::clone(&pair.shared.table.load().peers[0]);
    peer.clear_sessions(&pair.shared.sessions);
    assert!(keeper.upgrade().is_some(), "batches are under way");
    while !(pair.workers[0].may_sleep() && pair.free.len() == 128) {
        pair.turn(0, Vec::new());
    }
    assert!(keeper.upgrade().is_none(), "its keys are gone");
}
