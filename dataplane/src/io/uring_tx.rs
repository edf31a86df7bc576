//! The way out of the io_uring backend: what is queued, submitted, in flight, and how it ended.
//!
//! Sends of one chain come back in its order; a receive slot goes back to the kernel when the
//! last write that points into it is done. [`reap`] takes what has completed, [`lone`] is the way
//! past the ring.

mod lone;
mod reap;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::aqm::{Arrivals, Frames};
use super::connected::Connected;
use super::counters::{Counters, DropReason};
use super::delivery::Delivery;
use super::depth::Depth;
use super::outbox::{Notice, Outbox, Settled};
use super::poll::Brought;
use super::{
    Arrival, Datagrams, Destination, FLUSH_BYTES, FRAME_SLOTS, Files, RECEIVE_SLOTS, ReceiveHealth,
    Slot, Transmit,
};
use crate::packet::merge::Piece;
use crate::ring::uring::{CHAIN_MAX, Ring, SINGLE_READS};

/// The half that the worker's packet path transmits through.
pub(super) struct Tx {
    pub(super) ring: Ring,
    pub(super) outbox: Outbox,
    pub(super) files: Files,
    pub(super) counters: Arc<Counters>,
    pub(super) frames: VecDeque<(Slot, usize)>,
    pub(super) arrivals: VecDeque<(Slot, Option<Arrival>)>,
    /// Multishot operations that ended, by file.
    pub(super) ended: Vec<u16>,
    /// Sends of the front that are in the submitted chain.
    pub(super) chained: usize,
    /// The errno (below zero) that broke the chain.
    pub(super) broken: Option<i32>,
    pub(super) blocked: bool,
    pub(super) woken: bool,
    /// Single reads that completed since they were last armed …
    pub(super) single_done: usize,
    /// … and the slots of those that brought nothing.
    pub(super) single_slots: Vec<Slot>,
    /// A single read found the queue empty, and no poll has said otherwise since.
    pub(super) read_drained: bool,
    pub(super) read_ready: bool,
    /// Single reads can be asked not to wait.
    pub(super) nowait: bool,
    pub(super) queued_bytes: usize,
    /// Writes in flight that point into each receive slot.
    pub(super) references: Box<[u16]>,
    /// Slots that only wait for their writes.
    pub(super) parked: Box<[Option<Slot>]>,
    pub(super) delivery: Delivery,
    pub(super) fatal: Option<i32>,
    pub(super) health: ReceiveHealth,
    connected: Connected,
    /// Slots not lent, by file.
    pub(super) depths: Vec<Depth>,
    /// Files of which slots came back, or were taken, since they were last looked at: a bit each,
    /// the tun queue's first, then the sockets'.
    touched: u32,
    /// The first send of a turn, if it needs nothing but its bytes, until there is a second one.
    alone: Option<(Slot, Datagrams)>,
    /// The first write of a turn, with its tun queue, until there is a second one.
    held: Option<(u16, u16)>,
    /// A write of this turn was given to the ring.
    wrote: bool,
    arrivals_aqm: Arrivals,
    frames_aqm: Frames,
    /// Slots whose datagrams the worker is done with when the turn ends.
    pub(super) turn_slots: Vec<Slot>,
    /// Slots of frames that the worker had taken on and is done with.
    pub(super) frame_slots: Vec<Slot>,
}

impl Tx {
    /// Nothing queued, nothing in flight.
    pub(super) fn new(
        ring: Ring,
        outbox: Outbox,
        files: Files,
        depths: Vec<Depth>,
        counters: Arc<Counters>,
        notices: Sender<Notice>,
    ) -> Self {
        let delivery = Delivery::new(Arc::clone(&counters), notices);
        let slot_count = files.socket_count() * usize::from(RECEIVE_SLOTS);
        Self {
            ring,
            outbox,
            counters,
            frames: VecDeque::with_capacity(usize::from(FRAME_SLOTS)),
            arrivals: VecDeque::with_capacity(slot_count),
            ended: Vec::with_capacity(16),
            chained: 0,
            broken: None,
            blocked: false,
            woken: false,
            single_done: 0,
            single_slots: Vec::with_capacity(SINGLE_READS),
            read_drained: false,
            read_ready: false,
            nowait: true,
            queued_bytes: 0,
            references: vec![0; slot_count].into(),
            parked: (0..slot_count).map(|_| None).collect(),
            delivery,
            fatal: None,
            health: ReceiveHealth::default(),
            connected: Connected::default(),
            depths,
            touched: u32::MAX,
            alone: None,
            held: None,
            wrote: false,
            arrivals_aqm: Arrivals::default(),
            frames_aqm: Frames::new(files.stamps.clone(), files.queue),
            turn_slots: Vec::with_capacity(slot_count),
            frame_slots: Vec::with_capacity(usize::from(FRAME_SLOTS)),
            files,
        }
    }

    /// What has come and was not handed out yet.
    pub(super) fn brought(&self) -> Brought {
        let frame = self.frames.front().map(|&(_, len)| len);
        let receive = self.arrivals.front().and_then(|(_, arrival)| arrival.as_ref());
        let len = frame.or(receive.map(|arrival| arrival.len)).unwrap_or(0);
        Brought { frames: self.frames.len(), receives: self.arrivals.len(), len }
    }

    /// Whether a frame can be taken on, after handing over what is queued if need be.
    pub(super) fn can_send(&mut self) -> bool {
        if !self.has_room() && !self.blocked {
            self.flush();
        }
        self.has_room()
    }

    /// Whether a frame can be taken on as things are.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.has_room(&self.ring.sends)
    }

    /// Shows the kernel every slot lent so far.
    pub(super) fn publish(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        let sockets = self.files.socket_index(0)..self.files.wake_index();
        for (bit, file) in [self.files.queue].into_iter().chain(sockets).enumerate() {
            if touched & 1 << bit == 0 {
                continue;
            }
            // Frames held back count as in play: while they wait, no more are drawn in.
            let held = if file == self.files.queue { self.frames.len() } else { 0 };
            let depth = &mut self.depths[usize::from(file)];
            depth.adapt();
            while let Some(slot) = depth.next(self.ring.lent_count(file) + held) {
                self.ring.lend(file, slot);
            }
            self.ring.publish(file);
        }
    }

    /// Prepares a chain of what is queued, unless one is under way.
    pub(super) fn submit_sends(&mut self) {
        if self.chained == 0 && !self.blocked && !self.ring.sends.is_empty() {
            self.chained = self.ring.sends.len().min(CHAIN_MAX);
            self.ring.send_chain(self.chained);
        }
        self.queued_bytes = 0;
    }

    fn submit_write(&mut self, index: u16, queue: u16) {
        self.wrote = true;
        for &slot in self.ring.writes.slots(index) {
            self.references[usize::from(slot)] += 1;
        }
        self.ring.write(index, queue);
    }

    /// Hands everything queued to the kernel now and reads what completes.
    fn flush(&mut self) {
        self.queue_alone();
        self.submit_held();
        self.publish();
        self.submit_sends();
        // A failing enter shows again, and is reported, at the turn's own.
        let _ = self.ring.enter(false);
        self.reap();
    }

    /// Results of a chain come in its order: successes, then at most one error, then the
    /// cancelled rest, which stays queued.
    fn sent(&mut self, result: i32) {
        self.chained = self.chained.saturating_sub(1);
        if self.broken.is_none() {
            if result >= 0 {
                self.settle(result);
            } else {
                self.broken = Some(result);
            }
        }
        if self.chained == 0
            && let Some(result) = self.broken.take()
        {
            self.settle(result);
        }
    }

    fn settle(&mut self, result: i32) {
        if self.connected.take_back(&self.files, &mut self.ring.sends, result) {
            return;
        }
        let socket = self.ring.sends.get(0).map_or(0, |front| front.socket);
        let settled = self.outbox.settle(&mut self.ring.sends, result, self.files.get(socket));
        if settled == Settled::Blocked && !self.blocked {
            self.blocked = true;
            self.ring.poll(socket, libc::POLLOUT);
        }
    }

    fn written(&mut self, index: u16, result: i32) {
        self.delivered(index, result);
        for i in 0..self.ring.writes.slots(index).len() {
            let slot = usize::from(self.ring.writes.slots(index)[i]);
            self.references[slot] -= 1;
            if self.references[slot] == 0
                && let Some(slot) = self.parked[slot].take()
            {
                self.lend_received(slot);
            }
        }
        self.ring.writes.finish(index);
    }

    fn delivered(&mut self, index: u16, result: i32) {
        let (packets, bytes) = self.ring.writes.carries(index);
        if let Err(errno) = self.delivery.settle(result, packets, bytes) {
            self.fatal = Some(errno);
        }
    }

    /// The turn is over: slots that no write points into are free.
    pub(super) fn release_all(&mut self) {
        if self.turn_slots.len() == 1 {
            if let Some(slot) = self.turn_slots.pop() {
                self.release(slot);
            }
            return;
        }
        let mut slots = std::mem::take(&mut self.turn_slots);
        // The last one is the warmest, and goes on top.
        slots.drain(..).for_each(|slot| self.release(slot));
        self.turn_slots = slots;
    }

    /// Lends a receive slot again, or parks it while writes still point into it.
    fn release(&mut self, slot: Slot) {
        let index = usize::from(slot.index());
        if self.references[index] == 0 {
            self.lend_received(slot);
        } else {
            self.parked[index] = Some(slot);
        }
    }

    fn lend_received(&mut self, slot: Slot) {
        let socket = usize::from(slot.index() / RECEIVE_SLOTS);
        self.lend(self.files.socket_index(socket), slot);
    }

    /// Has a slot lent to `file` again, now or when it is wanted.
    pub(super) fn lend(&mut self, file: u16, slot: Slot) {
        self.touch(file).keep(slot);
    }

    /// The slots of `file`, about to change.
    #[inline]
    fn touch(&mut self, file: u16) -> &mut Depth {
        let socket = file.checked_sub(self.files.socket_index(0));
        self.touched |= 1 << socket.map_or(0, |socket| socket + 1);
        &mut self.depths[usize::from(file)]
    }
}

impl Transmit for Tx {
    fn send_slot(&mut self) -> Option<Slot> {
        if self.queued_bytes >= FLUSH_BYTES || self.outbox.free_count() == 0 {
            self.flush();
        }
        self.outbox.take()
    }

    fn send(&mut self, slot: Slot, to: Destination, len: usize, segment_len: usize) {
        let waits = self.sends_wait();
        let (socket, connected) = self.connected.socket_for(&self.files, &to.endpoint, waits);
        self.queued_bytes += len;
        let datagrams = Datagrams { socket, connected, to, len, segment_len };
        if datagrams.is_bare() && !waits {
            self.alone = Some((slot, datagrams));
            return;
        }
        self.queue_alone();
        self.outbox.queue(&mut self.ring.sends, slot, datagrams);
    }

    fn write(&mut self, queue: u16, head: &[u8], pieces: &[Piece], packets: u32, bytes: u32) {
        if self.queued_bytes >= FLUSH_BYTES || !self.ring.writes.has_room() {
            self.flush();
        }
        let stretches = pieces.iter().map(|piece| (piece.slot, piece.offset, piece.len));
        let Some(index) = self.ring.writes.prepare(head, stretches, packets, bytes) else {
            self.counters.count_drop(DropReason::WriteSlotsBusy, packets.into());
            return;
        };
        self.queued_bytes += bytes as usize;
        if !self.wrote && self.held.is_none() {
            self.held = Some((index, queue));
            return;
        }
        self.submit_held();
        self.submit_write(index, queue);
    }

    fn give_back(&mut self, slot: Slot) {
        self.turn_slots.push(slot);
    }

    fn give_back_frame(&mut self, slot: Slot) {
        self.frame_slots.push(slot);
    }

    fn heard(&mut self, from: SocketAddr, quiet_ms: Option<u64>) {
        let free_ms = quiet_ms.filter(|_| !self.sends_wait());
        self.connected.heard(&self.files, from, free_ms);
    }

    #[inline]
    fn quiet(&mut self, to: SocketAddr, quiet_ms: Option<u64>) {
        self.connected.quiet(to, quiet_ms);
    }

    fn merge_refused(&self) -> bool {
        self.delivery.merge_refused()
    }
}
