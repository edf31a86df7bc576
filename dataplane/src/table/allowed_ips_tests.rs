//! Against a list that is searched from end to end.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn holds(prefix: &Prefix, address: IpAddr) -> bool {
    Prefix::new(address, prefix.len).is_some_and(|same| same == *prefix)
}

fn by_hand(prefixes: &[(Prefix, u32)], address: IpAddr) -> Option<u32> {
    let holding = prefixes.iter().filter(|(prefix, _)| holds(prefix, address));
    // Of equal lengths the last.
    holding.max_by_key(|(prefix, _)| prefix.len).map(|(_, value)| *value)
}

/// Addresses around the edges of each prefix.
fn probes(prefixes: &[(Prefix, u32)]) -> Vec<IpAddr> {
    let mut probes = Vec::new();
    for (prefix, _) in prefixes {
        match prefix.address {
            IpAddr::V4(v4) => {
                let (first, last) = (v4.to_bits(), v4.to_bits().or_not(u32::mask(prefix.len)));
                for bits in [first, first.wrapping_sub(1), last, last.wrapping_add(1)] {
                    probes.push(Ipv4Addr::from_bits(bits).into());
                }
            }
            IpAddr::V6(v6) => {
                let (first, last) = (v6.to_bits(), v6.to_bits().or_not(u128::mask(prefix.len)));
                for bits in [first, first.wrapping_sub(1), last, last.wrapping_add(1)] {
                    probes.push(Ipv6Addr::from_bits(bits).into());
                }
            }
        }
    }
    probes
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    // Few distinct bits, so that prefixes nest and repeat.
    let v4 = (prop::sample::select(vec![0u32, 0x0a00_0000, 0x0a00_ff00, 0xffff_ffff]), 0..=0x1fu32)
        .prop_map(|(base, low)| IpAddr::V4(Ipv4Addr::from_bits(base ^ low)));
    let v6 = (prop::sample::select(vec![0u128, 0xfd00 << 112, u128::MAX]), 0..=0x1fu128)
        .prop_map(|(base, low)| IpAddr::V6(Ipv6Addr::from_bits(base ^ (low << 60) ^ low)));
    (prop_oneof![v4, v6], 0..=128u8).prop_map(|(address, len)| {
        let len = if address.is_ipv4() { len % 33 } else { len };
        Prefix::new(address, len).unwrap()
    })
}

proptest! {
    #[test]
    fn it_finds_what_a_search_by_hand_finds(
        prefixes in prop::collection::vec((any_prefix(), 0..5u32), 0..40),
        others in prop::collection::vec(any::<IpAddr>(), 8),
    ) {
        let table = AllowedIps::new(prefixes.iter().copied());
        for address in probes(&prefixes).into_iter().chain(others) {
            prop_assert_eq!(table.get(address), by_hand(&prefixes, address), "{}", address);
        }
    }
}

#[test]
fn many_prefixes_with_the_index_in_use() {
    let mut state = 1u64;
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 32).unwrap()
    };
    let mut prefixes = Vec::new();
    for value in 0..20_000 {
        let len = 8 + u8::try_from(random() % 25).unwrap();
        let v4 = Ipv4Addr::from_bits(random() & 0x3fff_ffff);
        prefixes.push((Prefix::new(v4.into(), len).unwrap(), value));
        let v6 = Ipv6Addr::from_bits(u128::from(random()) << 96 | u128::from(random()) << 64);
        prefixes.push((Prefix::new(v6.into(), len * 2).unwrap(), value));
    }
    let table = AllowedIps::new(prefixes.iter().copied());
    assert!(!table.v4.index.is_empty() && !table.v6.index.is_empty());
    for address in probes(&prefixes[..60]) {
        assert_eq!(table.get(address), by_hand(&prefixes, address), "{address}");
    }
    for _ in 0..200 {
        let address = IpAddr::V4(Ipv4Addr::from_bits(random()));
        assert_eq!(table.get(address), by_hand(&prefixes, address), "{address}");
    }
}

#[test]
fn texts_are_read_and_refused() {
    for (text, read) in [
        ("10.7.1.9/24", "10.7.1.0/24"),
        ("10.7.1.9", "10.7.1.9/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fd00::1/64", "fd00::/64"),
        ("::1", "::1/128"),
    ] {
        assert_eq!(text.parse::<Prefix>().unwrap().to_string(), read);
    }
    for text in ["", "10.7.1.0/33", "::/129", "10.7/16", "x/8", "10.0.0.0/", "10.0.0.0/+8", "/8"] {
        assert!(text.parse::<Prefix>().unwrap_err().to_string().contains("10.7.0.0/24"), "{text}");
    }
}

#[test]
fn many_in_one_corner_are_found_by_the_index() {
    let corners = [0xfd00u128 << 112, (u128::MAX >> 20) << 20, 0];
    for corner in corners {
        let prefixes: Vec<(Prefix, u32)> = (0..400u32)
            .map(|n| {
                let low = u128::from(n.wrapping_mul(0x9e37_79b1) >> 8) << (n % 3 * 20);
                let address = Ipv6Addr::from_bits(corner ^ low);
                (Prefix::new(address.into(), 60 + u8::try_from(n % 69).unwrap()).unwrap(), n)
            })
            .collect();
        let table = AllowedIps::new(prefixes.iter().copied());
        for address in probes(&prefixes) {
            assert_eq!(table.get(address), by_hand(&prefixes, address), "{address}");
        }
    }
}
