//! Moving batches between the kernel and a worker: one interface, two backends.
//!
//! In the order in which a packet meets them: a [`Backend`] delivers what the kernel has to a
//! [`Handler`] (the worker's packet path), which hands results back through [`Transmit`].
//!
//! - [`uring`]: multishot reads and receives into lent slots, linked sends, gathered writes;
//! - [`mmsg`]: the same over epoll, `recvmmsg` and `sendmmsg`, for kernels or containers that
//!   have no io_uring;
//! - [`outbox`] and `delivery`: what becomes of a send and of a tun write, shared by both;
//! - `aqm`: telling transfers that keep a queue waiting;
//! - `connected`: which socket a send leaves by; `claims`: which worker may connect to whom;
//! - `poll`: looking for packets before sleeping;
//! - [`gso`]: paths that refuse segmentation; `depth`: how many slots to lend.

mod aqm;
mod claims;
mod connected;
pub mod counters;
mod delivery;
mod depth;
pub mod gso;
pub mod mmsg;
pub mod outbox;
mod poll;
pub mod uring;
mod uring_tx;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::packet::merge::Piece;
#[cfg(test)]
pub use crate::ring::memory::Pool;
pub use crate::ring::memory::Slot;
pub use crate::ring::receive::Arrival;
use crate::ring::receive::{PAYLOAD_OFFSET, payload};
pub use crate::ring::sends::{Datagrams, Destination};
use crate::sys::tun_stamps::TunStamps;
pub use claims::Claims;
pub use poll::BusyPoll;

/// Slots for tun frames, per worker.
pub const FRAME_SLOTS: u16 = 128;
/// Slots for received datagrams, per socket.
pub const RECEIVE_SLOTS: u16 = 128;
/// Slots for outgoing datagrams, per worker.
pub const SEND_SLOTS: u16 = 64;
/// Datagrams in one `UDP_SEGMENT` send: `UDP_MAX_SEGMENTS` before Linux 6.9.
pub const SEGMENTS_MAX: usize = 64;
/// Bytes in one `UDP_SEGMENT` send. UDP takes 65,507, but a device segments only what is, with its
/// Ethernet, IP and UDP headers, less than its `gso_max_size` of 65,536 (net/core/dev.c,
/// `gso_features_check`); for anything larger the kernel copies every datagram, which takes six
/// times as long.
pub const SEND_MAX: usize = 65_535 - (14 + 40 + 8);
/// Send slots that one frame needs at most, short of absurdly small segments, and entries of the
/// send queue that they make when segmentation is refused.
const SLOTS_PER_FRAME: usize = 4;
const SENDS_PER_FRAME: usize = SLOTS_PER_FRAME * SEGMENTS_MAX;
/// Bytes of queued sends and writes after which a backend hands them to the kernel without
/// waiting for the end of the turn: beyond it they only push each other out of the cache.
pub const FLUSH_BYTES: usize = 256 * 1024;

/// The files one worker moves packets between, by index: every tun queue, then its sockets, then
/// those that are to be connected, then its wake-up event.
#[derive(Clone, Debug)]
pub struct Files {
    /// All queues of the device: a worker reads its own and may write to any (see
    /// `worker::steering`).
    pub queues: Vec<Arc<OwnedFd>>,
    /// Which of them is this worker's.
    pub queue: u16,
    /// UDP sockets, at most one an address family.
    pub sockets: Vec<Arc<OwnedFd>>,
    /// Sockets bound like those, one for each or none at all, that may be connected to the endpoint
    /// in use.
    pub connected: Vec<Arc<OwnedFd>>,
    /// Signalled to wake the worker.
    pub wake: Arc<OwnedFd>,
    /// To whom the workers have connected, shared by all of them.
    pub claims: Arc<Claims>,
    /// When packets came to the queues, if transfers that keep one waiting are to be told.
    pub stamps: Option<Arc<TunStamps>>,
}

impl Files {
    fn socket_index(&self, socket: usize) -> u16 {
        u16::try_from(self.queues.len() + socket).unwrap_or(u16::MAX)
    }

    /// All that datagrams arrive at.
    fn socket_count(&self) -> usize {
        self.sockets.len() + self.connected.len()
    }

    fn is_connected(&self, index: u16) -> bool {
        (self.socket_index(self.sockets.len())..self.wake_index()).contains(&index)
    }

    fn wake_index(&self) -> u16 {
        self.socket_index(self.socket_count())
    }

    /// The file with this index.
    fn get(&self, index: u16) -> BorrowedFd<'_> {
        let index = usize::from(index);
        let socket = index.wrapping_sub(self.queues.len());
        let connected = socket.wrapping_sub(self.sockets.len());
        let queue = self.queues.get(index).or_else(|| self.sockets.get(socket));
        queue.or_else(|| self.connected.get(connected)).unwrap_or(&self.wake).as_fd()
    }

    /// Which socket reaches `to`: sockets are in the order of `families`.
    fn socket_for(&self, to: SocketAddr) -> usize {
        usize::from(self.sockets.len() > 1 && to.is_ipv6())
    }

    fn raw(&self) -> Vec<RawFd> {
        use std::os::fd::AsRawFd;
        let files = self.queues.iter().chain(&self.sockets).chain(&self.connected);
        files.chain([&self.wake]).map(|file| file.as_raw_fd()).collect()
    }
}

/// Datagrams of one receive: `arrival.len` bytes, cut every `arrival.segment_len`.
#[derive(Debug)]
pub struct Received<'a> {
    /// The payload.
    pub bytes: &'a mut [u8],
    /// The receive slot it lies in …
    pub slot: u16,
    /// … and where in the slot.
    pub offset: u32,
    /// Sender and coalescing.
    pub arrival: Arrival,
}

impl<'a> Received<'a> {
    /// What `arrival` left in `slot`.
    #[inline]
    #[must_use]
    pub fn new(slot: &'a mut Slot, arrival: Arrival) -> Self {
        let index = slot.index();
        let bytes = payload(slot, arrival.skip, arrival.len);
        let skipped = u32::try_from(arrival.skip).unwrap_or(u32::MAX);
        let offset = PAYLOAD_OFFSET.saturating_add(skipped);
        Self { bytes, slot: index, offset, arrival }
    }
}

/// A worker's packet path, as a backend sees it.
pub trait Handler {
    /// Something has come, or somebody woke the worker: before what has come is handed over.
    fn start_of_turn(&mut self, tx: &mut impl Transmit);
    /// A frame from the tun, virtio header first. To be counted here (`Counters::tun_reads`), where
    /// it comes to light how many packets it carries.
    fn frame(&mut self, frame: &[u8], tx: &mut impl Transmit);
    /// Datagrams from the wire. Their slot stays valid until [`end_of_turn`](Self::end_of_turn)
    /// returns and every write that points into it is done.
    fn datagrams(&mut self, received: Received<'_>, tx: &mut impl Transmit);
    /// Whether datagrams can be taken on; otherwise they are better left where they are.
    fn has_room(&self) -> bool {
        true
    }
    /// Whether receives are to be offered by [`take_on`](Self::take_on).
    fn takes_on(&self) -> bool {
        false
    }
    /// Takes on a receive with its slot, to be dealt with later and
    /// [given back](Transmit::give_back).
    ///
    /// # Errors
    /// Gives the slot back at once when its datagrams are to be handed over in the usual way.
    fn take_on(&mut self, slot: Slot, _arrival: Arrival) -> Result<(), Slot> {
        Err(slot)
    }
    /// Takes on a frame of `len` bytes with its slot, to be dealt with later and
    /// [given back](Transmit::give_back_frame).
    ///
    /// # Errors
    /// Gives the slot back at once when the frame is to be handed over in the usual way.
    fn take_on_frame(
        &mut self,
        slot: Slot,
        _len: usize,
        _tx: &mut impl Transmit,
    ) -> Result<(), Slot> {
        Err(slot)
    }
    /// Asked before the backend waits for something to come; false if there is something to do.
    fn may_sleep(&self) -> bool {
        true
    }
    /// Nothing more comes in this turn: whatever is held back goes out now.
    fn end_of_turn(&mut self, tx: &mut impl Transmit);
}

/// The way out of a worker's packet path.
pub trait Transmit {
    /// An empty send slot; `None` when all are in flight.
    fn send_slot(&mut self) -> Option<Slot>;
    /// Sends the datagrams at the start of `slot`.
    fn send(&mut self, slot: Slot, to: Destination, len: usize, segment_len: usize);
    /// Writes `head` and `pieces` to the tun queue with index `queue` as one frame that carries
    /// `packets` wire packets of `bytes` bytes.
    fn write(&mut self, queue: u16, head: &[u8], pieces: &[Piece], packets: u32, bytes: u32);
    /// Takes back the slot of a receive that was [taken on](Handler::take_on); as in
    /// [`Handler::datagrams`] it stays valid until all that points into it is done.
    fn give_back(&mut self, slot: Slot);
    /// Takes back the slot of a frame that was [taken on](Handler::take_on_frame). Not called where
    /// frames are not handed over with their slots.
    fn give_back_frame(&mut self, _slot: Slot) {}
    /// Notes that a peer's messages come to this worker, authentic ones from `from`. With the time
    /// if the peer is quiet: what it sends may as well go to another worker from here on.
    fn heard(&mut self, _from: SocketAddr, _quiet_ms: Option<u64>) {}
    /// Says before something is sent to the peer at `to` whether it is quiet, with the time: what
    /// it sends may as well come to this worker, or to another of its sockets.
    fn quiet(&mut self, _to: SocketAddr, _quiet_ms: Option<u64>) {}
    /// Whether the tun has refused a merged frame: merging must stop.
    fn merge_refused(&self) -> bool;
}

/// What moves the packets.
pub trait Backend {
    /// Hands out what is queued, waits for something to happen, and passes all of it on.
    ///
    /// # Errors
    /// [`IoError`] when this worker cannot go on.
    fn turn(&mut self, handler: &mut impl Handler) -> Result<(), IoError>;
}

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// The tun device no longer exists.
    #[error("the tun device is gone (its queue answers: {0})")]
    DeviceGone(io::Error),
    /// Something that should not fail did.
    #[error("{what} failed: {error}")]
    Failed {
        /// The operation.
        what: &'static str,
        /// Its error.
        error: io::Error,
    },
}

impl IoError {
    fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Failed { what, error }
    }

    /// What a worker ends with after a tun or socket answered with `errno`.
    fn of_errno(errno: i32) -> Self {
        let error = io::Error::from_raw_os_error(errno);
        if device_gone(errno) {
            Self::DeviceGone(error)
        } else {
            Self::Failed { what: "reading or writing the tun or the socket", error }
        }
    }
}

/// Whether a tun read's error says that the device was deleted (drivers/net/tun.c: a detached
/// queue answers EBADFD, and EFAULT to who was reading just then, see `tun_ring_recv`).
fn device_gone(errno: i32) -> bool {
    matches!(errno, libc::EBADFD | libc::EFAULT | libc::ENODEV)
}

/// What a call of our own came to, as io_uring would say it: bytes, or an errno below zero.
fn outcome(result: io::Result<usize>) -> i32 {
    match result {
        Ok(len) => i32::try_from(len).unwrap_or(i32::MAX),
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Receives that may fail in a row before the socket counts as broken: errors of earlier sends
/// (ICMP) surface there, harmless but one a call.
const RECEIVE_FAILURES_MAX: u32 = 1024;

/// Tells stray receive errors from a socket that does nothing but fail.
#[derive(Debug, Default)]
struct ReceiveHealth(u32);

impl ReceiveHealth {
    fn succeeded(&mut self) {
        self.0 = 0;
    }

    /// True when it has been too many.
    fn failed(&mut self) -> bool {
        self.0 += 1;
        self.0 > RECEIVE_FAILURES_MAX
    }
}

#[cfg(test)]
mod lone_tests;
#[cfg(test)]
mod wake_tests;
