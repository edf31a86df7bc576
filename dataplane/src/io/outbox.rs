//! What becomes of a send: the one place that reads its result, for both backends.
//!
//! In: results of the send queue's front, in order. Out: free slots, counted packets, and
//! [`Notice`]s for control. Nothing is dropped without a counter.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::counters::{Counters, DropReason};
use super::gso::GsoTable;
use super::{Datagrams, SENDS_PER_FRAME, SLOTS_PER_FRAME};
use crate::ring::memory::Slot;
use crate::ring::sends::SendQueue;

/// News for control, over a bounded channel; lost when that is full.
#[derive(Clone, Copy, Debug)]
pub enum Notice {
    /// A path refused `UDP_SEGMENT`; the packets went out singly.
    GsoRefused {
        /// The destination.
        to: SocketAddr,
        /// Why.
        errno: i32,
        /// Bytes of the refused segments.
        segment_len: usize,
    },
    /// A path that had refused takes it again.
    GsoRestored {
        /// The destination.
        to: SocketAddr,
    },
    /// Our address towards a peer is no longer ours; the kernel picks another one.
    SourceLost {
        /// The destination.
        to: SocketAddr,
    },
    /// The tun refused a merged frame; packets are written singly from now on.
    MergeRefused {
        /// Why.
        errno: i32,
    },
}

/// What to do after a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The front is gone; go on with the next.
    Next,
    /// The socket is full: wait until it is writable, then try the same again.
    Blocked,
}

/// Free send slots and the fate of used ones.
pub struct Outbox {
    free: Vec<Slot>,
    /// Slots that are neither free nor queued: being filled, here or at another worker.
    taken: usize,
    gso: GsoTable,
    counters: Arc<Counters>,
    notices: Sender<Notice>,
}

impl Outbox {
    /// All of `slots` free.
    #[must_use]
    pub fn new(
        slots: Vec<Slot>,
        gso: bool,
        counters: Arc<Counters>,
        notices: Sender<Notice>,
    ) -> Self {
        Self { free: slots, taken: 0, gso: GsoTable::new(gso), counters, notices }
    }

    /// A free slot, the one used last first: it is still in the cache.
    #[inline]
    pub fn take(&mut self) -> Option<Slot> {
        let slot = self.free.pop()?;
        self.taken += 1;
        Some(slot)
    }

    /// Whether a frame would find send slots and room in the queue, besides what is being filled;
    /// otherwise it is better left with the kernel.
    #[inline]
    #[must_use]
    pub fn has_room(&self, sends: &SendQueue) -> bool {
        let sends_per_slot =
            if self.gso.allows_all() { 1 } else { SENDS_PER_FRAME / SLOTS_PER_FRAME };
        self.free.len() >= SLOTS_PER_FRAME
            && sends.room() >= SENDS_PER_FRAME + self.taken * sends_per_slot
    }

    /// Slots that are free.
    #[inline]
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Queues `datagrams`, segmented if their path takes that.
    pub fn queue(&mut self, sends: &mut SendQueue, slot: Slot, datagrams: Datagrams) {
        self.taken = self.taken.saturating_sub(1);
        let segmented = datagrams.count() == 1
            || self.gso.allows(datagrams.to.endpoint.to, datagrams.segment_len);
        if let Err(slot) = sends.push(slot, datagrams, segmented) {
            self.counters.count_drop(DropReason::SendSlotsBusy, datagrams.count() as u64);
            self.free.push(slot);
        }
    }

    /// Settles the front of the queue, tried with `result` (bytes, or an errno below zero).
    pub fn settle(
        &mut self,
        sends: &mut SendQueue,
        result: i32,
        socket: BorrowedFd<'_>,
    ) -> Settled {
        let Some(front) = sends.get(0) else { return Settled::Next };
        let errno = -result;
        match errno {
            libc::EAGAIN => return Settled::Blocked,
            // Nothing wrong with this one: it goes again.
            libc::EINTR | libc::ECANCELED => return Settled::Next,
            _ if result >= 0 => self.sent(front),
            // The address that the peer was last heard at may be gone from this host; tried
            // before a refusal of segmentation, which has errors in common.
            _ if front.to.endpoint.source.is_some() && may_be_the_source(errno) => {
                sends.forget_front_source();
                let _ = self.notices.try_send(Notice::SourceLost { to: front.to.endpoint.to });
                return Settled::Next;
            }
            _ if front.count() > 1 && GsoTable::is_refusal(errno) => {
                self.send_singly(sends, front, errno, socket);
            }
            _ => self.counters.count_drop(drop_reason(errno), front.count() as u64),
        }
        if let Some((_, Some(slot))) = sends.pop() {
            self.free.push(slot);
        }
        Settled::Next
    }

    /// Settles datagrams that were never queued.
    #[inline]
    pub fn sent_alone(&mut self, slot: Slot, datagrams: Datagrams) {
        self.taken = self.taken.saturating_sub(1);
        self.sent(datagrams);
        self.free.push(slot);
    }

    #[inline]
    fn sent(&mut self, datagrams: Datagrams) {
        let count = datagrams.count();
        let outbound = &self.counters.outbound;
        outbound.packets.add(count as u64);
        outbound.bytes.add(datagrams.len as u64);
        self.counters.sends().count(count);
        if count > 1 && self.gso.passed(datagrams.to.endpoint.to, datagrams.segment_len) {
            let _ = self.notices.try_send(Notice::GsoRestored { to: datagrams.to.endpoint.to });
        }
    }

    fn send_singly(
        &mut self,
        sends: &SendQueue,
        front: Datagrams,
        errno: i32,
        socket: BorrowedFd<'_>,
    ) {
        let (to, segment_len) = (front.to.endpoint.to, front.segment_len);
        self.counters.gso_refused.add(1);
        if self.gso.refuse(to, segment_len, errno) {
            let _ = self.notices.try_send(Notice::GsoRefused { to, errno, segment_len });
        }
        let counters = &self.counters;
        sends.send_front_singly(socket, |len, result| match result {
            Ok(_) => {
                counters.outbound.packets.add(1);
                counters.outbound.bytes.add(len as u64);
                counters.sends().count(1);
            }
            Err(error) => counters.count_drop(drop_reason(error.raw_os_error().unwrap_or(0)), 1),
        });
    }
}

/// Errors of a send from an address that is not ours (any more): net/ipv4/route.c
/// `ip_route_output_key_hash_rcu`, net/ipv6/datagram.c `ip6_datagram_send_ctl`.
fn may_be_the_source(errno: i32) -> bool {
    matches!(
        errno,
        libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENODEV
    )
}

/// Which counter a send's errno goes to.
fn drop_reason(errno: i32) -> DropReason {
    match errno {
        libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::EADDRNOTAVAIL
        | libc::ENODEV
        | libc::ECONNREFUSED => DropReason::SendUnreachable,
        libc::EPERM | libc::EACCES => DropReason::SendDenied,
        libc::EMSGSIZE => DropReason::SendTooBig,
        libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN => DropReason::SendNoBuffers,
        _ => DropReason::SendFailed,
    }
}
