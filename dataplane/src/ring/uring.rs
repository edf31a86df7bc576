//! The io_uring of one worker and everything its in-flight operations point at.
//!
//! [`Ring`] owns the send queue, the write pool and the lent slots, so memory the kernel may
//! touch lives exactly as long as the ring. Dropping it cancels what is in flight and waits;
//! if the kernel does not let go in time, the memory is leaked rather than freed.
//!
//! Operations carry their kind and an index in `user_data`; [`Completion`] is their result.

mod completion;

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};

pub use completion::Completion;

use super::group::BufferGroup;
use super::memory::Slot;
use super::receive::template;
use super::sends::SendQueue;
use super::writes::{WRITES_MAX, WritePool};

/// Submissions prepared between two calls of the kernel: every write, a whole chain of sends and
/// all reads, receives and polls fit, so that a turn under load is one call.
const SUBMISSIONS: u32 = 512;
/// Sends that fit into one chain.
pub const CHAIN_MAX: usize = 128;
/// Single-shot tun reads in flight at most.
pub const SINGLE_READS: usize = 16;
const _: () = assert!(WRITES_MAX as usize + CHAIN_MAX + SINGLE_READS + 32 <= SUBMISSIONS as usize);

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    ReadMulti = 1,
    ReadOnce,
    Receive,
    Poll,
    Send,
    Write,
}

fn tag(kind: Kind, index: u16) -> u64 {
    (kind as u64) << 32 | u64::from(index)
}

/// Errors of a submission that only mean "later": a signal, or completions to be reaped first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

/// One worker's io_uring. Must be created, used and dropped by the same thread (SINGLE_ISSUER).
pub struct Ring {
    uring: IoUring,
    /// Outgoing datagrams, in order.
    pub sends: SendQueue,
    /// Tun writes.
    pub writes: WritePool,
    /// One group a file, by file index.
    groups: Vec<Option<BufferGroup>>,
    singles: [Option<Slot>; SINGLE_READS],
    template: Box<libc::msghdr>,
    /// Requests whose last completion has not been seen.
    in_flight: usize,
    /// Those of them that complete within the call that submits them: sends and writes.
    due: usize,
    /// A submission that the kernel would not take, which must end the worker.
    lost: Option<io::Error>,
}

impl Ring {
    /// Sets up a ring over `files`, which are named by their index from here on. The caller
    /// keeps them open while the ring lives. `completions` bounds what may complete in one turn.
    ///
    /// # Errors
    /// The kernel's, as `io_uring_setup(2)` and `io_uring_register(2)` list them.
    pub fn new(files: &[RawFd], completions: u32, writes: WritePool) -> io::Result<Self> {
        let build = |no_sqarray: bool| {
            let mut builder = IoUring::builder();
            builder
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_submit_all()
                .setup_taskrun_flag()
                .setup_cqsize(completions)
                .dontfork();
            if no_sqarray {
                builder.setup_no_sqarray();
            }
            builder.build(SUBMISSIONS)
        };
        // NO_SQARRAY is 6.6; the rest is 6.1 or older.
        let uring = build(true).or_else(|_| build(false))?;
        uring.submitter().register_files(files)?;
        Ok(Self {
            uring,
            sends: SendQueue::new(),
            writes,
            groups: files.iter().map(|_| None).collect(),
            singles: [const { None }; SINGLE_READS],
            template: Box::new(template()),
            in_flight: 0,
            due: 0,
            lost: None,
        })
    }

    /// Has the multishot operations of `file` use slots that are lent to it, of `count` whose
    /// indexes begin with `first`.
    ///
    /// # Errors
    /// The kernel's, when it takes no buffer ring.
    pub fn add_group(&mut self, file: u16, first: u16, count: u16) -> io::Result<()> {
        let group = BufferGroup::register(&self.uring, file, count, first)?;
        self.groups[usize::from(file)] = Some(group);
        Ok(())
    }

    /// Lends a slot to `file`'s operations; visible to the kernel after
    /// [`publish`](Self::publish).
    #[inline]
    pub fn lend(&mut self, file: u16, slot: Slot) {
        if let Some(Some(group)) = self.groups.get_mut(usize::from(file)) {
            group.lend(slot);
        }
    }

    /// Shows the kernel what has been lent to `file`.
    #[inline]
    pub fn publish(&mut self, file: u16) {
        if let Some(Some(group)) = self.groups.get_mut(usize::from(file)) {
            group.publish();
        }
    }

    /// Slots the kernel has for `file`.
    #[must_use]
    pub fn lent_count(&self, file: u16) -> usize {
        self.groups.get(usize::from(file)).and_then(Option::as_ref).map_or(0, |g| g.lent_count())
    }

    /// Starts a multishot read of the tun queue `file` (Linux 6.7).
    pub fn read_multishot(&mut self, file: u16) {
        let entry = opcode::ReadMulti::new(Fixed(file.into()), 0, file)
            .build()
            // io-uring 0.7.15 overwrites the flag that `Fixed` set.
            .flags(squeue::Flags::FIXED_FILE | squeue::Flags::BUFFER_SELECT)
            .user_data(tag(Kind::ReadMulti, file));
        self.push(&entry);
    }

    /// Starts one read of the tun queue `file` into `slot`, which does not wait for a frame (tun:
    /// Linux 6.4); gives the slot back when [`SINGLE_READS`] are under way.
    ///
    /// # Errors
    /// The slot.
    pub fn read_once(&mut self, file: u16, slot: Slot) -> Result<(), Slot> {
        let Some(place) = self.singles.iter().position(Option::is_none) else { return Err(slot) };
        let len = u32::try_from(slot.len()).unwrap_or(u32::MAX);
        let entry = opcode::Read::new(Fixed(file.into()), slot.address(), len)
            .rw_flags(libc::RWF_NOWAIT)
            .build()
            .user_data(tag(Kind::ReadOnce, file) | (place as u64) << 16);
        self.singles[place] = Some(slot);
        self.push(&entry);
        Ok(())
    }

    /// Starts a multishot receive on the UDP socket `file` (Linux 6.0).
    pub fn receive_multishot(&mut self, file: u16) {
        let entry = opcode::RecvMsgMulti::new(Fixed(file.into()), &raw const *self.template, file)
            .build()
            .user_data(tag(Kind::Receive, file));
        self.push(&entry);
    }

    /// Waits once for `events` (`POLLIN`, `POLLOUT`) on `file`.
    pub fn poll(&mut self, file: u16, events: i16) {
        let entry = opcode::PollAdd::new(Fixed(file.into()), u32::from(events.cast_unsigned()))
            .build()
            .user_data(tag(Kind::Poll, file));
        self.push(&entry);
    }

    /// Submits the first `count` sends of the queue as one chain: a send runs only after the one
    /// before it succeeded, so that a refusal in the middle lets nothing overtake it.
    pub fn send_chain(&mut self, count: usize) {
        if !self.has_room(count) {
            // A chain cut in two by a full queue would not stop as one.
            self.submit();
        }
        self.due += count;
        for position in 0..count {
            let (Some(datagrams), Some(header)) =
                (self.sends.get(position), self.sends.header(position))
            else {
                return;
            };
            let flags = if position + 1 < count {
                squeue::Flags::FIXED_FILE | squeue::Flags::IO_LINK
            } else {
                squeue::Flags::FIXED_FILE
            };
            let entry = opcode::SendMsg::new(Fixed(datagrams.socket.into()), header)
                .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).cast_unsigned())
                .build()
                .flags(flags)
                .user_data(tag(Kind::Send, 0));
            self.push(&entry);
        }
    }

    /// Submits the prepared write `index` to the tun queue `file`.
    pub fn write(&mut self, index: u16, file: u16) {
        let (vectors, count) = self.writes.vectors(index);
        self.due += 1;
        let entry = opcode::Writev::new(Fixed(file.into()), vectors, count)
            .build()
            .user_data(tag(Kind::Write, index));
        self.push(&entry);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        self.in_flight += 1;
        // SAFETY: what the entry points at is owned by self (groups, singles, sends, writes,
        // template), boxed, and outlives the request: see drop.
        if unsafe { self.uring.submission().push(entry) }.is_ok() {
            return;
        }
        // Full: hand over what is there first.
        self.submit();
        // SAFETY: as above.
        if unsafe { self.uring.submission().push(entry) }.is_err() && self.lost.is_none() {
            self.lost = Some(io::ErrorKind::OutOfMemory.into());
        }
    }

    fn submit(&mut self) {
        if let Err(error) = self.uring.submit()
            && !is_passing(&error)
        {
            self.lost.get_or_insert(error);
        }
    }

    /// Whether `count` entries can be pushed without a call of the kernel.
    fn has_room(&mut self, count: usize) -> bool {
        let submission = self.uring.submission();
        submission.capacity() - submission.len() >= count
    }

    /// Submits everything prepared and lets all sends and writes of it complete; waits until
    /// something has completed if `wait`.
    ///
    /// Linked requests run as deferred work, and the kernel runs that only until as many
    /// completions are there as were waited for (`io_run_local_work_continue`): with 1, a chain
    /// would move one send a call. Sends and writes never wait, so waiting for all of them is no
    /// waiting; those that have completed, but were not taken yet, count among them, not besides.
    ///
    /// # Errors
    /// The kernel's, other than those that only mean "later".
    pub fn enter(&mut self, wait: bool) -> io::Result<()> {
        if let Some(error) = self.lost.take() {
            return Err(error);
        }
        match self.submit_and_wait(self.due.max(usize::from(wait))) {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// As [`enter`](Self::enter), and waits for `timeout_ms` at most.
    ///
    /// # Errors
    /// As there.
    pub fn enter_for(&mut self, timeout_ms: u32) -> io::Result<()> {
        if self.due > 0 || self.lost.is_some() {
            return self.enter(true);
        }
        let timeout = Timespec::new().nsec(timeout_ms.saturating_mul(1_000_000));
        let args = SubmitArgs::new().timespec(&timeout);
        match self.uring.submitter().submit_with_args(1, &args) {
            Err(error) if error.raw_os_error() != Some(libc::ETIME) && !is_passing(&error) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    fn submit_and_wait(&mut self, count: usize) -> io::Result<usize> {
        if !self.uring.params().is_feature_no_iowait() {
            return self.uring.submit_and_wait(count);
        }
        let submissions = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let flags = EnterFlags::GETEVENTS | EnterFlags::NO_IOWAIT;
        let submitter = self.uring.submitter();
        // SAFETY: no argument besides numbers; `push` says why the entries may be submitted.
        unsafe { submitter.enter::<libc::sigset_t>(submissions, count, flags.bits(), None) }
    }

    /// Whether something has come, as far as can be seen without a call of the kernel: a
    /// completion, or deferred work that makes some, which [`enter`](Self::enter) then runs.
    #[inline]
    #[must_use]
    pub fn has_news(&mut self) -> bool {
        self.uring.submission().taskrun() || !self.uring.completion().is_empty()
    }

    /// Whether [`enter`](Self::enter) would come back at once: a completion is there, or will be
    /// when what was prepared has been submitted.
    #[must_use]
    pub fn returns_at_once(&mut self) -> bool {
        self.due > 0 || !self.uring.completion().is_empty()
    }

    /// Cancels everything and waits until the kernel holds none of our memory; false if it
    /// still does after a second.
    fn cancel_all(&mut self) -> bool {
        let timeout = Timespec::new().nsec(200_000_000);
        let deadline = Instant::now() + Duration::from_secs(1);
        // Unsubmitted entries would never complete.
        let _ = self.uring.submit();
        while self.in_flight > 0 && Instant::now() < deadline {
            let _ =
                self.uring.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any());
            let args = SubmitArgs::new().timespec(&timeout);
            let _ = self.uring.submitter().submit_with_args(1, &args);
            while self.next_completion().is_some() {}
        }
        self.in_flight == 0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let clean = self.cancel_all();
        // The registered table holds a reference to each file; without this the tun queue would
        // stay attached until the kernel's deferred teardown.
        let _ = self.uring.submitter().unregister_files();
        if !clean {
            // Leaking is the only safe end for memory the kernel might still write to.
            std::mem::forget(std::mem::take(&mut self.sends));
            self.writes.leak();
            self.groups.drain(..).for_each(std::mem::forget);
            self.singles.iter_mut().filter_map(Option::take).for_each(std::mem::forget);
            std::mem::forget(std::mem::replace(&mut self.template, Box::new(template())));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;

    use super::super::memory::Pool;
    use super::*;

    /// A full submission queue completes writes before `enter` is called: waiting for them once
    /// more would be waiting for ever.
    #[test]
    fn what_completed_early_is_not_waited_for_again() {
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || {
            let sink = File::options().write(true).open("/dev/null").unwrap();
            let (quiet, _other) = std::os::unix::net::UnixStream::pair().unwrap();
            let (pool, _slots) = Pool::new(1, 64).unwrap();
            let files = [sink.as_raw_fd(), quiet.as_raw_fd()];
            let mut ring = match Ring::new(&files, 4096, WritePool::new(pool)) {
                Ok(ring) => ring,
                Err(error) => return done.send(Err(error)).unwrap(),
            };
            for _ in 0..WRITES_MAX {
                let index = ring.writes.prepare(&[0; 20], std::iter::empty(), 1, 20).unwrap();
                ring.write(index, 0);
            }
            for _ in 0..SUBMISSIONS {
                ring.poll(1, libc::POLLIN);
            }
            ring.enter(true).unwrap();
            let written = std::iter::from_fn(|| ring.next_completion()).count();
            assert_eq!((written, ring.due), (usize::from(WRITES_MAX), 0));
            done.send(Ok(())).unwrap();
        });
        match finished.recv_timeout(Duration::from_secs(20)) {
            Ok(Ok(())) => {}
            // A machine without io_uring has nothing to show here.
            Ok(Err(error)) => assert!(error.raw_os_error().is_some(), "{error}"),
            Err(error) => panic!("the ring waits for completions that have come: {error}"),
        }
    }
}
