//! Programs that tunnels need: where they are looked for, and where they come from.
//!
//! In: what a competitor names. Out: a path, or in words what is missing and what installs it.
//! Looked for are PATH, Debian's folders of the administrator, and what `ringtun-bench setup` or
//! `tests/run.sh --full` built beside this program.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

/// A program that something needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The name of its file.
    pub(crate) name: &'static str,
    /// What has it.
    pub(crate) source: Source,
}

/// Where a program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A package of Debian's.
    Debian(&'static str),
    /// A crate, in the version that BENCHMARKING.md speaks of.
    Cargo { package: &'static str, version: &'static str },
}

/// iperf3 makes the traffic.
pub(crate) const IPERF3: Program = Program::debian("iperf3", "iperf3");

impl Program {
    /// Out of a package of Debian's.
    pub(crate) const fn debian(name: &'static str, package: &'static str) -> Self {
        Self { name, source: Source::Debian(package) }
    }

    /// Out of a crate.
    pub(crate) const fn cargo(
        name: &'static str,
        package: &'static str,
        version: &'static str,
    ) -> Self {
        Self { name, source: Source::Cargo { package, version } }
    }

    fn is_missing(&self) -> bool {
        find(self.name).is_err()
    }

    /// What one would type to get it.
    fn remedy(&self) -> String {
        match self.source {
            Source::Debian(package) => format!("sudo apt install {package}"),
            Source::Cargo { package, version } => {
                format!("cargo install {package} --version {version}")
            }
        }
    }
}

/// Those that are not there.
pub(crate) fn missing(needs: &[Program]) -> Vec<Program> {
    needs.iter().copied().filter(Program::is_missing).collect()
}

/// What to do about those that are not there.
pub(crate) fn explain(missing: &[Program]) -> String {
    let names: Vec<_> = missing.iter().map(|program| program.name).collect();
    let mut remedies: Vec<_> = missing.iter().map(Program::remedy).collect();
    remedies.dedup();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!(
        "{} {verb} not installed: ringtun-bench setup (or {})",
        names.join(", "),
        remedies.join(" && ")
    )
}

/// A program in PATH, where Debian keeps those of the administrator, or built beside this one.
///
/// # Errors
/// There is none.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let target = target_folder();
    let built = ["peers", "full/boringtun", "full/gotatun"];
    let built = built.map(|folder| target.join(folder).join("bin"));
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let folders = env::split_paths(&path).chain(system).chain(built);
    let mut found = folders.map(|folder| folder.join(program)).filter(is_program);
    found.next().ok_or_else(|| anyhow!("{program} is not installed"))
}

/// Where `setup` puts what it builds.
pub(crate) fn peers_folder() -> PathBuf {
    target_folder().join("peers")
}

/// Cargo's folder that this program was built in; `target` for one that was copied out of it.
fn target_folder() -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    target_of(&own).unwrap_or_else(|| env::current_dir().unwrap_or_default().join("target"))
}

/// The folder above `program` that cargo marked as its own.
fn target_of(program: &Path) -> Option<PathBuf> {
    let marked = |folder: &&Path| folder.join("CACHEDIR.TAG").is_file();
    program.ancestors().skip(1).find(marked).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: Program = Program::debian("no-such-wireguard", "wireguard-go");
    const WG: Program = Program::debian("no-such-wg", "wireguard-tools");
    const OTHER: Program = Program::cargo("no-such-tun", "gotatun-cli", "0.10.2");

    #[test]
    fn programs_are_found_or_not() {
        assert!(find("sh").is_ok());
        assert!(find("no-such-program-anywhere").is_err());
        assert_eq!(missing(&[Program::debian("sh", "dash"), GO]), [GO]);
    }

    #[test]
    fn what_is_missing_is_told_with_every_remedy() {
        assert_eq!(
            explain(&[GO]),
            "no-such-wireguard is not installed: ringtun-bench setup (or sudo apt install \
             wireguard-go)"
        );
        assert_eq!(
            explain(&[OTHER, WG]),
            "no-such-tun, no-such-wg are not installed: ringtun-bench setup (or cargo install \
             gotatun-cli --version 0.10.2 && sudo apt install wireguard-tools)"
        );
    }

    #[test]
    fn what_is_built_lies_in_the_folder_of_cargo() {
        let target = target_of(&env::current_exe().unwrap()).unwrap();
        assert!(target.join("CACHEDIR.TAG").is_file());
        assert_eq!(peers_folder(), target.join("peers"));
        assert_eq!(target_of(Path::new("/usr/bin/ringtun-bench")), None);
    }
}
