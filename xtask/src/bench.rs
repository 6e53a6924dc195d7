//! `cargo xtask bench`: the same requests direct, through Picket and through nginx.

use anyhow::{Result, bail};

use crate::agent::{self, Profile};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fewer and shorter measurements: under a minute
    #[arg(long)]
    quick: bool,
    /// Only the cases whose name contains this
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
}

/// Builds the bench programs and runs them.
pub(crate) fn run(args: &Args) -> Result<()> {
    let picket = agent::build(Profile::Release)?;
    bail!(
        "not built yet ({}, {:?}, {})",
        args.quick,
        args.case,
        picket.display()
    )
}
