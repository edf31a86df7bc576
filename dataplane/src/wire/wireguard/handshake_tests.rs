//! The two sides against each other, with wrong keys, forged and damaged messages.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::wire::wireguard::aead::Aead;
use crate::wire::wireguard::session::Session;

struct Ends {
    initiator: PrivateKey,
    responder: PrivateKey,
    psk: PresharedKey,
}

fn ends() -> Ends {
    Ends {
        initiator: PrivateKey::from_bytes([11; 32]),
        responder: PrivateKey::from_bytes([22; 32]),
        psk: PresharedKey::from_bytes([33; 32]),
    }
}

fn now() -> Timestamp {
    Timestamp::from_unix(Duration::from_secs(1_800_000_000))
}

fn start(ends: &Ends) -> (Initiator, [u8; INITIATION_LEN]) {
    Initiator::start(&ends.initiator, &ends.responder.public(), &ends.psk, 7, now()).unwrap()
}

#[test]
fn both_ends_get_the_same_keys() {
    for psk in [PresharedKey::default(), PresharedKey::from_bytes([33; 32])] {
        let ends = Ends { psk, ..ends() };
        let (mut initiator, initiation) = start(&ends);
        let responder = Responder::read(&ends.responder, &initiation).unwrap();
        assert_eq!(responder.peer, ends.initiator.public());
        assert_eq!((responder.timestamp, responder.remote_index), (now(), 7));
        let (theirs, response) = responder.respond(&ends.psk, 9).unwrap();
        let (ours, remote_index) = initiator.finish(&response).unwrap();
        assert_eq!(remote_index, 9);
        assert!(ours.send == theirs.receive && ours.receive == theirs.send);
        assert!(ours.send != ours.receive);
        assert!(initiator.finish(&response).is_none(), "a response counts once");
        let ours = Session::new(&ours, 7, 9, true, 0).unwrap();
        let theirs = Session::new(&theirs, 9, 7, false, 0).unwrap();
        let mut message = [0; 48];
        theirs.seal(&Aead::Ring, 0, &mut message);
        assert_eq!(ours.open(&Aead::Ring, &mut message), Some(0));
    }
}

#[test]
fn wrong_keys_do_not_meet() {
    let ends = ends();
    let (mut initiator, initiation) = start(&ends);
    assert!(Responder::read(&PrivateKey::from_bytes([23; 32]), &initiation).is_none());
    let responder = Responder::read(&ends.responder, &initiation).unwrap();
    let (_, response) = responder.respond(&PresharedKey::default(), 9).unwrap();
    assert!(initiator.finish(&response).is_none(), "another preshared key");
}

#[test]
fn a_forged_response_does_not_end_the_handshake() {
    let ends = ends();
    let (mut initiator, initiation) = start(&ends);
    let (_, response) =
        Responder::read(&ends.responder, &initiation).unwrap().respond(&ends.psk, 9).unwrap();
    for at in RESPONSE_NOISE {
        let mut forged = response;
        forged[at] ^= 1 << (at % 8);
        // The top bit of an X25519 coordinate is ignored (RFC 7748 section 5), but hashed.
        assert!(initiator.finish(&forged).is_none(), "byte {at}");
    }
    assert!(initiator.finish(&response).is_some());
}

#[test]
fn a_damaged_initiation_is_not_read() {
    let ends = ends();
    let (_, initiation) = start(&ends);
    for at in INITIATION_NOISE {
        let mut damaged = initiation;
        damaged[at] ^= 1 << (at % 8);
        assert!(Responder::read(&ends.responder, &damaged).is_none(), "byte {at}");
    }
}

#[test]
fn keys_of_small_order_are_refused() {
    let ends = ends();
    let zero = PublicKey::from_bytes([0; 32]);
    assert!(Initiator::start(&ends.initiator, &zero, &ends.psk, 7, now()).is_none());
    let mut one = [0; 32];
    one[0] = 1;
    for point in [[0; 32], one] {
        let (mut initiator, mut initiation) = start(&ends);
        initiation[8..40].copy_from_slice(&point);
        assert!(Responder::read(&ends.responder, &initiation).is_none());
        let mut response = [0; RESPONSE_LEN];
        response[12..44].copy_from_slice(&point);
        assert!(initiator.finish(&response).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), INITIATION_LEN)) {
        let ends = ends();
        let initiation: [u8; INITIATION_LEN] = bytes.clone().try_into().unwrap();
        prop_assert!(Responder::read(&ends.responder, &initiation).is_none());
        let response = bytes[..RESPONSE_LEN].try_into().unwrap();
        prop_assert!(start(&ends).0.finish(&response).is_none());
    }
}
