//! The protocol's time: milliseconds that also pass while the machine sleeps.

use std::fmt;
use std::sync::Arc;

/// Where the time comes from: `CLOCK_BOOTTIME`, or a test.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    /// Without a detour, for each turn of a worker asks.
    Call(fn() -> u64),
    Other(Arc<dyn Fn() -> u64 + Send + Sync>),
}

impl Clock {
    /// The clock that `read` is, which must never go back.
    #[must_use]
    pub fn of(read: fn() -> u64) -> Self {
        Self(Source::Call(read))
    }

    /// A clock that asks `read`, which must never go back.
    pub fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Source::Other(Arc::new(read)))
    }

    /// Milliseconds since some fixed moment; never 0, which stands for "never" elsewhere.
    #[inline]
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let now_ms = match &self.0 {
            Source::Call(read) => read(),
            Source::Other(read) => read(),
        };
        now_ms.max(1)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
