//! Several cores for the traffic of one peer: batches are handed over, their order is kept.
//!
//! All messages of a WireGuard peer arrive at one worker, and all packets of one flow leave by
//! one. What costs most of the time there, the cryptography, needs nothing of that worker; what
//! needs its state (the replay window, merging, the tun write, the send) costs little. So a worker
//! under load offers whole batches, whoever is idle does the former, and the owner does the
//! latter, in the order in which it took the batches on, which is the order of each flow.
//!
//! ```text
//! owner    receive, frame ─► number ─► offer ─────┬────────► its own ──► release in order
//!                       (sequencer) (exchange)    │ idle?                  ▲    └─► tun, UDP
//! helper                                          └► open or seal ─► give back
//! ```
//!
//! - the two directions are [`Lane`]s: each has an order of its own, and its own idea of whether
//!   handing over pays; helpers are the same for both;
//! - [`policy`]: under little load nothing is handed over, and helpers that do not come are not
//!   called again and again; [`cores`]: nor are they where there is no core for them;
//! - an owner without anything else to do takes back what it offered: it waits for nothing but the
//!   one batch that each helper has in hand;
//! - every queue is bounded, all memory is there from the start, nobody waits for a queue.

pub mod cores;
pub mod exchange;
pub mod policy;
mod run_delay;
pub mod sequencer;

use std::sync::Arc;

use cores::Cores;
pub use exchange::{Exchange, Numbered, Wake};
use policy::Policy;
use sequencer::Sequencer;

/// Batches that a worker may have under way in each direction: as many as half the receive slots of
/// a socket, or all its send slots.
pub const UNDER_WAY_MAX: usize = 64;
/// Offered batches that may wait for each idle worker: it shall not run out of them while their
/// owner is at one itself.
const WAITING_PER_HELPER: usize = 2;

/// A direction, whose batches keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// wire → tun: batches to be opened.
    Inbound,
    /// tun → wire: batches to be sealed.
    Outbound,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];
}

/// One worker's part: as the owner of batches, and as a helper of others.
pub struct Handover<J> {
    me: usize,
    exchange: Arc<Exchange<J>>,
    sequencers: [Sequencer<J>; Lane::ALL.len()],
    policies: [Policy; Lane::ALL.len()],
    cores: Cores,
    /// As the others were told.
    busy: bool,
    /// Where to look first for one to wake, and for work of others: everybody's turn comes.
    wake_next: usize,
    help_next: usize,
}

impl<J> Handover<J> {
    /// For worker `me`.
    #[must_use]
    pub fn new(exchange: Arc<Exchange<J>>, me: usize) -> Self {
        Self {
            me,
            exchange,
            sequencers: Lane::ALL.map(|_| Sequencer::new(UNDER_WAY_MAX)),
            policies: Lane::ALL.map(|_| Policy::default()),
            cores: Cores::default(),
            busy: false,
            wake_next: me + 1,
            help_next: me + 1,
        }
    }

    /// Notes a turn that found so many batches worth handing over.
    #[inline]
    pub fn turn(&mut self, lane: Lane, batches: usize) {
        self.policies[lane as usize].turn(batches);
        let busy = self.policies.iter().any(Policy::is_busy);
        if busy != self.busy {
            self.busy = busy;
            self.exchange.set_busy(self.me, busy);
        }
    }

    /// Whether batches that come now are to be offered.
    #[inline]
    #[must_use]
    pub fn offers(&self, lane: Lane, now_ms: u64) -> bool {
        !self.cores.are_wanting() && self.policies[lane as usize].offers(now_ms)
    }

    /// Looks whether there are cores for helpers. To be called now and then by the worker itself.
    #[inline]
    pub fn look(&mut self, now_ms: u64) {
        if self.busy {
            self.cores.look(now_ms);
        }
    }

    /// Whether what comes now must be numbered: it is to be offered, or others are before it.
    #[inline]
    #[must_use]
    pub fn is_active(&self, lane: Lane, now_ms: u64) -> bool {
        self.under_way(lane) > 0 || self.offers(lane, now_ms)
    }

    /// How many batches are under way.
    #[inline]
    #[must_use]
    pub fn under_way(&self, lane: Lane) -> usize {
        self.sequencers[lane as usize].under_way()
    }

    /// Whether another one can be taken on.
    #[inline]
    #[must_use]
    pub fn has_room(&self, lane: Lane) -> bool {
        self.sequencers[lane as usize].has_room()
    }

    /// Numbers something that is not for others; it is released when its turn comes.
    ///
    /// # Errors
    /// Gives it back when there is no room.
    pub fn line_up(&mut self, lane: Lane, job: J) -> Result<(), J> {
        let sequencer = &mut self.sequencers[lane as usize];
        let Some(ticket) = sequencer.number() else { return Err(job) };
        sequencer.finish(ticket, job);
        Ok(())
    }

    /// Numbers a batch and offers it. What is then [overdue](Self::overdue) this worker should do
    /// before it takes on more.
    ///
    /// # Errors
    /// Gives it back when there is no room.
    pub fn submit(&mut self, lane: Lane, job: J, now_ms: u64) -> Result<(), J> {
        let Some(ticket) = self.sequencers[lane as usize].number() else { return Err(job) };
        let batch = Numbered { owner: self.me, lane, ticket, offered_ms: now_ms, job };
        self.exchange.offer(batch).map_err(|batch| batch.job)?;
        if self.offers(lane, now_ms) {
            let waiting = self.exchange.offered_count(self.me);
            let helpers = self.exchange.helpers(self.me);
            // Those awake come by when they have done what they are at.
            if waiting > helpers.idle - helpers.asleep
                && let Some(woken) = self.exchange.wake_one(self.me, self.wake_next)
            {
                self.wake_next = woken + 1;
            }
        }
        Ok(())
    }

    /// The oldest batch on offer, when nobody else would come to it soon. To be done and
    /// [given back](Self::give_back).
    pub fn overdue(&mut self, now_ms: u64) -> Option<Numbered<J>> {
        let waiting = self.exchange.offered_count(self.me);
        let overdue = waiting > 0
            && (!Lane::ALL.iter().any(|&lane| self.offers(lane, now_ms))
                || waiting > self.exchange.helpers(self.me).idle * WAITING_PER_HELPER);
        if overdue { self.take_back(now_ms) } else { None }
    }

    /// Takes what helpers have done; returns how many batches that is.
    pub fn collect(&mut self, now_ms: u64) -> u64 {
        let mut count = 0;
        while let Some(batch) = self.exchange.returned(self.me) {
            count += 1;
            let away_ms = now_ms.saturating_sub(batch.offered_ms);
            self.policies[batch.lane as usize].done_by_helper(away_ms, now_ms);
            self.finish(batch);
        }
        count
    }

    /// What is next in order, if it is done.
    #[inline]
    pub fn release(&mut self, lane: Lane) -> Option<J> {
        self.sequencers[lane as usize].release()
    }

    /// For a worker that has nothing else to do: a batch of its own that nobody has taken, else one
    /// that another worker offers. To be done and [given back](Self::give_back).
    pub fn next(&mut self, now_ms: u64) -> Option<Numbered<J>> {
        if let Some(own) = self.take_back(now_ms) {
            return Some(own);
        }
        if self.busy {
            return None;
        }
        let batch = self.exchange.take_of_others(self.me, self.help_next)?;
        self.help_next = batch.owner + 1;
        Some(batch)
    }

    /// Passes on what is done: to be released, or to its owner. True if it was another worker's.
    pub fn give_back(&mut self, batch: Numbered<J>) -> bool {
        let others = batch.owner != self.me;
        if others {
            self.exchange.give_back(batch);
        } else {
            self.finish(batch);
        }
        others
    }

    /// Says that this worker is about to sleep; false if there is something to do.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.exchange.may_sleep(self.me, !self.busy)
    }

    /// Says that this worker is awake.
    #[inline]
    pub fn awake(&self) {
        self.exchange.awake(self.me);
    }

    fn take_back(&mut self, now_ms: u64) -> Option<Numbered<J>> {
        let batch = self.exchange.take(self.me)?;
        self.policies[batch.lane as usize].taken_back(now_ms);
        Some(batch)
    }

    fn finish(&mut self, batch: Numbered<J>) {
        self.sequencers[batch.lane as usize].finish(batch.ticket, batch.job);
    }
}

#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod tests;
