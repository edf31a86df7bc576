//! TAI64N timestamps, which tell a new initiation from a replayed one (section 5.1).

use std::time::Duration;

/// 1970 in TAI64, with the ten leap seconds there were by then.
const EPOCH: u64 = 0x4000_0000_0000_000a;
/// Nanoseconds are rounded down to multiples of this.
const WHITENING: u32 = 1 << 24;

/// Seconds and nanoseconds as 12 big-endian bytes: greater is later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub [u8; 12]);

impl Timestamp {
    /// From the time since the Unix epoch, rounded down to 2^24 ns (about 17 ms) as the kernel
    /// does, so that timing is not given away.
    #[must_use]
    pub fn from_unix(since_epoch: Duration) -> Self {
        let nanoseconds = since_epoch.subsec_nanos() & !(WHITENING - 1);
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&EPOCH.wrapping_add(since_epoch.as_secs()).to_be_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }

    /// The next one that can be told from this one.
    #[must_use]
    pub fn next(self) -> Self {
        let number = |range: std::ops::Range<usize>| {
            self.0[range].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (seconds, nanoseconds) = (number(0..8), number(8..12) + u64::from(WHITENING));
        let over = nanoseconds >= 1_000_000_000;
        let nanoseconds = if over { 0 } else { u32::try_from(nanoseconds).unwrap_or(0) };
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&seconds.saturating_add(u64::from(over)).to_be_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_is_greater_and_fine_timing_is_hidden() {
        let at = |ms| Timestamp::from_unix(Duration::from_millis(ms));
        assert_eq!(at(0).0, [0x40, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0]);
        assert_eq!(at(1), at(0));
        assert!(at(17) > at(0) && at(1000) > at(999) && at(1_800_000_000_000) > at(1));
    }

    #[test]
    fn the_next_one_is_the_next_that_a_clock_gives() {
        let mut timestamp = Timestamp::from_unix(Duration::from_secs(5));
        for _ in 0..200 {
            let next = timestamp.next();
            assert!(next > timestamp);
            timestamp = next;
        }
        let step = Duration::from_nanos(u64::from(WHITENING));
        assert_eq!(Timestamp::from_unix(step * 7).next(), Timestamp::from_unix(step * 8));
        let last = Timestamp::from_unix(Duration::from_nanos(999_999_999));
        assert_eq!(last.next(), Timestamp::from_unix(Duration::from_secs(1)));
    }
}
