//! In the order they were numbered: what is finished out of order, released in order.
//!
//! In: pieces of work, each with the next number, and their results in any order. Out: the results
//! in the order of the numbers. A result that comes early waits, so nothing overtakes; how many
//! are under way is bounded, and all memory is there from the start.

/// The number of a piece of work. There is one of each, and it is spent by finishing.
#[derive(Debug)]
pub struct Ticket(u64);

/// Results on their way to being released.
pub struct Sequencer<T> {
    /// By number, modulo their count, a power of two.
    finished: Box<[Option<T>]>,
    next: u64,
    released: u64,
}

impl<T> Sequencer<T> {
    /// With room for `capacity` under way, rounded up to a power of two.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.next_power_of_two();
        Self { finished: (0..capacity).map(|_| None).collect(), next: 0, released: 0 }
    }

    /// How many are numbered and not yet released.
    #[inline]
    #[must_use]
    pub fn under_way(&self) -> usize {
        usize::try_from(self.next - self.released).unwrap_or(usize::MAX)
    }

    /// Whether another one can be numbered.
    #[inline]
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.under_way() < self.finished.len()
    }

    /// The next number; `None` when as many are under way as there may be.
    #[inline]
    pub fn number(&mut self) -> Option<Ticket> {
        let ticket = self.has_room().then_some(Ticket(self.next))?;
        self.next += 1;
        Some(ticket)
    }

    /// Takes the result of the work with this number.
    #[inline]
    pub fn finish(&mut self, ticket: Ticket, result: T) {
        let place = self.place(ticket.0);
        self.finished[place] = Some(result);
    }

    /// The next result in order, if it is there.
    #[inline]
    pub fn release(&mut self) -> Option<T> {
        let place = self.place(self.released);
        let result = self.finished[place].take()?;
        self.released += 1;
        Some(result)
    }

    #[inline]
    fn place(&self, number: u64) -> usize {
        let mask = self.finished.len() - 1;
        usize::try_from(number & mask as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_finished_early_waits_for_what_is_before_it() {
        let mut sequencer = Sequencer::new(3);
        let tickets: Vec<_> = std::iter::from_fn(|| sequencer.number()).collect();
        assert_eq!(tickets.len(), 4, "rounded up");
        let [a, b, c, d] = tickets.try_into().unwrap();
        sequencer.finish(c, "c");
        sequencer.finish(b, "b");
        assert_eq!(sequencer.release(), None);
        sequencer.finish(a, "a");
        assert!(!sequencer.has_room());
        let released: Vec<_> = std::iter::from_fn(|| sequencer.release()).collect();
        assert_eq!(released, ["a", "b", "c"]);
        assert_eq!(sequencer.under_way(), 1);
        sequencer.finish(d, "d");
        assert_eq!((sequencer.release(), sequencer.release()), (Some("d"), None));
    }

    proptest! {
        /// Against a list of what was numbered: whatever is done in whatever order, the results
        /// come in the order of the numbers, none is lost, and there are never too many.
        #[test]
        fn any_order_of_finishing_is_released_in_order(
            capacity in 1..20usize,
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..400),
        ) {
            let mut sequencer = Sequencer::new(capacity);
            let (mut under_way, mut numbered, mut released) = (Vec::new(), 0u32, 0u32);
            for (begin, which) in steps {
                if begin {
                    let room = sequencer.has_room();
                    match sequencer.number() {
                        Some(ticket) => under_way.push((ticket, numbered)),
                        None => prop_assert!(!room),
                    }
                    numbered += u32::from(room);
                } else if !under_way.is_empty() {
                    let (ticket, number) = under_way.swap_remove(which.index(under_way.len()));
                    sequencer.finish(ticket, number);
                }
                while let Some(number) = sequencer.release() {
                    prop_assert_eq!(number, released);
                    released += 1;
                }
                // Whatever can go has gone: the oldest one under way is the next in order.
                let oldest = under_way.iter().map(|&(_, number)| number).min();
                prop_assert_eq!(oldest.unwrap_or(numbered), released);
                prop_assert_eq!(sequencer.under_way(), (numbered - released) as usize);
                prop_assert!(sequencer.under_way() <= capacity.next_power_of_two());
            }
        }
    }
}
