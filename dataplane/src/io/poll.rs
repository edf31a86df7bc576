//! Looking for packets for a while before sleeping.
//!
//! Who sleeps must be woken, and often a core with him: most of an idle tunnel's round trip. A
//! worker that keeps looking sees a packet at once. It yields between two looks, so that whoever
//! else is to run on its core does, and it must pay: after a packet that came alone it looks for
//! [`WINDOW`] if packets of that direction were answered within that time before, by one that came
//! alone as well; and never for more than a part of its time. That is how a hypervisor polls before
//! it halts (virt/kvm/kvm_main.c, `kvm_vcpu_halt`), with yields.
//!
//! A yield that does not come back soon tells that others want the core. Polling then costs more
//! than sleeping: who sleeps is woken before those that have run all the time.

use std::thread;
use std::time::{Duration, Instant};

/// For how long a worker looks for what may follow a packet that came alone.
const WINDOW: Duration = Duration::from_micros(200);
/// Packets that came alone and are longer belong to a transfer: more will come, or others run.
const LONE_LEN_MAX: usize = 2_048;
/// Packets, of one direction, that pass before the next try after many in vain.
const BACKOFF_MAX: u32 = 1_024;
/// … and the time: what a flood has taught is forgotten soon after it.
const BACKOFF_TIME_MAX: Duration = Duration::from_millis(100);
/// The part of a worker's time that it may look in vain or not: one in so many …
const BUDGET_PART: u32 = 4;
/// … and how much of it may be saved for later.
const BUDGET_MAX: Duration = Duration::from_millis(50);
/// A yield that takes longer shows that others want the core.
const YIELD_MAX: Duration = Duration::from_micros(100);
/// How long the worker then leaves it to them, unless something comes.
pub(super) const NAP_MS: u32 = 1;
/// Looks in a row before the worker's loop goes round, and sees whether it is to stop.
const LOOKS_MAX: u32 = 4_096;

/// Whether workers look for packets where they could sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusyPoll {
    /// Never.
    Off,
    /// For a moment, where an answer is likely, and for a quarter of the time at most.
    #[default]
    Auto,
    /// Always, unless others want the core: a worker that has nothing to do keeps a core busy.
    On,
}

/// A packet that was all of a turn: its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lone {
    Outbound,
    Inbound,
}

impl Lone {
    fn is_answered_by(self, next: Option<Self>) -> bool {
        next.is_some_and(|next| next != self)
    }
}

/// What a turn brought: how many frames and receives, and how long the last one was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brought {
    pub(super) frames: usize,
    pub(super) receives: usize,
    pub(super) len: usize,
}

impl Brought {
    #[inline]
    fn lone(self) -> Option<Lone> {
        match (self.frames, self.receives) {
            (1, 0) if self.len <= LONE_LEN_MAX => Some(Lone::Outbound),
            (0, 1) if self.len <= LONE_LEN_MAX => Some(Lone::Inbound),
            _ => None,
        }
    }
}

/// What a worker that has nothing to do does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It [looks](Poller::look).
    Look,
    /// It sleeps until something comes.
    Sleep,
    /// It sleeps for [`NAP_MS`] or until something comes.
    Nap,
}

/// When to look, for one worker.
#[derive(Debug)]
pub(super) struct Poller {
    mode: BusyPoll,
    /// What the last turn was.
    last: Option<Lone>,
    /// What the packets that have come by looking came after.
    before: Option<Lone>,
    habits: [Habit; 2],
    budget: Budget,
    contended: bool,
}

/// Whether something has followed packets of one direction lately.
#[derive(Debug, Default)]
struct Habit {
    /// Packets not to look after.
    skip: u32,
    /// How many it was last time.
    backoff: u32,
    /// When that was.
    learned: Option<Instant>,
}

impl Habit {
    /// Whether to look after this packet.
    fn tries(&mut self) -> bool {
        if self.skip > 0 && self.learned.is_some_and(|at| at.elapsed() < BACKOFF_TIME_MAX) {
            self.skip -= 1;
            return false;
        }
        true
    }

    fn learn(&mut self, answered: bool) {
        let backoff = if answered { 0 } else { (self.backoff * 2).clamp(1, BACKOFF_MAX) };
        let learned = (!answered).then(Instant::now);
        *self = Self { skip: backoff, backoff, learned };
    }
}

/// Time that may be spent looking.
#[derive(Debug)]
struct Budget {
    left: Duration,
    counted: Instant,
}

impl Budget {
    fn begin(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.counted) / BUDGET_PART;
        self.left = (self.left + earned).min(BUDGET_MAX);
        self.counted = now;
        self.left >= WINDOW
    }

    fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

/// How looking ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Came,
    /// Nothing came in the time there was.
    InVain,
    /// Others wanted the core.
    Contended,
}

impl Poller {
    pub(super) fn new(mode: BusyPoll) -> Self {
        let budget = Budget { left: BUDGET_MAX, counted: Instant::now() };
        Self {
            mode,
            last: None,
            before: None,
            habits: Default::default(),
            budget,
            contended: false,
        }
    }

    /// Notes what a turn brought.
    #[inline]
    pub(super) fn turn_brought(&mut self, brought: Brought) {
        self.last = brought.lone();
        if let Some(before) = self.before.take() {
            self.habits[before as usize].learn(before.is_answered_by(self.last));
        }
    }

    /// What a worker does that has nothing to do.
    #[inline]
    pub(super) fn rest(&mut self) -> Rest {
        match (self.mode, self.last) {
            (BusyPoll::Off, _) | (BusyPoll::Auto, None) => Rest::Sleep,
            (BusyPoll::On, _) if std::mem::take(&mut self.contended) => Rest::Nap,
            (BusyPoll::On, _) => Rest::Look,
            (BusyPoll::Auto, Some(lone)) => {
                if self.habits[lone as usize].tries() {
                    return Rest::Look;
                }
                self.last = None;
                Rest::Sleep
            }
        }
    }

    /// Looks until there is `news`, or it is time to sleep, or to let the worker's loop go round;
    /// whether there is some. `None`: it has looked enough lately, and did not.
    pub(super) fn look(&mut self, news: impl FnMut() -> bool) -> Option<bool> {
        let begin = Instant::now();
        let (Some(lone), BusyPoll::Auto) = (self.last.take(), self.mode) else {
            let ended = watch(begin, Duration::MAX, news);
            self.contended = ended == Ended::Contended;
            return Some(ended == Ended::Came);
        };
        if !self.budget.begin(begin) {
            return None;
        }
        let ended = watch(begin, WINDOW, news);
        self.budget.spend(begin.elapsed());
        let came = ended == Ended::Came;
        if came {
            self.before = Some(lone);
        } else {
            self.habits[lone as usize].learn(false);
        }
        Some(came)
    }
}

fn watch(begin: Instant, window: Duration, mut news: impl FnMut() -> bool) -> Ended {
    let mut last = begin;
    for _ in 0..LOOKS_MAX {
        if news() {
            return Ended::Came;
        }
        thread::yield_now();
        let now = Instant::now();
        if now - last > YIELD_MAX {
            return Ended::Contended;
        }
        if now - begin > window {
            return Ended::InVain;
        }
        last = now;
    }
    Ended::InVain
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTBOUND: Brought = Brought { frames: 1, receives: 0, len: 74 };
    const INBOUND: Brought = Brought { frames: 0, receives: 1, len: 148 };
    const MANY: Brought = Brought { frames: 3, receives: 2, len: 74 };

    /// A turn, and whether the worker looked after it for what did or did not come.
    fn looked(poller: &mut Poller, turn: Brought, comes: bool) -> bool {
        poller.turn_brought(turn);
        let looks = poller.rest() == Rest::Look;
        if looks {
            assert_eq!(poller.look(|| comes), Some(comes));
        }
        looks
    }

    #[test]
    fn one_short_packet_is_lone() {
        let lone = |frames, receives, len| Brought { frames, receives, len }.lone();
        assert_eq!((lone(1, 0, 74), lone(0, 1, 148)), (Some(Lone::Outbound), Some(Lone::Inbound)));
        let others = [(2, 0, 74), (1, 1, 74), (0, 2, 74), (0, 0, 0), (1, 0, LONE_LEN_MAX + 1)];
        assert!(
            others.iter().all(|&(frames, receives, len)| lone(frames, receives, len).is_none())
        );
    }

    /// How many of `count` packets of one kind the worker looked after, each followed by `next` (or
    /// by nothing).
    fn looks(poller: &mut Poller, turn: Brought, next: Option<Brought>, count: usize) -> usize {
        let looks = |_: &usize| {
            let looked = looked(poller, turn, next.is_some());
            poller.turn_brought(next.unwrap_or_default());
            looked
        };
        (0..count).filter(looks).count()
    }

    #[test]
    fn it_looks_after_packets_that_are_answered() {
        let mut poller = Poller::new(BusyPoll::Auto);
        assert_eq!(looks(&mut poller, OUTBOUND, Some(INBOUND), 100), 100);
        assert!((5..20).contains(&looks(&mut poller, INBOUND, None, 3_000)), "in vain");
        assert_eq!(looks(&mut poller, OUTBOUND, Some(INBOUND), 100), 100, "a habit of its own");
        assert!(looks(&mut poller, INBOUND, Some(OUTBOUND), 2_000) > 900, "never tried again");
        assert_eq!(looks(&mut poller, INBOUND, Some(OUTBOUND), 100), 100);
    }

    #[test]
    fn what_was_in_vain_long_ago_does_not_count() {
        let mut poller = Poller::new(BusyPoll::Auto);
        looks(&mut poller, OUTBOUND, None, 3_000);
        let habit = &mut poller.habits[Lone::Outbound as usize];
        assert_eq!(habit.backoff, BACKOFF_MAX);
        habit.skip = BACKOFF_MAX;
        assert_eq!(looks(&mut poller, OUTBOUND, Some(INBOUND), 10), 0);
        poller.habits[Lone::Outbound as usize].learned =
            Instant::now().checked_sub(BACKOFF_TIME_MAX);
        assert_eq!(looks(&mut poller, OUTBOUND, Some(INBOUND), 10), 10);
    }

    #[test]
    fn more_of_the_same_and_transfers_are_no_answers() {
        for next in [OUTBOUND, MANY, Brought { len: 60_000, ..INBOUND }] {
            let mut poller = Poller::new(BusyPoll::Auto);
            let count = looks(&mut poller, OUTBOUND, Some(next), 3_000);
            assert!((5..20).contains(&count), "looked {count} times before {next:?}");
        }
    }

    #[test]
    fn it_sleeps_after_looking_in_vain() {
        let mut poller = Poller::new(BusyPoll::Auto);
        assert!(looked(&mut poller, OUTBOUND, false));
        assert_eq!((poller.rest(), poller.rest()), (Rest::Sleep, Rest::Sleep));
    }

    #[test]
    fn it_does_not_look_for_more_than_its_part_of_the_time() {
        let begin = Instant::now();
        let mut budget = Budget { left: BUDGET_MAX, counted: begin };
        let (mut now, mut spent) = (begin, Duration::ZERO);
        let each = Duration::from_micros(150);
        while now - begin < Duration::from_secs(2) {
            now += Duration::from_micros(200);
            if budget.begin(now) {
                budget.spend(each);
                spent += each;
            }
        }
        let part = spent.as_secs_f64() / 2.0;
        assert!((0.24..0.29).contains(&part), "{part}");
    }

    #[test]
    fn who_is_not_alone_on_his_core_sleeps() {
        let late = || {
            thread::sleep(2 * YIELD_MAX);
            false
        };
        let mut poller = Poller::new(BusyPoll::On);
        assert_eq!(poller.rest(), Rest::Look);
        assert_eq!(poller.look(late), Some(false));
        assert_eq!((poller.rest(), poller.rest()), (Rest::Nap, Rest::Look));

        let mut poller = Poller::new(BusyPoll::Auto);
        poller.turn_brought(OUTBOUND);
        assert_eq!((poller.rest(), poller.look(late)), (Rest::Look, Some(false)));
        assert!(!looked(&mut poller, OUTBOUND, true) && looked(&mut poller, OUTBOUND, true));
    }

    #[test]
    fn it_can_be_had_not_at_all_or_all_the_time() {
        let mut poller = Poller::new(BusyPoll::Off);
        assert!(!looked(&mut poller, OUTBOUND, true) && !looked(&mut poller, MANY, true));
        let mut poller = Poller::new(BusyPoll::On);
        assert!(looked(&mut poller, MANY, true) && looked(&mut poller, Brought::default(), true));
    }
}
