//! Messages of one session, opened where they were received: the work that any core can do.
//!
//! In: the bytes of a receive and a session. Out: which messages opened, with their counters, for
//! the worker that admits them. No state of a worker is needed, so a run can be handed over.

use crate::wire::wireguard::aead::Aead;
use crate::wire::wireguard::messages::{Kind, kind, receiver};
use crate::wire::wireguard::session::Session;

/// Messages opened before the replay window is asked.
const RUN_MAX: usize = 128;

/// A message that opened: where it lies in the receive, and its counter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opened {
    /// Bytes before it.
    pub offset: usize,
    /// Its bytes, header and tag included.
    pub len: usize,
    /// What the replay window is asked for.
    pub counter: u64,
}

/// What became of the messages of a run.
#[derive(Debug)]
pub struct Run {
    opened: Box<[Opened; RUN_MAX]>,
    count: usize,
    /// Messages that did not open.
    pub(super) failed: u64,
    /// Where the first message behind the run begins.
    pub(super) end: usize,
}

impl Default for Run {
    fn default() -> Self {
        Self { opened: Box::new([Opened::default(); RUN_MAX]), count: 0, failed: 0, end: 0 }
    }
}

impl Run {
    /// Opens the messages of `bytes`, one every `step` bytes from `offset` on, as long as they are
    /// of the same session as the first. Without a `session` all of them fail.
    #[inline]
    pub fn open(
        &mut self,
        aead: &Aead,
        session: Option<&Session>,
        bytes: &mut [u8],
        offset: usize,
        step: usize,
    ) {
        // In registers as long as it goes on.
        let (mut count, mut failed, mut end) = (0, 0, offset);
        let first = bytes.get(offset..).and_then(receiver);
        while end < bytes.len() && count < RUN_MAX {
            let message = &mut bytes[end..];
            let len = step.min(message.len());
            let message = &mut message[..len];
            if kind(message) != Some(Kind::Transport) || receiver(message) != first {
                break;
            }
            match session.and_then(|session| session.open(aead, message)) {
                Some(counter) => {
                    self.opened[count] = Opened { offset: end, len, counter };
                    count += 1;
                }
                None => failed += 1,
            }
            end += len;
        }
        (self.count, self.failed, self.end) = (count, failed, end);
    }

    /// The messages that opened and were kept, in order.
    #[inline]
    #[must_use]
    pub fn opened(&self) -> &[Opened] {
        &self.opened[..self.count]
    }

    /// Keeps those that `admit` admits, asked in order; returns how many it does not.
    #[inline]
    pub fn keep(&mut self, mut admit: impl FnMut(u64) -> bool) -> usize {
        let count = self.count;
        let mut kept = 0;
        for i in 0..count.min(RUN_MAX) {
            if admit(self.opened[i].counter) {
                if kept < i {
                    self.opened[kept] = self.opened[i];
                }
                kept += 1;
            }
        }
        self.count = kept;
        count - kept
    }
}
