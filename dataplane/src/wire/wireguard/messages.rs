//! The four messages: types, lengths, where the fields are (section 5.4).

/// Bytes of a handshake initiation.
pub const INITIATION_LEN: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// The longest of these.
pub const HANDSHAKE_LEN_MAX: usize = INITIATION_LEN;
/// Header of a transport message: type, receiver, counter.
pub const TRANSPORT_HEADER_LEN: usize = 16;
/// Tag at its end.
pub const TAG_LEN: usize = 16;
/// Bytes that sealing adds; also the length of a keepalive.
pub const TRANSPORT_OVERHEAD: usize = TRANSPORT_HEADER_LEN + TAG_LEN;

/// What a datagram is by its first four bytes and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Handshake initiation.
    Initiation,
    /// Handshake response.
    Response,
    /// Cookie reply.
    CookieReply,
    /// Transport data.
    Transport,
}

/// Tells what `message` is; `None` for anything with a wrong type, reserved bytes or length.
#[inline]
#[must_use]
pub fn kind(message: &[u8]) -> Option<Kind> {
    let _ = message;
    todo!()
}

/// The receiver index of a transport message.
#[inline]
#[must_use]
pub fn transport_receiver(message: &[u8]) -> Option<u32> {
    let _ = message;
    todo!()
}

/// Bytes that a packet of `len` bytes takes as plaintext of a transport message: the next multiple
/// of 16, but no more than the MTU (drivers/net/wireguard/send.c `calculate_skb_padding`).
#[inline]
#[must_use]
pub fn padded_len(len: usize, mtu: usize) -> usize {
    let _ = (len, mtu);
    todo!()
}
