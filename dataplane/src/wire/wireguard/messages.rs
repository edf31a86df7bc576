//! The four messages: types, lengths, where the fields are (section 5.4).
//!
//! ```text
//! initiation   | 1 0 0 0 | sender 4 | ephemeral 32 | static 48 | time 28 | mac1 16 | mac2 16 |
//! response     | 2 0 0 0 | sender 4 | receiver 4 | ephemeral 32 | empty 16 | mac1 16 | mac2 16 |
//! cookie reply | 3 0 0 0 | receiver 4 | nonce 24 | cookie 32 |
//! transport    | 4 0 0 0 | receiver 4 | counter 8 | packet, padded | tag 16 |
//! ```
//! Numbers are little endian.

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

/// Traffic class of initiations and responses: AF41, no ECN (drivers/net/wireguard/messages.h
/// `HANDSHAKE_DSCP`). Cookie replies go without one (socket.c
/// `wg_socket_send_buffer_as_reply_to_skb`), and so does data that has no ECN.
const HANDSHAKE_CLASS: u8 = 0x88;

const PADDING: usize = 16;

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
    match (u32::from_le_bytes(*message.first_chunk()?), message.len()) {
        (4, TRANSPORT_OVERHEAD..) => Some(Kind::Transport),
        (1, INITIATION_LEN) => Some(Kind::Initiation),
        (2, RESPONSE_LEN) => Some(Kind::Response),
        (3, COOKIE_REPLY_LEN) => Some(Kind::CookieReply),
        _ => None,
    }
}

/// The traffic class with which `message`, one of control's, leaves.
#[must_use]
pub fn traffic_class(message: &[u8]) -> u8 {
    match kind(message) {
        Some(Kind::Initiation | Kind::Response) => HANDSHAKE_CLASS,
        _ => 0,
    }
}

/// The sender's index in an initiation or response.
#[inline]
#[must_use]
pub fn sender(message: &[u8]) -> Option<u32> {
    u32_at(message, 4)
}

/// The receiver's index in a response, cookie reply or transport message.
#[inline]
#[must_use]
pub fn receiver(message: &[u8]) -> Option<u32> {
    let at = if message.first() == Some(&2) { 8 } else { 4 };
    u32_at(message, at)
}

#[inline]
fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Bytes that a packet of `len` bytes takes as plaintext of a transport message: the next multiple
/// of 16, but no more than the MTU (drivers/net/wireguard/send.c `calculate_skb_padding`). A packet
/// longer than the MTU counts by what exceeds its last multiple. 0 is an MTU that is not known.
#[inline]
#[must_use]
pub fn padded_len(len: usize, mtu: usize) -> usize {
    if mtu == 0 {
        return len.next_multiple_of(PADDING);
    }
    let last = if len > mtu { len % mtu } else { len };
    len - last + last.next_multiple_of(PADDING).min(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_types_and_lengths_are_messages() {
        let message = |head: [u8; 4], len: usize| {
            let mut bytes = vec![0; len];
            bytes[..4].copy_from_slice(&head);
            bytes
        };
        for (head, len, expected) in [
            ([1, 0, 0, 0], 148, Some(Kind::Initiation)),
            ([1, 0, 0, 0], 147, None),
            ([1, 0, 0, 0], 149, None),
            ([2, 0, 0, 0], 92, Some(Kind::Response)),
            ([2, 0, 0, 0], 148, None),
            ([3, 0, 0, 0], 64, Some(Kind::CookieReply)),
            ([3, 0, 0, 1], 64, None),
            ([4, 0, 0, 0], 31, None),
            ([4, 0, 0, 0], 32, Some(Kind::Transport)),
            ([4, 0, 0, 0], 61, Some(Kind::Transport)),
            ([4, 1, 0, 0], 64, None),
            ([5, 0, 0, 0], 64, None),
            ([0, 0, 0, 0], 148, None),
        ] {
            assert_eq!(kind(&message(head, len)), expected, "{head:?} {len}");
        }
        assert_eq!(kind(&[]), None);
        assert_eq!(kind(&[4, 0, 0]), None);
    }

    #[test]
    fn padding_is_to_16_and_stops_at_the_mtu() {
        for (len, mtu, padded) in [
            (0, 1420, 0),
            (1, 1420, 16),
            (16, 1420, 16),
            (1408, 1420, 1408),
            (1409, 1420, 1420),
            (1420, 1420, 1420),
            (1421, 1420, 1436),
            (2840, 1420, 2840),
            (100, 0, 112),
            (1419, 1419, 1419),
        ] {
            assert_eq!(padded_len(len, mtu), padded, "{len} {mtu}");
        }
        assert!((0..5000).all(|len| padded_len(len, 1337) >= len));
    }
}
