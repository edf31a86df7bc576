//! What becomes of a tun write: the one place that reads its result, for both backends.

use std::sync::Arc;

use crossbeam::channel::Sender;

use super::counters::{Counters, DropReason};
use super::device_gone;
use super::outbox::Notice;

/// Counts tun writes and remembers whether merged ones are refused.
pub(super) struct Delivery {
    counters: Arc<Counters>,
    notices: Sender<Notice>,
    merge_refused: bool,
}

impl Delivery {
    pub(super) fn new(counters: Arc<Counters>, notices: Sender<Notice>) -> Self {
        Self { counters, notices, merge_refused: false }
    }

    /// Whether merging must stop.
    pub(super) fn merge_refused(&self) -> bool {
        self.merge_refused
    }

    /// Settles a write of `packets` wire packets of `bytes` bytes that ended with `result` (bytes,
    /// or an errno below zero). An error is returned when the device is gone.
    #[inline]
    pub(super) fn settle(&mut self, result: i32, packets: u32, bytes: u32) -> Result<(), i32> {
        if result >= 0 {
            let inbound = &self.counters.inbound;
            inbound.packets.add(packets.into());
            inbound.bytes.add(bytes.into());
            self.counters.tun_writes().count(packets as usize);
            return Ok(());
        }
        let reason =
            if result == -libc::EIO { DropReason::TunDown } else { DropReason::TunRejected };
        self.counters.count_drop(reason, packets.into());
        match -result {
            errno if device_gone(errno) => Err(errno),
            // Out of memory passes; only these say that the kernel does not take merged frames.
            errno @ (libc::EINVAL | libc::EOPNOTSUPP) if packets > 1 && !self.merge_refused => {
                self.merge_refused = true;
                let _ = self.notices.try_send(Notice::MergeRefused { errno });
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
