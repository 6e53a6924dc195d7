//! `picket policy`: identity, grant and policy files, what of them is in force, and what they make of recorded traffic.
//!
//! In: the arguments of a command. Out: its exit code.

mod check;
mod error_report;
mod explain;
mod junit;
mod objects;
mod records;
mod replay;
mod sarif;
mod schema;
mod shadow;
mod status;
mod suggest;
mod test;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output;

/// Checks identity, grant and policy files, shows what is in force, and what recorded traffic says of them.
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
    Explain(Box<explain::ExplainArgs>),
    /// Shows what other objects would have decided of recorded traffic.
    #[command(after_help = replay::EXAMPLES)]
    Replay(replay::ReplayArgs),
    /// Proposes the narrowest AgentGrants for what agents were allowed, as YAML to review.
    #[command(after_help = suggest::EXAMPLES)]
    Suggest(suggest::SuggestArgs),
    /// Counts what rules noted and let pass, as those in mode Audit do, by rule and agent.
    #[command(after_help = shadow::EXAMPLES)]
    Shadow(shadow::ShadowArgs),
    /// Prints the JSON Schema of the objects and of test files.
    #[command(after_help = schema::EXAMPLES)]
    Schema(schema::SchemaArgs),
    /// Lists the objects that this node's agent read, and whether each is in force.
    #[command(after_help = status::EXAMPLES)]
    Status(status::StatusArgs),
}

impl PolicyArgs {
    /// Another node that the command is to run on.
    pub(super) fn node(&self) -> Option<&str> {
        match &self.command {
            PolicyCommand::Status(args) => args.node(),
            _ => None,
        }
    }
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &PolicyArgs) -> ExitCode {
    match &args.command {
        PolicyCommand::Check(args) => check::run(args),
        PolicyCommand::Test(args) => test::run(args),
        PolicyCommand::Explain(args) => explain::run(args),
        PolicyCommand::Replay(args) => replay::run(args),
        PolicyCommand::Suggest(args) => suggest::run(args),
        PolicyCommand::Shadow(args) => shadow::run(args),
        PolicyCommand::Schema(args) => schema::run(args),
        PolicyCommand::Status(args) => status::run(args),
    }
}

/// Says on standard error why a command whose exit code 1 is an answer gives none, and ends it as wrong usage does: diff does so too.
/// That the reader of standard output went is no trouble.
fn trouble(error: &anyhow::Error) -> ExitCode {
    if output::reader_went(error) {
        return ExitCode::SUCCESS;
    }
    super::fail(error);
    ExitCode::from(super::USAGE)
}
