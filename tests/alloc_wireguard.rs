//! WireGuard's packet path in memory: what its worker does from the first frame that waits to a
//! peer that roams, with every allocation counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use allocation_counter::measure;
use crossbeam::channel::{Receiver, bounded};
use ringtun::engine::{AeadLibrary, ToControl};
use ringtun::io::counters::{Counters, DropReason};
use ringtun::io::{Arrival, Destination, Handler, Received, Slot, Transmit};
use ringtun::packet::endpoint::Endpoint;
use ringtun::packet::merge::{MergeConfig, Piece};
use ringtun::protocol::config::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
use ringtun::protocol::{Output, Protocol};
use ringtun::ring::memory::Pool;
use ringtun::ring::receive::SEND_SLOT_LEN;
use ringtun::table::clock::Clock;
use ringtun::table::event::Event;
use ringtun::table::sessions::SessionTable;
use ringtun::table::shares::Shares;
use ringtun::table::{Shared, Table};
use ringtun::wire::wireguard::keys::PrivateKey;
use ringtun::worker::path::Path;
use ringtun::worker::steering::Steering;
use ringtun::worker::wireguard::WireGuard;

/// Frames in a burst: more than may wait for a peer.
const BURST: usize = 200;

/// Datagrams as they left, in memory that is there from the start.
struct Wire {
    free: Vec<Slot>,
    bytes: Vec<u8>,
    lens: Vec<usize>,
    written: usize,
}

impl Transmit for Wire {
    fn send_slot(&mut self) -> Option<Slot> {
        self.free.pop()
    }

    fn send(&mut self, slot: Slot, _: Destination, len: usize, segment_len: usize) {
        self.bytes.extend_from_slice(&slot[..len]);
        self.lens.extend(slot[..len].chunks(segment_len).map(<[u8]>::len));
        self.free.push(slot);
    }

    fn write(&mut self, _: u16, _: &[u8], _: &[Piece], packets: u32, _: u32) {
        self.written += packets as usize;
    }

    fn give_back(&mut self, _: Slot) {}

    fn merge_refused(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct Outgoing(Vec<Vec<u8>>);

impl Output for Outgoing {
    fn send(&mut self, _: Endpoint, datagram: &[u8]) {
        self.0.push(datagram.to_vec());
    }

    fn wake_workers(&mut self) {}
}

struct End {
    path: Path,
    wire: Wire,
    protocol: Protocol,
    out: Outgoing,
    messages: [Receiver<Event>; 3],
    counters: Arc<Counters>,
    /// Allocations of the worker.
    allocated: u64,
}

impl End {
    fn new(n: u8, aead: &AeadLibrary, now_ms: &Arc<AtomicU64>) -> Self {
        let (clock, wall) = (Arc::clone(now_ms), Arc::clone(now_ms));
        let shared = Arc::new(Shared {
            table: Arc::new(Table::default()).into(),
            sessions: SessionTable::new(64),
            checker: Option::default().into(),
            under_load: false.into(),
            generation: 0.into(),
            mtu: 1420.into(),
            clock: Clock::new(move || clock.load(Ordering::Relaxed)),
        });
        let ((events, a), (handshakes, b), (proven, c)) = (bounded(64), bounded(64), bounded(64));
        let control = ToControl { events, handshakes, proven, shares: Shares::new() };
        let counters = Arc::new(Counters::default());
        let merge = MergeConfig { tcp4: true, tcp6: true, udp: true };
        let steering = Steering::new(1);
        let path =
            WireGuard::new(Arc::clone(&shared), control, 0, steering, merge, Arc::clone(&counters));
        let path = path.sealing_by(aead.for_worker().unwrap());
        let (_, free) = Pool::new(8, SEND_SLOT_LEN).unwrap();
        let wire = Wire {
            free,
            bytes: Vec::with_capacity(4 << 20),
            lens: Vec::with_capacity(8 * BURST),
            written: 0,
        };
        let since_epoch =
            move || Duration::from_millis(1_700_000_000_000 + wall.load(Ordering::Relaxed));
        let mut protocol = Protocol::new(shared, since_epoch);
        let mut out = Outgoing::default();
        let keys = [1, 2].map(|n| PrivateKey::from_bytes([n; 32]));
        let mut peer = PeerUpdate::new(keys[usize::from(1 - n)].public());
        peer.endpoint = Some(address(1 - n, 51820));
        let prefix = format!("10.0.0.{}/32", 2 - n).parse().unwrap();
        peer.allowed_ips.push(AllowedIpUpdate { prefix, remove: false });
        let private_key = Some(Some(keys[usize::from(n)].clone()));
        let update = DeviceUpdate { private_key, peers: vec![peer], ..Default::default() };
        protocol.update(update, &mut out).unwrap();
        protocol.set_up(true);
        let path = Path::WireGuard(Box::new(path));
        Self { path, wire, protocol, out, messages: [a, b, c], counters, allocated: 0 }
    }

    /// A turn of the worker, counted.
    fn turn(&mut self, from: SocketAddr, arrived: &mut [Vec<u8>], frames: &[Vec<u8>]) {
        let (path, wire) = (&mut self.path, &mut self.wire);
        let info = measure(|| {
            path.start_of_turn(wire);
            for bytes in arrived {
                let arrival = Arrival::of(from, bytes.len(), bytes.len());
                path.datagrams(Received { bytes, slot: 0, offset: 0, arrival }, wire);
                path.end_of_turn(wire);
            }
            frames.iter().for_each(|frame| path.frame(frame, wire));
            path.end_of_turn(wire);
        });
        self.allocated += info.count_total;
    }

    /// Control's turn, which may allocate; returns everything that has left.
    fn control(&mut self) -> Vec<Vec<u8>> {
        for queue in &self.messages {
            queue.try_iter().for_each(|event| self.protocol.event(event, &mut self.out));
        }
        let mut sent = std::mem::take(&mut self.out.0);
        let mut rest = self.wire.bytes.as_slice();
        for len in self.wire.lens.drain(..) {
            let (datagram, later) = rest.split_at(len);
            sent.push(datagram.to_vec());
            rest = later;
        }
        self.wire.bytes.clear();
        sent
    }
}

fn address(n: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n + 1], port))
}

/// A virtio header and a UDP packet from end `n`.
fn frame(n: u8, fill: usize) -> Vec<u8> {
    let mut frame = vec![u8::try_from(fill % 251).unwrap(); 10 + 28 + 900];
    frame[..38].fill(0);
    (frame[10], frame[18], frame[19]) = (0x45, 64, 17);
    frame[12..14].copy_from_slice(&928u16.to_be_bytes());
    frame[22..30].copy_from_slice(&[10, 0, 0, n + 1, 10, 0, 0, 2 - n]);
    frame
}

pub(crate) fn a_wireguard_worker_allocates_nothing_after_start(aead: &AeadLibrary) {
    let now_ms = Arc::new(AtomicU64::new(1_000));
    let [mut left, mut right] = [0, 1].map(|n| End::new(n, aead, &now_ms));
    // What arc-swap and the channels keep for each thread is there when a worker has started.
    for end in [&mut left, &mut right] {
        let mut message = vec![0; 32];
        message[0] = 4;
        end.turn(address(5, 1), &mut [message], &[]);
        end.allocated = 0;
    }
    let [from_left, from_right] =
        [0, 1].map(|n| (0..BURST).map(|i| frame(n, i)).collect::<Vec<_>>());
    // Frames wait, the oldest give way, a handshake takes place, they go.
    left.turn(address(1, 51820), &mut [], &from_left);
    assert_eq!(left.counters.dropped(DropReason::StagingFull), 72);
    for round in 0..20u16 {
        now_ms.fetch_add(10, Ordering::Relaxed);
        let mut sent = left.control();
        // The left end roams from round to round.
        let frames = if round > 8 { from_right.as_slice() } else { &[] };
        right.turn(address(0, 51820 + round), &mut sent, frames);
        let mut sent = right.control();
        let frames = if round > 8 { from_left.as_slice() } else { &[] };
        left.turn(address(1, 51820), &mut sent, frames);
    }
    assert!(right.wire.written > 10 * BURST && left.wire.written > 10 * BURST);
    // What is no message of anybody's, and a peer that has gone with what waited for it.
    let mut noise: Vec<Vec<u8>> = (0..100).map(|len| vec![1; len + 60]).collect();
    noise.iter_mut().for_each(|message| message[1..4].fill(0));
    right.turn(address(5, 5), &mut noise, &[]);
    now_ms.fetch_add(200_000, Ordering::Relaxed);
    left.turn(address(1, 51820), &mut [], &from_left);
    let private_key = Some(None);
    let update = DeviceUpdate { replace_peers: true, private_key, ..Default::default() };
    left.protocol.update(update, &mut left.out).unwrap();
    left.turn(address(1, 51820), &mut [], &[]);
    assert_eq!(left.counters.dropped(DropReason::NoSession), 128);
    assert_eq!([left.allocated, right.allocated], [0, 0]);
}
