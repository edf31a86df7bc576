//! What the field's other implementations do and users rely on: who initiates, when, how often.

use proptest::prelude::*;

use super::config::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
use super::tests::*;
use super::*;
use crate::packet::endpoint::Source;
use crate::wire::wireguard::keys::PrivateKey;
use crate::wire::wireguard::messages::{COOKIE_REPLY_LEN, INITIATION_LEN, RESPONSE_LEN};

/// Index of the end whose key is the greater one.
fn greater(world: &World) -> usize {
    usize::from(world.ends[1].key.public() > world.ends[0].key.public())
}

#[test]
fn what_is_shared_with_a_peer_is_kept_as_long_as_it_is_one() {
    let mut world = World::new([7, 7]);
    let kept = |world: &World| {
        [0, 1].map(|n| world.ends[n].protocol.identity.as_ref().unwrap().kept_count())
    };
    world.want_session(0);
    world.exchange();
    assert!(world.connected());
    assert_eq!(kept(&world), [1, 1]);
    let private_key = Some(Some(PrivateKey::from_bytes([77; 32])));
    world.update(0, DeviceUpdate { private_key, ..Default::default() });
    assert_eq!(kept(&world), [0, 1], "another key shares something else");
    world.change_peer(1, |peer| peer.remove = true);
    assert_eq!(kept(&world), [0, 0]);
}

#[test]
fn when_initiations_cross_there_is_one_session_and_one_initiator() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    world.want_session(1);
    let mut lens = world.exchange();
    lens.sort_unstable();
    assert_eq!(lens, [32, RESPONSE_LEN, INITIATION_LEN, INITIATION_LEN]);
    let initiator = greater(&world);
    for n in [0, 1] {
        let live = world.session(n).unwrap().upgrade().unwrap();
        assert_eq!(live.session.initiator, n == initiator);
    }
    // The other end's handshake has ended with it.
    world.pass(30_000);
    assert_eq!(world.lose_all(), 0);
    assert!(world.ends.iter().all(|end| end.protocol.handshakes.is_empty()));
}

#[test]
fn an_end_that_does_not_get_through_answers_in_the_second_round() {
    let mut world = World::new([7, 7]);
    let blocked = greater(&world);
    world.want_session(0);
    world.want_session(1);
    let mut rounds = 0;
    while !world.connected() {
        rounds += 1;
        assert!(rounds < 20, "never connected");
        // Initiations of the end with the greater key are lost; all else arrives.
        while let Some((n, datagram)) = world.next_datagram() {
            if n != blocked || datagram.len() != INITIATION_LEN {
                world.deliver(n, &datagram);
            }
        }
        world.pass(1_000);
    }
    assert!(rounds <= 7, "{rounds}");
}

#[test]
fn a_confirmed_session_ends_our_own_handshake() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    assert_eq!(world.lose_all(), 1);
    world.pass(2_000);
    world.want_session(1);
    assert_eq!(world.exchange(), HANDSHAKE);
    world.pass(20_000);
    assert_eq!(world.lose_all(), 0, "no second handshake");
}

#[test]
fn with_nothing_but_keepalives_a_session_is_replaced_in_time() {
    let mut world = World::new([7, 7]);
    world.change_peer(0, |peer| peer.persistent_keepalive_s = Some(25));
    assert_eq!(world.exchange(), HANDSHAKE);
    for _ in 0..1_000 {
        world.pass(1_000);
        world.exchange();
        let now_ms = world.now_ms.load(Ordering::Relaxed);
        for n in [0, 1] {
            let live = world.session(n).unwrap().upgrade().unwrap();
            assert!(now_ms - live.session.created_ms < 120_000 + 26_000);
        }
    }
}

#[test]
fn a_clock_set_back_does_not_keep_us_out() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    assert_eq!(world.exchange(), HANDSHAKE);
    world.ends[0].protocol.wall = Box::new(|| Duration::from_secs(1_600_000_000));
    for _ in 0..3 {
        world.pass(6_000);
        world.want_session(0);
        assert_eq!(world.exchange(), HANDSHAKE);
    }
}

#[test]
fn a_retry_does_not_insist_on_the_address_it_was_heard_at() {
    let mut world = World::new([7, 7]);
    let source = Some(Source { address: [192, 0, 2, 1].into(), interface: 3 });
    let to = world.ends[1].at.to;
    world.peer(0).endpoint.store(Some(Arc::new(Endpoint { to, source })));
    world.want_session(0);
    assert_eq!(world.ends[0].sent.datagrams.pop_front().unwrap().0.source, source);
    world.pass(5_400);
    assert_eq!(world.ends[0].sent.datagrams.pop_front().unwrap().0, Endpoint::from(to));
}

#[test]
fn who_was_given_up_is_not_called_again_for_old_data() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    world.exchange();
    let peer = world.peer(0);
    peer.activity.sent(world.now_ms.load(Ordering::Relaxed), true);
    world.event(0, Event::Activity(Arc::clone(&peer)));
    let mut tries = 0;
    for second in 0..800 {
        world.pass(1_000);
        tries += world.lose_all();
        if second == 20 {
            // On the old session, which still seals, while the handshake is under way.
            peer.activity.sent(world.now_ms.load(Ordering::Relaxed), true);
        }
    }
    assert_eq!(tries, 19);
}

#[test]
fn workers_look_through_what_waits_when_a_peer_or_the_key_goes() {
    let mut world = World::new([7, 7]);
    let generation = |world: &World| {
        let shared = world.ends[0].protocol.shared();
        (shared.generation.load(Ordering::Relaxed), world.ends[0].sent.wakes)
    };
    assert_eq!(generation(&world), (1, 0));
    world.change_peer(0, |peer| peer.persistent_keepalive_s = Some(9));
    assert_eq!(generation(&world), (1, 0), "nobody is gone");
    let gone = world.peer(0);
    world.change_peer(0, |peer| peer.remove = true);
    assert_eq!(generation(&world), (2, 1));
    // A worker that had looked at the old table.
    gone.session_wanted.store(true, Ordering::Relaxed);
    world.event(0, Event::SessionWanted(Arc::clone(&gone)));
    assert!(!gone.session_wanted.load(Ordering::Relaxed));
    assert_eq!(generation(&world), (3, 2));
    let private_key = Some(Some(PrivateKey::from_bytes([77; 32])));
    world.update(0, DeviceUpdate { private_key, ..Default::default() });
    assert_eq!(generation(&world), (4, 3));
}

#[test]
fn a_cookie_is_for_an_address_and_port_and_dies_with_its_secret() {
    let mut world = World::new([7, 7]);
    let load = |world: &mut World| world.ends[1].protocol.note_queue(100, 512);
    load(&mut world);
    world.want_session(0);
    let (_, bare) = world.next_datagram().unwrap();
    world.deliver(0, &bare);
    let (_, reply) = world.next_datagram().unwrap();
    assert_eq!((reply.len(), world.peer(1).current.load().is_none()), (COOKIE_REPLY_LEN, true));
    world.deliver(1, &reply);
    assert_eq!(world.lose_all(), 0, "a cookie reply is not answered");
    world.pass(5_400);
    load(&mut world);
    let (_, proven) = world.next_datagram().unwrap();
    let at = world.ends[0].at;
    for other in ["192.0.2.1:51821", "192.0.2.3:51820", "[2001:db8::1]:51820"] {
        world.ends[0].at = Endpoint::from(other.parse::<SocketAddr>().unwrap());
        world.deliver(0, &proven);
        let (_, answer) = world.next_datagram().unwrap();
        assert_eq!(answer.len(), COOKIE_REPLY_LEN, "{other}");
    }
    world.ends[0].at = at;
    // The secret was made with the first reply at the latest: two minutes on it is another.
    world.pass(120_000);
    world.lose_all();
    load(&mut world);
    world.deliver(0, &proven);
    let (_, answer) = world.next_datagram().unwrap();
    assert_eq!(answer.len(), COOKIE_REPLY_LEN, "the secret has changed");
    assert!(world.session(1).is_none());
}

#[test]
fn a_cookie_is_used_for_less_than_two_minutes() {
    let mut world = World::new([7, 7]);
    world.ends[1].protocol.note_queue(100, 512);
    world.want_session(0);
    assert_eq!(world.exchange(), [INITIATION_LEN, COOKIE_REPLY_LEN]);
    let start_ms = world.now_ms.load(Ordering::Relaxed);
    for _ in 0..150 {
        world.pass(1_000);
        if world.ends[0].sent.datagrams.is_empty() {
            world.want_session(0);
        }
        let age_ms = world.now_ms.load(Ordering::Relaxed) - start_ms;
        while let Some((_, datagram)) = world.next_datagram() {
            let has_cookie = datagram[132..] != [0; 16];
            // The second between sending and this look is the test's own.
            assert!(has_cookie == (age_ms < 115_000) || age_ms.abs_diff(115_500) < 1_000);
        }
    }
}

#[test]
fn under_load_a_proven_source_gets_twenty_a_second() {
    let mut world = World::new([7, 7]);
    world.ends[1].protocol.note_queue(100, 512);
    world.want_session(0);
    assert_eq!(world.exchange(), [INITIATION_LEN, COOKIE_REPLY_LEN]);
    world.pass(5_400);
    world.ends[1].protocol.note_queue(100, 512);
    let (_, proven) = world.next_datagram().unwrap();
    // Damaged inside, MACs right: each costs the responder an exchange, so they are counted.
    let mut forged = proven.clone();
    forged[50] ^= 1;
    let (stamper, cookie) = (&mut world.ends[0].protocol, &mut forged);
    let key = stamper.peers.keys()[0];
    stamper.peers.get_mut(&key).unwrap().stamper.stamp(cookie, 6_500);
    (0..5).for_each(|_| world.deliver(0, &forged));
    world.deliver(0, &proven);
    assert_eq!(world.lose_all(), 0, "the burst is used up, and no cookie is offered");
    world.pass(50);
    world.ends[1].protocol.note_queue(100, 512);
    world.deliver(0, &proven);
    assert_eq!(world.ends[1].sent.datagrams.len(), 1);
}

#[test]
fn jitter_is_within_a_third_of_a_second_and_differs() {
    let mut world = World::new([7, 7]);
    let draws: Vec<u64> = (0..1_000).map(|_| world.ends[0].protocol.next_jitter_ms()).collect();
    assert!(draws.iter().all(|ms| *ms < timers::JITTER_MAX_MS));
    let different: std::collections::BTreeSet<_> = draws.iter().collect();
    assert!(different.len() > 200, "{}", different.len());
    let others: Vec<u64> = (0..10).map(|_| world.ends[1].protocol.next_jitter_ms()).collect();
    assert_ne!(others, draws[..10], "each end has its own");
}

/// Indexes given out, and sessions that somebody still holds.
fn left(
    world: &World,
    sessions: &[std::sync::Weak<crate::table::sessions::Live>],
) -> (usize, usize) {
    let indexes = |end: &End| end.protocol.shared().sessions.reserved_count();
    let alive = sessions.iter().filter(|session| session.upgrade().is_some()).count();
    (world.ends.iter().map(indexes).sum(), alive)
}

#[test]
fn nothing_is_left_of_keys_after_their_time() {
    let connected = || {
        let mut world = World::new([7, 7]);
        // A session before, the current one, and one that was never confirmed.
        let mut sessions = Vec::new();
        for _ in 0..2 {
            world.want_session(0);
            world.exchange();
            sessions.extend((0..2).map(|n| world.session(n).unwrap()));
            world.pass(6_000);
        }
        world.want_session(0);
        let (_, initiation) = world.next_datagram().unwrap();
        world.deliver(0, &initiation);
        world.lose_all();
        (world, sessions)
    };
    let (mut world, sessions) = connected();
    let (indexes, alive) = left(&world, &sessions);
    assert!(indexes >= 5 && alive >= 3, "{indexes} {alive}");
    world.pass(700_000);
    assert_eq!(left(&world, &sessions), (0, 0), "540 s after the last one");

    let (mut world, sessions) = connected();
    (0..2).for_each(|n| world.change_peer(n, |peer| peer.remove = true));
    assert_eq!(left(&world, &sessions), (0, 0), "removed");

    let (mut world, sessions) = connected();
    for n in [0, 1] {
        world.update(n, DeviceUpdate { private_key: Some(None), ..Default::default() });
    }
    assert_eq!(left(&world, &sessions), (0, 0), "without identity");

    let (mut world, sessions) = connected();
    for end in &mut world.ends {
        end.protocol.set_up(false);
    }
    assert_eq!(left(&world, &sessions), (0, 0), "link down");
}

/// Which peer, what is done, and to which prefix.
type Step = (usize, u8, u32, u8);

proptest! {
    #[test]
    fn allowed_ips_move_between_peers_as_in_a_list(
        steps in prop::collection::vec((0..4usize, 0..8u8, 0..64u32, 20..=32u8), 1..60),
    ) {
        let mut world = World::new([7, 7]);
        world.update(0, DeviceUpdate { replace_peers: true, ..Default::default() });
        let keys = [1, 2, 3, 4].map(|n| PublicKey::from_bytes([n; 32]));
        let mut list: Vec<(Prefix, usize)> = Vec::new();
        for (n, what, low, len) in steps as Vec<Step> {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 | low << 6);
            let prefix = Prefix::new(address.into(), len).unwrap();
            let mut peer = PeerUpdate::new(keys[n]);
            (peer.remove, peer.replace_allowed_ips) = (what == 0, what == 1);
            let remove = what == 2;
            peer.allowed_ips.push(AllowedIpUpdate { prefix, remove });
            if what < 2 {
                list.retain(|(_, owner)| *owner != n);
            }
            if what > 0 {
                list.retain(|(other, owner)| *other != prefix || (remove && *owner != n));
                list.extend((!remove).then_some((prefix, n)));
            }
            world.update(0, DeviceUpdate { peers: vec![peer], ..Default::default() });
        }
        let table = world.ends[0].protocol.shared().table.load();
        for low in 0..1u32 << 7 {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 | low << 5).into();
            let holds = |prefix: &Prefix| Prefix::new(address, prefix.len()) == Some(*prefix);
            let holding = list.iter().filter(|(prefix, _)| holds(prefix));
            let expected = holding.max_by_key(|(prefix, _)| prefix.len()).map(|(_, n)| keys[*n]);
            let place = table.allowed_ips.get(address);
            prop_assert_eq!(place.map(|place| table.peers[place as usize].key), expected);
        }
        let views = world.ends[0].protocol.view().peers;
        prop_assert_eq!(views.iter().map(|peer| peer.allowed_ips.len()).sum::<usize>(), list.len());
    }
}

#[test]
fn a_full_session_table_refuses_handshakes_and_keeps_sessions() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    assert_eq!(world.exchange(), HANDSHAKE);
    let standing = [0, 1].map(|n| world.session(n).unwrap());
    let table = |world: &World, n: usize| Arc::clone(world.ends[n].protocol.shared());
    let mut taken = [0, 1].map(|n| {
        let shared = table(&world, n);
        std::iter::from_fn(|| shared.sessions.reserve(None)).collect::<Vec<_>>()
    });
    let refused = |world: &World| [0, 1].map(|n| table(world, n).sessions.refused_count() - 1);
    let mut free_one = |world: &World, n: usize| {
        table(world, n).sessions.remove(taken[n].pop().unwrap());
    };
    assert_eq!(refused(&world), [0, 0]);
    // As initiator: counted, and asked for no more than every five seconds.
    world.pass(6_000);
    (0..10).for_each(|_| world.want_session(0));
    assert_eq!((world.lose_all(), refused(&world)), (0, [1, 0]));
    // One more was asked for to know that the table is full.
    assert_eq!(world.ends[0].protocol.view().refused_handshakes, 2);
    assert!(!world.peer(0).session_wanted.load(Ordering::Relaxed), "the next packet asks again");
    // As responder: the initiation is not answered.
    free_one(&world, 0);
    world.pass(6_000);
    world.want_session(0);
    assert_eq!((world.exchange(), refused(&world)), (vec![INITIATION_LEN], [1, 1]));
    // What stands, stands.
    for (n, standing) in (0..).zip(&standing) {
        assert!(world.session(n).unwrap().ptr_eq(standing) && standing.strong_count() > 0);
    }
    // And with one place more the same handshake goes on.
    free_one(&world, 1);
    world.pass(5_400);
    assert_eq!(world.exchange(), HANDSHAKE);
    assert!(!world.session(0).unwrap().ptr_eq(&standing[0]));
}
