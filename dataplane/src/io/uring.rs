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

use std::os::fd::RawFd;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::counters::{Counters, DropReason};
use super::depth::Depth;
use super::outbox::{Notice, Outbox};
use super::poll::{BusyPoll, NAP_MS, Poller, Rest};
use super::uring_tx::Tx;
use super::{
    Backend, FRAME_SLOTS, Files, Handler, IoError, RECEIVE_SLOTS, Received, SEND_SLOTS, Slot,
};
use crate::ring::memory::Pool;
use crate::ring::receive::{RECEIVE_SLOT_LEN, SEND_SLOT_LEN, TUN_SLOT_LEN};
use crate::ring::uring::{Ring, SINGLE_READS};
use crate::ring::writes::WritePool;
use crate::sys;

/// How this worker's ring is to work.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Read the tun by one multishot operation.
    pub multishot_read: bool,
    /// Send by `UDP_SEGMENT`.
    pub gso: bool,
    /// Look for packets before sleeping.
    pub busy_poll: BusyPoll,
}

/// The backend.
pub struct Uring {
    tx: Tx,
    config: UringConfig,
    /// Frame slots that wait for a single-shot read.
    idle_frames: Vec<Slot>,
    reads_armed: usize,
    read_polled: bool,
    receives_armed: Vec<bool>,
    wake_armed: bool,
    poller: Poller,
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
        let socket_count = u16::try_from(files.socket_count()).unwrap_or(u16::MAX);
        let receive_slots = RECEIVE_SLOTS * socket_count;
        let (_, frame_slots) = Pool::new(FRAME_SLOTS, TUN_SLOT_LEN)?;
        let (received, mut slots) = Pool::new(receive_slots, RECEIVE_SLOT_LEN)?;
        let (_, send_slots) = Pool::new(SEND_SLOTS, SEND_SLOT_LEN)?;
        // Every slot may complete in one turn, besides sends and writes.
        let completions = 4096;
        let raw: Vec<RawFd> = files.raw();
        let mut ring = Ring::new(&raw, completions, WritePool::new(received))?;
        let mut depths: Vec<_> = raw.iter().map(|_| Depth::new(Vec::new())).collect();
        let mut idle_frames = Vec::with_capacity(usize::from(FRAME_SLOTS));
        if config.multishot_read {
            ring.add_group(files.queue, 0, FRAME_SLOTS)?;
            depths[usize::from(files.queue)] = Depth::new(frame_slots);
        } else {
            idle_frames.extend(frame_slots);
        }
        for socket in (0..socket_count).rev() {
            let (file, first) = (files.socket_index(socket.into()), socket * RECEIVE_SLOTS);
            ring.add_group(file, first, RECEIVE_SLOTS)?;
            depths[usize::from(file)] = Depth::new(slots.split_off(first.into()));
        }
        let outbox = Outbox::new(send_slots, config.gso, Arc::clone(&counters), notices.clone());
        let receives_armed = vec![false; files.socket_count()];
        let tx = Tx::new(ring, outbox, files, depths, counters, notices);
        Ok(Self {
            tx,
            config,
            idle_frames,
            reads_armed: 0,
            read_polled: false,
            receives_armed,
            wake_armed: false,
            poller: Poller::new(config.busy_poll),
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
        if self.read_polled || self.reads_armed > 0 {
            return;
        }
        if !tx.nowait {
            self.read_directly();
        }
        let tx = &mut self.tx;
        let queue = tx.files.queue;
        if tx.read_drained {
            tx.ring.poll(queue, libc::POLLIN);
            self.read_polled = true;
            return;
        }
        while tx.nowait
            && self.reads_armed < SINGLE_READS
            && let Some(slot) = self.idle_frames.pop()
        {
            if let Err(slot) = tx.ring.read_once(queue, slot) {
                self.idle_frames.push(slot);
                break;
            }
            self.reads_armed += 1;
        }
    }

    /// Before Linux 6.4 the tun knows no `RWF_NOWAIT`. A request that finds nothing to read then
    /// waits in the kernel, where every frame wakes all that wait, and those that were woken in
    /// vain too often go to threads. So the ring only says when there is something to read.
    fn read_directly(&mut self) {
        let tx = &mut self.tx;
        if !tx.frames.is_empty() {
            // The network is slower: the rest stays in the tun's queue.
            return;
        }
        for _ in 0..SINGLE_READS {
            let Some(mut slot) = self.idle_frames.pop() else { return };
            match sys::tun::read(tx.files.get(tx.files.queue), &mut slot) {
                Ok(len) => tx.frame_read(slot, len),
                Err(error) => {
                    self.idle_frames.push(slot);
                    tx.read_failed(error.raw_os_error().unwrap_or(libc::EIO));
                    // Whatever the reason: the worker must not sleep without a poll.
                    tx.read_drained = true;
                    return;
                }
            }
        }
    }

    fn hand_out_datagrams(&mut self, handler: &mut impl Handler) {
        let takes_on = handler.takes_on();
        // What a flush brings in meanwhile waits for the next turn: a turn is bounded.
        for _ in 0..self.tx.arrivals.len() {
            if !handler.has_room() {
                break;
            }
            let Some((mut slot, arrival)) = self.tx.arrivals.pop_front() else { break };
            if let Some(arrival) = arrival {
                if takes_on {
                    match handler.take_on(slot, arrival) {
                        Ok(()) => continue,
                        Err(back) => slot = back,
                    }
                }
                handler.datagrams(Received::new(&mut slot, arrival), &mut self.tx);
            } else {
                self.tx.counters.count_drop(DropReason::Truncated, 1);
            }
            self.tx.turn_slots.push(slot);
        }
    }

    fn hand_out_frames(&mut self, handler: &mut impl Handler) {
        for _ in 0..self.tx.frames.len() {
            if !self.tx.can_send() {
                break;
            }
            let Some((slot, len)) = self.tx.frames.pop_front() else { break };
            if let Err(slot) = handler.take_on_frame(slot, len, &mut self.tx) {
                handler.frame(slot.get(..len).unwrap_or_default(), &mut self.tx);
                self.return_frame(slot);
            }
        }
    }

    fn return_frame(&mut self, slot: Slot) {
        if self.config.multishot_read {
            self.tx.lend(self.tx.files.queue, slot);
        } else {
            self.idle_frames.push(slot);
        }
    }

    /// Lends the slots of frames again that others have sealed meanwhile.
    fn return_frames(&mut self) {
        let mut slots = std::mem::take(&mut self.tx.frame_slots);
        slots.drain(..).for_each(|slot| self.return_frame(slot));
        self.tx.frame_slots = slots;
    }
}

impl Backend for Uring {
    fn turn(&mut self, handler: &mut impl Handler) -> Result<(), IoError> {
        self.arm();
        self.tx.submit_sends();
        let tx = &mut self.tx;
        // A wake may have been reaped in the middle of the last turn.
        let waiting = tx.woken
            || (!tx.arrivals.is_empty() && handler.has_room())
            || (!tx.frames.is_empty() && tx.has_room());
        let idle = !waiting && handler.may_sleep();
        let rest = if idle { self.poller.rest() } else { Rest::Look };
        let sleep = rest != Rest::Look;
        tx.counters.turns.add(1);
        tx.counters.sleeps.add(u64::from(sleep && !tx.ring.returns_at_once()));
        // Waiting for one returns at once when one is there, but runs the kernel's deferred work
        // first, which makes the batch larger.
        let entered = match rest {
            Rest::Nap => tx.ring.enter_for(NAP_MS),
            Rest::Look | Rest::Sleep => tx.ring.enter(sleep),
        };
        entered.map_err(IoError::failed("io_uring_enter"))?;
        let reaped = tx.reap();
        let nothing = tx.arrivals.is_empty() && tx.frames.is_empty() && !tx.woken;
        if idle && nothing && tx.fatal.is_none() {
            // Whatever else was reaped is for the next turn, which may start reads or sends for it.
            if !sleep
                && reaped == 0
                && let Some(came) = self.poller.look(|| tx.ring.has_news())
            {
                tx.counters.looked(came);
            }
            return Ok(());
        }
        self.poller.turn_brought(tx.brought());
        // Before the handler looks at what it was woken for: a wake that comes while it is at work
        // is for the next turn.
        if std::mem::take(&mut tx.woken) {
            sys::event::clear(&tx.files.wake);
            self.wake_armed = false;
        }
        handler.start_of_turn(&mut self.tx);
        self.hand_out_datagrams(handler);
        self.hand_out_frames(handler);
        handler.end_of_turn(&mut self.tx);
        self.return_frames();
        let tx = &mut self.tx;
        tx.send_alone();
        tx.release_all();
        tx.fatal.map_or(Ok(()), |errno| Err(IoError::of_errno(errno)))
    }
}
