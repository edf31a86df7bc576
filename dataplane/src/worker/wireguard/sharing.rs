//! Batches that other workers may open or seal for this one, in the order in which they came.
//!
//! Inbound: receives, slot and all, opened by whoever was free. Which ones are worth it: those of
//! many messages of a session that is known here. Whatever else comes meanwhile waits behind them,
//! unopened, so that nothing overtakes.
//!
//! Outbound: frames, slot and all, sealed into a send slot by whoever was free. Which ones are
//! worth it: those of many packets that leave in one send. Whatever else is sealed meanwhile, by
//! this worker as ever, is sent behind them ([`InOrder`]).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::io::{Arrival, Destination, Received, SEND_SLOTS, Slot, Transmit};
use crate::packet::merge::Piece;
use crate::table::sessions::Live;
use crate::wire::wireguard::messages::{Kind, kind, receiver};
use crate::worker::handover::{Exchange, Handover, Lane, Numbered, UNDER_WAY_MAX};

use super::run::Run;
use super::sealing::{Sealing, is_large};
use super::{Common, REJECT_AFTER_MS};

/// Messages that a receive must bring to be worth it: opening a few costs no more than the way to
/// another core and back.
const MESSAGES_MIN: usize = 16;
/// Frames are handed over while no more sends than this are under way: the others are for what this
/// worker seals itself.
const SENDS_UNDER_WAY_MAX: usize = SEND_SLOTS as usize / 2;
// Each send under way has a slot, so there is a number for every one.
const _: () = assert!(SEND_SLOTS as usize <= UNDER_WAY_MAX);

/// A batch on its way.
pub struct Job(Work);

pub(super) enum Work {
    /// To be opened, to a helper and back, or one that only keeps its place.
    Receive(Receive),
    /// To be sealed, to a helper and back.
    Frame(Sealing),
    /// Sealed by its owner, in its place behind others.
    Send(Outgoing),
}

/// A receive, slot and all.
pub(super) struct Receive {
    pub(super) slot: Slot,
    pub(super) arrival: Arrival,
    pub(super) opening: Option<Opening>,
}

/// What it takes to open its first messages, and what came of it.
pub(super) struct Opening {
    pub(super) live: Arc<Live>,
    pub(super) run: Run,
}

/// What [`Transmit::send`] takes.
pub(super) struct Outgoing {
    pub(super) slot: Slot,
    pub(super) to: Destination,
    pub(super) len: usize,
    pub(super) segment_len: usize,
}

/// What a turn has brought.
#[derive(Default)]
struct Brought {
    receives: usize,
    frames: usize,
    /// Those of them worth handing over.
    large_receives: usize,
    large_frames: usize,
}

/// This worker's share in all batches of an engine.
pub(super) struct Sharing {
    handover: Handover<Job>,
    /// Memory for the runs that are not under way.
    runs: Vec<Run>,
    brought: Brought,
}

impl Sharing {
    /// For worker `me`.
    pub(super) fn new(exchange: Arc<Exchange<Job>>, me: u16) -> Self {
        Self {
            handover: Handover::new(exchange, me.into()),
            runs: (0..UNDER_WAY_MAX).map(|_| Run::default()).collect(),
            brought: Brought::default(),
        }
    }

    /// Whether another receive can be taken on.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.handover.has_room(Lane::Inbound)
    }

    /// Takes on a receive, or gives it back to be dealt with at once, which under little load is
    /// every one.
    #[inline]
    pub(super) fn take_on(
        &mut self,
        common: &Common,
        slot: Slot,
        arrival: Arrival,
    ) -> Result<(), Slot> {
        let large = !arrival.truncated && arrival.count() >= MESSAGES_MIN;
        self.brought.receives += 1;
        self.brought.large_receives += usize::from(large);
        if !self.handover.is_active(Lane::Inbound, common.now_ms) {
            return Err(slot);
        }
        self.number(common, large, Receive { slot, arrival, opening: None })
    }

    fn number(&mut self, common: &Common, large: bool, mut receive: Receive) -> Result<(), Slot> {
        let live = if large { session(common, &mut receive) } else { None };
        receive.opening = live.and_then(|live| Some(Opening { live, run: self.runs.pop()? }));
        let to_be_opened = receive.opening.is_some();
        let job = Job(Work::Receive(receive));
        let numbered = if to_be_opened {
            self.handover.submit(Lane::Inbound, job, common.now_ms)
        } else {
            self.handover.line_up(Lane::Inbound, job)
        };
        if let Err(Job(Work::Receive(receive))) = numbered {
            return Err(receive.slot);
        }
        self.do_overdue(common);
        Ok(())
    }

    /// Notes a frame; true if others may seal it, should it turn out to be as it looks.
    #[inline]
    pub(super) fn wants(&mut self, common: &Common, frame: &[u8]) -> bool {
        let large = is_large(frame);
        self.brought.frames += 1;
        self.brought.large_frames += usize::from(large);
        large
            && self.handover.offers(Lane::Outbound, common.now_ms)
            && self.handover.under_way(Lane::Outbound) < SENDS_UNDER_WAY_MAX
    }

    /// Takes on a frame.
    ///
    /// # Errors
    /// Gives its slots back, the frame's and the place's, when there is no room, which there is
    /// while frames are [wanted](Self::wants).
    pub(super) fn take_on_frame(
        &mut self,
        common: &Common,
        sealing: Sealing,
    ) -> Result<(), (Slot, Slot)> {
        let job = Job(Work::Frame(sealing));
        let numbered = self.handover.submit(Lane::Outbound, job, common.now_ms);
        if let Err(Job(Work::Frame(sealing))) = numbered {
            return Err((sealing.frame, sealing.place));
        }
        self.do_overdue(common);
        Ok(())
    }

    /// Has a send wait for those under way.
    #[cold]
    fn line_up(&mut self, send: Outgoing, tx: &mut impl Transmit) {
        let numbered = self.handover.line_up(Lane::Outbound, Job(Work::Send(send)));
        // There is room for as many as there are slots.
        if let Err(Job(Work::Send(Outgoing { slot, to, len, segment_len }))) = numbered {
            tx.send(slot, to, len, segment_len);
        }
    }

    /// Takes what helpers have done.
    pub(super) fn start_of_turn(&mut self, common: &Common) {
        self.handover.awake();
        self.collect(common);
    }

    fn collect(&mut self, common: &Common) {
        common.counters.handed_over.add(self.handover.collect(common.now_ms));
    }

    /// The next batch of a direction in order, if it is done or not for others.
    #[inline]
    pub(super) fn release(&mut self, lane: Lane) -> Option<Work> {
        self.handover.release(lane).map(|job| job.0)
    }

    /// Takes the memory of a run back.
    pub(super) fn put_back(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// A turn is over. One that has brought nothing is for a batch that still waits, here or at
    /// another worker.
    pub(super) fn end_of_turn(&mut self, common: &Common) {
        let Brought { receives, frames, large_receives, large_frames } =
            std::mem::take(&mut self.brought);
        if receives > 0 {
            self.handover.turn(Lane::Inbound, large_receives);
        }
        if frames > 0 {
            self.handover.turn(Lane::Outbound, large_frames);
        }
        self.handover.look(common.now_ms);
        if receives + frames == 0
            && let Some(batch) = self.handover.next(common.now_ms)
        {
            self.work(common, batch);
        }
        self.collect(common);
    }

    /// Whether this worker may sleep; others are told.
    pub(super) fn may_sleep(&self) -> bool {
        self.handover.may_sleep()
    }

    fn do_overdue(&mut self, common: &Common) {
        while let Some(batch) = self.handover.overdue(common.now_ms) {
            self.work(common, batch);
        }
    }

    fn work(&mut self, common: &Common, mut batch: Numbered<Job>) {
        match &mut batch.job.0 {
            Work::Receive(Receive { slot, arrival, opening: Some(Opening { live, run }) }) => {
                let step = arrival.segment_len.max(1);
                let received = Received::new(slot, *arrival);
                run.open(&common.aead, Some(&live.session), received.bytes, 0, step);
            }
            Work::Frame(sealing) => sealing.seal(&common.aead),
            Work::Receive(_) | Work::Send(_) => {}
        }
        if self.handover.give_back(batch) {
            common.counters.helped.add(1);
        }
    }
}

/// The session of the receive's first message, if it is a transport message and the session has
/// not ended.
fn session(common: &Common, receive: &mut Receive) -> Option<Arc<Live>> {
    let bytes = Received::new(&mut receive.slot, receive.arrival).bytes;
    if kind(bytes.get(..receive.arrival.segment_len)?) != Some(Kind::Transport) {
        return None;
    }
    let live = common.shared.sessions.get(receiver(bytes)?)?;
    let live = live.as_ref().filter(|live| common.age_ms(live) < REJECT_AFTER_MS)?;
    Some(Arc::clone(live))
}

/// The way out for what this worker seals itself: behind the frames that are under way.
pub(super) struct InOrder<'a, T> {
    pub(super) tx: &'a mut T,
    pub(super) sharing: Option<&'a mut Sharing>,
}

impl<T: Transmit> Transmit for InOrder<'_, T> {
    #[inline]
    fn send_slot(&mut self) -> Option<Slot> {
        self.tx.send_slot()
    }

    #[inline]
    fn send(&mut self, slot: Slot, to: Destination, len: usize, segment_len: usize) {
        match &mut self.sharing {
            Some(sharing) if sharing.handover.under_way(Lane::Outbound) > 0 => {
                sharing.line_up(Outgoing { slot, to, len, segment_len }, self.tx);
            }
            _ => self.tx.send(slot, to, len, segment_len),
        }
    }

    #[inline]
    fn write(&mut self, queue: u16, head: &[u8], pieces: &[Piece], packets: u32, bytes: u32) {
        self.tx.write(queue, head, pieces, packets, bytes);
    }

    #[inline]
    fn heard(&mut self, from: SocketAddr, quiet_ms: Option<u64>) {
        self.tx.heard(from, quiet_ms);
    }

    #[inline]
    fn quiet(&mut self, to: SocketAddr, quiet_ms: Option<u64>) {
        self.tx.quiet(to, quiet_ms);
    }

    #[inline]
    fn give_back(&mut self, slot: Slot) {
        self.tx.give_back(slot);
    }

    #[inline]
    fn give_back_frame(&mut self, slot: Slot) {
        self.tx.give_back_frame(slot);
    }

    #[inline]
    fn merge_refused(&self) -> bool {
        self.tx.merge_refused()
    }
}
