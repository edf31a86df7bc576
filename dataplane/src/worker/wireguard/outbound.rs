//! tun → wire: frames become sealed messages in batches of equal datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::io::counters::DropReason;
use crate::io::{Destination, SEND_SLOTS, Slot, Transmit};
use crate::packet::ecn;
use crate::packet::ip::{Headers, Part, UDP, destination, flow_hash};
use crate::packet::split::Split;
use crate::packet::virtio;
use crate::table::Table;
use crate::table::peer::Peer;
use crate::table::sessions::Live;
use crate::wire::wireguard::session::REKEY_AFTER_MESSAGES;
use crate::worker::batch::Batches;

use super::sealing::{Sealing, Terms, is_one_send, message_len, seal, split, total_len};
use super::sharing::{InOrder, Sharing};
use super::staging::{FRAME_LEN_MAX, PEERS_MAX, Staging};
use super::{Common, REJECT_AFTER_MS, REKEY_AFTER_MS};

/// The outbound half.
pub(super) struct Outbound {
    queue: u16,
    /// Of our sockets; 0 if nobody said.
    pub(super) own_port: u16,
    batches: Batches,
    staging: Staging,
    /// Send slots taken for frames that were not handed over after all: for the next ones.
    spare: Vec<Slot>,
    /// Where a frame that has waited is put together.
    room: Box<[u8]>,
    /// The peers to look at in [`Self::release_staged`]; otherwise empty, with room for all.
    waiting: Vec<Arc<Peer>>,
    /// The generation of sessions up to which `staging` was looked through.
    generation: u64,
}

/// What became of a frame.
enum Fate {
    /// Sent or dropped, and counted.
    Done,
    /// There is no session to seal it with.
    NoSession,
}

/// Why a frame is not sealed.
enum Refusal {
    NoSession,
    Drop(DropReason),
}

impl Outbound {
    pub(super) fn new(queue: u16, generation: u64) -> Self {
        Self {
            queue,
            own_port: 0,
            batches: Batches::default(),
            staging: Staging::new(),
            spare: Vec::with_capacity(SEND_SLOTS.into()),
            room: vec![0; FRAME_LEN_MAX].into(),
            waiting: Vec::with_capacity(PEERS_MAX),
            generation,
        }
    }

    /// Takes one frame.
    pub(super) fn frame(&mut self, common: &Common, frame: &[u8], tx: &mut impl Transmit) {
        let packet = frame.get(virtio::LEN..).unwrap_or_default();
        let drop_one = |reason| common.counters.count_drop(reason, 1);
        let split = split(frame);
        // Here, for a frame that waits for a session comes by again.
        common.counters.tun_reads().count(split.as_ref().map_or(1, Split::count));
        let Some(split) = split else { return drop_one(DropReason::TunMalformed) };
        self.learn(common, packet);
        let table = common.shared.table.load();
        let Some(peer) = peer_of(&table, packet) else { return drop_one(DropReason::NoPeer) };
        if self.staging.holds(peer) && !self.release(common, peer, tx) {
            return self.stage(common, peer, frame);
        }
        if matches!(self.seal(common, peer, packet, &split, tx), Fate::NoSession) {
            self.stage(common, peer, frame);
        }
    }

    #[inline]
    fn learn(&self, common: &Common, packet: &[u8]) {
        if common.steering.is_active() {
            common.steering.learn(flow_hash(packet), self.queue);
        }
    }

    fn seal(
        &mut self,
        common: &Common,
        peer: &Arc<Peer>,
        packet: &[u8],
        split: &Split<'_>,
        tx: &mut impl Transmit,
    ) -> Fate {
        let current = peer.current.load();
        let Some(live) = current.as_ref().filter(|live| is_usable(common, live)) else {
            return Fate::NoSession;
        };
        let count = split.count();
        let Terms { to, first_counter, mtu } = match self.terms(common, live, packet, split) {
            Ok(terms) => terms,
            Err(Refusal::NoSession) => return Fate::NoSession,
            Err(Refusal::Drop(reason)) => {
                common.counters.count_drop(reason, count as u64);
                return Fate::Done;
            }
        };
        let first_len = message_len(split, 0, mtu);
        let quiet = peer.activity.goes(common.now_ms, count == 1);
        tx.quiet(to.endpoint.to, quiet.then_some(common.now_ms));
        self.batches.make_room(&to, count, first_len, total_len(split, mtu), tx);
        let (part, mut sent) = (Part::of(packet), 0);
        for (i, counter) in (0..count).zip(first_counter..) {
            let len = message_len(split, i, mtu);
            let fits = self.batches.push(&to, len, part, tx, |message| {
                seal(&common.aead, &live.session, counter, (split, i), message);
            });
            if !fits {
                common.counters.count_drop(DropReason::SendSlotsBusy, (count - i) as u64);
                break;
            }
            sent += len;
        }
        if sent > 0 {
            note_sent(common, peer, sent);
        }
        want_successor(common, peer, live);
        Fate::Done
    }

    /// On what terms the packets of a frame go to the session's peer. Their counters are theirs
    /// from here on, used or not.
    #[inline]
    fn terms(
        &self,
        common: &Common,
        live: &Live,
        packet: &[u8],
        split: &Split<'_>,
    ) -> Result<Terms, Refusal> {
        let Some(endpoint) = live.peer.endpoint.load().as_ref().map(|endpoint| **endpoint) else {
            return Err(Refusal::Drop(DropReason::NoEndpoint));
        };
        // Sealed again and again it would grow, fall into fragments and multiply.
        if is_message(packet, self.own_port, endpoint.to) {
            return Err(Refusal::Drop(DropReason::RoutingLoop));
        }
        let reserved = live.session.reserve(split.count() as u64);
        let first_counter = reserved.ok_or(Refusal::NoSession)?;
        let to = Destination { endpoint, class: ecn::outer_class(packet) };
        Ok(Terms { to, first_counter, mtu: mtu(common) })
    }

    /// Hands a frame over, of which `len` bytes are in `slot`.
    ///
    /// # Errors
    /// Gives it back, not counted anywhere yet, if it is not for others: it waits or is dropped, or
    /// is more than one send.
    pub(super) fn hand_over(
        &mut self,
        common: &Common,
        slot: Slot,
        len: usize,
        sharing: &mut Sharing,
        tx: &mut impl Transmit,
    ) -> Result<(), Slot> {
        let frame = slot.get(..len).unwrap_or_default();
        let packet = frame.get(virtio::LEN..).unwrap_or_default();
        let Some(split) = split(frame).filter(|split| is_one_send(split, mtu(common))) else {
            return Err(slot);
        };
        let table = common.shared.table.load();
        let peer = peer_of(&table, packet).filter(|peer| !self.staging.holds(peer));
        let current = peer.map(|peer| peer.current.load());
        let live = current.as_ref().and_then(|current| current.as_ref());
        let Some(live) = live.filter(|live| is_usable(common, live)) else { return Err(slot) };
        let Some(place) = self.spare.pop().or_else(|| tx.send_slot()) else { return Err(slot) };
        let Ok(terms) = self.terms(common, live, packet, &split) else {
            self.spare.push(place);
            return Err(slot);
        };
        self.learn(common, packet);
        live.peer.activity.goes(common.now_ms, false);
        want_successor(common, &live.peer, live);
        let (live, count) = (Arc::clone(live), split.count());
        let (frame, frame_len) = (slot, len);
        let sealing =
            Sealing { frame, frame_len, count, live, terms, place, len: 0, segment_len: 0 };
        // What came before it has its place before it.
        self.batches.send(&mut InOrder { tx, sharing: Some(&mut *sharing) });
        if let Err((frame, place)) = sharing.take_on_frame(common, sealing) {
            self.spare.push(place);
            return Err(frame);
        }
        common.counters.tun_reads().count(count);
        Ok(())
    }

    /// Sends a frame that was handed over, now that its turn has come.
    pub(super) fn sealed(&mut self, common: &Common, sealing: Sealing, tx: &mut impl Transmit) {
        let missing = sealing.count.saturating_sub(sealing.sealed_count());
        let Sealing { frame, live, terms, place, len, segment_len, .. } = sealing;
        if missing > 0 {
            common.counters.count_drop(DropReason::SendSlotsBusy, missing as u64);
        }
        if len > 0 {
            tx.send(place, terms.to, len, segment_len);
            note_sent(common, &live.peer, len);
        } else {
            self.spare.push(place);
        }
        tx.give_back_frame(frame);
    }

    fn stage(&mut self, common: &Common, peer: &Arc<Peer>, frame: &[u8]) {
        // As the kernel: what cannot be sent even when there is a session does not wait for one.
        if peer.endpoint.load().is_none() {
            common.counters.count_drop(DropReason::NoEndpoint, 1);
            return;
        }
        let dropped = self.staging.push(peer, frame);
        if dropped > 0 {
            common.counters.count_drop(DropReason::StagingFull, dropped);
        }
        common.want_session(peer);
    }

    /// Sends what waits for peers that have got a session, and drops what waits for those that
    /// nobody tries to reach any more.
    pub(super) fn release_staged(&mut self, common: &Common, tx: &mut impl Transmit) {
        let generation = common.shared.generation.load(Ordering::Acquire);
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        if self.staging.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.extend(self.staging.peers().cloned());
        for peer in waiting.drain(..) {
            if !self.release(common, &peer, tx) && !peer.session_wanted.load(Ordering::Acquire) {
                let count = self.staging.forget(&peer);
                common.counters.count_drop(DropReason::NoSession, count);
            }
        }
        self.waiting = waiting;
    }

    /// Sends what waits for `peer`, in order; false if there is still no session.
    fn release(&mut self, common: &Common, peer: &Arc<Peer>, tx: &mut impl Transmit) -> bool {
        if !peer.current.load().as_ref().is_some_and(|live| is_usable(common, live)) {
            return false;
        }
        let mut room = std::mem::take(&mut self.room);
        while let Some(frame) = self.staging.pop(peer, &mut room) {
            let packet = frame.get(virtio::LEN..).unwrap_or_default();
            let Some(split) = split(frame) else { continue };
            if matches!(self.seal(common, peer, packet, &split, tx), Fate::NoSession) {
                common.counters.count_drop(DropReason::NoSession, split.count() as u64);
            }
        }
        self.room = room;
        true
    }

    /// Sends the open batch.
    pub(super) fn send(&mut self, tx: &mut impl Transmit) {
        self.batches.send(tx);
    }
}

/// Whether `packet` is a UDP datagram from our port to the peer's endpoint, or a fragment's first.
#[inline]
fn is_message(packet: &[u8], own_port: u16, to: SocketAddr) -> bool {
    if destination(packet) != Some(to.ip()) {
        return false;
    }
    let Some(headers) = Headers::parse(packet).filter(|headers| headers.protocol == UDP) else {
        return false;
    };
    let ports = packet.get(headers.transport..).and_then(|udp| udp.first_chunk::<4>());
    ports.is_some_and(|&[a, b, c, d]| {
        u16::from_be_bytes([a, b]) == own_port && u16::from_be_bytes([c, d]) == to.port()
    })
}

/// Whose a packet is: the peer of the longest allowed IP.
#[inline]
fn peer_of<'a>(table: &'a Table, packet: &[u8]) -> Option<&'a Arc<Peer>> {
    let place = table.allowed_ips.get(destination(packet)?)?;
    table.peers.get(place as usize)
}

#[inline]
fn is_usable(common: &Common, live: &Live) -> bool {
    common.age_ms(live) < REJECT_AFTER_MS
}

#[inline]
fn mtu(common: &Common) -> usize {
    common.shared.mtu.load(Ordering::Relaxed) as usize
}

/// The peer's figures and timers after a batch that has really gone to the socket.
fn note_sent(common: &Common, peer: &Arc<Peer>, bytes: usize) {
    peer.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    if peer.activity.sent(common.now_ms, true) {
        common.watch(peer);
    }
}

/// Asks for the next session when this one has grown old.
fn want_successor(common: &Common, peer: &Arc<Peer>, live: &Live) {
    let old = live.session.initiator && common.age_ms(live) >= REKEY_AFTER_MS;
    if old || live.session.sent_count() >= REKEY_AFTER_MESSAGES {
        common.want_session(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_messages_are_known_by_address_and_both_ports() {
        let to: SocketAddr = "192.0.2.2:51820".parse().unwrap();
        let mut packet = [0; 60];
        packet[0] = 0x45;
        packet[9] = UDP;
        packet[16..20].copy_from_slice(&[192, 0, 2, 2]);
        packet[20..22].copy_from_slice(&51_821_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&51_820_u16.to_be_bytes());
        assert!(is_message(&packet, 51_821, to));
        assert!(!is_message(&packet, 51_822, to), "another program's, to the same peer");
        for other in ["192.0.2.2:51821", "192.0.2.3:51820", "[::c000:202]:51820"] {
            assert!(!is_message(&packet, 51_821, other.parse().unwrap()), "{other}");
        }
        packet[6] = 0x20;
        assert!(is_message(&packet, 51_821, to), "the first of its fragments");
        assert!(!is_message(&packet[..22], 51_821, to));
        packet[9] = 6;
        assert!(!is_message(&packet, 51_821, to), "TCP");
    }
}
