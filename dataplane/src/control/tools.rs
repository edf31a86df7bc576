//! Programs of the host that we run because there is no other way in: nft, iptables, resolvconf.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where administrators' programs are, also when `PATH` does not say so.
const USUAL: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The full path of a program, if there is one.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(USUAL.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Why a program did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` failed: {problem}")]
pub struct ToolError {
    /// What was run.
    pub command: String,
    /// What it said, or why it did not start.
    pub problem: String,
}

/// Runs `name` with `input` and returns what it printed.
///
/// # Errors
/// What it said when it failed.
pub fn run(name: &str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
    let failed = |problem: String| {
        let words: Vec<&str> = [name].iter().chain(arguments).copied().collect();
        ToolError { command: words.join(" "), problem }
    };
    let program = find(name).ok_or_else(|| failed("it is not installed".to_owned()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    // All of it fits into the pipe or is read at once: these programs answer at their end. One
    // that does not want it closes the pipe, and says why by its status.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(if said.is_empty() { output.status.to_string() } else { said }));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_output_pass() {
        assert_eq!(run("cat", &[], "hello").unwrap(), "hello");
        assert_eq!(run("true", &[], &"x".repeat(1 << 20)).unwrap(), "");
    }

    #[test]
    fn failures_name_the_command_and_what_it_said() {
        let error = run("sh", &["-c", "echo no >&2; exit 3"], "").unwrap_err().to_string();
        assert_eq!(error, "`sh -c echo no >&2; exit 3` failed: no");
        let error = run("no-such-program", &[], "").unwrap_err().to_string();
        assert!(error.contains("not installed"), "{error}");
    }
}
