//! `report`: a journal to a page, to Markdown, and to `.hgrm` files. Nothing is measured, and no
//! namespace is entered.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::journal::Recorded;
use crate::{Outcome, hgrm, markdown, page, progress};

/// What `report` is to do. Without an option it prints the Markdown.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What `ab --json` appended to
    file: PathBuf,

    /// Writes one page with charts; it needs no network and no script
    #[arg(long, value_name = "OUT.html")]
    html: Option<PathBuf>,

    /// Writes the tables for a README
    #[arg(long, value_name = "OUT.md")]
    markdown: Option<PathBuf>,

    /// Writes percentiles of round trips for HdrHistogram's plotter, a file each
    #[arg(long, value_name = "DIR")]
    hgrm: Option<PathBuf>,

    /// What the others are compared with
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
}

/// Reads and writes.
pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let recorded = Recorded::read(&args.file)?;
    if let Some(skipped) = recorded.skipped_text() {
        progress(&skipped);
    }
    if recorded.runs().next().is_none() {
        bail!("{} has no run: make some with `ab --json FILE`", args.file.display());
    }
    let baseline = args.baseline.as_deref();
    if let Some(path) = &args.html {
        save(path, &page::html(&recorded, baseline))?;
    }
    if let Some(path) = &args.markdown {
        save(path, &markdown::text(&recorded, baseline))?;
    }
    if let Some(folder) = &args.hgrm {
        let count = hgrm::write(&recorded, folder)?;
        progress(&format!("{count} file(s) in {}", folder.display()));
    }
    if args.html.is_none() && args.markdown.is_none() && args.hgrm.is_none() {
        io::stdout().lock().write_all(markdown::text(&recorded, baseline).as_bytes())?;
    }
    Ok(Outcome::Complete)
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    progress(&format!("{} written", path.display()));
    Ok(())
}
