//! The `ringtun` binary: parse, run the command, say what went wrong.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringtun::command::main()
}
