//! The protocol's time: milliseconds that also pass while the machine sleeps.

use std::fmt;
use std::sync::Arc;

use crate::sys;

/// Where the time comes from: `CLOCK_BOOTTIME`, or a test.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Boottime,
    Other(Arc<dyn Fn() -> u64 + Send + Sync>),
}

impl Clock {
    /// The kernel's.
    #[must_use]
    pub fn boottime() -> Self {
        Self(Source::Boottime)
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
            Source::Boottime => sys::clock::boottime_ms(),
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
