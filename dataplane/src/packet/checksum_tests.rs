//! Checksums against the obvious loop, at every length, parity and alignment.

use super::super::frames::naive_fold;
use super::*;
use proptest::prelude::*;

fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let step = move |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..len).map(step).collect()
}

#[test]
fn the_example_of_rfc_1071() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(sum(&bytes).fold(), 0xddf2);
    assert_eq!(sum(&bytes).finish(), !0xddf2);
}

#[test]
fn every_length_and_alignment() {
    let bytes = noise(400, 7);
    for start in 0..17 {
        for len in 0..300 {
            let part = &bytes[start..start + len];
            assert_eq!(sum(part).fold(), naive_fold(part), "start {start} len {len}");
            let mut copy = vec![0xee; len + 3];
            let copied = copy_and_sum(part, &mut copy[1..]);
            assert_eq!(copied.fold(), naive_fold(part), "start {start} len {len}");
            assert_eq!(&copy[1..=len], part);
            assert_eq!((copy[0], &copy[len + 1..]), (0xee, &[0xee, 0xee][..]));
        }
    }
}

#[test]
fn extremes() {
    for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
        for len in [1, 2, 63, 64, 65, 127, 128, 1399, 1400, 65_534, 65_535] {
            let bytes = vec![byte; len];
            assert_eq!(sum(&bytes).fold(), naive_fold(&bytes), "byte {byte} len {len}");
        }
    }
    assert_eq!(sum(&[]).fold(), 0);
    assert!(!sum(&[]).is_valid());
    assert_eq!(Sum(u64::MAX).add(u64::MAX).fold(), 0xffff);
}

#[test]
fn zero_is_mangled_for_udp_only() {
    let all_ones = sum(&[0xff, 0xff]);
    assert_eq!((all_ones.finish(), all_ones.finish_nonzero()), (0, 0xffff));
    assert_eq!(sum(&[0x12, 0x34]).finish_nonzero(), !0x1234);
}

#[test]
fn a_short_destination_takes_what_fits() {
    let bytes = noise(200, 3);
    let mut copy = [0; 70];
    assert_eq!(copy_and_sum(&bytes, &mut copy).fold(), naive_fold(&bytes[..70]));
    assert_eq!(copy[..], bytes[..70]);
}

#[test]
fn pseudo_headers_as_the_rfcs_draw_them() {
    let v4 = [10, 0, 0, 1, 192, 168, 3, 4];
    let drawn = [&v4[..], &[0, 17, 0x05, 0x78]].concat();
    assert_eq!(pseudo_v4(&v4, 17, 0x578).fold(), naive_fold(&drawn));
    let v6: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 7).unwrap_or(0));
    let drawn = [&v6[..], &[0, 1, 0x05, 0x78, 0, 0, 0, 6]].concat();
    assert_eq!(pseudo_v6(&v6, 6, 0x1_0578).fold(), naive_fold(&drawn));
}

proptest! {
    #[test]
    fn a_fold_is_the_remainder_by_ffff(number: u64, shift in 0..64u32) {
        let number = number >> shift;
        // Of the two ways to say zero only a sum of nothing says 0.
        let expected = if number == 0 { 0 } else { (number - 1) % 0xffff + 1 };
        prop_assert_eq!(u64::from(u16::from_be(Sum(number).fold())), expected);
    }

    #[test]
    fn parts_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..4000), cut in 0usize..2000) {
        let cut = (cut * 2).min(bytes.len() & !1);
        let (front, back) = bytes.split_at(cut);
        prop_assert_eq!(sum(front).add_bytes(back).fold(), naive_fold(&bytes));
        prop_assert_eq!(sum(front).add_sum(sum(back)).fold(), naive_fold(&bytes));
    }

    #[test]
    fn fields_add_as_their_bytes(a in any::<u16>(), b in any::<u32>()) {
        let bytes = [&a.to_be_bytes()[..], &b.to_be_bytes()].concat();
        prop_assert_eq!(Sum::default().add_u16(a).add_u32(b).fold(), naive_fold(&bytes));
    }
}
