//! The packets of one frame, sealed into one send slot: the work that any core can do.
//!
//! In: a frame, a session, the counters reserved for it, and an empty send slot. Out: the datagrams
//! of one send, for the worker that keeps the order. No state of a worker is needed, so a sealing
//! can be handed over; whoever holds it is the only one who can use its counters.

use std::sync::Arc;

use crate::io::{Destination, SEGMENTS_MAX, SEND_MAX, Slot};
use crate::packet::split::Split;
use crate::packet::virtio::{self, VirtioHdr};
use crate::table::sessions::Live;
use crate::wire::wireguard::aead::Aead;
use crate::wire::wireguard::messages::{
    TAG_LEN, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD, padded_len,
};
use crate::wire::wireguard::session::Session;

/// Packets that a frame must be to be worth it: sealing a few costs no more than the way to another
/// core and back.
const PACKETS_MIN: usize = 16;

/// How the packets of a frame leave: whereto, and with which counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) to: Destination,
    /// The first packet's; the others' follow it. Reserved for this frame alone.
    pub(super) first_counter: u64,
    /// Of the tun.
    pub(super) mtu: usize,
}

/// Bytes of the message that carries packet `i`.
#[inline]
pub(super) fn message_len(split: &Split<'_>, i: usize, mtu: usize) -> usize {
    padded_len(split.len_of(i), mtu) + TRANSPORT_OVERHEAD
}

/// Bytes of all messages.
#[inline]
pub(super) fn total_len(split: &Split<'_>, mtu: usize) -> usize {
    let last = split.count() - 1;
    message_len(split, 0, mtu) * last + message_len(split, last, mtu)
}

/// Whether all messages are one send.
pub(super) fn is_one_send(split: &Split<'_>, mtu: usize) -> bool {
    split.count() <= SEGMENTS_MAX && total_len(split, mtu) <= SEND_MAX
}

/// Makes `message` the one that carries packet `i` of `split`.
#[inline]
pub(super) fn seal(
    aead: &Aead,
    session: &Session,
    counter: u64,
    (split, i): (&Split<'_>, usize),
    message: &mut [u8],
) {
    let packet_end = TRANSPORT_HEADER_LEN + split.len_of(i);
    let padding_end = message.len() - TAG_LEN;
    split.write(i, &mut message[TRANSPORT_HEADER_LEN..packet_end]);
    message[packet_end..padding_end].fill(0);
    session.seal(aead, counter, message);
}

/// The packets of `frame`, if it is well-formed.
#[inline]
pub(super) fn split(frame: &[u8]) -> Option<Split<'_>> {
    let packet = frame.get(virtio::LEN..)?;
    VirtioHdr::decode(frame).and_then(|header| Split::new(&header, packet).ok())
}

/// Whether `frame`, as its header has it, is so many packets that others may seal it.
#[inline]
pub(super) fn is_large(frame: &[u8]) -> bool {
    let size = VirtioHdr::decode(frame).map_or(0, |header| usize::from(header.gso_size));
    size > 0 && frame.len() / size >= PACKETS_MIN
}

/// A frame to be sealed, with all that it takes.
pub(super) struct Sealing {
    /// The frame, its bytes, and how many packets it is.
    pub(super) frame: Slot,
    pub(super) frame_len: usize,
    pub(super) count: usize,
    pub(super) live: Arc<Live>,
    pub(super) terms: Terms,
    /// Where the datagrams go.
    pub(super) place: Slot,
    /// Bytes of all that are there, and of the first.
    pub(super) len: usize,
    pub(super) segment_len: usize,
}

impl Sealing {
    /// Datagrams that are there.
    pub(super) fn sealed_count(&self) -> usize {
        self.len.div_ceil(self.segment_len.max(1))
    }

    /// Does it.
    pub(super) fn seal(&mut self, aead: &Aead) {
        let frame = self.frame.get(..self.frame_len).unwrap_or_default();
        let Some(split) = split(frame) else { return };
        let terms = &self.terms;
        self.segment_len = message_len(&split, 0, terms.mtu);
        for (i, counter) in (0..split.count()).zip(terms.first_counter..) {
            let end = self.len + message_len(&split, i, terms.mtu);
            let Some(message) = self.place.get_mut(self.len..end) else { return };
            seal(aead, &self.live.session, counter, (&split, i), message);
            self.len = end;
        }
    }
}
