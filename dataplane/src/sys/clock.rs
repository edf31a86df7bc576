//! The clocks of protocols and of packets.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of `CLOCK_BOOTTIME`: since boot, time asleep included.
#[must_use]
pub fn boottime_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours for the kernel to fill in; the clock is of 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Nanoseconds of `CLOCK_MONOTONIC`, by which programs in the kernel tell the time
/// (`bpf_ktime_get_ns`).
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours for the kernel to fill in.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Nanoseconds of `CLOCK_REALTIME` since 1970, by which the kernel stamps packets
/// (`SO_TIMESTAMPNS`); somebody may set it.
#[must_use]
pub fn real_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn they_run() {
        assert!(super::boottime_ms() > 0 && super::monotonic_ns() > 0);
        assert!(super::real_ns() > 1_700_000_000_000_000_000);
    }
}
