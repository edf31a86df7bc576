//! Sends waiting or in flight: a FIFO of message headers and the slots they point into.
//!
//! The io_uring backend points submissions at single headers, the mmsg backend hands a run of
//! them to `sendmmsg`. Entries leave in order from the front only, and a slot is given back with
//! the last entry that points into it: packets of a flow cannot overtake each other here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::address::{NAME_LEN, SEND_CONTROL_LEN, SendControl, encode_control, encode_name};
use super::memory::Slot;
use crate::packet::endpoint::Endpoint;

/// Sends queued at most. Power of two.
pub const SENDS_MAX: usize = 1024;

/// Where a send goes, and with what in its outer IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The peer's endpoint.
    pub endpoint: Endpoint,
    /// Traffic class byte.
    pub class: u8,
}

/// What one `sendmsg` carries: `len` bytes, cut by the kernel into `segment_len` datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// Index of the socket that sends.
    pub socket: u16,
    /// It is connected to where the datagrams go, and to where they come from.
    pub connected: bool,
    /// Where to.
    pub to: Destination,
    /// Bytes of all datagrams together.
    pub len: usize,
    /// Bytes of each datagram but the last, which may be shorter.
    pub segment_len: usize,
}

impl Datagrams {
    /// How many datagrams that makes.
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        self.len.div_ceil(self.segment_len.max(1))
    }

    /// Whether the kernel has to be told nothing but the bytes.
    #[inline]
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.connected && self.len <= self.segment_len && self.to.class == 0
    }
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; SEND_CONTROL_LEN]);

struct Entry {
    datagrams: Datagrams,
    /// The offset of these datagrams in the slot.
    offset: usize,
    /// Present in the last entry that points into the slot.
    slot: Option<Slot>,
}

/// The FIFO. All its memory is made in [`new`](Self::new) and does not move.
pub struct SendQueue {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[[u8; NAME_LEN]]>,
    controls: Box<[Control]>,
    entries: Box<[Option<Entry>]>,
    head: usize,
    tail: usize,
}

// SAFETY: the raw pointers inside point into the queue's own boxes and into slots it owns.
unsafe impl Send for SendQueue {}

impl Default for SendQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl SendQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: all-zero bytes are a valid mmsghdr (null pointers, zero lengths).
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            headers: vec![header; SENDS_MAX].into(),
            vectors: vec![vector; SENDS_MAX].into(),
            names: vec![[0; NAME_LEN]; SENDS_MAX].into(),
            controls: vec![Control([0; SEND_CONTROL_LEN]); SENDS_MAX].into(),
            entries: (0..SENDS_MAX).map(|_| None).collect(),
            head: 0,
            tail: 0,
        }
    }

    /// Entries queued.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    /// Whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that still fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        SENDS_MAX - self.len()
    }

    /// Queues `datagrams`, which lie at the start of `slot`: as one segmented send, or, when not
    /// `segmented`, as one send for each datagram.
    ///
    /// # Errors
    /// Gives the slot back when there is no room for all of them.
    pub fn push(&mut self, slot: Slot, datagrams: Datagrams, segmented: bool) -> Result<(), Slot> {
        let len = datagrams.len.min(slot.len());
        let step = if segmented { len } else { datagrams.segment_len }.max(1);
        if len.div_ceil(step) > self.room() {
            return Err(slot);
        }
        let mut offset = 0;
        while offset + step < len {
            let part = Datagrams { len: step, ..datagrams };
            self.push_entry(&slot, Entry { datagrams: part, offset, slot: None });
            offset += step;
        }
        let last = Datagrams { len: len - offset, ..datagrams };
        let index = self.push_entry(&slot, Entry { datagrams: last, offset, slot: None });
        if let Some(entry) = &mut self.entries[index] {
            entry.slot = Some(slot);
        }
        Ok(())
    }

    fn push_entry(&mut self, slot: &Slot, entry: Entry) -> usize {
        let index = self.tail % SENDS_MAX;
        let len = entry.datagrams.len;
        self.vectors[index] = libc::iovec {
            iov_base: slot.address().wrapping_add(entry.offset).cast(),
            iov_len: len,
        };
        let header = &mut self.headers[index].msg_hdr;
        header.msg_iov = &raw mut self.vectors[index];
        header.msg_iovlen = 1;
        self.entries[index] = Some(entry);
        self.set_name(index);
        self.set_control(index);
        self.tail += 1;
        index
    }

    /// Writes where entry `index` goes, which a connected socket knows.
    fn set_name(&mut self, index: usize) {
        let Some(entry) = &self.entries[index] else { return };
        let Datagrams { to, connected, .. } = entry.datagrams;
        let header = &mut self.headers[index].msg_hdr;
        (header.msg_name, header.msg_namelen) = (std::ptr::null_mut(), 0);
        if !connected {
            let len = encode_name(to.endpoint.to, &mut self.names[index]);
            header.msg_name = self.names[index].as_mut_ptr().cast();
            header.msg_namelen = u32::try_from(len).unwrap_or(0);
        }
    }

    /// Writes the control messages of entry `index` by what it carries.
    fn set_control(&mut self, index: usize) {
        let Some(entry) = &self.entries[index] else { return };
        let Datagrams { to, len, segment_len, connected, .. } = entry.datagrams;
        // The kernel takes a one-segment UDP_SEGMENT too, but the plain path is shorter.
        let segment = (len > segment_len).then(|| u16::try_from(segment_len).unwrap_or(u16::MAX));
        let source = to.endpoint.source.filter(|_| !connected);
        let control = SendControl { segment_len: segment, class: to.class, source };
        let place = &mut self.controls[index].0;
        let control_len = encode_control(control, to.endpoint.to.is_ipv6(), place);
        let header = &mut self.headers[index].msg_hdr;
        header.msg_controllen = control_len;
        header.msg_control =
            if control_len > 0 { place.as_mut_ptr().cast() } else { std::ptr::null_mut() };
    }

    /// Lets the front entry leave from whatever address the kernel picks.
    pub fn forget_front_source(&mut self) {
        let index = self.head % SENDS_MAX;
        if let Some(entry) = &mut self.entries[index] {
            entry.datagrams.to.endpoint.source = None;
            self.set_control(index);
        }
    }

    /// Has the front entry leave by another socket, which is not connected.
    pub fn unconnect_front(&mut self, socket: u16) {
        let index = self.head % SENDS_MAX;
        if let Some(entry) = &mut self.entries[index] {
            (entry.datagrams.socket, entry.datagrams.connected) = (socket, false);
            self.set_name(index);
            self.set_control(index);
        }
    }

    /// What the entry `position` places from the front carries.
    #[inline]
    #[must_use]
    pub fn get(&self, position: usize) -> Option<Datagrams> {
        if position >= self.len() {
            return None;
        }
        self.entries[(self.head + position) % SENDS_MAX].as_ref().map(|entry| entry.datagrams)
    }

    /// The header of the entry `position` places from the front, for a submission.
    #[inline]
    pub(super) fn header(&self, position: usize) -> Option<*const libc::msghdr> {
        (position < self.len())
            .then(|| &raw const self.headers[(self.head + position) % SENDS_MAX].msg_hdr)
    }

    /// Removes the front entry once it is sent or given up; the slot comes with its last one.
    pub fn pop(&mut self) -> Option<(Datagrams, Option<Slot>)> {
        if self.is_empty() {
            return None;
        }
        let entry = self.entries[self.head % SENDS_MAX].take()?;
        self.head += 1;
        if self.is_empty() {
            // Nothing is in flight: the next one goes where the cache still is.
            (self.head, self.tail) = (0, 0);
        }
        Some((entry.datagrams, entry.slot))
    }

    /// Sends the front entry now, by a call of its own.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when the socket is full.
    pub fn send_front(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let header = self.header(0).ok_or(io::ErrorKind::NotFound)?;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the header is a queued entry's: its name, vector and control data live in our
        // boxes, its bytes in a slot we own.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), header, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Sends the front entry's datagrams one by one without `UDP_SEGMENT`, now, telling `each` of
    /// every one. For the rare moment in which a path refuses segmentation.
    pub fn send_front_singly(
        &self,
        socket: BorrowedFd<'_>,
        mut each: impl FnMut(usize, io::Result<usize>),
    ) {
        let Some(entry) = self.entries[self.head % SENDS_MAX].as_ref() else { return };
        let Some(slot) = &entry.slot else { return };
        let bytes = slot.get(entry.offset..).and_then(|s| s.get(..entry.datagrams.len));
        let Datagrams { to, segment_len, .. } = entry.datagrams;
        let control =
            SendControl { class: to.class, source: to.endpoint.source, segment_len: None };
        let mut place = Control([0; SEND_CONTROL_LEN]);
        let control_len = encode_control(control, to.endpoint.to.is_ipv6(), &mut place.0);
        let address = to.endpoint.to.into();
        let socket = socket2::SockRef::from(&socket);
        for datagram in bytes.unwrap_or_default().chunks(segment_len.max(1)) {
            let buffers = [io::IoSlice::new(datagram)];
            let message = socket2::MsgHdr::new()
                .with_addr(&address)
                .with_buffers(&buffers)
                .with_control(&place.0[..control_len]);
            each(datagram.len(), socket.sendmsg(&message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL));
        }
    }

    /// Hands the front entries, as many as lie in one run for one socket, to `sendmmsg`.
    /// Returns how many the kernel took; the first one's error if it took none.
    ///
    /// # Errors
    /// The kernel's for the front entry.
    pub fn send_run(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let first = self.head % SENDS_MAX;
        let run = self.len().min(SENDS_MAX - first);
        let index = self.get(0).map_or(0, |datagrams| datagrams.socket);
        let same = (0..run).take_while(|&i| self.get(i).is_some_and(|d| d.socket == index)).count();
        let headers = self.headers[first..first + same].as_mut_ptr();
        // SAFETY: the headers first..first+same are queued entries: their names, vectors and
        // control data live in our boxes, their bytes in slots we own.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers,
                u32::try_from(same).unwrap_or(0),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::memory::Pool;
    use super::*;

    fn datagrams(len: usize, segment_len: usize) -> Datagrams {
        let to: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap();
        let to = Destination { endpoint: to.into(), class: 0 };
        Datagrams { socket: 0, connected: false, to, len, segment_len }
    }

    #[test]
    fn a_slot_comes_back_with_its_last_datagram() {
        let (_pool, mut slots) = Pool::new(2, 4000).unwrap();
        let mut queue = SendQueue::new();
        queue.push(slots.pop().unwrap(), datagrams(2500, 1000), false).unwrap();
        queue.push(slots.pop().unwrap(), datagrams(2500, 1000), true).unwrap();
        assert_eq!(queue.len(), 4);
        assert!(matches!(queue.pop(), Some((d, None)) if d.len == 1000));
        assert!(matches!(queue.pop(), Some((d, None)) if d.len == 1000));
        assert!(matches!(queue.pop(), Some((d, Some(_))) if d.len == 500));
        assert!(matches!(queue.pop(), Some((d, Some(_))) if d.len == 2500 && d.count() == 3));
        assert!(queue.pop().is_none());
    }

    #[test]
    fn a_full_queue_gives_the_slot_back() {
        let (_pool, mut slots) = Pool::new(2, 65_000).unwrap();
        let mut queue = SendQueue::new();
        queue.push(slots.pop().unwrap(), datagrams(65_000, 60), false).unwrap_err();
        queue.push(slots.pop().unwrap(), datagrams(65_000, 60), true).unwrap();
        assert_eq!(queue.room(), SENDS_MAX - 1);
    }
}
