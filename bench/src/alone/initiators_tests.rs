//! Initiators against ringtun's own protocol, without a network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringtun::packet::endpoint::Endpoint;
use ringtun::protocol::config::{DeviceUpdate, PeerUpdate};
use ringtun::protocol::{INDEXES_MAX, Output, Protocol};
use ringtun::table::clock::Clock;
use ringtun::table::event::{Event, HandshakeMessage};
use ringtun::table::sessions::SessionTable;
use ringtun::table::{Shared, Table};
use ringtun::wire::wireguard::keys::{PresharedKey, PublicKey};

use super::*;

const QUEUE: usize = 512;

#[derive(Default)]
struct Sent(Vec<Vec<u8>>);

impl Output for Sent {
    fn send(&mut self, _: Endpoint, datagram: &[u8]) {
        self.0.push(datagram.to_vec());
    }
    fn wake_workers(&mut self) {}
    fn unanswered(&mut self, _: &PublicKey) {}
}

struct Device {
    now_ms: Arc<AtomicU64>,
    protocol: Protocol,
}

impl Device {
    /// Knows all of a cast.
    fn of(cast: &Cast) -> Self {
        let now_ms = Arc::new(AtomicU64::new(1_000));
        let clock = Arc::clone(&now_ms);
        let shared = Shared {
            table: Arc::new(Table::default()).into(),
            sessions: SessionTable::new(INDEXES_MAX),
            checker: Option::default().into(),
            under_load: false.into(),
            generation: 0.into(),
            mtu: 1420.into(),
            clock: Clock::new(move || clock.load(Ordering::Relaxed)),
        };
        let mut protocol = Protocol::new(Arc::new(shared), Duration::default);
        let peers = cast.peers.iter().map(|key| {
            let mut peer = PeerUpdate::new(key.public());
            peer.preshared_key = Some(cast.psk.clone());
            peer
        });
        let private_key = Some(Some(cast.device.clone()));
        let update = DeviceUpdate { private_key, peers: peers.collect(), ..Default::default() };
        protocol.update(update, &mut Sent::default()).unwrap();
        protocol.set_up(true);
        Self { now_ms, protocol }
    }

    fn answer(&mut self, sending: &Sending) -> Vec<Vec<u8>> {
        let mut sent = Sent::default();
        let from = Endpoint::from(SocketAddr::from((sending.source, 7)));
        let (len, bytes) = (sending.message.len(), sending.message);
        let message = HandshakeMessage { from, share: None, len, bytes };
        self.protocol.event(Event::Handshake(message), &mut sent);
        sent.0
    }

    fn is_busy(&mut self) {
        self.protocol.note_queue(QUEUE, QUEUE);
    }
}

fn prepare(cast: &Cast, count: usize) -> Initiators {
    let now = Duration::from_secs(1_800_000_000);
    Initiators::prepare(cast, 0..cast.peers.len(), count, now).unwrap()
}

#[test]
fn every_handshake_is_answered_opened_and_counted() {
    let cast = Cast::new(5).unwrap();
    let (mut device, mut initiators) = (Device::of(&cast), prepare(&cast, 23));
    let mut sources = Vec::new();
    for step in 0..23_u32 {
        let now = step * Duration::from_millis(10);
        device.now_ms.store(1_000 + 10 * u64::from(step), Ordering::Relaxed);
        let sending = initiators.next(now).unwrap();
        sources.push(sending.source);
        for datagram in device.answer(&sending) {
            let came = now + Duration::from_millis(2);
            assert_eq!(initiators.take(&datagram, came), Taken::Answered);
            assert_eq!(initiators.take(&datagram, came), Taken::Nothing, "it counts once");
        }
    }
    assert_eq!(initiators.next(Duration::from_secs(1)), None);
    assert_eq!((initiators.under_way(), initiators.answered()), (0, 23));
    assert_eq!((sources[0], sources[4]), (sources[5], sources[9]));
    let report = initiators.report(Duration::from_secs(2)).unwrap();
    assert_eq!((report.completed, report.invalid, report.unanswered), (23, 0, 0));
    assert!((report.handshakes_per_second - 11.5).abs() < 1e-9);
    assert!((report.p50_us - 2_000.0).abs() < 3.0 && report.p99_us < 2_003.0, "{report:?}");
}

#[test]
fn under_load_an_initiation_is_sent_again_with_its_cookie() {
    let cast = Cast::new(3).unwrap();
    let (mut device, mut initiators) = (Device::of(&cast), prepare(&cast, 6));
    device.is_busy();
    for step in 0..6_u32 {
        let now = step * Duration::from_millis(50);
        device.now_ms.store(1_000 + 50 * u64::from(step), Ordering::Relaxed);
        device.is_busy();
        let mut sending = initiators.next(now).unwrap();
        let asked = step < 3;
        if asked {
            let reply = device.answer(&sending).remove(0);
            let Taken::Again(again) = initiators.take(&reply, now) else { panic!("{step}") };
            assert_eq!(again.message[..132], sending.message[..132], "the same but for MAC2");
            sending = again;
        }
        let response = device.answer(&sending).remove(0);
        assert_eq!(initiators.take(&response, now), Taken::Answered, "{step}");
    }
    let report = initiators.report(Duration::from_secs(1)).unwrap();
    assert_eq!((report.completed, report.cookie_replies), (6, 3));
}

#[test]
fn silence_and_lies_are_no_handshakes() {
    let cast = Cast::new(4).unwrap();
    let (mut device, mut initiators) = (Device::of(&cast), prepare(&cast, 4));
    let first = initiators.next(Duration::ZERO).unwrap();
    initiators.give_up(Duration::from_millis(999));
    assert_eq!(initiators.under_way(), 1);
    initiators.give_up(Duration::from_secs(1));
    assert_eq!(initiators.under_way(), 0);
    let late = device.answer(&first).remove(0);
    assert_eq!(initiators.take(&late, Duration::from_secs(2)), Taken::Nothing, "too late");
    let second = initiators.next(Duration::from_secs(2)).unwrap();
    for noise in [&[0; 92][..], &[], &[2, 0, 0, 0], &[4; 200]] {
        assert_eq!(initiators.take(noise, Duration::from_secs(2)), Taken::Nothing);
    }
    let mut forged = device.answer(&second).remove(0);
    forged[50] ^= 1;
    assert_eq!(initiators.take(&forged, Duration::from_secs(2)), Taken::Answered);
    let report = initiators.report(Duration::from_secs(3)).unwrap();
    assert_eq!((report.completed, report.invalid, report.unanswered), (0, 1, 1));
    assert!(report.text().contains("1 unanswered, 1 INVALID"), "{}", report.text());
}

#[test]
fn another_preshared_key_makes_no_handshake() {
    let mut cast = Cast::new(1).unwrap();
    let mut device = Device::of(&cast);
    cast.psk = PresharedKey::generate().unwrap();
    let mut initiators = prepare(&cast, 1);
    let sending = initiators.next(Duration::ZERO).unwrap();
    let response = device.answer(&sending).remove(0);
    assert_eq!(initiators.take(&response, Duration::ZERO), Taken::Answered);
    let report = initiators.report(Duration::from_secs(1)).unwrap();
    assert_eq!((report.completed, report.invalid), (0, 1));
}
