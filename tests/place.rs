//! Where the tests run: namespaces of their own, entered before any thread starts.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use ringtun::lab::{self, Isolation};

/// `root` makes root keep its privileges instead of entering a user namespace.
pub const ISOLATION: &str = "RINGTUN_TEST_ISOLATION";
/// Another binary than the one beside the tests.
pub const BINARY: &str = "RINGTUN_BIN";
/// Anything but nothing makes transfers longer.
pub const FULL: &str = "RINGTUN_FULL";

/// How the lab was entered, in words, or why it could not be.
///
/// A user namespace is what an ordinary user gets and therefore comes first. Root falls back to
/// namespaces without one where user namespaces are refused.
///
/// # Errors
/// What is in the way, with its remedy.
pub fn enter() -> Result<String, String> {
    let asked_for_root = env::var_os(ISOLATION).is_some_and(|value| value == "root");
    if asked_for_root {
        let entered = lab::enter().map_err(|error| error.to_string())?;
        return Ok(describe(entered.user_namespace, " (asked for)"));
    }
    match lab::enter_with(Isolation::UserNamespace) {
        Ok(_) => Ok(describe(true, "")),
        Err(refused) => {
            // Also the answer of an ordinary user, to whom the same is refused again.
            let entered = lab::enter().map_err(|_| refused.to_string())?;
            Ok(describe(entered.user_namespace, &format!(": {refused}")))
        }
    }
}

fn describe(user_namespace: bool, why: &str) -> String {
    let how = if user_namespace {
        "in a user namespace of its own, as any user could"
    } else {
        "as root, without a user namespace"
    };
    format!("{how}{why}")
}

/// The binary under test: beside the tests' own folder, in `target/PROFILE/`.
///
/// # Panics
/// Says how to build it when it is not there.
#[must_use]
pub fn binary() -> PathBuf {
    let path = env::var_os(BINARY).map_or_else(
        || {
            let own = env::current_exe().unwrap();
            own.parent().and_then(|deps| deps.parent()).unwrap().join("ringtun")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "there is no {}: build it with `cargo build -p ringtun` (tests/run.sh does), or set \
         {BINARY}",
        path.display()
    );
    path
}

/// Whether the long forms are to run.
#[must_use]
pub fn is_full() -> bool {
    env::var_os(FULL).is_some_and(|value| !value.is_empty())
}

/// `quick`, or five times that in the full form.
#[must_use]
pub fn how_long(quick: Duration) -> Duration {
    if is_full() { quick * 5 } else { quick }
}

/// The full path of a program, if there is one.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(usual)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
