//! `cargo xtask demo`.

use anyhow::{Result, bail};

/// What the demo can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the cluster and the agent up at the end, and print how to use them
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Runs it.
pub(crate) fn run(args: Args) -> Result<()> {
    bail!("not built yet (keep: {})", args.keep)
}
