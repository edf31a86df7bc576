//! Which counters have been seen: a sliding window over the latest 8,192 (section 5.4.6).
//!
//! A ring of words, of which one is always free to be cleared ahead (RFC 6479): counters up to
//! [`WINDOW`] behind the greatest one can still be told new or old.

use super::session::REJECT_AFTER_MESSAGES;

const BITS: u64 = 8192;
const WORDS: usize = 128;
const _: () = assert!(BITS == WORDS as u64 * 64);
/// How far behind the greatest counter a message may be.
pub const WINDOW: u64 = BITS - 64;

/// The window.
#[derive(Debug)]
pub struct ReplayWindow {
    /// One more than the greatest counter admitted; 0 before the first.
    next: u64,
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, seen: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// Whether `counter` is new; it is not from then on. Too old ones, and those that the protocol
    /// never uses, are not new.
    #[inline]
    pub fn admit(&mut self, counter: u64) -> bool {
        // As the kernel's: the window spans WINDOW counters behind the greatest one.
        if counter >= REJECT_AFTER_MESSAGES || counter.saturating_add(WINDOW) < self.next {
            return false;
        }
        if counter >= self.next {
            // Before the first counter nothing is set, so there is nothing to clear.
            if let Some(greatest) = self.next.checked_sub(1) {
                let (from, to) = (greatest / 64, counter / 64);
                for word in from + 1..=to.min(from + WORDS as u64) {
                    self.seen[place(word)] = 0;
                }
            }
            self.next = counter + 1;
        }
        let word = &mut self.seen[place(counter / 64)];
        let bit = 1 << (counter % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[inline]
fn place(word: u64) -> usize {
    usize::try_from(word % WORDS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_edges_of_the_window() {
        let mut window = ReplayWindow::default();
        for (counter, new) in [
            (0, true),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            (WINDOW, true),
            (WINDOW - 1, true),
            (WINDOW, false),
            (WINDOW - 1, false),
            (2, true),
            (2, false),
            (WINDOW + 16, true),
            (3, false),
            (15, false),
            (16, false),
            (17, true),
            (WINDOW * 4, true),
            (WINDOW * 4 - WINDOW, false),
            (WINDOW * 4 - WINDOW + 1, true),
            (WINDOW * 4 - WINDOW + 1, false),
            (REJECT_AFTER_MESSAGES, false),
            (REJECT_AFTER_MESSAGES - 1, true),
            (REJECT_AFTER_MESSAGES - 1, false),
            (u64::MAX, false),
            (REJECT_AFTER_MESSAGES - 2, true),
            (0, false),
        ] {
            assert_eq!(window.admit(counter), new, "{counter}");
        }
    }

    #[test]
    fn sweeps_admit_each_counter_once() {
        let mut window = ReplayWindow::default();
        assert!((0..WINDOW * 3).all(|counter| window.admit(counter)));
        assert!(!(0..WINDOW * 3).any(|counter| window.admit(counter)));
        let mut window = ReplayWindow::default();
        assert!((0..WINDOW).rev().all(|counter| window.admit(counter)));
        assert!(!(0..WINDOW).any(|counter| window.admit(counter)));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(
            steps in prop::collection::vec((any::<bool>(), 0..12_000u64), 1..400)
        ) {
            let (mut window, mut seen) = (ReplayWindow::default(), HashSet::new());
            let mut greatest = 0u64;
            for (forward, step) in steps {
                let back = greatest.saturating_sub(step);
                let counter = if forward { greatest + step / 8 } else { back };
                let old = !seen.is_empty() && counter + WINDOW < greatest + 1;
                let expected = !old && !seen.contains(&counter);
                prop_assert_eq!(window.admit(counter), expected);
                if expected {
                    seen.insert(counter);
                    greatest = greatest.max(counter);
                }
            }
        }
    }
}
