//! Active queue management: telling transfers whose packets wait too long for this worker.
//!
//! TCP sends faster until something tells it not to. A queue that overflows tells it late: by then
//! megabytes wait in the socket or the tun queue that the worker reads, and whatever else goes
//! through the tunnel waits behind them. So the kernel notes when packets came, and when those that
//! are part of a transfer have waited longer than [`TARGET_NS`] on average for [`INTERVAL_NS`], one
//! of them is marked as having met congestion (ECN, RFC 3168) where its ends know of that, and is
//! lost otherwise; then again after a while, sooner each time, as CoDel does (RFC 8289, section
//! 5.4).
//!
//! - [`arrivals`]: datagrams from the wire, by the socket's time stamps;
//! - [`frames`]: super-packets from the tun, by a program in the kernel.
//!
//! The average, where CoDel has the least wait of an interval: when both ends of a tunnel, or a
//! worker and those it works for, share cores, what is in flight wanders between their queues, so
//! that each is empty now and then, and they never are together.
//!
//! There are senders that do not react: BBR, datagrams sent at a rate of their own. When the
//! average has not fallen after [`PATIENCE`] signals, this worker [rests](REST_NS).

mod arrivals;
mod frames;

pub(super) use arrivals::Arrivals;
pub(super) use frames::Frames;

/// What packets of a transfer may wait on average: a few of them behind one another.
const TARGET_NS: u64 = 250_000;
/// For how long they may wait longer: what came while the worker was kept off its core for once.
const INTERVAL_NS: u64 = 20_000_000;
/// How much must wait on average. Where little comes it is not a queue that takes the time.
const QUEUE_MIN: u64 = 65_536;
/// A transfer's packets come together, so many bytes at least …
const TRANSFER_LEN_MIN: usize = 8_192;
/// … of so much each.
const PACKET_LEN_MIN: usize = 512;
/// Weight of the past in the average: 63 of 64 parts, at 6 Gb/s the receives of 6 ms.
const PAST_SHIFT: u32 = 6;
/// A longer wait counts as this long.
const WAIT_MAX_NS: u64 = 50_000_000;
/// An average that nothing was added to for so long is forgotten.
const FORGET_NS: u64 = 100_000_000;
/// From one signal to the next, at first …
const SPACING_NS: u64 = 50_000_000;
/// … and at least.
const SPACING_MIN_NS: u64 = 5_000_000;
/// Signals in a row after which the average must have fallen by a sixteenth …
const PATIENCE: u32 = 32;
/// … or there is none for so long.
const REST_NS: u64 = 1_000_000_000;

/// The waits that one worker has seen in one queue, and what it told because of them.
#[derive(Debug, Default)]
struct Aqm {
    average_ns: u64,
    /// When packets of a transfer were seen last.
    seen_ns: u64,
    /// Since when the average has been above the target; 0 if it is not.
    above_since_ns: u64,
    /// Bytes that have come since.
    above_bytes: u64,
    /// No signal before that.
    next_ns: u64,
    /// Signals since the average was below the target.
    signals: u32,
    /// The average when they were counted last.
    before_ns: u64,
}

impl Aqm {
    /// Takes note of a wait of `len` bytes; whether it is time for a signal.
    fn is_due(&mut self, waited_ns: u64, len: u64, now_ns: u64) -> bool {
        // The clock may have been set back: both differences are then 0.
        if now_ns.saturating_sub(self.seen_ns) > FORGET_NS {
            (self.average_ns, self.above_since_ns, self.signals) = (0, 0, 0);
        }
        self.seen_ns = now_ns;
        let waited_ns = waited_ns.min(WAIT_MAX_NS);
        self.average_ns =
            self.average_ns - (self.average_ns >> PAST_SHIFT) + (waited_ns >> PAST_SHIFT);
        if self.average_ns <= TARGET_NS {
            (self.above_since_ns, self.signals) = (0, 0);
            return false;
        }
        if self.above_since_ns == 0 || self.above_since_ns > now_ns {
            (self.above_since_ns, self.above_bytes) = (now_ns, 0);
        }
        self.above_bytes = self.above_bytes.saturating_add(len);
        let above_ns = now_ns - self.above_since_ns;
        // What waits is what comes while one waits.
        if above_ns < INTERVAL_NS
            || self.average_ns.saturating_mul(self.above_bytes) / above_ns < QUEUE_MIN
        {
            return false;
        }
        // Set back by more than a pause, it would make a long one.
        now_ns >= self.next_ns || self.next_ns - now_ns > REST_NS
    }

    fn signalled(&mut self, now_ns: u64) {
        if self.signals == 0 {
            self.before_ns = self.average_ns;
        }
        self.signals = self.signals.saturating_add(1);
        let mut pause_ns = SPACING_NS / u64::from(self.signals.isqrt());
        if self.signals.is_multiple_of(PATIENCE) {
            if self.average_ns > self.before_ns - self.before_ns / 16 {
                pause_ns = REST_NS;
            }
            self.before_ns = self.average_ns;
        }
        self.next_ns = now_ns.saturating_add(pause_ns.max(SPACING_MIN_NS));
    }
}

#[cfg(test)]
mod tests;
