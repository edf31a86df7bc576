//! WireGuard's packet path: seal what goes out, open what comes in.
//!
//! ```text
//! outbound:  frame ─► split ─► peer by allowed IPs ─► seal in the send slot ─► UDP send
//!                                   └─ no session yet: staging.rs
//! inbound:   tun write ◄─ merge ◄─ peer's allowed IPs? ◄─ replay window ◄─ open in the slot
//!                                   handshake messages: MAC1, then to control
//! ```
//!
//! A worker loads the peers' table and a session once a batch and keeps neither. What it cannot do
//! itself it tells control, over bounded channels.

mod inbound;
mod outbound;
pub mod run;
mod sealing;
mod sharing;
mod staging;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel::Sender;

use crate::io::counters::Counters;
use crate::io::{Arrival, Received, Slot, Transmit};
use crate::packet::merge::MergeConfig;
use crate::table::Shared;
use crate::table::event::Event;
use crate::table::peer::Peer;
use crate::table::sessions::Live;
use crate::table::shares::Shares;
use crate::wire::wireguard::aead::Aead;
use crate::wire::wireguard::session::{REJECT_AFTER_MS, REKEY_AFTER_MS};

use super::handover::{Exchange, Lane};
use super::steering::Steering;
use inbound::Inbound;
use outbound::Outbound;
pub use sharing::Job;
use sharing::{InOrder, Outgoing, Sharing, Work};

/// An initiator also asks for a new session when it receives on one so old that it may end before
/// the next packet (180 − 10 − 5 s).
const REKEY_ON_RECEIVE_MS: u64 = 165_000;

/// The way to control.
#[derive(Clone)]
pub struct ToControl {
    /// News of peers.
    pub events: Sender<Event>,
    /// Handshake messages of senders that proved nothing but to know our key.
    pub handshakes: Sender<Event>,
    /// Handshake messages with a valid MAC2: a flood of the others does not crowd them out.
    pub proven: Sender<Event>,
    /// How much of `proven` each source has.
    pub shares: Arc<Shares>,
}

/// What both directions of one worker need.
struct Common {
    shared: Arc<Shared>,
    control: ToControl,
    counters: Arc<Counters>,
    steering: Steering,
    /// Seals and opens for this worker alone.
    aead: Aead,
    /// The time of this turn.
    now_ms: u64,
}

impl Common {
    /// Asks for a session, once until control is done with it.
    fn want_session(&self, peer: &Arc<Peer>) {
        let wanted = &peer.session_wanted;
        if wanted.load(Ordering::Relaxed) || wanted.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.control.events.try_send(Event::SessionWanted(Arc::clone(peer))).is_err() {
            // The next packet asks again.
            wanted.store(false, Ordering::Release);
        }
    }

    fn watch(&self, peer: &Arc<Peer>) {
        if self.control.events.try_send(Event::Activity(Arc::clone(peer))).is_err() {
            peer.activity.watched.store(false, Ordering::Release);
        }
    }

    fn age_ms(&self, live: &Live) -> u64 {
        self.now_ms.saturating_sub(live.session.created_ms)
    }
}

/// Both directions of one worker.
pub struct WireGuard {
    common: Common,
    outbound: Outbound,
    inbound: Inbound,
    /// With several workers.
    sharing: Option<Sharing>,
}

impl WireGuard {
    /// For the worker of tun queue `queue`.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        control: ToControl,
        queue: u16,
        steering: Steering,
        merge: MergeConfig,
        counters: Arc<Counters>,
    ) -> Self {
        let now_ms = shared.clock.now_ms();
        let outbound = Outbound::new(queue, shared.generation.load(Ordering::Acquire));
        let common = Common { shared, control, counters, steering, aead: Aead::Ring, now_ms };
        Self { common, outbound, inbound: Inbound::new(merge), sharing: None }
    }

    /// Tells it the port of its sockets, by which it knows its own messages.
    #[must_use]
    pub fn listening_on(mut self, port: u16) -> Self {
        self.outbound.own_port = port;
        self
    }

    /// Has it seal and open by `aead` instead of ring.
    #[must_use]
    pub fn sealing_by(mut self, aead: Aead) -> Self {
        self.common.aead = aead;
        self
    }

    /// Has it open and seal batches together with the other workers of `exchange`, as number `me`.
    #[must_use]
    pub fn sharing_by(mut self, exchange: Arc<Exchange<Job>>, me: u16) -> Self {
        self.sharing = Some(Sharing::new(exchange, me));
        self
    }

    pub(super) fn start_of_turn(&mut self, tx: &mut impl Transmit) {
        self.common.now_ms = self.common.shared.clock.now_ms();
        if let Some(sharing) = &mut self.sharing {
            sharing.start_of_turn(&self.common);
            self.release(tx);
        }
        let sharing = self.sharing.as_mut();
        self.outbound.release_staged(&self.common, &mut InOrder { tx, sharing });
    }

    pub(super) fn frame(&mut self, frame: &[u8], tx: &mut impl Transmit) {
        let sharing = self.sharing.as_mut();
        self.outbound.frame(&self.common, frame, &mut InOrder { tx, sharing });
    }

    pub(super) fn take_on_frame(
        &mut self,
        slot: Slot,
        len: usize,
        tx: &mut impl Transmit,
    ) -> Result<(), Slot> {
        let Some(sharing) = &mut self.sharing else { return Err(slot) };
        if !sharing.wants(&self.common, slot.get(..len).unwrap_or_default()) {
            return Err(slot);
        }
        self.outbound.hand_over(&self.common, slot, len, sharing, tx)
    }

    pub(super) fn has_room(&self) -> bool {
        self.sharing.as_ref().is_none_or(Sharing::has_room)
    }

    pub(super) fn takes_on(&self) -> bool {
        self.sharing.is_some()
    }

    pub(super) fn take_on(&mut self, slot: Slot, arrival: Arrival) -> Result<(), Slot> {
        match &mut self.sharing {
            Some(sharing) => sharing.take_on(&self.common, slot, arrival),
            None => Err(slot),
        }
    }

    pub(super) fn may_sleep(&self) -> bool {
        self.sharing.as_ref().is_none_or(Sharing::may_sleep)
    }

    pub(super) fn datagrams(&mut self, received: Received<'_>, tx: &mut impl Transmit) {
        self.inbound.datagrams(&self.common, received, tx);
    }

    pub(super) fn end_of_turn(&mut self, tx: &mut impl Transmit) {
        if let Some(sharing) = &mut self.sharing {
            sharing.end_of_turn(&self.common);
            self.release(tx);
        }
        let sharing = self.sharing.as_mut();
        self.outbound.send(&mut InOrder { tx, sharing });
        self.inbound.flush(&self.common, tx);
    }

    /// Passes on the batches taken on whose turn has come.
    fn release(&mut self, tx: &mut impl Transmit) {
        for lane in Lane::ALL {
            while let Some(sharing) = &mut self.sharing
                && let Some(work) = sharing.release(lane)
            {
                self.pass_on(work, tx);
            }
        }
    }

    fn pass_on(&mut self, work: Work, tx: &mut impl Transmit) {
        match work {
            Work::Receive(mut receive) => {
                let received = Received::new(&mut receive.slot, receive.arrival);
                match receive.opening {
                    Some(mut opening) => {
                        self.inbound.opened(&self.common, received, &mut opening, tx);
                        if let Some(sharing) = &mut self.sharing {
                            sharing.put_back(opening.run);
                        }
                    }
                    None => self.inbound.datagrams(&self.common, received, tx),
                }
                tx.give_back(receive.slot);
            }
            Work::Frame(sealing) => self.outbound.sealed(&self.common, sealing, tx),
            Work::Send(Outgoing { slot, to, len, segment_len }) => {
                tx.send(slot, to, len, segment_len);
            }
        }
    }
}

#[cfg(test)]
mod handover_tests;
