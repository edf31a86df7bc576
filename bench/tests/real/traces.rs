//! What a benchmark may leave behind: processes, namespaces, devices, files.
//!
//! Its processes are found by a variable of their environment, which children inherit, whatever
//! group, session or parent they end up with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static STARTED: AtomicU32 = AtomicU32::new(0);
const KINDS: [&str; 3] = ["net", "mnt", "user"];

/// One benchmark's processes and namespaces.
pub(crate) struct Traces {
    mark: String,
    /// As the kernel calls them: `net:[4026532008]`.
    namespaces: BTreeSet<String>,
}

/// A process that has not been waited for.
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

/// What is not the benchmark's, by name.
#[derive(Debug, PartialEq)]
pub(crate) struct Machine {
    devices: BTreeSet<String>,
    /// With their lengths.
    files: BTreeMap<PathBuf, u64>,
    mounts: String,
}

impl Traces {
    /// The variable.
    pub(crate) const MARK: &str = "RINGTUN_BENCH_TEST";

    pub(crate) fn new() -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}.{number}.", std::process::id());
        Self { mark, namespaces: BTreeSet::new() }
    }

    /// The variable's value.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// All that there are now.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let variable = format!("{}={}", Self::MARK, self.mark);
        let marked = |folder: &Path| {
            let variables = fs::read(folder.join("environ")).unwrap_or_default();
            variables.split(|&byte| byte == 0).any(|it| it == variable.as_bytes())
        };
        let processes = all_processes().into_iter().filter(|(_, folder)| marked(folder));
        let with_command = processes.map(|(pid, folder)| {
            let words = fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
            Process { pid, command: words.replace('\0', " ") }
        });
        with_command.collect()
    }

    /// Keeps in mind which namespaces its processes and their threads are in.
    pub(crate) fn remember_namespaces(&mut self) {
        let ours = namespaces_of(Path::new("/proc/self/task"));
        for process in self.processes() {
            let tasks = PathBuf::from(format!("/proc/{}/task", process.pid));
            self.namespaces.extend(namespaces_of(&tasks).difference(&ours).cloned());
        }
        // The left host, the right one, and the one they were made from.
        let nets = self.namespaces.iter().filter(|name| name.starts_with("net:")).count();
        assert!(nets >= 3, "only {:?}: is this a benchmark at work?", self.namespaces);
    }

    /// Of its processes, and of the namespaces kept in mind, what is still there.
    pub(crate) fn left(&self) -> Vec<String> {
        let processes = self.processes().into_iter();
        let mut left: Vec<String> =
            processes.map(|process| format!("{}: {}", process.pid, process.command)).collect();
        let tasks = all_processes().into_iter().map(|(_, folder)| folder.join("task"));
        let in_use: BTreeSet<String> = tasks.flat_map(|tasks| namespaces_of(&tasks)).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let held = |name: &&String| in_use.contains(*name) || mounts.contains(name.as_str());
        left.extend(self.namespaces.iter().filter(held).cloned());
        left
    }
}

impl Machine {
    /// Looks at it, and into `tmp`.
    pub(crate) fn now(tmp: &Path) -> Self {
        let table = fs::read_to_string("/proc/self/net/dev").unwrap();
        let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
        let mut files = BTreeMap::new();
        for folder in [Path::new("/run"), tmp] {
            list(folder, &mut files);
        }
        Self {
            devices: names.map(str::to_owned).collect(),
            files,
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap(),
        }
    }
}

fn list(folder: &Path, files: &mut BTreeMap<PathBuf, u64>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let file = entry.metadata().unwrap();
        files.insert(entry.path(), if file.is_file() { file.len() } else { 0 });
        if file.is_dir() {
            list(&entry.path(), files);
        }
    }
}

fn all_processes() -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    });
    processes.collect()
}

/// Those of the threads in `/proc/PID/task`; processes end while one looks.
fn namespaces_of(tasks: &Path) -> BTreeSet<String> {
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    let links = tasks.flat_map(|task| KINDS.map(|kind| task.path().join("ns").join(kind)));
    let names = links.filter_map(|link| fs::read_link(link).ok());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}
