//! How far a benchmark is, what it does now, and how long the rest will take: a bar where standard
//! error is a terminal, a line a run where it is none.
//!
//! The time left is what the runs to come should take, corrected by how long those that are over
//! took in fact. Nothing here is measured; the bar is drawn twice a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::progress;

/// Between two drawings while nothing changes but the time.
const TICK: Duration = Duration::from_millis(500);
const STARTING: &str = "{bar:24} {pos}/{len}  {wide_msg}";
const TEMPLATE: &str = "{bar:24} {pos}/{len}  {left} left  {wide_msg}";

/// Runs, and how long they should take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) runs: usize,
    pub(crate) seconds: f64,
}

impl Plan {
    /// With `runs` more, of `seconds` each.
    pub(crate) fn and(self, runs: usize, seconds: f64) -> Self {
        Self { runs: self.runs + runs, seconds: self.seconds + seconds * runs as f64 }
    }
}

/// What is shown to whoever waits.
#[derive(Debug)]
pub(crate) struct Pace {
    plan: Plan,
    done: usize,
    clock: Arc<Mutex<Clock>>,
    bar: ProgressBar,
}

impl Pace {
    /// Begins now.
    pub(crate) fn new(plan: Plan) -> Self {
        let clock = Arc::new(Mutex::new(Clock::new(plan.seconds)));
        let bar = ProgressBar::new(plan.runs as u64);
        if !bar.is_hidden() {
            bar.set_style(style(&clock));
            bar.enable_steady_tick(TICK);
        }
        Self { plan, done: 0, clock, bar }
    }

    /// Says what runs from now on.
    pub(crate) fn begin(&self, what: String) {
        self.bar.set_message(what);
    }

    /// A run is over that should have taken `seconds`; `line` says what it came to.
    pub(crate) fn end(&mut self, seconds: f64, line: &str) {
        self.done += 1;
        let left = {
            let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
            clock.end(seconds, Instant::now());
            clock.left(Instant::now())
        };
        if self.bar.is_hidden() {
            let (done, total, left) = (self.done, self.plan.runs, left.as_secs());
            progress(&format!("[{done:>3}/{total}, {left:>4} s left] {line}"));
        } else {
            self.bar.inc(1);
            self.bar.println(line);
        }
    }

    /// Takes the bar away: what comes next on the terminal is something else.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Tunnels on their way up; some take half a minute.
#[derive(Debug)]
pub(crate) struct Starting {
    bar: ProgressBar,
}

impl Starting {
    /// For `count` tunnels.
    pub(crate) fn new(count: usize) -> Self {
        let bar = ProgressBar::new(count as u64);
        if !bar.is_hidden() {
            let style = ProgressStyle::with_template(STARTING);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(TICK);
        }
        Self { bar }
    }

    /// Says which one is next.
    pub(crate) fn begin(&self, name: &str) {
        self.bar.set_message(format!("starting {name}"));
    }

    /// Says what became of it.
    pub(crate) fn end(&self, line: &str) {
        if self.bar.is_hidden() {
            progress(line);
        } else {
            self.bar.inc(1);
            self.bar.println(line);
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(clock: &Arc<Mutex<Clock>>) -> ProgressStyle {
    let clock = Arc::clone(clock);
    let left = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
        let clock = clock.lock().unwrap_or_else(PoisonError::into_inner);
        // A width of its own, so that what follows stays in its place.
        let _ = write!(out, "{:>7}", text(clock.left(Instant::now())));
    };
    let style = ProgressStyle::with_template(TEMPLATE);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("left", left)
}

/// `1h 05m`, `12m 30s`, `7s`.
fn text(left: Duration) -> String {
    let seconds = left.as_secs();
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h {minutes:02}m"),
    }
}

/// What should have taken how long, and what did.
#[derive(Debug)]
struct Clock {
    begin: Instant,
    /// Of all runs, as planned.
    all_seconds: f64,
    /// Of those that are over, as planned …
    done_seconds: f64,
    /// … and in fact.
    took: Duration,
}

impl Clock {
    fn new(all_seconds: f64) -> Self {
        Self { begin: Instant::now(), all_seconds, done_seconds: 0.0, took: Duration::ZERO }
    }

    fn end(&mut self, seconds: f64, now: Instant) {
        self.done_seconds += seconds;
        self.took = now.duration_since(self.begin);
    }

    fn left(&self, now: Instant) -> Duration {
        let slower =
            if self.done_seconds > 0.0 { self.took.as_secs_f64() / self.done_seconds } else { 1.0 };
        let to_come = (self.all_seconds - self.done_seconds).max(0.0) * slower;
        let since = now.duration_since(self.begin).saturating_sub(self.took);
        Duration::try_from_secs_f64(to_come).unwrap_or(Duration::MAX).saturating_sub(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_planned_first_and_learned_later() {
        let mut clock = Clock::new(Plan::default().and(10, 2.0).and(2, 10.0).seconds);
        let start = clock.begin;
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let [begin, at_5, at_10, at_12] = [0, 5, 10, 12].map(at);
        assert_eq!(clock.left(begin).as_secs(), 40);
        assert_eq!(clock.left(at_5).as_secs(), 35, "it also passes within a run");
        // Planned for 2 s, it took 10: so will the others take five times as long.
        clock.end(2.0, at_10);
        assert_eq!(clock.left(at_10).as_secs(), 190);
        clock.end(38.0, at_12);
        assert_eq!(clock.left(at_12), Duration::ZERO);
    }

    #[test]
    fn times_are_for_people() {
        let said = [0, 59, 60, 3_599, 3_600, 90_061].map(|it| text(Duration::from_secs(it)));
        assert_eq!(said, ["0s", "59s", "1m 00s", "59m 59s", "1h 00m", "25h 01m"]);
    }
}
