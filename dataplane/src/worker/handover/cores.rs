//! Whether there is a core for everybody.
//!
//! Where there is none to spare, what a helper does somebody else cannot do, and the way to it and
//! back is lost: both ends of a tunnel and TCP on two cores get 0.84 times as much with helpers
//! as without. A worker that is under load learns it from the scheduler: it waits for its core.

use std::cell::OnceCell;

use super::run_delay::RunDelay;

/// How often to look.
const WINDOW_MS: u64 = 32;
/// Cores are wanting when a worker waits for more than this part of the time …
const WANTING: u64 = 8;
/// … until it waits for less than this part. With a core of its own, it waits for next to nothing.
const ENOUGH: u64 = 16;

/// What one worker has seen.
#[derive(Debug, Default)]
pub struct Cores {
    /// Of the thread that looked first; none where the kernel does not tell.
    delay: OnceCell<Option<RunDelay>>,
    looked_ms: u64,
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
        if now_ms.wrapping_sub(self.looked_ms) >= WINDOW_MS {
            self.looked_ms = now_ms;
            self.ask(now_ms);
        }
    }

    #[cold]
    fn ask(&mut self, now_ms: u64) {
        let delay = self.delay.get_or_init(|| RunDelay::of_this_thread().ok());
        // Where the kernel does not tell, cores are not wanting.
        let waited_ns = delay.as_ref().and_then(RunDelay::ns);
        self.waited(waited_ns, now_ms);
    }

    fn waited(&mut self, waited_ns: Option<u64>, now_ms: u64) {
        let (begin, end) = (self.begin, waited_ns.map(|waited_ns| (now_ms, waited_ns)));
        self.wanting = begin.zip(end).is_some_and(|((begin_ms, before_ns), (_, waited_ns))| {
            let window_ns = now_ms.saturating_sub(begin_ms).saturating_mul(1_000_000);
            let part = if self.wanting { ENOUGH } else { WANTING };
            waited_ns.saturating_sub(before_ns).saturating_mul(part) > window_ns
        });
        self.begin = end;
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
            cores.waited(Some(waited_ns), window * WINDOW_MS);
            cores.are_wanting()
        };
        let seen: Vec<bool> =
            (0..).zip([50, 10, 13, 10, 7, 6, 10]).map(|(w, p)| after(w, p)).collect();
        // The first says nothing: since when?
        assert_eq!(seen, [false, false, true, true, true, false, false]);
    }

    #[test]
    fn who_hears_nothing_wants_nothing() {
        let mut cores = Cores::default();
        for (waited_ns, now_ms) in [(Some(0), 0), (Some(90_000_000), 100), (None, 200)] {
            cores.waited(waited_ns, now_ms);
        }
        assert!(!cores.are_wanting());
        // Since when it has waited so long is not known.
        cores.waited(Some(300_000_000), 300);
        assert!(!cores.are_wanting());
    }

    #[test]
    fn it_is_looked_once_a_window_by_this_thread() {
        let mut cores = Cores::default();
        for now_ms in WINDOW_MS..10 * WINDOW_MS {
            cores.look(now_ms);
            assert_eq!(cores.looked_ms, now_ms - now_ms % WINDOW_MS);
        }
        let known = RunDelay::of_this_thread().is_ok_and(|delay| delay.ns().is_some());
        assert_eq!(cores.begin.map(|(begin_ms, _)| begin_ms), known.then_some(9 * WINDOW_MS));
    }
}
