//! `cargo xtask clean`: removes what crashed runs left.
//!
//! Comes in: nothing. Goes out: a line for each thing removed, or left because a running process owns it.

use anyhow::Result;
use picket_tests::state::{Cleaned, clean};

const HELP: &str = "\
Clusters left up on purpose (`cargo xtask cluster up`, `demo --keep`) are taken down too; those of a test or demo that is
running now are left alone.

Example:
  cargo xtask clean";

/// What it can be told.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {}

/// Runs it.
pub(crate) fn run(_args: Args) -> Result<()> {
    let done = clean(|_| true)?;
    if done.is_empty() {
        println!("nothing was left");
    }
    for thing in done {
        match thing {
            Cleaned::Removed(what) => println!("removed {what}"),
            Cleaned::InUse(name, pid) => println!("left {name}: process {pid} is using it"),
        }
    }
    Ok(())
}
