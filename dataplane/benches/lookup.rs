//! What a look-up in the allowed IPs costs, from 10 to 100,000 prefixes of each family.
//!
//! `cargo bench -p ringtun --bench lookup`. In: prefixes of mixed lengths. Out: nanoseconds a
//! look-up (the best of several rounds over the same random addresses), the time to build the
//! structure, and its memory.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ringtun::table::allowed_ips::{AllowedIps, Prefix};

const LOOKUPS: usize = 1 << 16;
const ROUNDS: usize = 20;

fn main() {
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>10}",
        "prefixes", "IPv4 ns", "IPv6 ns", "build ms", "KiB"
    );
    for count in [10u32, 100, 1_000, 10_000, 100_000] {
        let prefixes: Vec<(Prefix, u32)> =
            (0..count).flat_map(|n| [v4(n), v6(n)].map(|prefix| (prefix, n))).collect();
        let begin = Instant::now();
        let allowed_ips = AllowedIps::new(prefixes.iter().copied());
        let build = begin.elapsed();
        let [v4_ns, v6_ns] = [v4, v6].map(|prefix| cost_ns(&allowed_ips, count, prefix));
        println!(
            "{count:>8} {v4_ns:>10.1} {v6_ns:>10.1} {:>10.2} {:>10}",
            build.as_secs_f64() * 1e3,
            allowed_ips.memory_bytes() >> 10,
        );
    }
}

/// Spread over the whole address space.
fn v4(n: u32) -> Prefix {
    let address = Ipv4Addr::from_bits(n.wrapping_mul(0x9e37_79b1));
    Prefix::new(IpAddr::V4(address), 20 + u8::try_from(n % 13).unwrap()).unwrap()
}

/// All of one /16, as private IPv6 networks are.
fn v6(n: u32) -> Prefix {
    let address = u128::from(0xfd00u16) << 112 | u128::from(n.wrapping_mul(0x9e37_79b1)) << 64;
    Prefix::new(IpAddr::V6(Ipv6Addr::from_bits(address)), 56 + u8::try_from(n % 9).unwrap())
        .unwrap()
}

fn cost_ns(allowed_ips: &AllowedIps, count: u32, prefix: fn(u32) -> Prefix) -> f64 {
    let mut random = 1u32;
    let addresses: Vec<IpAddr> = (0..LOOKUPS)
        .map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            prefix((random >> 8) % count).address()
        })
        .collect();
    let round = || {
        let begin = Instant::now();
        for address in &addresses {
            black_box(allowed_ips.get(*address));
        }
        begin.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}
