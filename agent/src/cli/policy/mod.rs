//! `picket policy`: identity, grant and policy files, and what of them is in force.
//!
//! In: the arguments of `check`, `test`, `explain`, `schema` and `status`. Out: the exit code of the one that was asked for.

mod check;
mod error_report;
mod explain;
mod junit;
mod objects;
mod schema;
mod status;
mod test;

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
    /// Runs AgentPolicyTest files: requests and commands with the decisions that they must get.
    #[command(after_help = test::EXAMPLES)]
    Test(test::TestArgs),
    /// Shows what every built-in, rule and grant rule says of a request, and the decision.
    #[command(after_help = explain::EXAMPLES)]
    Explain(explain::ExplainArgs),
    /// Prints the JSON Schema of the objects and of test files.
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
        PolicyCommand::Test(args) => test::run(args),
        PolicyCommand::Explain(args) => explain::run(args),
        PolicyCommand::Schema(args) => schema::run(args),
        PolicyCommand::Status(args) => status::run(args),
    }
}
