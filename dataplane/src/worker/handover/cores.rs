//! Whether there is a core for everybody.
//!
//! Where there is none to spare, what a helper does somebody else cannot do, and the way to it and
//! back is lost: both ends of a tunnel and TCP on two cores get 0.84 times as much with helpers
//! as without. A worker that is under load learns it from the scheduler: it waits for its core.

use crate::sys::run_delay::RunDelay;

/// How often to look.
const WINDOW_MS: u64 = 32;
/// Cores are wanting when a worker waits for more than this part of the time …
const WANTING: u64 = 8;
/// … until it waits for less than this part. With a core of its own, it waits for next to nothing.
const ENOUGH: u64 = 16;

/// What one worker has seen.
#[derive(Debug, Default)]
pub struct Cores {
    /// Of the thread that looked first; none before, and where the kernel does not tell.
    delay: Option<RunDelay>,
    asked: bool,
    /// When the window began, and how long this worker had waited then.
    begin: Option<(u64, u64)>,
    wanting: bool,
}

impl Cores {
    /// Whether somebody here waits for a core.
    #[inline]
    #[must_use]
    pub fn are_wanting(&self) -> bool {
        self.wanting
    }

    /// Looks, if it is time. To be called by the worker, while it is under load.
    #[inline]
    pub fn look(&mut self, now_ms: u64) {
        if self.begin.is_none_or(|(begin_ms, _)| now_ms.wrapping_sub(begin_ms) >= WINDOW_MS) {
            self.ask(now_ms);
        }
    }

    #[cold]
    fn ask(&mut self, now_ms: u64) {
        if !self.asked {
            self.asked = true;
            self.delay = RunDelay::of_this_thread().ok();
        }
        let waited_ns = self.delay.as_ref().and_then(RunDelay::ns).unwrap_or(0);
        self.waited(waited_ns, now_ms);
    }

    fn waited(&mut self, waited_ns: u64, now_ms: u64) {
        if let Some((begin_ms, before_ns)) = self.begin {
            let window_ns = now_ms.saturating_sub(begin_ms).saturating_mul(1_000_000);
            let part = if self.wanting { ENOUGH } else { WANTING };
            self.wanting = waited_ns.saturating_sub(before_ns).saturating_mul(part) > window_ns;
        }
        self.begin = Some((now_ms, waited_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_long_wants_a_core_until_he_waits_little() {
        let (mut cores, mut waited_ns) = (Cores::default(), 0);
        let mut after = |window: u64, percent: u64| {
            waited_ns += WINDOW_MS * 10_000 * percent;
            cores.waited(waited_ns, window * WINDOW_MS);
            cores.are_wanting()
        };
        let seen: Vec<bool> =
            (0..).zip([50, 10, 13, 10, 7, 6, 10]).map(|(w, p)| after(w, p)).collect();
        // The first says nothing: since when?
        assert_eq!(seen, [false, false, true, true, true, false, false]);
    }

    #[test]
    fn a_kernel_that_does_not_tell_and_a_clock_set_back_do_no_harm() {
        let mut cores = Cores { asked: true, ..Cores::default() };
        for now_ms in [0, 1_000, 2_000, 500, u64::MAX, 0, 3_000] {
            cores.look(now_ms);
            assert!(!cores.are_wanting());
        }
    }
}
