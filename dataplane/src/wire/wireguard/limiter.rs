//! Handshakes a second from one source (drivers/net/wireguard/ratelimiter.c).

use std::net::IpAddr;

/// Token buckets by IPv4 address or IPv6 /64: 20 a second, bursts of 5. Bounded.
#[derive(Default)]
pub struct Limiter {}

impl Limiter {
    /// Whether one more from `from` is allowed now.
    pub fn allow(&mut self, from: IpAddr, now_ms: u64) -> bool {
        let _ = (from, now_ms);
        todo!()
    }
}
