//! How long a thread has waited for a core.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// More than two numbers take, with a space between them.
const TEXT_LEN: usize = 48;

/// The scheduler's figures of one thread (Documentation/scheduler/sched-stats.rst).
#[derive(Debug)]
pub(super) struct RunDelay(File);

impl RunDelay {
    /// Of the calling thread.
    ///
    /// # Errors
    /// ENOENT where the kernel keeps no such figures, or /proc is not there.
    pub(super) fn of_this_thread() -> io::Result<Self> {
        File::open("/proc/thread-self/schedstat").map(Self)
    }

    /// Nanoseconds that the thread could have run and was not running, since it began; `None` if
    /// the kernel does not say.
    pub(super) fn ns(&self) -> Option<u64> {
        let mut text = [0; TEXT_LEN];
        let len = self.0.read_at(&mut text, 0).ok()?;
        // On the core, then waiting for it, then how often it was given one.
        let number = text.get(..len)?.split(|&byte| byte == b' ').nth(1)?;
        std::str::from_utf8(number).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_shares_a_core_waits_for_it() {
        let Ok(delay) = RunDelay::of_this_thread() else {
            assert!(!std::path::Path::new("/proc/self/schedstat").exists());
            return;
        };
        let before = delay.ns().unwrap();
        let core = core_affinity::get_core_ids().unwrap()[0];
        let spin = move || {
            core_affinity::set_for_current(core);
            let begin = std::time::Instant::now();
            while begin.elapsed().as_millis() < 100 {
                std::hint::spin_loop();
            }
        };
        let other = std::thread::spawn(spin);
        spin();
        other.join().unwrap();
        let waited_ms = (delay.ns().unwrap() - before) / 1_000_000;
        assert!((5..10_000).contains(&waited_ms), "{waited_ms} ms");
    }
}
