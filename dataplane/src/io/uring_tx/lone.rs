//! One send or one write that is all of a turn: by a call of its own, past the ring.
//!
//! The first of each kind is held back until there is a second, or the turn ends.

use super::Tx;
use crate::io::{Datagrams, Slot, outcome};

impl Tx {
    /// Sends and writes what a turn has brought forth, if it is one of each at most: a packet that
    /// comes alone is on its way sooner by a call of its own, and nothing is left to be reaped.
    pub(in crate::io) fn send_alone(&mut self) {
        if let Some((slot, datagrams)) = self.alone.take() {
            self.send_bytes(slot, datagrams);
        } else if self.chained == 0 && !self.blocked && self.ring.sends.len() == 1 {
            let socket = self.ring.sends.get(0).map_or(0, |front| front.socket);
            self.settle(outcome(self.ring.sends.send_front(self.files.get(socket))));
            self.queued_bytes = 0;
        }
        self.wrote = false;
        if let Some((index, queue)) = self.held.take() {
            let result = outcome(self.ring.writes.write_last(index, self.files.get(queue)));
            self.delivered(index, result);
            self.ring.writes.finish(index);
            self.queued_bytes = 0;
        }
    }

    /// Sends by the shortest way there is, unless the socket is full.
    fn send_bytes(&mut self, slot: Slot, datagrams: Datagrams) {
        let mut result = None;
        if !self.blocked {
            let bytes = slot.get(..datagrams.len).unwrap_or_default();
            let socket = self.files.get(datagrams.socket);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let sent = outcome(socket2::SockRef::from(&socket).send_with_flags(bytes, flags));
            if sent >= 0 {
                self.queued_bytes = 0;
                return self.outbox.sent_alone(slot, datagrams);
            }
            result = Some(sent);
        }
        self.outbox.queue(&mut self.ring.sends, slot, datagrams);
        if let Some(result) = result {
            self.settle(result);
        }
    }

    /// Whether something is yet to be sent, alone or not.
    #[inline]
    pub(super) fn sends_wait(&self) -> bool {
        self.alone.is_some() || !self.ring.sends.is_empty()
    }

    /// Queues what was held back, now that more is there.
    pub(super) fn queue_alone(&mut self) {
        if let Some((slot, datagrams)) = self.alone.take() {
            self.outbox.queue(&mut self.ring.sends, slot, datagrams);
        }
    }

    pub(super) fn submit_held(&mut self) {
        if let Some((index, queue)) = self.held.take() {
            self.submit_write(index, queue);
        }
    }
}
