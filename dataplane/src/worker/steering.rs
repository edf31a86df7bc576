//! Which tun queue a flow belongs to, so that both its directions keep their order.
//!
//! The kernel picks the queue for an outbound packet by the queue to which the flow's inbound
//! packets were last written, or by a hash of its own where there were none (drivers/net/tun.c,
//! `tun_automq_select_queue`). All inbound packets of one peer arrive at one worker; did it write
//! them to its own queue, every flow would move there: the other workers would fall idle, and
//! packets still in a flow's old queue would be overtaken by those in the new one.
//!
//! Where we may, the kernel therefore picks by the flow alone (`sys::steer`), and a worker writes
//! to its own queue. Elsewhere the worker writes a flow to the queue that *reads* it: remembered
//! from its first outbound packet, or chosen by hash if it was first seen inbound. What is
//! remembered stays: packets that still come from a queue the flow has left must not call it back.
//! Then the kernel's choice changes at most once, when a flow starts in both directions at the same
//! instant. Left as a limit of the second way: after three seconds without inbound packets the
//! kernel forgets a flow, which may then move to the queue of the kernel's own hash and, with the
//! next inbound packet, back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const BITS: u32 = 14;
const BUCKETS: usize = 1 << BITS;
/// The part of an entry that holds the queue; the rest is the hash's, less the bucket's own bits.
const QUEUE_MASK: u32 = (1 << BITS) - 1;

/// The table that all workers of one engine share. 64 KiB, no locks: a lost race costs one
/// packet's choice.
#[derive(Clone, Debug)]
pub struct Steering {
    /// `hash's upper bits | queue + 1`; 0 is empty.
    table: Option<Arc<[AtomicU32]>>,
    queues: u16,
    /// Where this worker writes, without a table.
    own: u16,
}

impl Steering {
    /// For `queues` queues, among which the kernel does not pick by the flow; with one there is
    /// nothing to steer.
    #[must_use]
    pub fn new(queues: u16) -> Self {
        let table = (queues > 1).then(|| (0..BUCKETS).map(|_| AtomicU32::new(0)).collect());
        Self { table, queues: queues.max(1), own: 0 }
    }

    /// For queues among which the kernel picks by the flow.
    #[must_use]
    pub fn by_kernel() -> Self {
        Self { table: None, queues: 1, own: 0 }
    }

    /// The same for the worker of `queue`.
    #[must_use]
    pub fn of_worker(&self, queue: u16) -> Self {
        Self { own: queue, ..self.clone() }
    }

    /// Whether flows have to be told apart at all.
    #[inline]
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.table.is_some()
    }

    /// Notes that the flow's outbound packets come from `queue`, unless it has a queue already.
    #[inline]
    pub fn learn(&self, flow_hash: u32, queue: u16) {
        let Some(table) = &self.table else { return };
        let bucket = &table[flow_hash as usize % BUCKETS];
        // The common case writes nothing: the line stays shared between the cores.
        if self.remembered(bucket.load(Ordering::Relaxed), flow_hash).is_none() {
            bucket.store(entry(flow_hash, queue), Ordering::Relaxed);
        }
    }

    /// The queue for the flow's inbound packets, from now on.
    #[inline]
    #[must_use]
    pub fn queue_for(&self, flow_hash: u32) -> u16 {
        let Some(table) = &self.table else { return self.own };
        let bucket = &table[flow_hash as usize % BUCKETS];
        self.remembered(bucket.load(Ordering::Relaxed), flow_hash).unwrap_or_else(|| {
            let queue = self.hashed(flow_hash);
            bucket.store(entry(flow_hash, queue), Ordering::Relaxed);
            queue
        })
    }

    /// The queue that `entry` holds, if it is this flow's.
    #[inline]
    fn remembered(&self, entry: u32, flow_hash: u32) -> Option<u16> {
        let queue = u16::try_from(entry & QUEUE_MASK).unwrap_or(0);
        let known = queue > 0 && queue <= self.queues && (entry ^ flow_hash) & !QUEUE_MASK == 0;
        known.then(|| queue - 1)
    }

    /// By the hash's upper half: the lower one chose the bucket.
    fn hashed(&self, flow_hash: u32) -> u16 {
        u16::try_from(((flow_hash >> 16) * u32::from(self.queues)) >> 16).unwrap_or(0)
    }
}

fn entry(flow_hash: u32, queue: u16) -> u32 {
    (flow_hash & !QUEUE_MASK) | (u32::from(queue) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learned_queue_wins_over_the_hash() {
        let steering = Steering::new(4);
        for (flow, queue) in [(0x1234_5678, 3), (0xffff_0001, 0), (7, 2)] {
            steering.learn(flow, queue);
            assert_eq!(steering.queue_for(flow), queue);
        }
        // Same bucket, another flow: no false memory, but a place of its own from then on.
        assert_eq!(steering.queue_for(0xf234_5678), 3, "by hash: 0xf234 * 4 >> 16");
        steering.learn(0x1234_5678, 1);
        assert_eq!(steering.queue_for(0x1234_5678), 1);
    }

    #[test]
    fn a_flow_is_not_called_back_to_a_queue_it_left() {
        let steering = Steering::new(4);
        let flow = 0xf000_0001;
        assert_eq!(steering.queue_for(flow), 3);
        // Packets that were waiting in queue 0 when the first inbound one moved the flow.
        steering.learn(flow, 0);
        assert_eq!(steering.queue_for(flow), 3);
    }

    #[test]
    fn hashes_spread_over_all_queues_and_none_beyond() {
        let steering = Steering::new(3);
        let mut seen = [0; 3];
        for flow in (0..=u32::MAX).step_by(1 << 16) {
            seen[usize::from(steering.queue_for(flow))] += 1;
        }
        assert!(seen.iter().all(|&count| count > 20_000), "{seen:?}");
        assert_eq!(Steering::new(1).queue_for(u32::MAX), 0);
        let steering = Steering::by_kernel().of_worker(2);
        assert_eq!((steering.is_active(), steering.queue_for(u32::MAX)), (false, 2));
    }
}
