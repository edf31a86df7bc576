//! stub
use super::exit::Exit;
/// x
#[derive(Debug, clap::Args)]
pub struct Args {}
/// x
#[derive(Debug, clap::Args)]
pub struct NamespaceArgs {}
/// x
pub fn run(_args: &Args) -> anyhow::Result<Exit> { Ok(Exit::Ok) }
/// x
pub fn run_in_namespace(_args: &NamespaceArgs) -> anyhow::Result<Exit> { Ok(Exit::Ok) }
