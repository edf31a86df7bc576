//! What a UDP receive slot holds, for both backends.
//!
//! ```text
//! | io_uring_recvmsg_out 16 | name 32 | control 128 | payload up to 65,535 |
//! ```
//! Multishot recvmsg dictates the order (io_uring_recvmsg_out in linux/io_uring.h); the mmsg
//! backend uses the same places, so that what follows need not know which one ran.

use std::net::SocketAddr;

use crate::packet::endpoint::{Endpoint, Source};
use io_uring::types::RecvMsgOut;

use super::address::{
    CONTROL_LEN, NAME_LEN, NAME_LEN_U32, ReceiveControl, decode_control, decode_name,
};

const OUT_LEN: usize = 16;
/// Where the payload starts in a receive slot.
pub const PAYLOAD_OFFSET: u32 = 176;
const _: () = assert!(PAYLOAD_OFFSET as usize == OUT_LEN + NAME_LEN + CONTROL_LEN);
/// Bytes of one receive slot: any UDP payload fits. An odd number of cache lines, so that the
/// starts of slots do not all fall into the same cache sets.
pub const RECEIVE_SLOT_LEN: usize = 1029 * 64;
const _: () = assert!(RECEIVE_SLOT_LEN >= PAYLOAD_OFFSET as usize + 65_535);
/// Bytes of one tun read slot: virtio header and the largest IP packet; a smaller buffer would
/// truncate silently (drivers/net/tun.c, tun_put_user).
pub const TUN_SLOT_LEN: usize = 1025 * 64;
const _: () = assert!(TUN_SLOT_LEN >= 10 + 65_535);
/// Bytes of one send slot: the largest UDP payload over IPv4 is 65,507.
pub const SEND_SLOT_LEN: usize = 1025 * 64;

/// One receive: where its bytes lie in the slot, who sent it, how the kernel coalesced it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The sender.
    pub from: SocketAddr,
    /// Bytes of payload, after those that are skipped.
    pub len: usize,
    /// Bytes before that which nobody is to see.
    pub skip: usize,
    /// Bytes of each coalesced datagram but the last (UDP_GRO); `len` when there is just one.
    pub segment_len: usize,
    /// The kernel had more than fitted.
    pub truncated: bool,
    /// Traffic class byte of the outer header; 0 unless the socket asks for it.
    pub class: u8,
    /// The address it was sent to, if the socket asks for it.
    pub source: Option<Source>,
    /// When it came to the socket, in ns of CLOCK_REALTIME; 0 unless the socket asks for it.
    pub came_ns: u64,
}

impl Arrival {
    /// Of a socket that tells nothing else.
    #[must_use]
    pub fn of(from: SocketAddr, len: usize, segment_len: usize) -> Self {
        let control = ReceiveControl { segment_len: Some(segment_len), ..Default::default() };
        Self::new(from, len, false, control)
    }

    #[inline]
    pub(super) fn new(
        from: SocketAddr,
        len: usize,
        truncated: bool,
        control: ReceiveControl,
    ) -> Self {
        let ReceiveControl { segment_len, class, source, came_ns } = control;
        let segment_len = segment_len.unwrap_or(len);
        Self { from, len, skip: 0, segment_len, truncated, class, source, came_ns }
    }

    /// Where an answer goes, and from where.
    #[inline]
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { to: self.from, source: self.source }
    }

    /// How many datagrams it brought.
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        // A division is dear where there is nothing to divide.
        if self.len <= self.segment_len { 1 } else { self.len.div_ceil(self.segment_len.max(1)) }
    }
}

/// The message header that multishot recvmsg copies its field lengths from.
pub(super) fn template() -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_namelen = NAME_LEN_U32;
    header.msg_controllen = CONTROL_LEN;
    header
}

/// `len` bytes of the payload of a receive slot, from `skip` on; empty if it cannot hold so many.
#[inline]
#[must_use]
pub fn payload(slot: &mut [u8], skip: usize, len: usize) -> &mut [u8] {
    let payload = slot.get_mut((PAYLOAD_OFFSET as usize).saturating_add(skip)..);
    payload.and_then(|payload| payload.get_mut(..len)).unwrap_or_default()
}

/// Reads what a multishot receive left in `slot`; `None` when it is no UDP datagram of ours.
pub(super) fn parse(slot: &[u8], template: &libc::msghdr) -> Option<Arrival> {
    let out = RecvMsgOut::parse(slot, template).ok()?;
    let len = out.payload_data().len();
    let truncated = out.is_payload_truncated() || out.is_control_data_truncated();
    let control = decode_control(out.control_data());
    Some(Arrival::new(decode_name(out.name_data())?, len, truncated, control))
}
