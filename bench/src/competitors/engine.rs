//! ringtun itself: this build in its variants, and other builds by path.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};

use super::{Competitor, Slot, Tunnel, words};
use crate::own_program;

/// A ringtun with certain flags.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    name: String,
    program: PathBuf,
    flags: Vec<String>,
}

impl Engine {
    /// This build with `flags` after those that every tunnel needs.
    pub(crate) fn of_this_build(name: &str, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Self { name: name.to_owned(), program: own_program(), flags }
    }

    /// What `ab` compares.
    pub(crate) fn variants() -> [Self; 6] {
        let engine = Self::of_this_build;
        [
            engine("uring", &["--io", "uring", "--workers", "1"]),
            engine("uring-single", &["--io", "uring", "--workers", "1", "--no-multishot"]),
            engine("uring-poll", &["--io", "uring", "--workers", "1", "--busy-poll", "on"]),
            engine("mmsg", &["--io", "mmsg", "--workers", "1"]),
            engine("uring-w2", &["--io", "uring", "--workers", "2"]),
            engine("mmsg-w2", &["--io", "mmsg", "--workers", "2"]),
        ]
    }

    fn command(&self, slot: &Slot<'_>, here: usize, there: usize) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0("ringtun").env("NO_COLOR", "1");
        command.args(["up", &slot.device(here), "--encap", "plain"]);
        command.args(["--address", &slot.inner(here).to_string()]);
        command.args(["--listen", &slot.endpoint(here).to_string()]);
        command.args(["--peer", &slot.endpoint(there).to_string()]).args(&self.flags);
        command
    }
}

impl Competitor for Engine {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let described = words(&self.command(slot, 0, 1));
        let program = self.program.file_name().unwrap_or_default().to_string_lossy();
        // This program plays ringtun; what is in front of the arguments says nothing.
        let own = self.program == own_program();
        let how = if own { described.replacen(&*program, "ringtun", 1) } else { described };
        let mut tunnel = slot.tunnel(how);
        for (here, there) in [(0, 1), (1, 0)] {
            let process = slot.ends[here].host.spawn(self.command(slot, here, there))?;
            tunnel.processes.push(process);
            tunnel.engines.push(slot.device(here).parse()?);
        }
        Ok(tunnel)
    }
}

/// Another build, from the command line: `NAME=PATH` or `NAME=PATH:FLAGS`.
#[derive(Clone, Debug)]
pub(crate) struct OtherBuild(Engine);

impl OtherBuild {
    /// To be started.
    pub(crate) fn engine(&self) -> Engine {
        self.0.clone()
    }
}

impl FromStr for OtherBuild {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| anyhow!("{text:?} is not NAME=PATH or NAME=PATH:FLAGS"))?;
        let (path, flags) = rest.split_once(':').unwrap_or((rest, ""));
        let program = PathBuf::from(path)
            .canonicalize()
            .map_err(|error| anyhow!("{path:?} cannot be found: {error}"))?;
        if !program.is_file() {
            bail!("{path:?} is not a program");
        }
        let flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        // Like with like: one worker, as `uring` and `mmsg` have, unless it says otherwise.
        let mut all = Vec::new();
        if !flags.iter().any(|flag| flag.starts_with("--workers")) {
            all.extend(["--workers".to_owned(), "1".to_owned()]);
        }
        all.extend(flags);
        Ok(Self(Engine { name: name.to_owned(), program, flags: all }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_builds_have_a_name_a_path_and_perhaps_flags() {
        let engine = "old=/bin/sh:--io mmsg  --gso off".parse::<OtherBuild>().unwrap().engine();
        assert_eq!(engine.name, "old");
        assert_eq!(engine.flags, ["--workers", "1", "--io", "mmsg", "--gso", "off"]);
        let engine = "old=/bin/sh:--workers 2".parse::<OtherBuild>().unwrap().engine();
        assert_eq!(engine.flags, ["--workers", "2"]);
        for wrong in ["", "old", "=/bin/sh", "old=", "old=/no/such/file", "old=/tmp"] {
            assert!(wrong.parse::<OtherBuild>().is_err(), "{wrong:?}");
        }
    }
}
