//! `picket policy`: identity, grant and policy files, and what of them is in force.
//!
//! In: the arguments of `check`, `schema` and `status`. Out: the exit code of the one that was asked for.

mod check;
mod schema;
mod status;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Checks identity, grant and policy files, and shows what is in force.
#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Checks files as the agent would read them, without an agent or a cluster.
    #[command(after_help = check::EXAMPLES)]
    Check(check::CheckArgs),
    /// Prints the JSON Schema of the objects.
    #[command(after_help = schema::EXAMPLES)]
    Schema(schema::SchemaArgs),
    /// Lists the objects that this node's agent read, and whether each is in force.
    #[command(after_help = status::EXAMPLES)]
    Status(status::StatusArgs),
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &PolicyArgs) -> ExitCode {
    match &args.command {
        PolicyCommand::Check(args) => check::run(args),
        PolicyCommand::Schema(args) => schema::run(args),
        PolicyCommand::Status(args) => status::run(args),
    }
}
