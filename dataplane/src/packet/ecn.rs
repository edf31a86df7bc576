//! Explicit congestion notification across a tunnel, as the kernel's WireGuard does it.
//!
//! Outbound, the outer header takes the inner one's ECN bits, except that a mark already made
//! (CE) becomes ECT(0); no other traffic class bit is shown outside. Inbound, a mark made on the
//! way (outer CE) is put on inner packets that understand it. RFC 6040 section 4,
//! include/net/inet_ecn.h (`INET_ECN_encapsulate`, `IP_ECN_set_ce`).

use super::bytes::{get16, put16};

/// The ECN field of a traffic class (RFC 3168, section 5).
pub const MASK: u8 = 3;
const ECT_0: u8 = 2;
/// "Congestion experienced" in it.
pub const CE: u8 = 3;

/// The traffic class byte for the outer header of `packet`.
#[must_use]
#[inline]
pub fn outer_class(packet: &[u8]) -> u8 {
    match class(packet) & MASK {
        CE => ECT_0,
        ecn => ecn,
    }
}

/// Carries the mark of an outer header with traffic class `outer` over to `packet`, a whole inner
/// packet with at least its fixed header.
#[inline]
pub fn mark(packet: &mut [u8], outer: u8) {
    if outer & MASK != CE {
        return;
    }
    let inner = class(packet);
    // Neither 00 (does not understand) nor 11 (marked already).
    if !matches!(inner & MASK, 1 | 2) {
        return;
    }
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            let added = u16::from(CE - (inner & MASK));
            packet[1] |= CE;
            // RFC 1624: the field grew by `added`, so its complement's sum shrinks by it.
            let (sum, borrow) = get16(packet, 10).overflowing_sub(added);
            put16(packet, 10, sum.wrapping_sub(u16::from(borrow)));
        }
        Some(6) if packet.len() >= 40 => packet[1] |= CE << 4,
        _ => {}
    }
}

/// TOS of IPv4, traffic class of IPv6; 0 for anything else.
#[inline]
pub(super) fn class(packet: &[u8]) -> u8 {
    match packet {
        [first, tos, ..] if first >> 4 == 4 => *tos,
        [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum::sum;

    fn v4(tos: u8, id: u16) -> Vec<u8> {
        let mut packet = vec![0; 20];
        (packet[0], packet[1], packet[3], packet[8], packet[9]) = (0x45, tos, 20, 64, 17);
        put16(&mut packet, 4, id);
        let checksum = sum(&packet).finish();
        put16(&mut packet, 10, checksum);
        packet
    }

    #[test]
    fn the_outer_header_shows_ecn_and_nothing_else() {
        for (inner, outer) in [(0xfc, 0), (0xb9, 1), (2, 2), (0xff, 2)] {
            assert_eq!(outer_class(&v4(inner, 0)), outer, "{inner:#x}");
        }
        let mut v6 = vec![0; 40];
        (v6[0], v6[1]) = (0x6f, 0xe1);
        assert_eq!(outer_class(&v6), 2);
        assert_eq!(outer_class(&[]), 0);
    }

    #[test]
    fn a_mark_is_carried_over_to_who_understands_it() {
        for id in 0..=u16::MAX {
            let mut packet = v4(u8::try_from(id & 3).unwrap(), id);
            mark(&mut packet, 3);
            assert_eq!(packet[1], if id & 3 == 0 { 0 } else { 3 });
            assert!(sum(&packet).is_valid(), "id {id}");
        }
        let mut v6 = vec![0; 40];
        (v6[0], v6[1]) = (0x60, 0x20);
        mark(&mut v6, 2);
        assert_eq!(v6[1], 0x20);
        mark(&mut v6, 3);
        assert_eq!(v6[1], 0x30);
    }
}
