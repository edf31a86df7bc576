//! Indexes given out and taken back; a peer's sessions as they follow one another.

use std::collections::HashSet;

use zeroize::Zeroizing;

use super::*;
use crate::wire::wireguard::keys::PublicKey;
use crate::wire::wireguard::session::TransportKeys;

fn live(table: &SessionTable, peer: &Arc<Peer>, initiator: bool, created_ms: u64) -> Arc<Live> {
    let keys = TransportKeys { send: Zeroizing::new([1; 32]), receive: Zeroizing::new([2; 32]) };
    let index = table.reserve(None).unwrap();
    let session = Session::new(&keys, index, 5, initiator, created_ms).unwrap();
    Arc::new(Live { session, peer: Arc::clone(peer) })
}

fn peer() -> Arc<Peer> {
    Arc::new(Peer::new(PublicKey::from_bytes([1; 32])))
}

fn found(table: &SessionTable, live: &Arc<Live>) -> bool {
    table.get(live.session.local_index).is_some()
}

fn is_current(peer: &Peer, live: &Arc<Live>) -> bool {
    peer.current.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, live))
}

#[test]
fn every_slot_is_given_out_once_and_comes_back() {
    let table = SessionTable::new(1);
    let indexes: HashSet<u32> = (0..SLOTS_MIN).map(|_| table.reserve(None).unwrap()).collect();
    assert_eq!(indexes.len(), SLOTS_MIN);
    let uppers: HashSet<u32> = indexes.iter().map(|index| index >> 10).collect();
    assert!(uppers.len() > SLOTS_MIN / 2, "the upper bits are random");
    assert_eq!(table.refused_count(), 0);
    assert_eq!(table.reserve(None), None);
    assert_eq!(table.refused_count(), 1);
    indexes.iter().for_each(|index| table.remove(*index));
    indexes.iter().for_each(|index| table.remove(*index));
    assert_eq!((0..=SLOTS_MIN).filter_map(|_| table.reserve(None)).count(), SLOTS_MIN);
}

#[test]
fn a_removed_session_is_gone_with_its_memory() {
    let (table, peer) = (SessionTable::new(1), peer());
    let session = live(&table, &peer, true, 1);
    let (index, weak) = (session.session.local_index, Arc::downgrade(&session));
    table.insert(session);
    assert!(table.get(index).is_some() && table.get(index ^ 1 << 31).is_none());
    table.remove(index ^ 1 << 31);
    assert!(table.get(index).is_some());
    table.remove(index);
    assert!(table.get(index).is_none() && weak.upgrade().is_none());
}

#[test]
fn a_session_without_reservation_is_not_put_in() {
    let (table, peer) = (SessionTable::new(1), peer());
    let session = live(&table, &peer, true, 1);
    table.remove(session.session.local_index);
    table.insert(Arc::clone(&session));
    assert!(!found(&table, &session));
}

#[test]
fn a_peer_that_roams_takes_no_new_memory() {
    let peer = peer();
    let at = |port| std::net::SocketAddr::from(([192, 0, 2, 1], port)).into();
    peer.endpoint.store(Some(Arc::new(at(1))));
    let place = || peer.endpoint.load().as_ref().map(|at| (Arc::as_ptr(at).addr(), at.to.port()));
    let mut spare = Some(Arc::new(at(0)));
    let second = spare.as_ref().map(|spare| Arc::as_ptr(spare).addr()).unwrap();
    let first = place().unwrap().0;
    for port in 2..20 {
        peer.roam(at(port), &mut spare);
        assert_eq!(place(), Some((if port % 2 == 0 { second } else { first }, port)));
    }
    // One that somebody still reads is left to them.
    let reader = spare.clone().unwrap();
    peer.roam(at(20), &mut spare);
    assert_eq!((reader.to.port(), place().unwrap().1), (18, 20));
}

#[test]
fn an_initiator_uses_its_session_at_once_and_keeps_the_one_before() {
    let (table, peer) = (SessionTable::new(1), peer());
    let sessions: Vec<_> = (1..=3).map(|ms| live(&table, &peer, true, ms)).collect();
    for session in &sessions {
        peer.install_initiated(Arc::clone(session), &table);
        assert!(is_current(&peer, session));
    }
    assert_eq!(sessions.iter().map(|s| found(&table, s)).collect::<Vec<_>>(), [false, true, true]);
    peer.clear_sessions(&table);
    assert!(sessions.iter().all(|session| !found(&table, session)));
    assert!(peer.current.load().is_none());
}

#[test]
fn a_responder_waits_for_the_confirmation() {
    let (table, peer) = (SessionTable::new(1), peer());
    let first = live(&table, &peer, false, 1);
    peer.install_responded(Arc::clone(&first), &table);
    assert!(found(&table, &first) && !is_current(&peer, &first));
    assert!(peer.confirm(&first, &table) && is_current(&peer, &first));
    assert!(!peer.confirm(&first, &table), "once");
    let (second, third) = (live(&table, &peer, false, 2), live(&table, &peer, false, 3));
    peer.install_responded(Arc::clone(&second), &table);
    peer.install_responded(Arc::clone(&third), &table);
    assert!(is_current(&peer, &first) && !found(&table, &second));
    assert!(!peer.confirm(&second, &table) && peer.confirm(&third, &table));
    assert!(is_current(&peer, &third) && found(&table, &first));
}

#[test]
fn an_unconfirmed_session_becomes_the_previous_one() {
    let (table, peer) = (SessionTable::new(1), peer());
    let sessions: Vec<_> = (1..=3).map(|ms| live(&table, &peer, ms != 2, ms)).collect();
    peer.install_initiated(Arc::clone(&sessions[0]), &table);
    peer.install_responded(Arc::clone(&sessions[1]), &table);
    peer.install_initiated(Arc::clone(&sessions[2]), &table);
    assert_eq!(sessions.iter().map(|s| found(&table, s)).collect::<Vec<_>>(), [false, true, true]);
    peer.clear_sessions_before(3, &table);
    assert!(!found(&table, &sessions[1]) && is_current(&peer, &sessions[2]));
    peer.clear_sessions_before(4, &table);
    assert!(!found(&table, &sessions[2]) && peer.current.load().is_none());
}

#[test]
fn readers_and_a_writer_do_not_disturb_each_other() {
    let (table, peer) = (Arc::new(SessionTable::new(1)), peer());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2u32 {
            let (table, stop) = (&table, &stop);
            scope.spawn(move || {
                let mut index = seed;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    index = index.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if let Some(live) = table.get(index) {
                        assert_eq!(live.as_ref().unwrap().session.local_index, index);
                    }
                }
            });
        }
        for ms in 0..2_000 {
            peer.install_initiated(live(&table, &peer, true, ms), &table);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn new_peers_go_to_the_worker_that_has_fewest_and_stay_with_it() {
    for workers in [1, 2, 3, 8, 256] {
        let table = SessionTable::with_workers(1, workers);
        let mut counts = vec![0; workers];
        let first: Vec<u32> = (0..64).map(|_| table.reserve(None).unwrap()).collect();
        first.iter().for_each(|&index| counts[worker_of(index, workers)] += 1);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "{counts:?}");
        for &index in &first {
            let next = table.reserve(Some(index)).unwrap();
            assert_eq!(worker_of(next, workers), worker_of(index, workers));
            table.remove(index);
            table.remove(next);
        }
        assert_eq!(table.reserved_count(), 0);
    }
}

#[test]
fn a_worker_without_room_is_no_reason_to_refuse() {
    let table = SessionTable::with_workers(1, 4);
    let first = table.reserve(None).unwrap();
    let rest = (1..SLOTS_MIN).filter(|_| table.reserve(Some(first)).is_some()).count();
    assert_eq!((rest, table.refused_count()), (SLOTS_MIN - 1, 0));
    assert_eq!((table.reserve(Some(first)), table.refused_count()), (None, 1));
}
