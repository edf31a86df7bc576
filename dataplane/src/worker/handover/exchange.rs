//! Where workers meet: what each one offers, what it gets back, whether it sleeps.
//!
//! A desk a worker, with two bounded queues: offered batches, which whoever is idle takes, the
//! oldest first, their owner among them; and batches that helpers have done, which only the owner
//! takes. Nobody ever waits at a desk. Who goes to sleep says so first and then looks once more,
//! who leaves something looks afterwards whether somebody sleeps: one of the two sees the other,
//! and a worker that is awake is never signalled.

use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use super::sequencer::Ticket;
use super::{Lane, UNDER_WAY_MAX};

/// Wakes a worker from outside.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// A numbered batch on its way.
#[derive(Debug)]
pub struct Numbered<J> {
    /// Whose it is.
    pub(super) owner: usize,
    pub(super) lane: Lane,
    pub(super) ticket: Ticket,
    pub(super) offered_ms: u64,
    /// What is to be done, or has been.
    pub job: J,
}

/// What one worker shows the others.
struct Desk<J> {
    offered: ArrayQueue<Numbered<J>>,
    returned: ArrayQueue<Numbered<J>>,
    state: CachePadded<State>,
    wake: Wake,
}

/// Read by whoever offers.
#[derive(Default)]
struct State {
    /// Sleeps, or is about to.
    asleep: AtomicBool,
    /// Has enough to do by itself.
    busy: AtomicBool,
}

/// The desks of all workers of an engine.
pub struct Exchange<J>(Box<[Desk<J>]>);

/// Workers that have nothing better to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Helpers {
    pub(super) idle: usize,
    /// Those of them that sleep.
    pub(super) asleep: usize,
}

impl<J> Exchange<J> {
    /// One desk for each of `wakes`, with room for all that a worker may have under way.
    #[must_use]
    pub fn new(wakes: impl IntoIterator<Item = Wake>) -> Self {
        let capacity = UNDER_WAY_MAX * Lane::ALL.len();
        let desk = |wake| Desk {
            offered: ArrayQueue::new(capacity),
            returned: ArrayQueue::new(capacity),
            state: CachePadded::default(),
            wake,
        };
        Self(wakes.into_iter().map(desk).collect())
    }

    pub(super) fn offer(&self, batch: Numbered<J>) -> Result<(), Numbered<J>> {
        self.0[batch.owner].offered.push(batch)
    }

    pub(super) fn offered_count(&self, owner: usize) -> usize {
        self.0[owner].offered.len()
    }

    pub(super) fn take(&self, owner: usize) -> Option<Numbered<J>> {
        self.0[owner].offered.pop()
    }

    /// The oldest batch that a worker other than `me` offers, looked for from desk `first` on.
    pub(super) fn take_of_others(&self, me: usize, first: usize) -> Option<Numbered<J>> {
        let desks = (first..self.0.len()).chain(0..first.min(self.0.len()));
        desks.filter(|&desk| desk != me).find_map(|desk| self.take(desk))
    }

    /// Gives a batch that is done back to its owner, and wakes the owner if it sleeps.
    pub(super) fn give_back(&self, batch: Numbered<J>) {
        let owner = batch.owner;
        // There is room for all that an owner may have under way.
        let _ = self.0[owner].returned.push(batch);
        fence(Ordering::SeqCst);
        self.wake_if_asleep(owner);
    }

    pub(super) fn returned(&self, owner: usize) -> Option<Numbered<J>> {
        self.0[owner].returned.pop()
    }

    pub(super) fn set_busy(&self, me: usize, busy: bool) {
        self.0[me].state.busy.store(busy, Ordering::Relaxed);
    }

    /// Of all workers but `me`.
    pub(super) fn helpers(&self, me: usize) -> Helpers {
        // After whatever was offered just now.
        fence(Ordering::SeqCst);
        let mut helpers = Helpers { idle: 0, asleep: 0 };
        for (worker, desk) in self.0.iter().enumerate() {
            if worker != me && !desk.state.busy.load(Ordering::Relaxed) {
                helpers.idle += 1;
                helpers.asleep += usize::from(desk.state.asleep.load(Ordering::Relaxed));
            }
        }
        helpers
    }

    /// Wakes one worker that sleeps and has nothing to do, looked for from desk `first` on, and
    /// returns which.
    pub(super) fn wake_one(&self, me: usize, first: usize) -> Option<usize> {
        let desks = (first..self.0.len()).chain(0..first.min(self.0.len()));
        let idle =
            |&worker: &usize| worker != me && !self.0[worker].state.busy.load(Ordering::Relaxed);
        desks.filter(idle).find(|&worker| self.wake_if_asleep(worker))
    }

    fn wake_if_asleep(&self, worker: usize) -> bool {
        let Desk { state, wake, .. } = &self.0[worker];
        // The look before the swap leaves the line of one that is awake alone.
        let asleep =
            state.asleep.load(Ordering::Relaxed) && state.asleep.swap(false, Ordering::AcqRel);
        if asleep {
            wake();
        }
        asleep
    }

    /// Says that worker `me` is about to sleep; false, and it is not, if something waits for it.
    /// `helps`: what others offer is for it too.
    pub(super) fn may_sleep(&self, me: usize, helps: bool) -> bool {
        let asleep = &self.0[me].state.asleep;
        asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let waits = !self.0[me].returned.is_empty()
            || !self.0[me].offered.is_empty()
            || (helps && self.0.iter().any(|desk| !desk.offered.is_empty()));
        if waits {
            asleep.store(false, Ordering::Relaxed);
        }
        !waits
    }

    /// Says that worker `me` is awake.
    pub(super) fn awake(&self, me: usize) {
        let asleep = &self.0[me].state.asleep;
        if asleep.load(Ordering::Relaxed) {
            asleep.store(false, Ordering::Relaxed);
        }
    }
}
