//! `cargo xtask clean`: removes what crashed runs left.
//!
//! In: nothing. Out: a line for each thing removed, or left because a running process owns it.

use anyhow::Result;
use picket_tests::state::{Cleaned, clean};

const HELP: &str = "\
Clusters that were kept on purpose (`cargo xtask cluster up`, `demo --keep`) are removed too. Clusters of a running test or demo \
stay.

Example:
  cargo xtask clean";

/// What it can be told.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct CleanArgs {}

/// Runs it.
pub(crate) fn run(_args: CleanArgs) -> Result<()> {
    let done = clean(|_| true)?;
    if done.is_empty() {
        println!("nothing to remove");
    }
    for thing in done {
        match thing {
            Cleaned::Removed(what) => println!("removed {what}"),
            Cleaned::InUse(name, pid) => println!("kept {name}: process {pid} uses it"),
        }
    }
    Ok(())
}
