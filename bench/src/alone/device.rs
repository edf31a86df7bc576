//! A WireGuard device under test: started, configured by `wg`, brought up, and ended.
//!
//! Every step has an end: its time, the device's own end, or [`Stop`]. Whatever happens, the
//! device is gone when its [`Device`] is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ringtun::lab::traffic::{Stop, TrafficError};
use ringtun::lab::{Host, Process};

use crate::competitors::{Competitor, MTU, Making, find, private, words};

/// How long a step may take: a device that needs longer for its peers is a failure.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(2);
/// Start-up is measured in steps of this.
const GLANCE: Duration = Duration::from_millis(1);
const LOG_LINES: usize = 4;
const SOCKETS: &str = "/run/wireguard";
const FOLDER: &str = "/run/ringtun";

/// One end of a tunnel.
#[derive(Debug)]
pub(super) struct Device<'a> {
    host: &'a Host,
    name: String,
    /// None where it is the kernel's.
    process: Option<Process>,
    /// The command that made it.
    pub(super) how: String,
    stop: &'a Stop,
}

/// Where the configuration of a device is written to.
pub(super) fn config_path(index: u8) -> PathBuf {
    Path::new(FOLDER).join(format!("bench{index}a.conf"))
}

/// Writes a configuration.
///
/// # Errors
/// What the kernel said.
pub(super) fn write_config(index: u8, text: &str) -> Result<PathBuf> {
    let path = config_path(index);
    private::folder(Path::new(FOLDER))?;
    private::write(&path, text)?;
    Ok(path)
}

impl<'a> Device<'a> {
    /// Starts it, and returns when `wg` can configure it.
    ///
    /// # Errors
    /// One that ended or does not come up in time.
    pub(super) fn start(
        competitor: &dyn Competitor,
        host: &'a Host,
        name: String,
        stop: &'a Stop,
    ) -> Result<Self> {
        let socket = Path::new(SOCKETS).join(format!("{name}.sock"));
        private::folder(Path::new(SOCKETS))?;
        // One that was killed leaves its socket behind.
        let _ = std::fs::remove_file(&socket);
        let Some(making) = competitor.device(&name) else {
            bail!("{} makes no device alone", competitor.name());
        };
        let mut device = Self { host, name, process: None, how: String::new(), stop };
        match making {
            Making::Kernel(command) => {
                device.how = words(&command);
                device.succeed(command)?;
            }
            Making::Daemon(command) => {
                device.how = words(&command);
                device.process = Some(host.spawn(command)?);
                device.wait_until(&format!("{} to appear", socket.display()), |_| {
                    Ok(socket.exists())
                })?;
            }
        }
        Ok(device)
    }

    /// Gives it a configuration.
    ///
    /// # Errors
    /// What `wg` said; none in time.
    pub(super) fn configure(&mut self, config: &Path) -> Result<()> {
        let mut wg = Command::new(find("wg")?);
        wg.args(["setconf", &self.name]).arg(config);
        self.succeed(wg)
    }

    /// Gives it an address, a route to what its peers have, and brings it up.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn bring_up(&self) -> Result<()> {
        self.host.add_address(&self.name, super::ADDRESS)?;
        self.host.set_mtu(&self.name, MTU)?;
        self.host.set_up(&self.name)?;
        self.host.set_route(super::cast::INNER, None, Some(&self.name))?;
        Ok(())
    }

    /// The process group to charge.
    pub(super) fn groups(&self) -> Vec<u32> {
        self.process.iter().map(Process::pid).collect()
    }

    /// An error if it has ended, or if everything is to.
    ///
    /// # Errors
    /// Its last words; [`TrafficError::Stopped`].
    pub(super) fn check(&mut self) -> Result<()> {
        if self.stop.raised() {
            return Err(TrafficError::Stopped.into());
        }
        if let Some(process) = &mut self.process
            && let Some(status) = process.ended()?
        {
            bail!("it ended ({status}): {}", process.last_lines(LOG_LINES).join(" / "));
        }
        Ok(())
    }

    /// Waits for something that the device does.
    ///
    /// # Errors
    /// The device's end; the time-out.
    pub(super) fn wait_until(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let begin = Instant::now();
        while !is_so(self)? {
            self.check()?;
            if begin.elapsed() > STEP_TIMEOUT {
                bail!("{STEP_TIMEOUT:?} were not enough for {what}");
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn succeed(&mut self, command: Command) -> Result<()> {
        let line = words(&command);
        let mut process = self.host.spawn(command)?;
        let mut ended = None;
        self.wait_until(&line, |_| {
            ended = process.ended()?;
            Ok(ended.is_some())
        })?;
        if !ended.is_some_and(|status| status.success()) {
            bail!("{line}: {}", process.stderr().trim());
        }
        Ok(())
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        match self.process.take() {
            // In good manners first: a socket that is left behind looks like a device. Dropping
            // the process kills what is left of it.
            Some(mut process) => drop(process.terminate(GRACE)),
            None => drop(self.host.delete_link(&self.name)),
        }
    }
}
