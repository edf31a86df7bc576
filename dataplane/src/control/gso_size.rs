//! How large a super-packet the kernel may build for the tun device (`gso_max_size`).
//!
//! In: the device's MTU, and whether the host forwards. Out: bytes. Pure.
//!
//! One tun read should become one UDP send: for locally generated traffic the limit is therefore
//! set so that TCP cuts its super-packets at what one `UDP_SEGMENT` send carries. A host that
//! forwards keeps the full size: a forwarded super-packet above the limit would be cut by the
//! kernel into single packets, one read each, which costs far more than two sends.

use super::values::GsoSize;
use crate::io::{SEGMENTS_MAX, SEND_MAX};

/// What the kernel builds when nothing limits it.
pub const FULL: u32 = 65_536;
/// IPv4 and TCP headers with the timestamp option: a full segment carries MTU less this.
const TCP4_HEADERS: u32 = 52;
/// TCP plans its super-packets for `gso_max_size` less `MAX_TCP_HEADER + 1` (193 to 321 bytes,
/// by kernel configuration). The rest of this margin rounds up and stays below one segment even
/// when the headers are longer, as in IPv6.
const TCP_PLANNING_MARGIN: u32 = 340;

/// How many wire packets one UDP send carries when inner packets are `mtu` bytes, to which the
/// encapsulation adds `overhead`.
#[must_use]
pub fn segments_per_send(mtu: u32, overhead: u32) -> u32 {
    let datagram = (mtu as usize + overhead as usize).max(1);
    u32::try_from((SEND_MAX / datagram).clamp(1, SEGMENTS_MAX)).unwrap_or(1)
}

/// The `gso_max_size` to set.
#[must_use]
pub fn gso_max_size(asked: GsoSize, mtu: u32, overhead: u32, host_forwards: bool) -> u32 {
    match asked {
        GsoSize::Bytes(bytes) => bytes,
        GsoSize::Auto if host_forwards => FULL,
        GsoSize::Auto => {
            let payload = mtu.saturating_sub(TCP4_HEADERS);
            let size = segments_per_send(mtu, overhead) * payload + TCP_PLANNING_MARGIN;
            size.clamp(GsoSize::MIN, FULL)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wire packets of a TCP super-packet, as tcp_bound_to_half_wnd and tcp_xmit_size_goal make it.
    fn tcp_segments(gso_max_size: u32, mtu: u32, headers: u32, max_tcp_header: u32) -> u32 {
        (gso_max_size - (max_tcp_header + 1)) / (mtu - headers)
    }

    #[test]
    fn a_tcp_super_packet_fills_one_send_and_no_more() {
        for mtu in 1280..=9_000 {
            let size = gso_max_size(GsoSize::Auto, mtu, 0, false);
            for max_tcp_header in [192, 256, 320] {
                for headers in [40, 52, 60, 72] {
                    let segments = tcp_segments(size, mtu, headers, max_tcp_header);
                    assert!(segments <= segments_per_send(mtu, 0), "mtu {mtu}, headers {headers}");
                }
                let common = tcp_segments(size, mtu, TCP4_HEADERS, max_tcp_header);
                assert_eq!(common, segments_per_send(mtu, 0), "mtu {mtu}: no room is wasted");
            }
        }
    }

    #[test]
    fn the_usual_mtu() {
        assert_eq!(segments_per_send(1472, 0), 44);
        assert_eq!(segments_per_send(1420, 32), 45);
        // 46 would be 65,504 bytes: a datagram as UDP has it, but none that a device segments.
        assert_eq!(segments_per_send(1392, 32), 45);
        assert_eq!(gso_max_size(GsoSize::Auto, 1472, 0, false), 44 * 1420 + 340);
    }

    #[test]
    fn small_and_huge_mtus_stay_in_bounds() {
        for mtu in [0, 1, 576, 65_507] {
            let size = gso_max_size(GsoSize::Auto, mtu, 0, false);
            assert!((GsoSize::MIN..=FULL).contains(&size), "mtu {mtu}: {size}");
        }
        assert_eq!(segments_per_send(576, 0), 64);
        assert_eq!(segments_per_send(65_507, 0), 1);
    }

    #[test]
    fn a_forwarding_host_keeps_the_full_size() {
        assert_eq!(gso_max_size(GsoSize::Auto, 1472, 0, true), FULL);
    }

    #[test]
    fn an_explicit_size_wins() {
        assert_eq!(gso_max_size(GsoSize::Bytes(30_000), 1472, 0, true), 30_000);
    }
}
