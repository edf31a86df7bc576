//! Two devices and a clock in memory: what one sends the other gets, when the test says so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::config::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
use super::*;
use crate::table::clock::Clock;
use crate::table::event::HandshakeMessage;
use crate::table::peer::Peer;
use crate::table::sessions::{Live, SessionTable};
use crate::wire::wireguard::keys::{PresharedKey, PrivateKey};
use crate::wire::wireguard::messages::{
    COOKIE_REPLY_LEN, INITIATION_LEN, Kind, RESPONSE_LEN, kind,
};
use arc_swap::ArcSwap;

/// What a device sent, and how often it woke its workers.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) datagrams: VecDeque<(Endpoint, Vec<u8>)>,
    pub(super) wakes: usize,
    unanswered: usize,
}

impl Output for Sent {
    fn send(&mut self, to: Endpoint, datagram: &[u8]) {
        self.datagrams.push_back((to, datagram.to_vec()));
    }

    fn wake_workers(&mut self) {
        self.wakes += 1;
    }

    fn unanswered(&mut self, _: &PublicKey) {
        self.unanswered += 1;
    }
}

pub(super) struct End {
    pub(super) key: PrivateKey,
    pub(super) at: Endpoint,
    pub(super) protocol: Protocol,
    pub(super) sent: Sent,
}

pub(super) struct World {
    pub(super) now_ms: Arc<AtomicU64>,
    pub(super) ends: [End; 2],
}

impl World {
    /// Two devices that know each other, links up.
    pub(super) fn new(psks: [u8; 2]) -> Self {
        let now_ms = Arc::new(AtomicU64::new(1_000));
        let end = |n: u8| {
            let clock = Arc::clone(&now_ms);
            let shared = Shared {
                table: ArcSwap::from_pointee(crate::table::Table::default()),
                sessions: SessionTable::new(64),
                checker: Option::default().into(),
                under_load: false.into(),
                generation: 0.into(),
                mtu: 1420.into(),
                clock: Clock::new(move || clock.load(Ordering::Relaxed)),
            };
            let wall = Arc::clone(&now_ms);
            let wall =
                move || Duration::from_millis(1_700_000_000_000 + wall.load(Ordering::Relaxed));
            let at = std::net::SocketAddr::from(([192, 0, 2, n + 1], 51820)).into();
            let key = PrivateKey::from_bytes([n + 1; 32]);
            End { key, at, protocol: Protocol::new(Arc::new(shared), wall), sent: Sent::default() }
        };
        let mut world = Self { now_ms: Arc::clone(&now_ms), ends: [end(0), end(1)] };
        for n in [0, 1] {
            let other = &world.ends[1 - n];
            let mut peer = PeerUpdate::new(other.key.public());
            peer.endpoint = Some(other.at.to);
            peer.preshared_key = Some(PresharedKey::from_bytes([psks[n]; 32]));
            let prefix = if n == 0 { "10.0.0.2/32" } else { "10.0.0.1/32" };
            peer.allowed_ips
                .push(AllowedIpUpdate { prefix: prefix.parse().unwrap(), remove: false });
            let private_key = Some(Some(world.ends[n].key.clone()));
            world.update(n, DeviceUpdate { private_key, peers: vec![peer], ..Default::default() });
            let end = &mut world.ends[n];
            end.protocol.set_up(true);
            end.protocol.poll(&mut end.sent);
            end.sent.wakes = 0;
        }
        world
    }

    pub(super) fn update(&mut self, n: usize, update: DeviceUpdate) {
        let end = &mut self.ends[n];
        end.protocol.update(update, &mut end.sent).unwrap();
        end.protocol.poll(&mut end.sent);
    }

    pub(super) fn change_peer(&mut self, n: usize, change: impl FnOnce(&mut PeerUpdate)) {
        let mut peer = PeerUpdate::new(self.ends[1 - n].key.public());
        change(&mut peer);
        self.update(n, DeviceUpdate { peers: vec![peer], ..Default::default() });
    }

    /// The other end as this one knows it.
    pub(super) fn peer(&self, n: usize) -> Arc<Peer> {
        let key = self.ends[1 - n].key.public();
        Arc::clone(&self.ends[n].protocol.peers.get(&key).unwrap().peer)
    }

    pub(super) fn want_session(&mut self, n: usize) {
        let peer = self.peer(n);
        peer.session_wanted.store(true, Ordering::Relaxed);
        self.event(n, Event::SessionWanted(peer));
    }

    pub(super) fn event(&mut self, n: usize, event: Event) {
        let end = &mut self.ends[n];
        end.protocol.event(event, &mut end.sent);
    }

    /// Lets time pass; timers fire when they are due.
    pub(super) fn pass(&mut self, ms: u64) {
        let end_ms = self.now_ms.load(Ordering::Relaxed) + ms;
        loop {
            let next =
                self.ends.iter_mut().filter_map(|end| end.protocol.poll(&mut end.sent)).min();
            let now = next.unwrap_or(end_ms).min(end_ms);
            self.now_ms.store(now, Ordering::Relaxed);
            if now == end_ms {
                self.ends.iter_mut().for_each(|end| _ = end.protocol.poll(&mut end.sent));
                return;
            }
        }
    }

    /// Hands one datagram of end `n` to the other, as a worker would.
    pub(super) fn deliver(&mut self, n: usize, datagram: &[u8]) {
        let from = self.ends[n].at;
        let to = &mut self.ends[1 - n];
        if kind(datagram) == Some(Kind::Transport) {
            let index = crate::wire::wireguard::messages::receiver(datagram).unwrap();
            let shared = Arc::clone(to.protocol.shared());
            let Some(guard) = shared.sessions.get(index) else { return };
            let live = guard.as_ref().unwrap();
            live.session.open(&Aead::Ring, &mut datagram.to_vec()).unwrap();
            live.peer.activity.received(shared.clock.now_ms(), datagram.len() > 32);
            if !live.session.initiator && live.peer.confirm(live, &shared.sessions) {
                let peer = Arc::clone(&live.peer);
                to.protocol.event(Event::Confirmed(peer), &mut to.sent);
            }
            return;
        }
        let mut bytes = [0; 148];
        bytes[..datagram.len()].copy_from_slice(datagram);
        let message = HandshakeMessage { from, share: None, len: datagram.len(), bytes };
        to.protocol.event(Event::Handshake(message), &mut to.sent);
    }

    /// Delivers everything until nobody has anything to say; returns the lengths, in order.
    pub(super) fn exchange(&mut self) -> Vec<usize> {
        let mut lens = Vec::new();
        while let Some((n, datagram)) = self.next_datagram() {
            lens.push(datagram.len());
            self.deliver(n, &datagram);
        }
        lens
    }

    pub(super) fn next_datagram(&mut self) -> Option<(usize, Vec<u8>)> {
        (0..2).find_map(|n| Some((n, self.ends[n].sent.datagrams.pop_front()?.1)))
    }

    pub(super) fn lose_all(&mut self) -> usize {
        self.ends.iter_mut().map(|end| end.sent.datagrams.drain(..).count()).sum()
    }

    pub(super) fn session(&self, n: usize) -> Option<Weak<Live>> {
        self.peer(n).current.load().as_ref().map(Arc::downgrade)
    }

    pub(super) fn connected(&self) -> bool {
        self.session(0).is_some() && self.session(1).is_some()
    }
}

pub(super) const HANDSHAKE: [usize; 3] = [INITIATION_LEN, RESPONSE_LEN, 32];

#[test]
fn a_handshake_from_either_side_makes_a_session_for_both() {
    for initiator in [0, 1] {
        let mut world = World::new([7, 7]);
        world.want_session(initiator);
        assert_eq!(world.exchange(), HANDSHAKE);
        assert!(world.connected());
        let peer = world.peer(initiator);
        assert!(!peer.session_wanted.load(Ordering::Relaxed));
        assert_eq!(peer.sent_bytes.load(Ordering::Relaxed), 148 + 32);
        assert!(world.ends.iter().all(|end| {
            end.sent.wakes == 1 && end.protocol.view().peers[0].last_handshake.is_some()
        }));
    }
}

#[test]
fn another_preshared_key_makes_none() {
    let mut world = World::new([7, 8]);
    world.want_session(0);
    assert_eq!(world.exchange(), [INITIATION_LEN, RESPONSE_LEN]);
    assert!(!world.connected());
}

#[test]
fn a_stranger_hears_nothing() {
    let mut world = World::new([7, 7]);
    world.change_peer(1, |peer| peer.remove = true);
    world.want_session(0);
    assert_eq!(world.exchange(), [INITIATION_LEN]);
    // What is no handshake, or for another key, is not answered either.
    for len in [0, 1, 92, 148] {
        let mut noise = vec![9; len];
        noise.iter_mut().zip([1, 0, 0, 0]).for_each(|(byte, head)| *byte = head);
        world.deliver(0, &noise);
    }
    assert_eq!(world.lose_all(), 0);
}

#[test]
fn a_replayed_initiation_is_not_answered() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    let (_, initiation) = world.next_datagram().unwrap();
    world.deliver(0, &initiation);
    world.exchange();
    world.pass(6_000);
    world.lose_all();
    world.deliver(0, &initiation);
    assert_eq!(world.lose_all(), 0);
    assert!(world.connected());
}

#[test]
fn an_unanswered_handshake_is_tried_for_ninety_seconds_and_again_when_asked() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    let mut tries = world.lose_all();
    for _ in 0..120 {
        world.pass(1_000);
        tries += world.lose_all();
    }
    assert_eq!(tries, 19);
    let peer = world.peer(0);
    assert!(!peer.session_wanted.load(Ordering::Relaxed), "given up");
    assert_eq!(world.ends[0].sent.unanswered, 19, "each try, and the last");
    assert_eq!(world.ends[0].sent.wakes, 1, "workers drop what waits");
    world.want_session(0);
    assert_eq!(world.exchange(), HANDSHAKE);
}

#[test]
fn wishes_do_not_make_more_than_one_initiation_in_five_seconds() {
    let mut world = World::new([7, 7]);
    (0..10).for_each(|_| world.want_session(0));
    assert_eq!(world.exchange(), HANDSHAKE);
    (0..10).for_each(|_| world.want_session(0));
    assert_eq!(world.lose_all(), 0);
    assert!(!world.peer(0).session_wanted.load(Ordering::Relaxed), "may ask again");
    world.pass(5_000);
    world.want_session(0);
    assert_eq!(world.exchange(), HANDSHAKE);
}

#[test]
fn under_load_only_a_proven_address_is_answered() {
    let mut world = World::new([7, 7]);
    world.ends[1].protocol.note_queue(100, 512);
    world.want_session(0);
    assert_eq!(world.exchange(), [INITIATION_LEN, COOKIE_REPLY_LEN]);
    world.pass(5_400);
    world.ends[1].protocol.note_queue(100, 512);
    assert_eq!(world.exchange(), HANDSHAKE, "the retry carries the cookie");
    // The load ends a second after the queue was last seen full.
    world.pass(1_500);
    world.ends[1].protocol.note_queue(0, 512);
    assert!(!world.ends[1].protocol.shared().under_load.load(Ordering::Relaxed));
}

#[test]
fn who_received_data_and_is_silent_sends_a_keepalive() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    world.exchange();
    let peer = world.peer(0);
    let now_ms = world.now_ms.load(Ordering::Relaxed);
    assert!(peer.activity.received(now_ms, true), "nobody watches: tell control");
    world.event(0, Event::Activity(Arc::clone(&peer)));
    world.pass(9_900);
    assert_eq!(world.lose_all(), 0);
    world.pass(200);
    assert_eq!(world.exchange(), [32]);
    world.pass(60_000);
    assert_eq!(world.lose_all(), 0, "once, and no ping-pong");
    assert!(!peer.activity.watched.load(Ordering::Relaxed));
}

#[test]
fn data_without_an_answer_starts_a_new_handshake() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    world.exchange();
    let peer = world.peer(0);
    assert!(peer.activity.sent(world.now_ms.load(Ordering::Relaxed), true));
    world.event(0, Event::Activity(peer));
    world.pass(14_900);
    assert_eq!(world.lose_all(), 0);
    // 15 s and a jitter of up to a third of a second.
    world.pass(100 + timers::JITTER_MAX_MS);
    assert_eq!(world.exchange(), HANDSHAKE);
}

#[test]
fn a_persistent_keepalive_connects_and_keeps_connected() {
    let mut world = World::new([7, 7]);
    world.change_peer(0, |peer| peer.persistent_keepalive_s = Some(25));
    assert_eq!(world.exchange(), HANDSHAKE);
    let mut count = 0;
    for _ in 0..100 {
        world.pass(1_000);
        count += world.exchange().iter().filter(|len| **len == 32).count();
    }
    assert_eq!(count, 4);
}

#[test]
fn keys_are_erased_in_time() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    world.exchange();
    let sessions = [world.session(0).unwrap(), world.session(1).unwrap()];
    world.pass(539_000);
    assert!(sessions.iter().all(|session| session.upgrade().is_some()));
    world.pass(2_000);
    assert!(sessions.iter().all(|session| session.upgrade().is_none()));
}

#[test]
fn a_new_private_key_ends_the_sessions_and_the_old_one_comes_back() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    world.exchange();
    let session = world.session(0).unwrap();
    let old = world.ends[0].key.clone();
    let set = |key: PrivateKey| DeviceUpdate { private_key: Some(Some(key)), ..Default::default() };
    world.update(0, set(PrivateKey::from_bytes([99; 32])));
    assert!(session.upgrade().is_none());
    world.want_session(0);
    assert_eq!(world.exchange(), [INITIATION_LEN], "nobody knows that key");
    world.update(0, set(old));
    world.pass(6_000);
    world.lose_all();
    world.want_session(0);
    assert_eq!(world.exchange(), HANDSHAKE);
}

#[test]
fn a_peer_removed_in_the_middle_of_a_handshake_is_gone() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    let peer = Arc::downgrade(&world.peer(0));
    world.change_peer(0, |peer| peer.remove = true);
    assert_eq!(world.exchange(), [INITIATION_LEN, RESPONSE_LEN]);
    assert!(peer.upgrade().is_none(), "nothing holds it");
    assert!(world.ends[0].protocol.handshakes.is_empty());
}

#[test]
fn an_allowed_ip_has_one_owner_and_only_the_owner_gives_it_up() {
    let mut world = World::new([7, 7]);
    let other = PrivateKey::from_bytes([42; 32]).public();
    let change = |key, prefix: &str, remove| {
        let mut peer = PeerUpdate::new(key);
        peer.allowed_ips.push(AllowedIpUpdate { prefix: prefix.parse().unwrap(), remove });
        DeviceUpdate { peers: vec![peer], ..Default::default() }
    };
    let owner = |world: &World| {
        let table = world.ends[0].protocol.shared().table.load();
        let place = table.allowed_ips.get("10.0.0.2".parse().unwrap());
        place.map(|place| table.peers[place as usize].key)
    };
    let first = world.ends[1].key.public();
    assert_eq!(owner(&world), Some(first));
    world.update(0, change(other, "10.0.0.2/32", true));
    assert_eq!(owner(&world), Some(first), "not its own");
    world.update(0, change(other, "10.0.0.2/32", false));
    assert_eq!(owner(&world), Some(other));
    world.update(0, change(other, "10.0.0.2/32", true));
    assert_eq!(owner(&world), None);
}

#[test]
fn link_down_forgets_and_is_silent() {
    let mut world = World::new([7, 7]);
    world.change_peer(0, |peer| peer.persistent_keepalive_s = Some(25));
    world.exchange();
    let session = world.session(0).unwrap();
    let end = &mut world.ends[0];
    end.protocol.set_up(false);
    assert!(session.upgrade().is_none());
    world.want_session(0);
    world.pass(100_000);
    assert_eq!(world.ends[0].sent.datagrams.len(), 0);
    let end = &mut world.ends[0];
    end.protocol.set_up(true);
    end.protocol.poll(&mut end.sent);
    assert_eq!(world.exchange().first(), Some(&INITIATION_LEN));
}

#[test]
fn many_peers_at_once_are_called_a_few_at_a_time() {
    let mut world = World::new([7, 7]);
    let peers = (0..1_000u32).map(|n| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&(n + 100).to_le_bytes());
        let mut peer = PeerUpdate::new(PublicKey::from_bytes(key));
        peer.endpoint = Some(([192, 0, 2, 99], 1).into());
        peer.persistent_keepalive_s = Some(25);
        peer
    });
    let before = world.ends[0].protocol.shared().table.load_full();
    let update = DeviceUpdate { peers: peers.collect(), ..Default::default() };
    world.update(0, update);
    let end = &mut world.ends[0];
    assert!(end.sent.datagrams.len() <= LOOKS_MAX, "{}", end.sent.datagrams.len());
    let mut polls = 1;
    while end.protocol.poll(&mut end.sent).is_some_and(|due_ms| due_ms <= 1_000) {
        polls += 1;
    }
    assert_eq!(end.sent.datagrams.len(), 1_000);
    assert!(polls >= 1_000 / LOOKS_MAX, "{polls}");
    let table = end.protocol.shared().table.load_full();
    assert!(!Arc::ptr_eq(&before, &table));
    // What is not in the table, a change of it does not touch.
    world.change_peer(0, |peer| {
        peer.endpoint = Some(([192, 0, 2, 98], 1).into());
        peer.preshared_key = Some(PresharedKey::from_bytes([1; 32]));
        peer.persistent_keepalive_s = Some(1);
    });
    assert!(Arc::ptr_eq(&table, &world.ends[0].protocol.shared().table.load_full()));
}

#[test]
fn many_peers_with_many_prefixes_are_set_at_once() {
    let mut world = World::new([7, 7]);
    let peers = (0..10_000u32).map(|n| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&(n + 1).to_le_bytes());
        let mut peer = PeerUpdate::new(PublicKey::from_bytes(key));
        for i in 0..10u32 {
            let address = std::net::Ipv4Addr::from_bits(0x0b00_0000 + (n * 10 + i) * 16);
            let prefix = Prefix::new(address.into(), 28).unwrap();
            peer.allowed_ips.push(AllowedIpUpdate { prefix, remove: false });
        }
        peer
    });
    let update = DeviceUpdate { peers: peers.collect(), ..Default::default() };
    world.update(0, update);
    let table = world.ends[0].protocol.shared().table.load();
    assert_eq!(table.peers.len(), 10_001);
    let place = table.allowed_ips.get("11.0.0.17".parse().unwrap()).unwrap();
    assert_eq!(table.peers[place as usize].key.as_bytes()[..4], [1, 0, 0, 0]);
    assert!(table.allowed_ips.memory_bytes() < 4 << 20);
}
