//! The backend without io_uring: epoll, `recvmmsg`, `sendmmsg`, one `read` or `writev` a frame.
//!
//! Same slots, same offloads, same results as [`super::uring`]; sends of one `sendmmsg` stop at
//! the first that fails, so order is kept as there. While the socket is full, the tun is not
//! read, and its own queue drops what is too much.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::aqm::{Arrivals, Frames};
use super::connected::{Connected, is_of_icmp};
use super::counters::{Counters, DropReason};
use super::delivery::Delivery;
use super::outbox::{Notice, Outbox, Settled};
use super::poll::{Brought, BusyPoll, NAP_MS, Poller, Rest};
use super::{
    Backend, Datagrams, Destination, FLUSH_BYTES, Files, Handler, IoError, ReceiveHealth, Received,
    SEND_SLOTS, Transmit, outcome,
};
use crate::packet::merge::Piece;
use crate::ring::memory::{Pool, Slot};
use crate::ring::receive::{RECEIVE_SLOT_LEN, SEND_SLOT_LEN, TUN_SLOT_LEN};
use crate::ring::receive_batch::ReceiveBatch;
use crate::ring::sends::SendQueue;
use crate::ring::writes::WritePool;
use crate::sys;
use crate::sys::epoll::Epoll;

/// Frames read from the tun in one turn at most.
const FRAMES_PER_TURN: usize = 64;
/// Tokens of the watched files.
const TUN: u16 = 0;
const WAKE: u16 = 1;
const SOCKETS: u16 = 2;
/// Receives of one socket in one turn at most.
const RECEIVES_PER_TURN: u16 = 64;

/// The backend.
pub struct Mmsg {
    tx: Tx,
    epoll: Epoll,
    frame: Slot,
    /// Receive slots no datagram lies in.
    idle: Vec<Slot>,
    batch: ReceiveBatch,
    /// Files that had more than one turn takes.
    more: bool,
    health: ReceiveHealth,
    /// The socket that is watched for room to send.
    watched: Option<u16>,
    poller: Poller,
    arrivals_aqm: Arrivals,
    frames_aqm: Frames,
    /// By this turn.
    brought: Brought,
}

/// How this worker is to work.
#[derive(Clone, Copy, Debug)]
pub struct MmsgConfig {
    /// Send by `UDP_SEGMENT`.
    pub gso: bool,
    /// Look for packets before sleeping.
    pub busy_poll: BusyPoll,
}

/// The half that the worker's packet path transmits through.
struct Tx {
    files: Files,
    sends: SendQueue,
    writes: WritePool,
    outbox: Outbox,
    counters: Arc<Counters>,
    queued_bytes: usize,
    /// The socket that was full.
    blocked: Option<u16>,
    delivery: Delivery,
    fatal: Option<i32>,
    connected: Connected,
    /// Receive slots whose datagrams the worker is done with when the turn ends.
    turn_slots: Vec<Slot>,
}

impl Mmsg {
    /// Sets up the backend.
    ///
    /// # Errors
    /// The kernel's: no memory or no descriptors.
    pub fn new(
        files: Files,
        config: MmsgConfig,
        counters: Arc<Counters>,
        notices: Sender<Notice>,
    ) -> std::io::Result<Self> {
        let (_, mut frames) = Pool::new(1, TUN_SLOT_LEN)?;
        let frame = frames.pop().ok_or(ErrorKind::OutOfMemory)?;
        let (received, idle) = Pool::new(RECEIVES_PER_TURN * 2, RECEIVE_SLOT_LEN)?;
        let (_, send_slots) = Pool::new(SEND_SLOTS, SEND_SLOT_LEN)?;
        let epoll = Epoll::new()?;
        epoll.watch(files.get(files.queue), TUN, false)?;
        epoll.watch(files.get(files.wake_index()), WAKE, false)?;
        for (token, socket) in (SOCKETS..).zip(0..files.socket_count()) {
            epoll.watch(files.get(files.socket_index(socket)), token, false)?;
        }
        let outbox = Outbox::new(send_slots, config.gso, Arc::clone(&counters), notices.clone());
        let frames_aqm = Frames::new(files.stamps.clone(), files.queue);
        let tx = Tx {
            files,
            sends: SendQueue::new(),
            writes: WritePool::new(received),
            outbox,
            counters: Arc::clone(&counters),
            queued_bytes: 0,
            blocked: None,
            delivery: Delivery::new(counters, notices),
            fatal: None,
            connected: Connected::default(),
            turn_slots: Vec::with_capacity(idle.len()),
        };
        let batch = ReceiveBatch::new(usize::from(RECEIVES_PER_TURN));
        Ok(Self {
            tx,
            epoll,
            frame,
            idle,
            batch,
            more: false,
            health: ReceiveHealth::default(),
            watched: None,
            poller: Poller::new(config.busy_poll),
            arrivals_aqm: Arrivals::default(),
            frames_aqm,
            brought: Brought::default(),
        })
    }

    /// Waits; returns the bits (1 << token) of the files that are ready.
    fn wait(&mut self) -> Result<u32, IoError> {
        let tx = &self.tx;
        if tx.blocked != self.watched {
            // One of the two is none, so at most one socket is watched at a time: another one,
            // idle and always writable, would wake us without end.
            for (index, writable) in [(self.watched, false), (tx.blocked, true)] {
                let Some(index) = index else { continue };
                let token = SOCKETS + index.saturating_sub(tx.files.socket_index(0));
                self.epoll
                    .change(tx.files.get(index), token, true, writable)
                    .map_err(IoError::failed("epoll_ctl"))?;
            }
            self.watched = tx.blocked;
            self.epoll
                .change(tx.files.get(tx.files.queue), TUN, tx.blocked.is_none(), false)
                .map_err(IoError::failed("epoll_ctl"))?;
        }
        let rest = if self.more { Rest::Look } else { self.poller.rest() };
        tx.counters.turns.add(1);
        tx.counters.sleeps.add(u64::from(rest != Rest::Look));
        let timeout_ms = match rest {
            Rest::Look => Some(0),
            Rest::Nap => Some(NAP_MS),
            Rest::Sleep => None,
        };
        let events = self.epoll.wait(timeout_ms).map_err(IoError::failed("epoll_wait"))?;
        let mut ready = 0;
        let mut writable = false;
        for (token, bits) in events {
            ready |= 1u32 << token;
            // Only the blocked socket is watched for it.
            writable |= bits & libc::EPOLLOUT.cast_unsigned() != 0;
        }
        if writable {
            self.tx.blocked = None;
        } else if ready == 0 && !self.more && rest == Rest::Look {
            let epoll = &mut self.epoll;
            // An error shows again, and is reported, at the turn's own wait.
            let news = || epoll.wait(Some(0)).map_or(true, |mut events| events.next().is_some());
            if let Some(came) = self.poller.look(news) {
                self.tx.counters.looked(came);
            }
        }
        Ok(ready)
    }

    fn read_frames(&mut self, handler: &mut impl Handler) {
        for _ in 0..FRAMES_PER_TURN {
            if !self.tx.can_send() {
                return;
            }
            match sys::tun::read(self.tx.files.get(self.tx.files.queue), &mut self.frame) {
                Ok(len) => {
                    self.brought.frames += 1;
                    self.brought.len = len;
                    let frame = self.frame.get_mut(..len).unwrap_or_default();
                    let len = self.frames_aqm.judge(frame, &self.tx.counters);
                    handler.frame(self.frame.get(..len).unwrap_or_default(), &mut self.tx);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.tx.fatal = Some(error.raw_os_error().unwrap_or(libc::EIO));
                    return;
                }
            }
        }
        self.more = true;
    }

    fn receive(&mut self, socket: u16, handler: &mut impl Handler) {
        let count = match self.batch.receive(self.tx.files.get(socket), &mut self.idle) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // The datagrams behind a stray error still come.
            Err(error) => {
                self.more = true;
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let of_icmp = self.tx.files.is_connected(socket) && is_of_icmp(errno);
                if !of_icmp && self.health.failed() {
                    self.tx.fatal = Some(errno);
                }
                return;
            }
        };
        self.health.succeeded();
        self.more |= count == usize::from(RECEIVES_PER_TURN);
        for i in 0..count {
            let Some(mut slot) = self.idle.pop() else { return };
            let mut arrival = self.batch.arrival(i);
            self.tx.counters.receives().count(arrival.map_or(1, |arrival| arrival.count()));
            self.brought.receives += 1;
            if let Some(arrival) = &mut arrival {
                self.arrivals_aqm.judge(arrival, &self.tx.counters);
            }
            if let Some(arrival) = arrival {
                self.brought.len = arrival.len;
                handler.datagrams(Received::new(&mut slot, arrival), &mut self.tx);
            } else {
                self.tx.counters.count_drop(DropReason::Truncated, 1);
            }
            self.tx.turn_slots.push(slot);
        }
    }
}

impl Backend for Mmsg {
    fn turn(&mut self, handler: &mut impl Handler) -> Result<(), IoError> {
        let mut ready = self.wait()?;
        if ready == 0 && !self.more {
            return Ok(());
        }
        if std::mem::take(&mut self.more) {
            // Level-triggered events come again; what was cut short is among them.
            ready |= 1 << TUN;
        }
        let has = |token: u16| ready & 1 << token != 0;
        // Before the handler looks at what it was woken for: a wake that comes while it is at work
        // is for the next turn.
        if has(WAKE) {
            sys::event::clear(&self.tx.files.wake);
        }
        handler.start_of_turn(&mut self.tx);
        for (token, socket) in (SOCKETS..).zip(0..self.tx.files.socket_count()) {
            if has(token) {
                self.receive(self.tx.files.socket_index(socket), handler);
            }
        }
        if has(TUN) {
            self.read_frames(handler);
            self.frames_aqm.all_judged(self.tx.files.get(self.tx.files.queue));
        }
        handler.end_of_turn(&mut self.tx);
        self.tx.flush();
        self.idle.append(&mut self.tx.turn_slots);
        self.poller.turn_brought(std::mem::take(&mut self.brought));
        self.tx.fatal.map_or(Ok(()), |errno| Err(IoError::of_errno(errno)))
    }
}

impl Tx {
    /// Whether a frame can be taken on, after handing over what is queued if need be; otherwise
    /// it is better left with the kernel.
    fn can_send(&mut self) -> bool {
        if self.blocked.is_none() && !self.outbox.has_room(&self.sends) {
            self.flush();
        }
        self.blocked.is_none() && self.outbox.has_room(&self.sends)
    }

    fn flush(&mut self) {
        self.queued_bytes = 0;
        while self.blocked.is_none()
            && let Some(front) = self.sends.get(0)
        {
            let socket = self.files.get(front.socket);
            let (taken, result) = match self.sends.send_run(socket) {
                Ok(count) => (count, 0),
                Err(error) => (1, -error.raw_os_error().unwrap_or(libc::EIO)),
            };
            for _ in 0..taken {
                if self.connected.take_back(&self.files, &mut self.sends, result) {
                    continue;
                }
                if self.outbox.settle(&mut self.sends, result, socket) == Settled::Blocked {
                    self.blocked = Some(front.socket);
                }
            }
        }
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
        let waits = !self.sends.is_empty();
        let (socket, connected) = self.connected.socket_for(&self.files, &to.endpoint, waits);
        self.queued_bytes += len;
        let datagrams = Datagrams { socket, connected, to, len, segment_len };
        self.outbox.queue(&mut self.sends, slot, datagrams);
    }

    fn write(&mut self, queue: u16, head: &[u8], pieces: &[Piece], packets: u32, bytes: u32) {
        let stretches = pieces.iter().map(|piece| (piece.slot, piece.offset, piece.len));
        let Some(index) = self.writes.prepare(head, stretches, packets, bytes) else {
            self.counters.count_drop(DropReason::WriteSlotsBusy, packets.into());
            return;
        };
        let result = outcome(self.writes.write_now(index, self.files.get(queue)));
        if let Err(errno) = self.delivery.settle(result, packets, bytes) {
            self.fatal = Some(errno);
        }
        self.writes.finish(index);
    }

    fn give_back(&mut self, slot: Slot) {
        self.turn_slots.push(slot);
    }

    fn heard(&mut self, from: SocketAddr, quiet_ms: Option<u64>) {
        let free_ms = quiet_ms.filter(|_| self.sends.is_empty());
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
