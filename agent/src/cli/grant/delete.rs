//! `picket grant delete`: takes a grant back.
//!
//! In: an AgentGrant's name. Out: a file without it, or no file where nothing else was in it.

use clap::Args;

use super::KIND;
use crate::cli::completion;
use crate::cli::target::{ChangeArgs, Changed, wait};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket grant delete triage-incident-1234
  picket grant delete readers --files objects/ --dry-run

Exit codes: 0 the grant is gone on this node, 1 nothing is written, such as where none has that name, 2 wrong usage, 3 the grant is out \
of its file, and no agent of this node is known to have let it go. With --dry-run or --wait 0 nothing is waited for.";

/// Take a grant back.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The grant's name.
    #[arg(add = completion::grants())]
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) fn run(args: &DeleteArgs) -> anyhow::Result<Changed> {
    args.change
        .remove(KIND, &args.name, wait::is_gone(KIND, &args.name))
}
