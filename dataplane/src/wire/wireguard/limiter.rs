//! Handshakes a second from one source (drivers/net/wireguard/ratelimiter.c).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Milliseconds that one handshake costs: 20 a second.
const COST_MS: u64 = 50;
/// Handshakes that may come at once.
const BURST: u64 = 5;
/// Sources remembered at most; more are refused until some have been quiet.
const SOURCES_MAX: usize = 16_384;
/// A source that was quiet for so long is forgotten: its bucket is full again.
const QUIET_MS: u64 = 1_000;

/// Token buckets by IPv4 address or IPv6 /64: 20 a second, bursts of 5. Bounded.
#[derive(Default)]
pub struct Limiter {
    buckets: HashMap<IpAddr, Bucket>,
    swept_ms: u64,
}

struct Bucket {
    last_ms: u64,
    tokens_ms: u64,
}

impl Limiter {
    /// Whether one more from `from` is allowed now.
    pub fn allow(&mut self, from: IpAddr, now_ms: u64) -> bool {
        if now_ms >= self.swept_ms + QUIET_MS {
            self.swept_ms = now_ms;
            self.buckets.retain(|_, bucket| bucket.last_ms + QUIET_MS > now_ms);
        }
        let full = BURST * COST_MS;
        let source = source_of(from);
        if !self.buckets.contains_key(&source) && self.buckets.len() >= SOURCES_MAX {
            return false;
        }
        let fresh = Bucket { last_ms: now_ms, tokens_ms: full };
        let bucket = self.buckets.entry(source).or_insert(fresh);
        let gained = now_ms.saturating_sub(bucket.last_ms);
        bucket.tokens_ms = (bucket.tokens_ms + gained).min(full);
        bucket.last_ms = now_ms;
        let allowed = bucket.tokens_ms >= COST_MS;
        if allowed {
            bucket.tokens_ms -= COST_MS;
        }
        allowed
    }
}

/// What one sender is likely to control: an IPv4 address, an IPv6 /64.
#[must_use]
pub fn source_of(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_twenty_a_second() {
        let mut limiter = Limiter::default();
        let from = "192.0.2.1".parse().unwrap();
        assert!((0..5).all(|_| limiter.allow(from, 1000)));
        assert!(!limiter.allow(from, 1000) && !limiter.allow(from, 1049));
        assert!(limiter.allow(from, 1050) && !limiter.allow(from, 1051));
        let passed = (2000..12_000).filter(|&ms| limiter.allow(from, ms)).count();
        assert!((200..=206).contains(&passed), "{passed}");
        assert!(limiter.allow("192.0.2.2".parse().unwrap(), 1051));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_and_a_mapped_address_as_ipv4() {
        let mut limiter = Limiter::default();
        let passed = (0..100u64)
            .filter(|i| limiter.allow(format!("2001:db8::{i:x}").parse().unwrap(), 5))
            .count();
        assert_eq!(passed, 5);
        assert!((0..5).all(|_| limiter.allow("10.0.0.1".parse().unwrap(), 5)));
        assert!(!limiter.allow("::ffff:10.0.0.1".parse().unwrap(), 5));
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let mut limiter = Limiter::default();
        let source = |i: u32| IpAddr::from(i.to_be_bytes());
        let passed = (0..40_000).filter(|&i| limiter.allow(source(i), 10)).count();
        assert_eq!((passed, limiter.buckets.len()), (SOURCES_MAX, SOURCES_MAX));
        assert!(limiter.allow(source(39_999), 10 + QUIET_MS));
        assert_eq!(limiter.buckets.len(), 1);
    }
}
