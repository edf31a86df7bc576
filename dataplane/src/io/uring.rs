//! The io_uring backend: a turn is one `io_uring_enter` under load.
//!
//! Outbound, frames arrive by a multishot read (Linux 6.7; batches of single reads before) into
//! lent slots, and leave as a linked chain of sends, which stops at the first one that fails.
//! Inbound, datagrams arrive by multishot receives, and leave as gathered writes out of the
//! slots they arrived in; such a slot is lent again when its last write is done.
//!
//! When the network is slower than the tunnel, frames stay where they are: unprocessed slots are
//! not lent again, the read starves, and the kernel's own queue drops, and counts, what is too
//! much.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::counters::{Counters, DropReason};
use super::outbox::{Notice, Outbox, Settled};
use super::{
    Backend, Datagrams, FLUSH_BYTES, FRAME_SLOTS, Files, Handler, IoError, RECEIVE_SLOTS,
    Received, SEND_SLOTS, Transmit, device_gone,
};
use crate::packet::merge::Piece;
use crate::ring::memory::{Pool, Slot};
use crate::ring::receive::{
    Arrival, PAYLOAD_OFFSET, RECEIVE_SLOT_LEN, SEND_SLOT_LEN, TUN_SLOT_LEN,
};
use crate::ring::uring::{Completion, Ring, SINGLE_READS};
use crate::ring::writes::WritePool;
use crate::sys;

/// Send slots that one frame needs at most, short of absurdly small segments.
const SLOTS_PER_FRAME: usize = 4;

/// How this worker's ring is to work.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Read the tun by one multishot operation.
    pub multishot_read: bool,
    /// Send by `UDP_SEGMENT`.
    pub gso: bool,
}

/// The backend.
pub struct Uring {
    tx: Tx,
    config: UringConfig,
    /// Frame slots that wait for a single-shot read.
    idle_frames: Vec<Slot>,
    /// Slots whose datagrams were handed to the worker in this turn.
    turn_slots: Vec<Slot>,
    reads_armed: usize,
    read_polled: bool,
    receives_armed: Vec<bool>,
    wake_armed: bool,
}

/// The half that the worker's packet path transmits through.
struct Tx {
    ring: Ring,
    outbox: Outbox,
    files: Files,
    counters: Arc<Counters>,
    notices: Sender<Notice>,
    frames: VecDeque<(Slot, usize)>,
    arrivals: VecDeque<(Slot, Option<Arrival>)>,
    /// Multishot operations that ended, by file.
    ended: Vec<u16>,
    /// Sends of the front that are in the submitted chain.
    chained: usize,
    /// The errno (below zero) that broke the chain.
    broken: Option<i32>,
    blocked: bool,
    woken: bool,
    /// Single reads that completed since they were last armed …
    single_done: usize,
    /// … and the slots of those that brought nothing.
    single_slots: Vec<Slot>,
    /// A single read found the queue empty, and no poll has said otherwise since.
    read_drained: bool,
    read_ready: bool,
    queued_bytes: usize,
    /// Writes in flight that point into each receive slot.
    references: Box<[u16]>,
    /// Slots that only wait for their writes.
    parked: Box<[Option<Slot>]>,
    merge_refused: bool,
    fatal: Option<i32>,
}

impl Uring {
    /// Sets up the ring on the calling thread, which must be the one that uses it.
    ///
    /// # Errors
    /// The kernel's, when it has no io_uring for us.
    pub fn new(
        files: Files,
        config: UringConfig,
        counters: Arc<Counters>,
        notices: Sender<Notice>,
    ) -> std::io::Result<Self> {
        let socket_count = u16::try_from(files.sockets.len()).unwrap_or(u16::MAX);
        let receive_slots = RECEIVE_SLOTS * socket_count;
        let (_, frame_slots) = Pool::new(FRAME_SLOTS, TUN_SLOT_LEN)?;
        let (received, mut slots) = Pool::new(receive_slots, RECEIVE_SLOT_LEN)?;
        let (_, send_slots) = Pool::new(SEND_SLOTS, SEND_SLOT_LEN)?;
        // Every slot may complete in one turn, besides sends and writes.
        let completions = 4096;
        let raw: Vec<RawFd> = files.raw();
        let mut ring = Ring::new(&raw, completions, WritePool::new(received))?;
        let mut idle_frames = Vec::with_capacity(usize::from(FRAME_SLOTS));
        if config.multishot_read {
            ring.add_group(files.queue, frame_slots)?;
        } else {
            idle_frames.extend(frame_slots);
        }
        for socket in (0..files.sockets.len()).rev() {
            let rest = slots.split_off(socket * usize::from(RECEIVE_SLOTS));
            ring.add_group(files.socket_index(socket), rest)?;
        }
        let slot_count = usize::from(receive_slots);
        let outbox =
            Outbox::new(send_slots, config.gso, Arc::clone(&counters), notices.clone());
        let receives_armed = vec![false; files.sockets.len()];
        let tx = Tx {
            ring,
            outbox,
            counters,
            notices,
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
            queued_bytes: 0,
            references: vec![0; slot_count].into(),
            parked: (0..slot_count).map(|_| None).collect(),
            merge_refused: false,
            fatal: None,
            files,
        };
        Ok(Self {
            tx,
            config,
            idle_frames,
            turn_slots: Vec::with_capacity(slot_count),
            reads_armed: 0,
            read_polled: false,
            receives_armed,
            wake_armed: false,
        })
    }

    /// Starts the operations that have ended, and shows the kernel every slot lent since.
    fn arm(&mut self) {
        let tx = &mut self.tx;
        tx.publish();
        while let Some(file) = tx.ended.pop() {
            match file.checked_sub(tx.files.socket_index(0)).map(usize::from) {
                Some(socket) => self.receives_armed[socket] = false,
                None => self.reads_armed = 0,
            }
        }
        for (socket, armed) in self.receives_armed.iter_mut().enumerate() {
            let file = tx.files.socket_index(socket);
            if !*armed && tx.ring.lent_count(file) > 0 {
                tx.ring.receive_multishot(file);
                *armed = true;
            }
        }
        if !self.wake_armed {
            tx.ring.poll(tx.files.wake_index(), libc::POLLIN);
            self.wake_armed = true;
        }
        let queue = tx.files.queue;
        if !self.config.multishot_read {
            self.arm_single_reads();
        } else if self.reads_armed == 0 && tx.ring.lent_count(queue) > 0 {
            tx.ring.read_multishot(queue);
            self.reads_armed = 1;
        }
    }

    /// Without multishot: a poll while the queue is empty, then reads in batches that do not
    /// wait, until one finds the queue empty again.
    fn arm_single_reads(&mut self) {
        let tx = &mut self.tx;
        self.reads_armed -= tx.single_done;
        tx.single_done = 0;
        self.idle_frames.append(&mut tx.single_slots);
        if std::mem::take(&mut tx.read_ready) {
            (self.read_polled, tx.read_drained) = (false, false);
        }
        if self.read_polled || self.reads_armed > 0 || self.idle_frames.is_empty() {
            return;
        }
        let queue = tx.files.queue;
        if tx.read_drained {
            tx.ring.poll(queue, libc::POLLIN);
            self.read_polled = true;
            return;
        }
        while self.reads_armed < SINGLE_READS
            && let Some(slot) = self.idle_frames.pop()
        {
            if let Err(slot) = tx.ring.read_once(queue, slot) {
                self.idle_frames.push(slot);
                break;
            }
            self.reads_armed += 1;
        }
    }

    fn hand_out_datagrams(&mut self, handler: &mut impl Handler) {
        // What a flush brings in meanwhile waits for the next turn: a turn is bounded.
        for _ in 0..self.tx.arrivals.len() {
            let Some((slot, arrival)) = self.tx.arrivals.pop_front() else { break };
            if let Some(arrival) = arrival {
                let payload = slot.get(PAYLOAD_OFFSET..).and_then(|p| p.get(..arrival.len));
                let received = Received {
                    bytes: payload.unwrap_or_default(),
                    slot: slot.index(),
                    offset: PAYLOAD_OFFSET as u32,
                    arrival,
                };
                handler.datagrams(received, &mut self.tx);
            } else {
                self.tx.counters.count_drop(DropReason::Truncated, 1);
            }
            self.turn_slots.push(slot);
        }
    }

    fn hand_out_frames(&mut self, handler: &mut impl Handler) {
        for _ in 0..self.tx.frames.len() {
            if !self.tx.can_send() {
                break;
            }
            let Some((slot, len)) = self.tx.frames.pop_front() else { break };
            handler.frame(slot.get(..len).unwrap_or_default(), &mut self.tx);
            if self.config.multishot_read {
                self.tx.ring.lend(self.tx.files.queue, slot);
            } else {
                self.idle_frames.push(slot);
            }
        }
    }
}

impl Backend for Uring {
    fn turn(&mut self, handler: &mut impl Handler) -> Result<(), IoError> {
        self.arm();
        self.tx.submit_sends();
        let tx = &mut self.tx;
        let waiting = !tx.arrivals.is_empty() || (tx.can_send() && !tx.frames.is_empty());
        tx.counters.turns.add(1);
        tx.counters.sleeps.add(u64::from(!waiting && !tx.ring.has_completion()));
        // Waiting for one returns at once when one is there, but runs the kernel's deferred work
        // first, which makes the batch larger.
        tx.ring.enter(!waiting).map_err(IoError::failed("io_uring_enter"))?;
        tx.reap();
        if tx.arrivals.is_empty() && tx.frames.is_empty() && tx.fatal.is_none() && !tx.woken {
            return Ok(());
        }
        self.hand_out_datagrams(handler);
        self.hand_out_frames(handler);
        handler.end_of_turn(&mut self.tx);
        let tx = &mut self.tx;
        for slot in self.turn_slots.drain(..) {
            tx.release(slot);
        }
        if std::mem::take(&mut tx.woken) {
            sys::event::clear(&tx.files.wake);
            self.wake_armed = false;
        }
        match tx.fatal {
            Some(errno) if device_gone(errno) => {
                Err(IoError::DeviceGone(std::io::Error::from_raw_os_error(errno)))
            }
            Some(errno) => Err(IoError::Failed {
                what: "reading the tun or the socket",
                error: std::io::Error::from_raw_os_error(errno),
            }),
            None => Ok(()),
        }
    }
}

impl Tx {
    /// Whether a frame would find send slots; otherwise it is better left with the kernel.
    fn can_send(&self) -> bool {
        !self.blocked || self.outbox.free_count() >= SLOTS_PER_FRAME
    }

    /// Shows the kernel every slot lent so far.
    fn publish(&mut self) {
        self.ring.publish(self.files.queue);
        for socket in 0..self.files.sockets.len() {
            self.ring.publish(self.files.socket_index(socket));
        }
    }

    /// Prepares a chain of what is queued, unless one is under way.
    fn submit_sends(&mut self) {
        if self.chained == 0 && !self.blocked && !self.ring.sends.is_empty() {
            self.chained = self.ring.sends.len().min(Ring::CHAIN_MAX);
            self.ring.send_chain(self.chained);
        }
        self.queued_bytes = 0;
    }

    /// Hands everything queued to the kernel now and reads what completes.
    fn flush(&mut self) {
        self.publish();
        self.submit_sends();
        // A failing enter shows again, and is reported, at the turn's own.
        let _ = self.ring.enter(false);
        self.reap();
    }

    fn reap(&mut self) {
        while let Some(completion) = self.ring.next() {
            match completion {
                Completion::Read { outcome, more, file } => {
                    if !more {
                        self.ended.push(file);
                    }
                    match outcome {
                        Ok((slot, len)) => self.frame_read(slot, len),
                        Err(errno) => self.read_failed(errno),
                    }
                }
                Completion::ReadOnce { slot, result } => {
                    self.single_done += 1;
                    match usize::try_from(result) {
                        Ok(len) => self.frame_read(slot, len),
                        Err(_) => {
                            self.single_slots.push(slot);
                            self.read_failed(-result);
                        }
                    }
                }
                Completion::Received { outcome, more, file } => {
                    match outcome {
                        Ok(arrival) => {
                            self.counters.inbound.reads.add(1);
                            self.arrivals.push_back(arrival);
                        }
                        Err(libc::ENOBUFS) => self.counters.receive_starved.add(1),
                        // Errors of earlier sends (ICMP) surface here; nothing to do but go on.
                        Err(_) => {}
                    }
                    if !more {
                        self.ended.push(file);
                    }
                }
                Completion::Ready { file, .. } => self.ready(file),
                Completion::Sent { result } => self.sent(result),
                Completion::Written { index, result } => self.written(index, result),
            }
        }
    }

    fn frame_read(&mut self, slot: Slot, len: usize) {
        self.counters.outbound.reads.add(1);
        self.frames.push_back((slot, len));
    }

    fn read_failed(&mut self, errno: i32) {
        match errno {
            libc::ENOBUFS => self.counters.receive_starved.add(1),
            libc::EAGAIN => self.read_drained = true,
            libc::EINTR | libc::ECANCELED => {}
            errno => self.fatal = Some(errno),
        }
    }

    fn ready(&mut self, file: u16) {
        if file == self.files.wake_index() {
            self.woken = true;
        } else if file >= self.files.socket_index(0) {
            self.blocked = false;
        } else {
            self.read_ready = true;
        }
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
        let socket = self.ring.sends.get(0).map_or(0, |front| front.socket);
        let settled =
            self.outbox.settle(&mut self.ring.sends, result, self.files.get(socket));
        if settled == Settled::Blocked && !self.blocked {
            self.blocked = true;
            self.ring.poll(socket, libc::POLLOUT);
        }
    }

    fn written(&mut self, index: u16, result: i32) {
        let (packets, bytes) = self.ring.writes.carries(index);
        match -result {
            _ if result >= 0 => {
                let inbound = &self.counters.inbound;
                inbound.packets.add(packets.into());
                inbound.bytes.add(bytes.into());
                inbound.writes.add(1);
            }
            libc::EIO => self.counters.count_drop(DropReason::TunDown, packets.into()),
            errno => {
                self.counters.count_drop(DropReason::TunRejected, packets.into());
                if device_gone(errno) {
                    self.fatal = Some(errno);
                } else if packets > 1 && !self.merge_refused {
                    self.merge_refused = true;
                    let _ = self.notices.try_send(Notice::MergeRefused { errno });
                }
            }
        }
        for i in 0..self.ring.writes.slots(index).len() {
            let slot = usize::from(self.ring.writes.slots(index)[i]);
            self.references[slot] -= 1;
            if self.references[slot] == 0
                && let Some(slot) = self.parked[slot].take()
            {
                self.lend(slot);
            }
        }
        self.ring.writes.finish(index);
    }

    /// Lends a receive slot again, or parks it while writes still point into it.
    fn release(&mut self, slot: Slot) {
        let index = usize::from(slot.index());
        if self.references[index] == 0 {
            self.lend(slot);
        } else {
            self.parked[index] = Some(slot);
        }
    }

    fn lend(&mut self, slot: Slot) {
        let socket = usize::from(slot.index() / RECEIVE_SLOTS);
        self.ring.lend(self.files.socket_index(socket), slot);
    }
}

impl Transmit for Tx {
    fn send_slot(&mut self) -> Option<Slot> {
        if self.queued_bytes >= FLUSH_BYTES || self.outbox.free_count() == 0 {
            self.flush();
        }
        self.outbox.take()
    }

    fn send(&mut self, slot: Slot, to: SocketAddr, len: usize, segment_len: usize) {
        let family = self.files.socket_for(to);
        let socket = self.files.socket_index(family);
        self.queued_bytes += len;
        if self.ring.sends.room() < len.div_ceil(segment_len.max(1)) {
            self.flush();
        }
        let datagrams = Datagrams { socket, to, len, segment_len };
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
        for &slot in self.ring.writes.slots(index) {
            self.references[usize::from(slot)] += 1;
        }
        self.queued_bytes += bytes as usize;
        self.ring.write(index, queue);
    }

    fn merge_refused(&self) -> bool {
        self.merge_refused
    }
}
