//! Paths that refuse `UDP_SEGMENT`: one state for each destination.
//!
//! ```text
//!           EIO, EINVAL, EMSGSIZE
//!  allowed ───────────────────────► refused (reason, until)
//!     ▲                                │ time is up: one try
//!     └──────────── it passes ◄────────┘ refused again: twice as long
//! ```
//!
//! Errors of `udp_send_skb` (net/ipv4/udp.c): EIO when the egress device cannot checksum (before
//! Linux 6.11) or IPsec is in the way, EINVAL for too many segments or odd drivers, EMSGSIZE when
//! one segment exceeds the path MTU. The last concerns only segments of that size or more.
//! Bounded: [`DESTINATIONS_MAX`] destinations, the oldest gives way.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Refused destinations remembered at most.
pub const DESTINATIONS_MAX: usize = 64;
const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug)]
struct Refused {
    to: SocketAddr,
    /// Segments of this many bytes or more are refused.
    from_len: usize,
    until: Instant,
    wait: Duration,
}

/// Refusals so far.
#[derive(Debug)]
pub struct GsoTable {
    refused: Vec<Refused>,
    enabled: bool,
}

impl GsoTable {
    /// Everything allowed, or nothing if not `enabled`.
    #[must_use]
    pub fn new(enabled: bool) -> Self {
        Self { refused: Vec::with_capacity(DESTINATIONS_MAX), enabled }
    }

    /// Whether nothing is refused.
    #[inline]
    #[must_use]
    pub fn allows_all(&self) -> bool {
        self.enabled && self.refused.is_empty()
    }

    /// Whether segments of `segment_len` bytes may go to `to` by `UDP_SEGMENT`.
    #[inline]
    #[must_use]
    pub fn allows(&self, to: SocketAddr, segment_len: usize) -> bool {
        self.enabled && (self.refused.is_empty() || self.allows_at(to, segment_len, Instant::now()))
    }

    fn allows_at(&self, to: SocketAddr, segment_len: usize, now: Instant) -> bool {
        self.refused
            .iter()
            .find(|entry| entry.to == to)
            .is_none_or(|entry| segment_len < entry.from_len || now >= entry.until)
    }

    /// Whether this errno, for a send of several segments, means that the path refuses them.
    #[must_use]
    pub fn is_refusal(errno: i32) -> bool {
        matches!(errno, libc::EIO | libc::EINVAL | libc::EMSGSIZE)
    }

    /// Notes a refusal; true if it is news.
    pub fn refuse(&mut self, to: SocketAddr, segment_len: usize, errno: i32) -> bool {
        self.refuse_at(to, segment_len, errno, Instant::now())
    }

    fn refuse_at(&mut self, to: SocketAddr, segment_len: usize, errno: i32, now: Instant) -> bool {
        let from_len = if errno == libc::EMSGSIZE { segment_len } else { 0 };
        if let Some(entry) = self.refused.iter_mut().find(|entry| entry.to == to) {
            // A smaller segment refused while a larger one already was is the same news.
            entry.from_len = entry.from_len.min(from_len);
            // Batches that were queued before the first refusal come here, too: same news.
            if now >= entry.until {
                entry.wait = (entry.wait * 2).min(RETRY_MAX);
                entry.until = now + entry.wait;
            }
            return false;
        }
        if self.refused.len() == DESTINATIONS_MAX {
            self.refused.remove(0);
        }
        self.refused.push(Refused { to, from_len, until: now + RETRY_FIRST, wait: RETRY_FIRST });
        true
    }

    /// Notes that a segmented send passed; true if the destination had been refused for it.
    #[inline]
    pub fn passed(&mut self, to: SocketAddr, segment_len: usize) -> bool {
        if self.refused.is_empty() {
            return false;
        }
        let before = self.refused.len();
        self.refused.retain(|entry| entry.to != to || segment_len < entry.from_len);
        self.refused.len() < before
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_refusal_concerns_its_destination_until_time_is_up() {
        let (mut table, now) = (GsoTable::new(true), Instant::now());
        assert!(table.refuse_at(to(1), 1400, libc::EIO, now));
        assert!(!table.allows_at(to(1), 10, now));
        assert!(table.allows_at(to(2), 1400, now));
        assert!(table.allows_at(to(1), 1400, now + RETRY_FIRST));
        assert!(!table.refuse_at(to(1), 1400, libc::EIO, now + RETRY_FIRST));
        assert!(!table.allows_at(to(1), 1400, now + RETRY_FIRST * 2));
        assert!(table.passed(to(1), 1400));
        assert!(table.allows_at(to(1), 1400, now));
    }

    #[test]
    fn too_long_segments_leave_shorter_ones_alone() {
        let (mut table, now) = (GsoTable::new(true), Instant::now());
        assert!(table.refuse_at(to(1), 1400, libc::EMSGSIZE, now));
        assert!(!table.allows_at(to(1), 1400, now));
        assert!(table.allows_at(to(1), 1300, now));
        assert!(!table.passed(to(1), 1300));
        assert!(!table.allows_at(to(1), 1400, now));
    }

    #[test]
    fn memory_is_bounded() {
        let mut table = GsoTable::new(true);
        for port in 0..1000 {
            table.refuse(to(port), 1400, libc::EIO);
        }
        assert_eq!(table.refused.len(), DESTINATIONS_MAX);
        assert!(table.allows(to(0), 1400));
        assert!(!table.allows(to(999), 1400));
        assert!(!GsoTable::new(false).allows(to(1), 100));
    }
}
