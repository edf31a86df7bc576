//! Messages that somebody on the way has replayed, cut, damaged, swapped or made up: nothing comes
//! out, nothing is kept, and the handshake goes on as if they had not been there.

use proptest::prelude::*;

use super::tests::*;
use super::*;
use crate::wire::wireguard::cookie::Stamper;
use crate::wire::wireguard::handshake::Initiator;
use crate::wire::wireguard::keys::PresharedKey;
use crate::wire::wireguard::messages::{
    COOKIE_REPLY_LEN, HANDSHAKE_LEN_MAX, INITIATION_LEN, Kind, RESPONSE_LEN, kind,
};
use crate::wire::wireguard::timestamp::Timestamp;

/// What an end keeps that a message could change.
#[derive(Debug, PartialEq)]
struct Kept {
    indexes: usize,
    handshakes: usize,
    endpoint: Option<Endpoint>,
    session: bool,
    figures: [u64; 4],
    datagrams: usize,
    wakes: usize,
}

fn kept(world: &World, n: usize) -> Kept {
    let (end, peer) = (&world.ends[n], world.peer(n));
    let figures = [
        &peer.received_bytes,
        &peer.sent_bytes,
        &peer.activity.received_ms,
        &peer.activity.unanswered_since_ms,
    ];
    Kept {
        indexes: end.protocol.shared().sessions.reserved_count(),
        handshakes: end.protocol.handshakes.len(),
        endpoint: peer.endpoint.load().as_ref().map(|endpoint| **endpoint),
        session: peer.current.load().is_some(),
        figures: figures.map(|figure| figure.load(Ordering::Relaxed)),
        datagrams: end.sent.datagrams.len(),
        wakes: end.sent.wakes,
    }
}

/// Has end `n` send `datagram` from a stranger's address, and checks that it leaves no trace.
fn leaves_no_trace(world: &mut World, n: usize, datagram: &[u8]) {
    let before = kept(world, 1 - n);
    let at = std::mem::replace(
        &mut world.ends[n].at,
        "198.51.100.9:9".parse::<SocketAddr>().unwrap().into(),
    );
    world.deliver(n, datagram);
    world.ends[n].at = at;
    assert_eq!(kept(world, 1 - n), before);
}

/// Every message with one bit turned over in each byte, and cut and lengthened in every way.
fn damaged(message: &[u8]) -> Vec<Vec<u8>> {
    let flipped = (0..message.len()).map(|at| {
        let mut copy = message.to_vec();
        copy[at] ^= 1 << (at % 8);
        copy
    });
    let cut = (0..message.len()).map(|len| message[..len].to_vec());
    let longer = (message.len() + 1..=HANDSHAKE_LEN_MAX).map(|len| {
        let mut copy = message.to_vec();
        copy.resize(len, 0);
        copy
    });
    flipped.chain(cut).chain(longer).collect()
}

/// As a worker does before control hears of a message.
fn is_passed_on(world: &World, n: usize, message: &[u8]) -> bool {
    let checker = world.ends[n].protocol.shared().checker.load();
    let handshake = matches!(kind(message), Some(Kind::Initiation | Kind::Response));
    handshake && checker.as_ref().unwrap().mac1_valid(message)
}

#[test]
fn a_message_damaged_anywhere_is_as_none() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    let (_, initiation) = world.next_datagram().unwrap();
    for message in damaged(&initiation) {
        // All but MAC2, which nobody looks at without load, is covered by MAC1.
        let same = message.len() == INITIATION_LEN && message[..132] == initiation[..132];
        assert_eq!(is_passed_on(&world, 1, &message), same);
        if message.len() != INITIATION_LEN || message[8..116] != initiation[8..116] {
            leaves_no_trace(&mut world, 0, &message);
        }
    }
    // Also if MAC1 is right, which anybody who knows the public key can see to.
    for at in 8..116 {
        let mut message = initiation.clone();
        message[at] ^= 1 << (at % 8);
        stamp(&world, 0, &mut message);
        assert!(is_passed_on(&world, 1, &message));
        leaves_no_trace(&mut world, 0, &message);
    }
    world.deliver(0, &initiation);
    let (_, response) = world.next_datagram().unwrap();
    for message in damaged(&response) {
        let same = message.len() == RESPONSE_LEN && message[..76] == response[..76];
        assert_eq!(is_passed_on(&world, 0, &message), same);
        if message.len() != RESPONSE_LEN || message[8..60] != response[8..60] {
            leaves_no_trace(&mut world, 1, &message);
        }
    }
    for at in 8..60 {
        let mut message = response.clone();
        message[at] ^= 1 << (at % 8);
        stamp(&world, 1, &mut message);
        leaves_no_trace(&mut world, 1, &message);
    }
    world.deliver(1, &response);
    assert_eq!(world.exchange(), [32]);
    assert!(world.connected());
}

/// Makes MAC1 right for the receiver, as end `n` would.
fn stamp(world: &World, n: usize, message: &mut [u8]) {
    Stamper::new(&world.ends[1 - n].key.public()).stamp(message, 0);
}

#[test]
fn replayed_and_reordered_messages_are_as_none() {
    let mut world = World::new([7, 7]);
    let mut old: Vec<(usize, Vec<u8>)> = Vec::new();
    for round in 0..3 {
        world.want_session(0);
        let (_, initiation) = world.next_datagram().unwrap();
        // A response to nothing, and those to earlier initiations.
        for (n, message) in &old {
            leaves_no_trace(&mut world, *n, message);
        }
        world.deliver(0, &initiation);
        let (_, response) = world.next_datagram().unwrap();
        leaves_no_trace(&mut world, 0, &initiation);
        world.deliver(1, &response);
        leaves_no_trace(&mut world, 1, &response);
        assert_eq!(world.exchange(), [32], "round {round}");
        old.extend([(0, initiation), (1, response)]);
        for (n, message) in &old {
            leaves_no_trace(&mut world, *n, message);
        }
        world.pass(6_000);
        world.lose_all();
    }
    // What one end sent is nothing when it comes back to it.
    for (n, message) in &old {
        leaves_no_trace(&mut world, 1 - n, message);
    }
}

#[test]
fn an_initiation_that_was_overtaken_is_as_none() {
    let mut world = World::new([7, 7]);
    world.want_session(0);
    let (_, first) = world.next_datagram().unwrap();
    world.pass(5_400);
    let (_, second) = world.next_datagram().unwrap();
    world.deliver(0, &second);
    let (_, response) = world.next_datagram().unwrap();
    leaves_no_trace(&mut world, 0, &first);
    world.deliver(1, &response);
    assert_eq!(world.exchange(), [32]);
}

#[test]
fn initiations_of_one_peer_are_answered_fifty_times_a_second_at_most() {
    let mut world = World::new([7, 7]);
    let mut answered = 0;
    for _ in 0..100 {
        world.pass(10);
        // Its clock runs fast, so that no timestamp comes twice.
        let now_ms = world.now_ms.load(Ordering::Relaxed);
        let timestamp =
            Timestamp::from_unix(Duration::from_millis(1_800_000_000_000 + now_ms * 20));
        let (ours, theirs) = (&world.ends[0].key, world.ends[1].key.public());
        let started =
            Initiator::start(ours, &theirs, &PresharedKey::from_bytes([7; 32]), 9, timestamp);
        let mut initiation = started.unwrap().1;
        stamp(&world, 0, &mut initiation);
        world.deliver(0, &initiation);
        answered += world.lose_all();
        // However many, there is one session to be confirmed.
        assert!(world.ends[1].protocol.shared().sessions.reserved_count() <= 1);
    }
    assert_eq!(answered, 50);
}

proptest! {
    #[test]
    fn noise_with_the_right_mac_is_as_none(
        bytes in prop::collection::vec(any::<u8>(), INITIATION_LEN),
        which in 0..3usize,
    ) {
        let mut world = World::new([7, 7]);
        let len = [INITIATION_LEN, RESPONSE_LEN, COOKIE_REPLY_LEN][which];
        let mut message = bytes[..len].to_vec();
        message[..4].copy_from_slice(&[u8::try_from(which).unwrap() + 1, 0, 0, 0]);
        if which < 2 {
            stamp(&world, 0, &mut message);
        }
        leaves_no_trace(&mut world, 0, &message);
    }
}
