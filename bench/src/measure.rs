//! What a workload cost: CPU time of the tunnel's processes, and of the whole machine; and who
//! else wanted the CPUs meanwhile: other guests of the host (steal), and other processes here.
//!
//! Processes are found by their process group (the lab gives each child one), so helpers that a
//! daemon starts count as well. Work that the kernel does in softirq on behalf of a tunnel is
//! charged to whoever was interrupted; only the machine's busy time has all of it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

/// USER_HZ, the unit of /proc: 100 on every architecture that ringtun is built for.
const TICKS_PER_SECOND: f64 = 100.0;
/// Runs that lost a larger part of the machine than this to others are marked.
const DISTURBANCE_MAX: f64 = 0.05;
/// The parent of all kernel threads: their work may be ours (softirq).
const KTHREADD: u32 = 2;

/// A moment.
#[derive(Debug)]
pub(crate) struct Mark {
    at: Instant,
    machine: Machine,
    processes: Processes,
    groups: Vec<u32>,
}

/// What passed since a [`Mark`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// By the clock.
    pub(crate) wall_seconds: f64,
    /// User and system time of the tunnel's processes, both ends.
    pub(crate) daemon_cpu_seconds: f64,
    /// Time in which the machine's CPUs did anything, including softirq and iperf3, but without
    /// what processes took that are not ours.
    pub(crate) busy_cpu_seconds: f64,
    /// The part of it in softirq, where the kernel handles packets.
    pub(crate) softirq_cpu_seconds: f64,
    /// How often a thread of the tunnel's processes was switched away from: it went to sleep, or
    /// another took its core.
    pub(crate) daemon_context_switches: u64,
    /// Those of them that were going to sleep; each had a wake-up before.
    pub(crate) daemon_sleeps: u64,
    /// The most that one of the tunnel's processes has had resident since it began.
    pub(crate) daemon_peak_memory_bytes: u64,
    /// The part of all CPU time that other guests took, 0 to 1.
    pub(crate) steal: f64,
    /// The part of all CPU time that processes took that are not ours, 0 to 1.
    pub(crate) other_load: f64,
}

impl Cost {
    /// Whether others took more than a run can bear.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.steal > DISTURBANCE_MAX || self.other_load > DISTURBANCE_MAX
    }
}

impl Mark {
    /// Looks at the clocks of the machine and of the processes in `groups`.
    ///
    /// # Errors
    /// An unreadable /proc.
    pub(crate) fn now(groups: &[u32]) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Ok(Self {
            at: Instant::now(),
            machine: parse_machine(&stat).context("/proc/stat has no line for the CPUs")?,
            processes: Processes::now(groups)?,
            groups: groups.to_vec(),
        })
    }

    /// What passed until now.
    ///
    /// # Errors
    /// An unreadable /proc.
    pub(crate) fn cost(&self) -> Result<Cost> {
        let now = Self::now(&self.groups)?;
        let seconds = |after: u64, before: u64| after.saturating_sub(before) as f64;
        let all = seconds(now.machine.all, self.machine.all);
        let part = |ticks: f64| if all > 0.0 { ticks / all } else { 0.0 };
        let busy = seconds(now.machine.busy, self.machine.busy);
        let others = seconds(now.processes.others, self.processes.others);
        let daemon = seconds(now.processes.daemons, self.processes.daemons);
        Ok(Cost {
            wall_seconds: now.at.duration_since(self.at).as_secs_f64(),
            daemon_cpu_seconds: daemon / TICKS_PER_SECOND,
            busy_cpu_seconds: (busy - others).max(0.0) / TICKS_PER_SECOND,
            softirq_cpu_seconds: seconds(now.machine.softirq, self.machine.softirq)
                / TICKS_PER_SECOND,
            daemon_context_switches: now
                .processes
                .daemon_switches
                .saturating_sub(self.processes.daemon_switches),
            daemon_sleeps: now.processes.daemon_sleeps.saturating_sub(self.processes.daemon_sleeps),
            daemon_peak_memory_bytes: now.processes.daemon_peak_bytes,
            steal: part(seconds(now.machine.steal, self.machine.steal)),
            other_load: part(others),
        })
    }
}

/// Ticks of all CPUs since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Machine {
    all: u64,
    busy: u64,
    softirq: u64,
    steal: u64,
}

fn parse_machine(stat: &str) -> Option<Machine> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Option<Vec<u64>> =
        line.split_whitespace().map(|word| word.parse().ok()).take(8).collect();
    let ticks = ticks?;
    let &[user, nice, system, idle, wait, hardirq, softirq, steal] = ticks.as_slice() else {
        return None;
    };
    let busy = user + nice + system + hardirq + softirq;
    Some(Machine { all: busy + idle + wait + steal, busy, softirq, steal })
}

/// Ticks of processes since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Processes {
    /// Of the groups asked about.
    daemons: u64,
    /// Of everybody else but us, our children (iperf3) and the kernel. Time of a process that ended
    /// is its parent's from then on, so that short-lived ones count as well.
    others: u64,
    /// Of the groups' threads: going to sleep and being driven off a core …
    daemon_switches: u64,
    /// … and only the former.
    daemon_sleeps: u64,
    /// The largest of the groups' processes at its largest.
    daemon_peak_bytes: u64,
}

impl Processes {
    fn now(groups: &[u32]) -> Result<Self> {
        let (us, mut sum) = (std::process::id(), Self::default());
        for entry in fs::read_dir("/proc").context("cannot list /proc")?.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // It may end while we look.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let Some(process) = parse_process(&stat) else { continue };
            let is_kernel = pid == KTHREADD || process.parent == KTHREADD;
            if groups.contains(&process.group) {
                sum.daemons += process.ticks;
                sum.look_closer(&entry.path());
            } else if pid != us && process.parent != us && !is_kernel {
                sum.others += process.ticks;
            }
        }
        Ok(sum)
    }

    /// Adds what only the longer files of a process and its threads tell.
    fn look_closer(&mut self, process: &Path) {
        let read = |path: &Path| fs::read_to_string(path.join("status")).unwrap_or_default();
        let field = |status: &str, name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let peak = field(&read(process), "VmHWM:") * 1024;
        self.daemon_peak_bytes = self.daemon_peak_bytes.max(peak);
        for thread in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
            let status = read(&thread.path());
            let sleeps = field(&status, "voluntary_ctxt_switches:");
            self.daemon_sleeps += sleeps;
            self.daemon_switches += sleeps + field(&status, "nonvoluntary_ctxt_switches:");
        }
    }
}

/// From /proc/PID/stat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessStat {
    parent: u32,
    group: u32,
    /// CPU time, with that of children that ended.
    ticks: u64,
}

fn parse_process(stat: &str) -> Option<ProcessStat> {
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (parent, group) = (words.get(1)?.parse().ok()?, words.get(2)?.parse().ok()?);
    let ticks: Option<Vec<u64>> = words.get(11..15)?.iter().map(|word| word.parse().ok()).collect();
    Some(ProcessStat { parent, group, ticks: ticks?.iter().sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  232338 0 58147 487501 11004 0 6736 14379 0 0\n\
        cpu0 116000 0 29000 243000 5000 0 3000 7000 0 0\n";
    const PROCESS: &str = "4711 (a (b) c) S 1 4700 4700 0 -1 4194304 97 0 0 0 \
        12 34 1 2 20 0 1 0 100 1000 10 18446744073709551615";

    #[test]
    fn the_machine_is_busy_idle_or_stolen() {
        let machine = parse_machine(STAT).unwrap();
        assert_eq!(machine.busy, 232_338 + 58_147 + 6_736);
        assert_eq!((machine.softirq, machine.steal), (6_736, 14_379));
        assert_eq!(machine.all, machine.busy + 487_501 + 11_004 + 14_379);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let expected = ProcessStat { parent: 1, group: 4_700, ticks: 12 + 34 + 1 + 2 };
        assert_eq!(parse_process(PROCESS), Some(expected));
    }

    #[test]
    fn broken_tables_are_no_figures() {
        for text in ["", "cpu ", "cpu  1 2 3", "cpu  1 2 3 4 5 6 7 x", "intr 1 2 3"] {
            assert_eq!(parse_machine(text), None, "{text:?}");
        }
        for text in ["", "1 (x", "1 (x) S", "1 (x) S 1 a 1", &PROCESS.replace("34", "-")] {
            assert_eq!(parse_process(text), None, "{text:?}");
        }
    }

    #[test]
    fn our_own_group_uses_time() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let mark = Mark::now(&[parse_process(&stat).unwrap().group]).unwrap();
        let begin = Instant::now();
        while begin.elapsed().as_millis() < 120 {
            std::hint::spin_loop();
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        let cost = mark.cost().unwrap();
        assert!(cost.wall_seconds >= 0.12);
        assert!(cost.daemon_cpu_seconds > 0.0, "{cost:?}");
        assert!(cost.daemon_peak_memory_bytes > 1 << 20, "{cost:?}");
        assert!(cost.daemon_context_switches >= cost.daemon_sleeps && cost.daemon_sleeps > 0);
    }

    #[test]
    fn more_than_five_per_cent_disturb() {
        assert!(!Cost { steal: 0.05, ..Cost::default() }.is_disturbed());
        assert!(Cost { steal: 0.051, ..Cost::default() }.is_disturbed());
        assert!(Cost { other_load: 0.051, ..Cost::default() }.is_disturbed());
    }
}
