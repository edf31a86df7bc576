//! demo: a STUB that the real one replaces at merge.

use super::exit::Exit;

/// Options of `ringtun demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the demo.
pub fn run(_args: &Args) -> anyhow::Result<Exit> {
    anyhow::bail!("the demo is not built yet")
}
