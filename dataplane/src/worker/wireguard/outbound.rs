//! tun → wire: frames become sealed messages in batches of equal datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::io::counters::DropReason;
use crate::io::{Destination, Transmit};
use crate::packet::ecn;
use crate::packet::ip::{Headers, Part, UDP, destination, flow_hash};
use crate::packet::split::Split;
use crate::packet::virtio::{self, VirtioHdr};
use crate::table::peer::Peer;
use crate::table::sessions::Live;
use crate::wire::wireguard::messages::{
    TAG_LEN, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD, padded_len,
};
use crate::wire::wireguard::session::REKEY_AFTER_MESSAGES;
use crate::worker::batch::Batches;

use super::staging::{FRAME_LEN_MAX, PEERS_MAX, Staging};
use super::{Common, REJECT_AFTER_MS, REKEY_AFTER_MS};

/// The outbound half.
pub(super) struct Outbound {
    queue: u16,
    /// Of our sockets; 0 if nobody said.
    pub(super) own_port: u16,
    batches: Batches,
    staging: Staging,
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

impl Outbound {
    pub(super) fn new(queue: u16, generation: u64) -> Self {
        Self {
            queue,
            own_port: 0,
            batches: Batches::default(),
            staging: Staging::new(),
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
        if common.steering.is_active() {
            common.steering.learn(flow_hash(packet), self.queue);
        }
        let table = common.shared.table.load();
        let place = destination(packet).and_then(|address| table.allowed_ips.get(address));
        let Some(peer) = place.and_then(|place| table.peers.get(place as usize)) else {
            return drop_one(DropReason::NoPeer);
        };
        if self.staging.holds(peer) && !self.release(common, peer, tx) {
            return self.stage(common, peer, frame);
        }
        if matches!(self.seal(common, peer, packet, &split, tx), Fate::NoSession) {
            self.stage(common, peer, frame);
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
        let Some(live) = current.as_ref().filter(|live| common.age_ms(live) < REJECT_AFTER_MS)
        else {
            return Fate::NoSession;
        };
        let count = split.count();
        let Some(endpoint) = peer.endpoint.load().as_ref().map(|endpoint| **endpoint) else {
            common.counters.count_drop(DropReason::NoEndpoint, count as u64);
            return Fate::Done;
        };
        // Sealed again and again it would grow, fall into fragments and multiply.
        if is_message(packet, self.own_port, endpoint.to) {
            common.counters.count_drop(DropReason::RoutingLoop, count as u64);
            return Fate::Done;
        }
        let Some(first) = live.session.reserve(count as u64) else { return Fate::NoSession };
        let to = Destination { endpoint, class: ecn::outer_class(packet) };
        let mtu = common.shared.mtu.load(Ordering::Relaxed) as usize;
        let message_len = |i: usize| padded_len(split.len_of(i), mtu) + TRANSPORT_OVERHEAD;
        let total_len = message_len(0) * (count - 1) + message_len(count - 1);
        self.batches.make_room(&to, count, message_len(0), total_len, tx);
        let (part, mut sent) = (Part::of(packet), 0);
        for (i, counter) in (0..count).zip(first..) {
            let len = message_len(i);
            let fits = self.batches.push(&to, len, part, tx, |message| {
                let end = TRANSPORT_HEADER_LEN + split.len_of(i);
                split.write(i, &mut message[TRANSPORT_HEADER_LEN..end]);
                message[end..len - TAG_LEN].fill(0);
                live.session.seal(&common.aead, counter, message);
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
        let usable = |live: &Arc<Live>| common.age_ms(live) < REJECT_AFTER_MS;
        if !peer.current.load().as_ref().is_some_and(usable) {
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

fn split(frame: &[u8]) -> Option<Split<'_>> {
    let packet = frame.get(virtio::LEN..)?;
    VirtioHdr::decode(frame).and_then(|header| Split::new(&header, packet).ok())
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
