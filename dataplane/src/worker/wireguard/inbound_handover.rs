//! Inbound batches that other workers may open for this one.
//!
//! In: receives, slot and all. Out: the same receives in the order they came, opened by whoever
//! was free. Which ones are worth it: those of many messages of a session that is known here.
//! Whatever else comes meanwhile waits behind them, unopened, so that nothing overtakes.

use std::sync::Arc;

use crate::io::{Arrival, Received, Slot};
use crate::table::sessions::Live;
use crate::wire::wireguard::messages::{Kind, kind, receiver};
use crate::worker::handover::{Exchange, Handover, Numbered, UNDER_WAY_MAX};

use super::run::Run;
use super::{Common, REJECT_AFTER_MS};

/// Messages that a receive must bring to be worth it: opening a few costs no more than the way to
/// another core and back.
const MESSAGES_MIN: usize = 16;

/// A receive on its way: to be opened, to a helper and back.
pub struct Job {
    pub(super) slot: Slot,
    pub(super) arrival: Arrival,
    pub(super) opening: Option<Opening>,
}

/// What it takes to open its first messages, and what came of it.
pub(super) struct Opening {
    pub(super) live: Arc<Live>,
    pub(super) run: Run,
}

/// This worker's share in all inbound batches of an engine.
pub(super) struct InboundHandover {
    handover: Handover<Job>,
    /// Memory for the runs that are not under way.
    runs: Vec<Run>,
    /// What this turn has brought: receives, those of them worth handing over, anything at all.
    received: bool,
    large: usize,
    anything: bool,
}

impl InboundHandover {
    /// For worker `me`.
    pub(super) fn new(exchange: Arc<Exchange<Job>>, me: u16) -> Self {
        Self {
            handover: Handover::new(exchange, me.into()),
            runs: (0..UNDER_WAY_MAX).map(|_| Run::default()).collect(),
            received: false,
            large: 0,
            anything: false,
        }
    }

    /// Notes that this turn has brought something else than datagrams.
    #[inline]
    pub(super) fn note_frame(&mut self) {
        self.anything = true;
    }

    /// Whether another receive can be taken on.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.handover.has_room()
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
        (self.received, self.anything) = (true, true);
        self.large += usize::from(large);
        if !self.handover.is_active(common.now_ms) {
            return Err(slot);
        }
        self.number(common, large, Job { slot, arrival, opening: None })
    }

    fn number(&mut self, common: &Common, large: bool, mut job: Job) -> Result<(), Slot> {
        let live = if large { session(common, &mut job) } else { None };
        job.opening = live.and_then(|live| Some(Opening { live, run: self.runs.pop()? }));
        let numbered = match job.opening {
            Some(_) => self.handover.submit(job, common.now_ms),
            None => self.handover.line_up(job),
        };
        numbered.map_err(|job| job.slot)?;
        while let Some(batch) = self.handover.overdue(common.now_ms) {
            self.open(common, batch);
        }
        Ok(())
    }

    /// Takes what helpers have opened.
    pub(super) fn start_of_turn(&mut self, common: &Common) {
        self.handover.awake();
        self.collect(common);
    }

    pub(super) fn collect(&mut self, common: &Common) {
        self.handover.collect(common.now_ms);
        common.counters.handed_over.add(self.handover.take_done_by_helpers());
    }

    /// The next receive in order, if it has been opened or is not for others.
    #[inline]
    pub(super) fn release(&mut self) -> Option<Job> {
        self.handover.release()
    }

    /// Takes the memory of a run back.
    pub(super) fn put_back(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// A turn is over. One that has brought nothing is for a batch that still waits, here or at
    /// another worker.
    pub(super) fn end_of_turn(&mut self, common: &Common) {
        if std::mem::take(&mut self.received) {
            self.handover.turn(std::mem::take(&mut self.large));
        }
        if !std::mem::take(&mut self.anything)
            && let Some(batch) = self.handover.next(common.now_ms)
        {
            self.open(common, batch);
        }
        self.collect(common);
    }

    /// Whether this worker may sleep; others are told.
    pub(super) fn may_sleep(&self) -> bool {
        self.handover.may_sleep()
    }

    fn open(&mut self, common: &Common, mut batch: Numbered<Job>) {
        let Job { slot, arrival, opening } = &mut batch.job;
        if let Some(Opening { live, run }) = opening {
            let step = arrival.segment_len.max(1);
            let received = Received::new(slot, *arrival);
            run.open(&common.aead, Some(&live.session), received.bytes, 0, step);
        }
        if self.handover.give_back(batch) {
            common.counters.helped.add(1);
        }
    }
}

/// The session of the receive's first message, if it is a transport message and the session has
/// not ended.
fn session(common: &Common, job: &mut Job) -> Option<Arc<Live>> {
    let bytes = Received::new(&mut job.slot, job.arrival).bytes;
    if kind(bytes.get(..job.arrival.segment_len)?) != Some(Kind::Transport) {
        return None;
    }
    let live = common.shared.sessions.get(receiver(bytes)?)?;
    let live = live.as_ref().filter(|live| common.age_ms(live) < REJECT_AFTER_MS)?;
    Some(Arc::clone(live))
}
