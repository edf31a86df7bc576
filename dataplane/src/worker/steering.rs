//! Which tun queue a flow belongs to, so that both its directions keep their order.
//!
//! The kernel picks the queue for an outbound packet by the queue to which the flow's inbound
//! packets were last written, or by a hash of its own where there were none (drivers/net/tun.c,
//! `tun_automq_select_queue`). All inbound packets of one peer arrive at one worker; did it write
//! them to its own queue, every flow would move there: the other workers would fall idle, and
//! packets still in a flow's old queue would be overtaken by those in the new one.
//!
//! So the worker writes a flow to the queue that *reads* it: remembered from outbound packets, or
//! chosen by hash for a flow first seen inbound. Then the kernel's choice never changes. Left as
//! a limit: after three seconds without inbound packets the kernel forgets the flow, and one that
//! was first seen inbound may then move to another queue once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const BITS: u32 = 14;
const BUCKETS: usize = 1 << BITS;

/// The table that all workers of one engine share. 64 KiB, no locks: a lost race costs one
/// packet's choice.
#[derive(Clone, Debug)]
pub struct Steering {
    /// `hash's upper bits | queue + 1`; 0 is empty.
    table: Option<Arc<[AtomicU32]>>,
    queues: u16,
}

impl Steering {
    /// For `queues` queues; with one there is nothing to steer.
    #[must_use]
    pub fn new(queues: u16) -> Self {
        let table = (queues > 1).then(|| (0..BUCKETS).map(|_| AtomicU32::new(0)).collect());
        Self { table, queues: queues.max(1) }
    }

    /// Whether flows have to be told apart at all.
    #[inline]
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.table.is_some()
    }

    /// Notes that the flow's outbound packets come from `queue`.
    #[inline]
    pub fn learn(&self, flow_hash: u32, queue: u16) {
        let Some(table) = &self.table else { return };
        let entry = (flow_hash & !0x3fff) | (u32::from(queue) + 1);
        let bucket = &table[flow_hash as usize % BUCKETS];
        // The common case writes nothing: the line stays shared between the cores.
        if bucket.load(Ordering::Relaxed) != entry {
            bucket.store(entry, Ordering::Relaxed);
        }
    }

    /// The queue for the flow's inbound packets.
    #[inline]
    #[must_use]
    pub fn queue_for(&self, flow_hash: u32) -> u16 {
        let Some(table) = &self.table else { return 0 };
        let entry = table[flow_hash as usize % BUCKETS].load(Ordering::Relaxed);
        let queue = (entry & 0x3fff) as u16;
        if queue > 0 && queue <= self.queues && (entry ^ flow_hash) & !0x3fff == 0 {
            return queue - 1;
        }
        // The hash's upper half: the lower one chose the bucket.
        u16::try_from(((flow_hash >> 16) * u32::from(self.queues)) >> 16).unwrap_or(0)
    }
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
        // Same bucket, another flow: no false memory.
        assert_eq!(steering.queue_for(0xf234_5678), 3, "by hash: 0xf234 * 4 >> 16");
        steering.learn(0xf234_5678, 1);
        assert_eq!(steering.queue_for(0xf234_5678), 1);
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
    }
}
