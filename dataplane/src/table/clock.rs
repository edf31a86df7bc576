//! The protocol's time: milliseconds that also pass while the machine sleeps.

use std::fmt;
use std::sync::Arc;

/// Where the time comes from: `CLOCK_BOOTTIME`, or a test.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock that asks `read`, which must never go back.
    pub fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Milliseconds since some fixed moment; never 0, which stands for "never" elsewhere.
    #[inline]
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.0)().max(1)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
