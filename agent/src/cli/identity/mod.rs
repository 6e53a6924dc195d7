//! `picket identity`: the life cycle of agents, from the objects in files or in the cluster.
//!
//! In: the arguments of a command. Out: the exit code of the one that was asked for.
//!
//! | file | holds |
//! |---|---|
//! | `create` | a new AgentIdentity |
//! | `list` | every AgentIdentity, with its owner and whether its agent may act |
//! | `state` | suspend, resume, revoke |

mod create;
mod list;
mod state;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output;

/// Names agents, shows them, and switches them off.
#[derive(Debug, Args)]
pub(super) struct IdentityArgs {
    #[command(subcommand)]
    command: IdentityCommand,
}

#[derive(Debug, Subcommand)]
enum IdentityCommand {
    /// Names an agent: who answers for it, and which pods it is.
    #[command(after_help = create::EXAMPLES)]
    Create(create::CreateArgs),
    /// Lists the agents and whether each may act.
    #[command(after_help = list::EXAMPLES, visible_alias = "ls")]
    List(list::ListArgs),
    /// Denies an agent every request until it is resumed, and ends its sessions.
    #[command(after_help = state::SUSPEND_EXAMPLES)]
    Suspend(state::StateArgs),
    /// Lets a suspended agent act again.
    #[command(after_help = state::RESUME_EXAMPLES)]
    Resume(state::StateArgs),
    /// Ends an agent for good: every request is denied, and its sessions are ended.
    #[command(after_help = state::REVOKE_EXAMPLES)]
    Revoke(state::RevokeArgs),
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &IdentityArgs) -> ExitCode {
    let outcome = match &args.command {
        IdentityCommand::Create(args) => create::run(args),
        IdentityCommand::List(args) => list::run(args),
        IdentityCommand::Suspend(args) => state::suspend(args),
        IdentityCommand::Resume(args) => state::resume(args),
        IdentityCommand::Revoke(args) => state::revoke(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::reader_went(&error) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}
