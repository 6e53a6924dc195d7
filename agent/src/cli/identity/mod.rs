//! `picket identity`: the life cycle of agents, from the objects in files or in the cluster.
//!
//! In: the arguments of a command. Out: the exit code of the one that was asked for.
//!
//! | file | holds |
//! |---|---|
//! | `create` | a new AgentIdentity |
//! | `describe` | one AgentIdentity: what it may do, does and did |
//! | `list` | every AgentIdentity, with its owner and whether its agent may act |
//! | `nodes` | what the nodes of a cluster say of one |
//! | `review` | which grants were not used, and narrower ones; from `usage`, which reads audit logs |
//! | `state` | suspend, resume, revoke |

mod create;
mod describe;
mod list;
mod nodes;
mod review;
mod state;
mod usage;

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
    /// Names an agent: who answers for it, and how it is recognised.
    #[command(after_help = create::EXAMPLES)]
    Create(Box<create::CreateArgs>),
    /// Lists the agents and whether each may act.
    #[command(after_help = list::EXAMPLES, visible_alias = "ls")]
    List(list::ListArgs),
    /// Shows one agent: its owner and state, what it may do, what it does now, and what it did last.
    #[command(after_help = describe::EXAMPLES)]
    Describe(describe::DescribeArgs),
    /// Shows which rights were not used, and proposes narrower grants.
    #[command(after_help = review::EXAMPLES)]
    Review(review::ReviewArgs),
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

impl IdentityArgs {
    /// Another node that the command is to run on.
    pub(super) fn node(&self) -> Option<&str> {
        match &self.command {
            IdentityCommand::Describe(args) => args.node.node(),
            IdentityCommand::Review(args) => args.node.node(),
            _ => None,
        }
    }
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &IdentityArgs) -> ExitCode {
    let outcome = match &args.command {
        IdentityCommand::Create(args) => create::run(args).map(ExitCode::from),
        IdentityCommand::List(args) => list::run(args).map(|()| ExitCode::SUCCESS),
        IdentityCommand::Describe(args) => describe::run(args).map(|()| ExitCode::SUCCESS),
        IdentityCommand::Review(args) => review::run(args).map(|()| ExitCode::SUCCESS),
        IdentityCommand::Suspend(args) => state::suspend(args).map(ExitCode::from),
        IdentityCommand::Resume(args) => state::resume(args).map(ExitCode::from),
        IdentityCommand::Revoke(args) => state::revoke(args).map(ExitCode::from),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if output::reader_went(&error) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}
