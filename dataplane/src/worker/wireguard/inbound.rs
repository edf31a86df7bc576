//! wire → tun: messages become inner packets, inner packets become frames.
//!
//! Messages are opened where they were received, a run of one session at a time: first all are
//! opened, then the replay window is locked once, then those that are new go to the merger.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::io::counters::DropReason;
use crate::io::{Received, Transmit};
use crate::packet::ecn;
use crate::packet::endpoint::Endpoint;
use crate::packet::ip::{InnerError, inner_packet, source};
use crate::packet::merge::{MergeConfig, Merger};
use crate::table::event::{Event, HandshakeMessage};
use crate::table::sessions::Live;
use crate::table::{Shared, Table};
use crate::wire::wireguard::messages::{
    HANDSHAKE_LEN_MAX, Kind, TAG_LEN, TRANSPORT_HEADER_LEN, kind, receiver,
};
use crate::worker::inbound::TunSink;

use super::run::{Opened, Run};
use super::sharing::Opening;
use super::{Common, REJECT_AFTER_MS, REKEY_ON_RECEIVE_MS};

/// The inbound half.
pub(super) struct Inbound {
    merger: Merger,
    merging: bool,
    run: Run,
    /// Memory for the endpoint of a peer that roams.
    spare: Option<Arc<Endpoint>>,
}

/// What the messages of one receive have in common.
struct Batch<'a> {
    bytes: &'a mut [u8],
    slot: u16,
    slot_offset: u32,
    /// Bytes from one message to the next.
    step: usize,
    from: Endpoint,
    class: u8,
}

impl<'a> Batch<'a> {
    fn new(received: Received<'a>) -> Self {
        let Received { bytes, slot, offset, arrival } = received;
        let (from, class) = (arrival.endpoint(), arrival.class);
        Self { bytes, slot, slot_offset: offset, step: arrival.segment_len.max(1), from, class }
    }
}

impl Inbound {
    pub(super) fn new(merge: MergeConfig) -> Self {
        Self {
            merger: Merger::new(merge),
            merging: true,
            run: Run::default(),
            spare: Some(Arc::new(SocketAddr::from(([0; 4], 0)).into())),
        }
    }

    /// Takes the datagrams of one receive.
    pub(super) fn datagrams(
        &mut self,
        common: &Common,
        received: Received<'_>,
        tx: &mut impl Transmit,
    ) {
        let arrival = &received.arrival;
        if arrival.truncated || received.bytes.is_empty() {
            let reason =
                if arrival.truncated { DropReason::Truncated } else { DropReason::BadMessage };
            let step = arrival.segment_len.max(1);
            let count = received.bytes.len().div_ceil(step).max(1);
            return common.counters.count_drop(reason, count as u64);
        }
        self.messages(common, &mut Batch::new(received), 0, tx);
    }

    /// Takes a receive whose first messages have been opened, here or by another worker.
    pub(super) fn opened(
        &mut self,
        common: &Common,
        received: Received<'_>,
        opening: &mut Opening,
        tx: &mut impl Transmit,
    ) {
        let mut batch = Batch::new(received);
        std::mem::swap(&mut self.run, &mut opening.run);
        self.pass(common, &opening.live, false, &mut batch, tx);
        let end = self.run.end;
        std::mem::swap(&mut self.run, &mut opening.run);
        self.messages(common, &mut batch, end, tx);
    }

    /// Takes the messages from `offset` on.
    fn messages(
        &mut self,
        common: &Common,
        batch: &mut Batch<'_>,
        mut offset: usize,
        tx: &mut impl Transmit,
    ) {
        while offset < batch.bytes.len() {
            let end = (offset + batch.step).min(batch.bytes.len());
            let message = &batch.bytes[offset..end];
            match kind(message) {
                Some(Kind::Transport) => {
                    offset = self.transport_run(common, batch, offset, tx);
                    continue;
                }
                Some(kind) => handshake(common, kind, message, batch.from),
                None => common.counters.count_drop(DropReason::BadMessage, 1),
            }
            offset = end;
        }
    }

    /// Takes the transport messages from `offset` on that belong to one session; returns where the
    /// next message begins.
    fn transport_run(
        &mut self,
        common: &Common,
        batch: &mut Batch<'_>,
        offset: usize,
        tx: &mut impl Transmit,
    ) -> usize {
        let first = receiver(&batch.bytes[offset..]);
        let guard = first.and_then(|index| common.shared.sessions.get(index));
        let Some(live) = guard.as_ref().and_then(|guard| guard.as_ref()) else {
            common.counters.count_drop(DropReason::UnknownSession, 1);
            return offset + batch.step;
        };
        // As drivers/net/wireguard/receive.c `decrypt_packet`: the age first, so that a session
        // that is over costs nothing.
        let expired = common.age_ms(live) >= REJECT_AFTER_MS;
        let session = (!expired).then_some(&live.session);
        self.run.open(&common.aead, session, batch.bytes, offset, batch.step);
        self.pass(common, live, expired, batch, tx);
        self.run.end
    }

    /// Passes on what opened, as far as it is new.
    fn pass(
        &mut self,
        common: &Common,
        live: &Arc<Live>,
        expired: bool,
        batch: &mut Batch<'_>,
        tx: &mut impl Transmit,
    ) {
        if self.run.failed > 0 {
            let reason =
                if expired { DropReason::UnknownSession } else { DropReason::NotAuthentic };
            common.counters.count_drop(reason, self.run.failed);
        }
        // What was replayed does not count for the figures either, but it is rare.
        let bytes: usize = self.run.opened().iter().map(|message| message.len).sum();
        let mut admission = live.session.admission();
        let replayed = self.run.keep(|counter| admission.admit(counter));
        drop(admission);
        if replayed > 0 {
            common.counters.count_drop(DropReason::Replayed, replayed as u64);
        }
        if !self.run.opened().is_empty() {
            let single = self.run.opened().len() == 1;
            let quiet = live.peer.activity.comes(common.now_ms, single);
            tx.heard(batch.from.to, quiet.then_some(common.now_ms));
            self.deliver(common, live, batch, tx);
            live.peer.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    fn deliver(
        &mut self,
        common: &Common,
        live: &Arc<Live>,
        batch: &mut Batch<'_>,
        tx: &mut impl Transmit,
    ) {
        let table = common.shared.table.load();
        let mut allowed = Allowed { table: &table, live, last: None };
        let mut sink = TunSink { tx, steering: &common.steering };
        let mut data = false;
        for &Opened { offset, len, .. } in self.run.opened() {
            let (from, to) = (offset + TRANSPORT_HEADER_LEN, offset + len - TAG_LEN);
            let Some(plain) = batch.bytes.get_mut(from..to) else { continue };
            if plain.is_empty() {
                common.counters.keepalives.add(1);
                continue;
            }
            data = true;
            let packet_len = match inner_packet(plain) {
                Ok(packet) if allowed.holds(packet) => packet.len(),
                Ok(_) => {
                    common.counters.count_drop(DropReason::SourceNotAllowed, 1);
                    continue;
                }
                Err(InnerError::NotIp) => {
                    common.counters.count_drop(DropReason::NotIp, 1);
                    continue;
                }
                Err(InnerError::LengthMismatch) => {
                    common.counters.count_drop(DropReason::LengthMismatch, 1);
                    continue;
                }
            };
            let packet = &mut plain[..packet_len];
            ecn::mark(packet, batch.class);
            let at = batch.slot_offset.saturating_add(u32::try_from(from).unwrap_or(u32::MAX));
            self.merger.push(packet, batch.slot, at, &mut sink);
        }
        note_received(common, live, batch.from, data, &mut self.spare);
    }

    /// Writes everything still held.
    pub(super) fn flush(&mut self, common: &Common, tx: &mut impl Transmit) {
        if self.merging && tx.merge_refused() {
            self.merging = false;
            self.merger.set_config(MergeConfig::default());
        }
        self.merger.flush(&mut TunSink { tx, steering: &common.steering });
        let bad = self.merger.bad_checksums();
        if bad > 0 {
            common.counters.bad_checksums.add(bad);
        }
    }
}

/// Whether inner packets may come from the peer they came from: its prefix must be the longest one
/// that holds their source.
struct Allowed<'a> {
    table: &'a Table,
    live: &'a Live,
    /// The source looked up last, and the answer: packets of a flow follow one another.
    last: Option<(IpAddr, bool)>,
}

impl Allowed<'_> {
    #[inline]
    fn holds(&mut self, packet: &[u8]) -> bool {
        let Some(address) = source(packet) else { return false };
        if let Some((last, allowed)) = self.last
            && last == address
        {
            return allowed;
        }
        let place = self.table.allowed_ips.get(address);
        let peer = place.and_then(|place| self.table.peers.get(place as usize));
        let allowed = peer.is_some_and(|peer| Arc::ptr_eq(peer, &self.live.peer));
        self.last = Some((address, allowed));
        allowed
    }
}

/// The peer's endpoint, sessions and timers after an authentic batch.
fn note_received(
    common: &Common,
    live: &Arc<Live>,
    from: Endpoint,
    data: bool,
    spare: &mut Option<Arc<Endpoint>>,
) {
    let peer = &live.peer;
    peer.heard_at(from, spare);
    let is_current = |current: &Arc<Live>| Arc::ptr_eq(current, live);
    if !live.session.initiator
        && !peer.current.load().as_ref().is_some_and(is_current)
        && peer.confirm(live, &common.shared.sessions)
    {
        let _ = common.control.events.try_send(Event::Confirmed(Arc::clone(peer)));
    }
    if peer.activity.received(common.now_ms, data) {
        common.watch(peer);
    }
    if live.session.initiator && common.age_ms(live) >= REKEY_ON_RECEIVE_MS {
        common.want_session(peer);
    }
}

/// Passes a handshake message on to control if its MACs allow it.
fn handshake(common: &Common, kind: Kind, message: &[u8], from: Endpoint) {
    let shared: &Shared = &common.shared;
    let counters = &common.counters;
    let checker = shared.checker.load();
    let Some(checker) = checker.as_ref() else {
        return counters.count_drop(DropReason::BadMac, 1);
    };
    // A cookie reply has no MACs and is authentic to control alone, but names an index of ours:
    // who guesses at those does not get into the queue.
    let has_macs = kind != Kind::CookieReply;
    let known = || receiver(message).is_some_and(|index| shared.sessions.is_reserved(index));
    if !(if has_macs { checker.mac1_valid(message) } else { known() }) {
        return counters.count_drop(DropReason::BadMac, 1);
    }
    let mac2_valid = has_macs
        && shared.under_load.load(Ordering::Relaxed)
        && checker.mac2_valid(message, from.to);
    let mut bytes = [0; HANDSHAKE_LEN_MAX];
    let Some(place) = bytes.get_mut(..message.len()) else { return };
    place.copy_from_slice(message);
    let share = if mac2_valid { common.control.shares.take(from.to.ip()) } else { None };
    if mac2_valid && share.is_none() {
        return counters.count_drop(DropReason::HandshakesBusy, 1);
    }
    let queue = if mac2_valid { &common.control.proven } else { &common.control.handshakes };
    let message = HandshakeMessage { from, share, len: message.len(), bytes };
    match queue.try_send(Event::Handshake(message)) {
        Ok(()) => counters.handshakes.add(1),
        Err(_) => counters.count_drop(DropReason::HandshakesBusy, 1),
    }
}
