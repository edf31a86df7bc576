//! A child process inside a host: its output, its end, and the certainty that it ends.
//!
//! Output goes to files in the lab's private `/run` (bounded by that tmpfs, readable at any time,
//! gone with the lab), so no thread has to keep up with it and a grandchild that keeps a pipe open
//! blocks nobody. The child is in a process group of its own: Ctrl-C reaches the parent, which
//! then ends its children in its own order. When a child ends, or its [`Process`] is dropped, what
//! is left of its group is killed too.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::enter::FILES;
use super::error::LabError;
use crate::sys::namespace;

const POLL: Duration = Duration::from_millis(5);

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running (or ended) child process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    reaped: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` from the calling thread, whose namespace it inherits and with which it
    /// dies.
    pub(super) fn start(mut command: Command, host: &str) -> Result<Self, LabError> {
        let program = PathBuf::from(command.get_program());
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = program.file_name().map_or("child".into(), |name| name.to_string_lossy());
        let path = |end: &str| Path::new(FILES).join(format!("{host}-{number}-{name}.{end}"));
        let (stdout, stderr) = (path("stdout"), path("stderr"));
        let file = |path: &Path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(LabError::system("create a log file in the private /run"))
        };
        command.stdin(Stdio::null()).stdout(file(&stdout)?).stderr(file(&stderr)?);
        command.process_group(0);
        namespace::die_with_parent(&mut command);
        let child = command.spawn().map_err(|source| LabError::Spawn { program, source })?;
        Ok(Self { child, reaped: None, stdout, stderr })
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The errno of waitpid(2).
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.reaped.is_none() && namespace::has_ended(self.child.id())? {
            self.reaped = Some(self.kill()?);
        }
        Ok(self.reaped)
    }

    /// Sends `signal` (such as `libc::SIGTERM`) unless the process has ended.
    ///
    /// # Errors
    /// The errno of kill(2).
    pub fn signal(&mut self, signal: i32) -> io::Result<()> {
        // Not reaped yet, so the number is still this child's.
        if self.ended()?.is_none() {
            namespace::signal(self.child.id(), signal)?;
        }
        Ok(())
    }

    /// Waits at most `timeout` for the end; `None` if it still runs.
    ///
    /// # Errors
    /// The errno of waitpid(2).
    pub fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    /// Ends it in good manners: SIGTERM, up to `grace` to clean up, then SIGKILL.
    ///
    /// # Errors
    /// The errno of kill(2) or waitpid(2).
    pub fn terminate(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        if let Some(status) = self.wait_timeout(grace)? {
            return Ok(status);
        }
        let status = self.kill()?;
        self.reaped = Some(status);
        Ok(status)
    }

    /// Kills what is left of the group, then reaps the child. In this order, because until it is
    /// reaped its number cannot pass to anybody else.
    fn kill(&mut self) -> io::Result<ExitStatus> {
        namespace::signal_group(self.child.id(), libc::SIGKILL)?;
        self.child.wait()
    }

    /// What it wrote to stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The last `count` lines of stderr, or of stdout if it wrote nothing to stderr.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = Some(self.stderr()).filter(|text| !text.trim().is_empty());
        let text = text.unwrap_or_else(|| self.stdout());
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines.iter().skip(lines.len().saturating_sub(count)).map(|&line| line.to_owned()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.reaped.is_none() {
            // Can only fail if the child is already gone.
            let _ = self.kill();
        }
        let _ = fs::remove_file(&self.stdout);
        let _ = fs::remove_file(&self.stderr);
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
