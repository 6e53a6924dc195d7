//! `cargo xtask clean`.

use anyhow::{Result, bail};

/// What it can be told.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs it.
pub(crate) fn run(_args: Args) -> Result<()> {
    bail!("not built yet")
}
