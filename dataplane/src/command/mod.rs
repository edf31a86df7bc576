//! The command line: one file per subcommand.

pub mod demo;

use std::process::ExitCode;

/// Parses the command line and runs what it asks for.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
