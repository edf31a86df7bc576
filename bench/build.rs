//! Tells the program which commit it is built from: a journal must not name another one, whatever
//! has been committed since.
//!
//! In: git, where these files are tracked by one, or the variable `RINGTUN_COMMIT`, for those who
//! build from an archive. Out: `RINGTUN_BENCH_COMMIT` for the compiler: a short hash, with `-dirty`
//! where what is built differs from what was committed, or `unknown`.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const GIVEN: &str = "RINGTUN_COMMIT";
/// What the program is built of, from the root of the workspace.
const SOURCES: [&str; 7] = [
    "Cargo.lock",
    "Cargo.toml",
    "bench/Cargo.toml",
    "bench/build.rs",
    "bench/src",
    "dataplane/Cargo.toml",
    "dataplane/src",
];

fn main() -> io::Result<()> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = package.parent().unwrap_or(&package);
    let given = env::var(GIVEN).ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| commit_of(root)).unwrap_or_else(|| "unknown".to_owned());
    let mut out = io::stdout().lock();
    writeln!(out, "cargo:rustc-env=RINGTUN_BENCH_COMMIT={commit}")?;
    writeln!(out, "cargo:rerun-if-env-changed={GIVEN}")?;
    // Cargo runs this again and again for a file that is not there.
    for path in watched(root).iter().filter(|path| path.exists()) {
        writeln!(out, "cargo:rerun-if-changed={}", path.display())?;
    }
    Ok(())
}

/// The commit of the sources under `root`; none where no git tracks them.
pub(crate) fn commit_of(root: &Path) -> Option<String> {
    // An archive that was unpacked inside of another repository is not that one's.
    git(root, &["ls-files", "--error-unmatch", "bench/build.rs"])?;
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(root, &[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// Everything that changes what [`commit_of`] says: the sources, and where HEAD is. Git appends to
/// the log of HEAD whatever moves it; where it keeps none, the branches are watched.
pub(crate) fn watched(root: &Path) -> Vec<PathBuf> {
    let sources = SOURCES.iter().map(|path| root.join(path));
    let of_git = ["HEAD", "logs/HEAD", "refs/heads", "packed-refs"];
    let paths = of_git.iter().filter_map(|name| {
        // From where git was asked, unless it is absolute.
        Some(root.join(git(root, &["rev-parse", "--git-path", name])?))
    });
    sources.chain(paths).collect()
}

/// What git answers.
fn git(root: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(args).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(answer.trim().to_owned())
}
