//! `picket audit`: reads audit logs for people, verifies their hash chains, and shows how far their sinks are.
//!
//! In: the spool that the agent writes (`crate::audit`), or files with records. Out: a line per event on standard output.

pub(super) mod filter;
pub(super) mod history;
mod read;
mod sinks;
mod tail;
mod verify;
pub(super) mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output;
use crate::admin::ON_NODE;
use crate::audit::DEFAULT_DIRECTORY;

/// Reads and verifies audit records.
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Tail(tail::Tail),
    Verify(verify::Verify),
    Sinks(sinks::Sinks),
}

impl Audit {
    /// Another node that the command is to run on.
    pub(super) fn node(&self) -> Option<&str> {
        match &self.command {
            Command::Tail(args) => args.node.node(),
            Command::Verify(args) => args.node.node(),
            Command::Sinks(args) => args.node.node(),
        }
    }

    /// Runs the command.
    pub(super) fn run(self) -> ExitCode {
        let mut out = io::stdout().lock();
        let result = match self.command {
            Command::Tail(tail) => tail.run(&mut out).map(|()| ExitCode::SUCCESS),
            Command::Verify(verify) => verify.run(&mut out),
            Command::Sinks(sinks) => sinks.run(&mut out).map(|()| ExitCode::SUCCESS),
        };
        match result {
            Ok(code) => code,
            // Who read the output has seen enough, as `head` does.
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(failure) => {
                output::warn(format_args!("picket audit: {failure}"));
                ExitCode::FAILURE
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Output(#[source] io::Error),
    #[error("{file}: {source}{hint}")]
    Input {
        file: String,
        source: io::Error,
        hint: String,
    },
    #[error("{}: there are no segments; is it the agent's audit.directory?", .0.display())]
    NoSegments(PathBuf),
}

impl Failure {
    fn input(path: &Path, source: io::Error) -> Self {
        Self::Input {
            hint: hint(
                path,
                &source,
                &format!("another directory or file can be named as an argument. {ON_NODE}"),
            ),
            file: path.display().to_string(),
            source,
        }
    }
}

/// What may be the cause where a log cannot be read; `otherwise` says how another one is named.
fn hint(path: &Path, error: &io::Error, otherwise: &str) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if path == Path::new(DEFAULT_DIRECTORY) => {
            format!(" (does the agent run on this node? If it does not, {otherwise})")
        }
        io::ErrorKind::PermissionDenied => " (the audit log is for root alone)".to_owned(),
        _ => String::new(),
    }
}

fn count(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

#[cfg(test)]
mod testing {
    use std::path::{Path, PathBuf};

    use crate::audit::spool::chain::stored;

    /// A stored event.
    pub(super) fn event(number: usize, outcome: &str) -> String {
        let event = format!(
            r#"{{"kind":"Event","stage":"ResponseComplete","verb":"get","requestURI":"/x/{number}","stageTimestamp":"2026-01-02T03:04:{:02}.000000Z","decision":{{"outcome":"{outcome}"}}}}"#,
            number % 60
        );
        stored(&event, 1)
    }

    /// A folder of the test's own, which removes itself.
    pub(super) struct Scratch(tempfile::TempDir);

    impl Scratch {
        pub(super) fn new() -> Self {
            Self(tempfile::tempdir().expect("scratch folder"))
        }

        pub(super) fn path(&self) -> &Path {
            self.0.path()
        }

        /// A file with this text.
        pub(super) fn file(&self, name: &str, text: &str) -> PathBuf {
            let file = self.0.path().join(name);
            std::fs::write(&file, text).expect("writes");
            file
        }
    }
}
