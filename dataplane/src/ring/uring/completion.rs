//! What operations came to, read from the completion queue.

use io_uring::cqueue;

use super::{Kind, Ring};
use crate::ring::memory::Slot;
use crate::ring::receive::{Arrival, parse};

/// What an operation came to. Errors are errno values.
#[derive(Debug)]
#[expect(missing_docs, reason = "`file`, `outcome` and `result` are told in the variants' docs")]
pub enum Completion {
    /// A tun read delivered a frame of so many bytes. `more`: the multishot read goes on.
    Read { file: u16, outcome: Result<(Slot, usize), i32>, more: bool },
    /// A single read is done: bytes or an errno below zero; the slot is back in any case.
    ReadOnce { slot: Slot, result: i32 },
    /// A receive delivered datagrams; `None` if they are not from an IP socket.
    Received { file: u16, outcome: Result<(Slot, Option<Arrival>), i32>, more: bool },
    /// The polled file has an event.
    Ready { file: u16, result: i32 },
    /// A send of the queue's front has been tried: bytes or an errno below zero.
    Sent { result: i32 },
    /// A tun write is done: bytes or an errno below zero.
    Written { index: u16, result: i32 },
}

impl Ring {
    /// The next completion.
    pub fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let entry = self.uring.completion().next()?;
            if let Some(completion) = self.interpret(&entry) {
                return Some(completion);
            }
        }
    }

    fn interpret(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let more = cqueue::more(entry.flags());
        if !more {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        let result = entry.result();
        let data = entry.user_data();
        let index = u16::try_from(data & 0xffff).unwrap_or(0);
        match data >> 32 {
            kind if kind == Kind::ReadMulti as u64 => {
                let slot = self.take(index, entry.flags());
                let outcome = self.received_bytes(index, slot, result)?;
                Some(Completion::Read { file: index, outcome, more })
            }
            kind if kind == Kind::ReadOnce as u64 => {
                let place = usize::try_from(data >> 16 & 0xffff).unwrap_or(0);
                let slot = self.singles.get_mut(place)?.take()?;
                Some(Completion::ReadOnce { slot, result })
            }
            kind if kind == Kind::Receive as u64 => {
                let slot = self.take(index, entry.flags());
                let outcome = self.received_bytes(index, slot, result)?.map(|(slot, len)| {
                    let arrival = slot.get(..len).and_then(|bytes| parse(bytes, &self.template));
                    (slot, arrival)
                });
                Some(Completion::Received { file: index, outcome, more })
            }
            kind if kind == Kind::Poll as u64 => Some(Completion::Ready { file: index, result }),
            kind if kind == Kind::Send as u64 => {
                self.due -= 1;
                Some(Completion::Sent { result })
            }
            kind if kind == Kind::Write as u64 => {
                self.due -= 1;
                Some(Completion::Written { index, result })
            }
            _ => None,
        }
    }

    fn take(&mut self, file: u16, flags: u32) -> Option<Slot> {
        let index = cqueue::buffer_select(flags)?;
        self.groups.get_mut(usize::from(file))?.as_mut()?.take(index)
    }

    /// Splits success from error; a slot that comes with an error goes straight back.
    fn received_bytes(
        &mut self,
        file: u16,
        slot: Option<Slot>,
        result: i32,
    ) -> Option<Result<(Slot, usize), i32>> {
        match (usize::try_from(result), slot) {
            (Ok(len), Some(slot)) => Some(Ok((slot, len))),
            // A success without a slot is none of ours; told as an error so that a multishot
            // that ends this way is started again.
            (Ok(_), None) => Some(Err(libc::EIO)),
            (Err(_), slot) => {
                if let Some(slot) = slot {
                    self.lend(file, slot);
                }
                Some(Err(-result))
            }
        }
    }
}
