//! `picket grant`: what agents may do, from the objects in files or in the cluster.
//!
//! In: the arguments of a command. Out: the exit code of the one that was asked for.
//!
//! | file | holds |
//! |---|---|
//! | `create` | a new AgentGrant with one rule |
//! | `list` | every AgentGrant: whom it is for, and what it gives |
//! | `delete` | takes an AgentGrant back |
//! | `rbac` | the RBAC objects that the grants take at the API server, derived in `rights` |

mod create;
mod delete;
pub(super) mod list;
mod rbac;
pub(super) mod rights;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output;

/// The kind of the objects.
const KIND: &str = "AgentGrant";

/// Gives agents rights, shows them, and takes them back.
#[derive(Debug, Args)]
pub(super) struct GrantArgs {
    #[command(subcommand)]
    command: GrantCommand,
}

#[derive(Debug, Subcommand)]
enum GrantCommand {
    /// Gives agents a right, in RBAC's words.
    #[command(after_help = create::EXAMPLES)]
    Create(Box<create::CreateArgs>),
    /// Lists the grants: whom each is for, as whom the API server is asked, and what it gives.
    #[command(after_help = list::EXAMPLES, visible_alias = "ls")]
    List(list::ListArgs),
    /// Takes a grant back, and ends the sessions that nothing else permits.
    #[command(after_help = delete::EXAMPLES)]
    Delete(delete::DeleteArgs),
    /// Prints the RBAC objects that the node needs for the grants, and that give no more.
    #[command(after_help = rbac::EXAMPLES)]
    Rbac(rbac::RbacArgs),
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &GrantArgs) -> ExitCode {
    let outcome = match &args.command {
        GrantCommand::Create(args) => create::run(args).map(ExitCode::from),
        GrantCommand::List(args) => list::run(args).map(|()| ExitCode::SUCCESS),
        GrantCommand::Delete(args) => delete::run(args).map(ExitCode::from),
        GrantCommand::Rbac(args) => rbac::run(args).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if output::reader_went(&error) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}
