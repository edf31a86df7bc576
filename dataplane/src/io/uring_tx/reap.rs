//! What the ring has completed: what came is queued for the worker, what ended is settled.

use super::Tx;
use crate::io::Slot;
use crate::io::connected::is_of_icmp;
use crate::ring::uring::Completion;

impl Tx {
    /// Takes what has completed; returns how much.
    pub(in crate::io) fn reap(&mut self) -> usize {
        let mut count = 0;
        while let Some(completion) = self.ring.next_completion() {
            count += 1;
            match completion {
                Completion::Read { outcome, more, file } => {
                    if !more {
                        self.ended.push(file);
                    }
                    match outcome {
                        Ok((slot, len)) => self.frame_read(slot, len),
                        Err(errno) => self.read_failed(errno),
                    }
                }
                Completion::ReadOnce { slot, result } => {
                    self.single_done += 1;
                    match usize::try_from(result) {
                        Ok(len) => self.frame_read(slot, len),
                        Err(_) => {
                            self.single_slots.push(slot);
                            self.single_failed(-result);
                        }
                    }
                }
                Completion::Received { outcome, more, file } => {
                    match outcome {
                        Ok(mut arrival) => {
                            let (len, count) =
                                arrival.1.map_or((0, 1), |arrival| (arrival.len, arrival.count()));
                            self.counters.receives().count(count);
                            self.health.succeeded();
                            self.touch(file).delivered(len);
                            if let Some(arrival) = &mut arrival.1 {
                                self.arrivals_aqm.judge(arrival, &self.counters);
                            }
                            self.arrivals.push_back(arrival);
                        }
                        Err(libc::ENOBUFS) => self.starved(file),
                        Err(libc::ECANCELED) => {}
                        Err(errno) if self.files.is_connected(file) && is_of_icmp(errno) => {}
                        Err(errno) if self.health.failed() => self.fatal = Some(errno),
                        Err(_) => {}
                    }
                    if !more {
                        self.ended.push(file);
                    }
                }
                Completion::Ready { file, .. } => self.ready(file),
                Completion::Sent { result } => self.sent(result),
                Completion::Written { index, result } => self.written(index, result),
            }
        }
        // The kernel reads for us only while we enter it.
        self.frames_aqm.all_judged(self.files.get(self.files.queue));
        count
    }

    pub(in crate::io) fn frame_read(&mut self, mut slot: Slot, len: usize) {
        self.touch(self.files.queue).delivered(len);
        let frame = slot.get_mut(..len).unwrap_or_default();
        let len = self.frames_aqm.judge(frame, &self.counters);
        self.frames.push_back((slot, len));
    }

    /// The tun knows no `RWF_NOWAIT` before Linux 6.4, which every read of a batch says.
    fn single_failed(&mut self, errno: i32) {
        if errno == libc::EOPNOTSUPP {
            self.nowait = false;
        } else {
            self.read_failed(errno);
        }
    }

    pub(in crate::io) fn read_failed(&mut self, errno: i32) {
        match errno {
            libc::ENOBUFS => self.starved(self.files.queue),
            libc::EAGAIN => self.read_drained = true,
            libc::EINTR | libc::ECANCELED => {}
            errno => self.fatal = Some(errno),
        }
    }

    /// A multishot operation ended because all slots lent to `file` were taken.
    fn starved(&mut self, file: u16) {
        self.counters.receive_starved.add(1);
        self.touch(file).starved();
    }

    fn ready(&mut self, file: u16) {
        if file == self.files.wake_index() {
            self.woken = true;
        } else if file >= self.files.socket_index(0) {
            self.blocked = false;
        } else {
            self.read_ready = true;
        }
    }
}
