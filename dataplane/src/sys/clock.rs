//! The clock of protocols.

/// Milliseconds of `CLOCK_BOOTTIME`: since boot, time asleep included.
#[must_use]
pub fn boottime_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours for the kernel to fill in; the clock is of 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_runs() {
        assert!(super::boottime_ms() > 0);
    }
}
