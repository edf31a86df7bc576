//! Two WireGuard workers that seal and open for each other, in memory, with every allocation
//! counted. What they send comes back to them: the peer has the same keys.

use std::sync::Arc;

use allocation_counter::measure;
use crossbeam::channel::bounded;
use ringtun::engine::{AeadLibrary, ToControl};
use ringtun::io::counters::{Counters, DropReason};
use ringtun::io::{Arrival, Destination, Handler, Received, Slot, Transmit};
use ringtun::packet::merge::{MergeConfig, Piece};
use ringtun::packet::virtio::{GSO_TCPV4, NEEDS_CSUM, VirtioHdr};
use ringtun::ring::memory::Pool;
use ringtun::ring::receive::{RECEIVE_SLOT_LEN, SEND_SLOT_LEN, TUN_SLOT_LEN};
use ringtun::table::allowed_ips::AllowedIps;
use ringtun::table::clock::Clock;
use ringtun::table::peer::Peer;
use ringtun::table::sessions::{Live, SessionTable};
use ringtun::table::shares::Shares;
use ringtun::table::{Shared, Table};
use ringtun::wire::wireguard::keys::PublicKey;
use ringtun::wire::wireguard::session::{Session, TransportKeys};
use ringtun::worker::handover::{Exchange, Wake};
use ringtun::worker::path::Path;
use ringtun::worker::steering::Steering;
use ringtun::worker::wireguard::WireGuard;

const SEGMENT: usize = 1_380;
const SEGMENTS: usize = 40;
const TURNS: usize = 400;

/// What a backend holds, in memory that is there from the start.
struct Wire {
    frames: Vec<Slot>,
    sends: Vec<Slot>,
    receives: Vec<Slot>,
    /// Received in the next turn.
    arrivals: Vec<(Slot, Arrival)>,
    written: usize,
}

impl Transmit for Wire {
    fn send_slot(&mut self) -> Option<Slot> {
        self.sends.pop()
    }

    fn send(&mut self, slot: Slot, to: Destination, len: usize, segment_len: usize) {
        if let Some(mut place) = self.receives.pop() {
            let arrival = Arrival::of(to.endpoint.to, len, segment_len);
            Received::new(&mut place, arrival).bytes.copy_from_slice(&slot[..len]);
            self.arrivals.push((place, arrival));
        }
        self.sends.push(slot);
    }

    fn write(&mut self, _: u16, _: &[u8], _: &[Piece], packets: u32, _: u32) {
        self.written += packets as usize;
    }

    fn give_back(&mut self, slot: Slot) {
        self.receives.push(slot);
    }

    fn give_back_frame(&mut self, slot: Slot) {
        self.frames.push(slot);
    }

    fn merge_refused(&self) -> bool {
        false
    }
}

impl Wire {
    fn new() -> Self {
        let slots = |len| Pool::new(64, len).unwrap().1;
        let [frames, sends, receives] = [TUN_SLOT_LEN, SEND_SLOT_LEN, RECEIVE_SLOT_LEN].map(slots);
        Self { frames, sends, receives, arrivals: Vec::with_capacity(64), written: 0 }
    }

    /// A turn in which what was sent has arrived, and `frame` has been read so many times.
    fn turn(&mut self, path: &mut Path, frame: &[u8], count: usize) {
        path.start_of_turn(self);
        for _ in 0..self.arrivals.len() {
            let Some((slot, arrival)) = self.arrivals.pop().filter(|_| path.has_room()) else {
                break;
            };
            if let Err(mut slot) = path.take_on(slot, arrival) {
                path.datagrams(Received::new(&mut slot, arrival), self);
                self.receives.push(slot);
            }
        }
        for _ in 0..count.min(self.sends.len().saturating_sub(4)) {
            let Some(mut slot) = self.frames.pop() else { break };
            slot[..frame.len()].copy_from_slice(frame);
            if let Err(slot) = path.take_on_frame(slot, frame.len(), self) {
                path.frame(&slot[..frame.len()], self);
                self.frames.push(slot);
            }
        }
        path.end_of_turn(self);
    }
}

/// A TCP super-packet from an address that the peer may have to one.
fn super_packet() -> Vec<u8> {
    let header = VirtioHdr {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        gso_size: u16::try_from(SEGMENT).unwrap(),
        csum_start: 20,
        csum_offset: 16,
        ..VirtioHdr::default()
    };
    let mut frame = header.encode().to_vec();
    frame.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0xf4, 0, 0, 0, 0]);
    frame.resize(frame.len() + SEGMENT * SEGMENTS, 7);
    frame
}

fn shared() -> Arc<Shared> {
    let peer = Arc::new(Peer::new(PublicKey::from_bytes([1; 32])));
    peer.place_at(([192, 0, 2, 2], 51_820).into());
    let allowed_ips = AllowedIps::new([("0.0.0.0/0".parse().unwrap(), 0)]);
    let table = Table { allowed_ips, peers: vec![Arc::clone(&peer)] };
    let sessions = SessionTable::new(1);
    let index = sessions.reserve(None).unwrap();
    let keys = TransportKeys { send: [1; 32].into(), receive: [1; 32].into() };
    let session = Session::new(&keys, index, index, true, 1).unwrap();
    peer.install_initiated(Arc::new(Live { session, peer: Arc::clone(&peer) }), &sessions);
    Arc::new(Shared {
        table: Arc::new(table).into(),
        sessions,
        checker: Option::default().into(),
        under_load: false.into(),
        generation: 0.into(),
        mtu: 1420.into(),
        clock: Clock::new(|| 1),
    })
}

pub(crate) fn workers_that_help_each_other_allocate_nothing(aead: &AeadLibrary) {
    let shared = shared();
    let (events, _) = bounded(1);
    let (handshakes, proven) = (events.clone(), events.clone());
    let control = ToControl { events, handshakes, proven, shares: Shares::new() };
    let wakes = (0..2).map(|_| Box::new(|| ()) as Wake);
    let exchange = Arc::new(Exchange::new(wakes));
    let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
    let mut workers = [0u16, 1].map(|me| {
        let (shared, counters) = (Arc::clone(&shared), Arc::clone(&counters[usize::from(me)]));
        let merge = MergeConfig { tcp4: true, tcp6: true, udp: true };
        let worker = WireGuard::new(shared, control.clone(), me, Steering::new(1), merge, counters);
        let worker = worker.sealing_by(aead.for_worker().unwrap());
        Path::WireGuard(Box::new(worker.sharing_by(Arc::clone(&exchange), me)))
    });
    let (mut wires, frame) = ([Wire::new(), Wire::new()], super_packet());
    // What arc-swap keeps for each thread is there when a worker has started.
    wires[0].turn(&mut workers[0], &frame, 1);
    let info = measure(|| {
        for turn in 0..TURNS {
            wires[0].turn(&mut workers[0], &frame, 3);
            // The other one comes by now and then, and has something of its own at last.
            if turn % 3 > 0 {
                let own = if turn > TURNS / 2 { 3 } else { 0 };
                wires[1].turn(&mut workers[1], &frame, own);
            }
        }
    });
    let [owner, helper] = &counters;
    assert!(owner.handed_over.get() > 50 && helper.helped.get() > 50);
    assert!(wires[0].written > TURNS * SEGMENTS, "{}", wires[0].written);
    for &reason in DropReason::ALL {
        assert_eq!((owner.dropped(reason), helper.dropped(reason)), (0, 0), "{}", reason.name());
    }
    assert_eq!(info.count_total, 0);
}
