//! The command line: arguments only. Each command's work is in its own file or in the library's modules.
//!
//! In: the process's name and arguments. Out: the command's exit code, and errors on standard error with their causes.

// These end the process in the middle of a command where the reader of a pipe went: output.rs has what does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod agent;
mod audit;
mod ca;
mod completion;
mod controller;
mod crds;
mod doctor;
mod grant;
mod guard;
mod health;
mod identity;
mod kubeconfig;
mod man;
mod manifests;
mod on_node;
mod output;
mod plugin;
mod policy;
mod reference;
mod sessions;
mod status;
mod support_bundle;
mod target;
mod uninstall;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::{self, Config, ConfigError};
use crate::runtime::causes::with_causes;
use plugin::Invocation;

/// Controls and records the Kubernetes API requests of AI agents.
#[derive(Debug, Parser)]
#[command(name = "picket", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 success, 1 the command failed or found a fault, 2 wrong usage, 3 a change of an object is written, and no \
agent of this node is known to have it in force. Commands that judge or compare end with 2 too where they cannot: 1 is a finding there. \
The help of each command has its own."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the node's agent in the foreground until SIGTERM.
    Agent(agent::Args),
    /// Runs the cluster's controller in the foreground until SIGTERM.
    Controller(controller::ControllerArgs),
    /// Shows which nodes of the cluster have an agent, whether it is ready, and which pods are not enforced and why.
    Status(status::StatusArgs),
    /// Writes an archive of what a support case needs to know of the cluster's Picket, without secrets.
    SupportBundle(support_bundle::SupportBundleArgs),
    /// Tests whether this node can run Picket.
    Doctor(doctor::DoctorArgs),
    /// Names agents, shows them, and switches them off.
    Identity(identity::IdentityArgs),
    /// Gives agents rights, shows them, and takes them back.
    Grant(grant::GrantArgs),
    /// Checks identity, grant and policy files, and shows what is in force.
    Policy(policy::PolicyArgs),
    /// Reads and verifies audit records.
    Audit(audit::Audit),
    /// Lists and ends the watches, logs and sessions that run on this node.
    Sessions(sessions::SessionsArgs),
    /// Closes the node's pods from its boot until the agent serves.
    Guard(guard::GuardArgs),
    /// Says whether an agent of this node is ready, for probes.
    Health(health::HealthArgs),
    /// Writes a kubeconfig for the gateway.
    Kubeconfig(kubeconfig::KubeconfigArgs),
    /// Makes a certificate authority for nodes.
    Ca(ca::Args),
    /// Prints the CustomResourceDefinitions of the objects, for `kubectl apply --server-side -f -`.
    #[command(after_help = crds::HELP)]
    Crds,
    /// Prints the whole installation as plain manifests, for a cluster without Helm.
    Manifests(manifests::ManifestsArgs),
    /// Prints a completion script for a shell.
    Completion(completion::CompletionArgs),
    /// Writes man pages of all commands.
    Man(man::ManArgs),
    /// Removes Picket's programs, links and maps from this node's kernel, or with --cluster from every node's.
    Uninstall(uninstall::Args),
    /// Writes the generated pages of the manual into a folder.
    #[command(hide = true)]
    Reference(reference::Args),
}

impl Command {
    /// Another node that the command is to run on.
    fn node(&self) -> Option<&str> {
        match self {
            Self::Doctor(args) => args.node.node(),
            Self::Identity(args) => args.node(),
            Self::Policy(args) => args.node(),
            Self::Audit(args) => args.node(),
            Self::Sessions(args) => args.node(),
            Self::Health(args) => args.node(),
            _ => None,
        }
    }
}

/// Reads the process's arguments and runs the command that was asked for.
#[must_use]
pub fn main() -> ExitCode {
    match Invocation::of(std::env::args_os().next().as_ref()) {
        Invocation::Picket => {
            completion::answer();
            Cli::parse().run()
        }
        Invocation::Plugin => {
            let matches = plugin::typed(Cli::command()).get_matches();
            Cli::from_arg_matches(&matches)
                .unwrap_or_else(|error| error.exit())
                .run()
        }
        Invocation::Complete => {
            let words: Vec<_> = std::env::args_os().skip(1).collect();
            match plugin::complete(Cli::command(), &words, &mut std::io::stdout().lock()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error.into()),
            }
        }
    }
}

impl Cli {
    /// Runs the command that was asked for.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Some(node) = self.command.node() {
            return on_node::run(node);
        }
        match self.command {
            Command::Agent(args) => agent::run(&args),
            Command::Controller(args) => controller::run(&args),
            Command::Status(args) => status::run(&args),
            Command::SupportBundle(args) => support_bundle::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Identity(args) => identity::run(&args),
            Command::Grant(args) => grant::run(&args),
            Command::Policy(args) => policy::run(&args),
            Command::Audit(args) => args.run(),
            Command::Sessions(args) => sessions::run(&args),
            Command::Guard(args) => guard::run(&args),
            Command::Health(args) => health::run(&args),
            Command::Kubeconfig(args) => kubeconfig::run(&args),
            Command::Ca(args) => ca::run(&args),
            Command::Crds => crds::run(),
            Command::Manifests(args) => manifests::run(&args),
            Command::Completion(args) => completion::run(&args),
            Command::Man(args) => man::run(&args),
            Command::Uninstall(args) => uninstall::run(&args),
            Command::Reference(args) => reference::run(&args),
        }
    }
}

/// The configuration that was given, or the usual one where it is there.
fn configuration(given: Option<&Path>) -> Result<Option<Config>, ConfigError> {
    let usual = Path::new(config::DEFAULT_PATH);
    given
        .or_else(|| usual.exists().then_some(usual))
        .map(Config::read)
        .transpose()
}

/// The exit code for wrong usage, as clap has it.
const USAGE: u8 = 2;

/// Says on standard error what went wrong, and gives the exit code for it.
fn fail(error: &anyhow::Error) -> ExitCode {
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // Where standard error is closed, the exit code is all that is left to say.
        drop(usage.print());
        return ExitCode::from(USAGE);
    }
    output::warn(format_args!("picket: {}", error_chain(error)));
    ExitCode::FAILURE
}

/// What went wrong with its causes. Faults in files are a line each; nothing in a line can move the terminal's cursor.
fn error_chain(error: &anyhow::Error) -> String {
    let text = with_causes(error.as_ref());
    let lines: Vec<_> = text.split('\n').map(output::clean).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;
    use crate::store::Store;

    /// A line that the source breaks is broken a second time on a narrow terminal.
    #[test]
    fn paragraphs_of_help_are_one_line_each() {
        fn look(command: &clap::Command, found: &mut Vec<String>) {
            let texts = [
                command.get_after_help(),
                command.get_after_long_help(),
                command.get_long_about(),
            ];
            for text in texts.into_iter().flatten().map(ToString::to_string) {
                let lines: Vec<_> = text.lines().collect();
                let of_paragraph = |line: &str| !line.is_empty() && !line.starts_with(' ');
                let pairs = lines
                    .windows(2)
                    .filter(|pair| pair.iter().all(|line| of_paragraph(line)));
                found.extend(pairs.map(|pair| format!("{}: {}", command.get_name(), pair[0])));
            }
            command.get_subcommands().for_each(|below| look(below, found));
        }
        let mut found = Vec::new();
        look(&<Cli as clap::CommandFactory>::command(), &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn a_cause_is_told_once() {
        const SYSTEM: &str = "No such file or directory (os error 2)";
        let nothing = Path::new("/nonexistent/x");
        let objects = Store::open(&[nothing.to_owned()]).unwrap_err();
        assert_eq!(error_chain(&objects.into()), format!("/nonexistent/x: {SYSTEM}"));
        assert_eq!(
            error_chain(&Config::read(nothing).unwrap_err().into()),
            format!("/nonexistent/x: cannot read the configuration: {SYSTEM}")
        );
        let opened = std::fs::File::open(nothing).map(drop);
        assert_eq!(
            error_chain(&opened.context("cannot start").unwrap_err()),
            format!("cannot start: {SYSTEM}")
        );
        assert_eq!(error_chain(&io::Error::other("alone").into()), "alone");
        let lines = io::Error::other("one\u{1b}[2J\ntwo");
        assert_eq!(error_chain(&lines.into()), "one\\u{1b}[2J\ntwo");
    }
}
