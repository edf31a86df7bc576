//! TAI64N timestamps, which tell a new initiation from a replayed one (section 5.1).

/// Seconds and nanoseconds as 12 big-endian bytes: greater is later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub [u8; 12]);

impl Timestamp {
    /// From the time since the Unix epoch, rounded down to 2^24 ns (about 17 ms) as the kernel does,
    /// so that timing is not given away.
    #[must_use]
    pub fn from_unix(since_epoch: std::time::Duration) -> Self {
        let _ = since_epoch;
        todo!()
    }
}
