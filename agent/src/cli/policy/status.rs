//! `picket policy status`: the objects that this node's agent read, and whether each is in force as it is written.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use crate::cli::output::{self, Column, Format, Row};
use crate::cli::sessions::{Agent, block_on};
use crate::store::ObjectStatus;

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket policy status
  picket policy status -o json | jq '.objects[] | select(.ready | not)'

An object is READY while it is in force as it is written. Objects come into force all together: while one is Invalid, those that
changed since wait (OthersInvalid), and the last good set stays in force.

Exit codes: 0 every object is ready, 1 one is not, or the agent does not answer, 2 wrong usage.";

/// Show the objects of this node's agent.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    agent: Agent,
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &StatusArgs) -> ExitCode {
    match status(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if output::reader_went(&error) => ExitCode::SUCCESS,
        Err(error) => crate::cli::fail(&error),
    }
}

/// Prints the objects, and tells whether every one is ready and the last reading came into force.
fn status(args: &StatusArgs) -> anyhow::Result<bool> {
    let client = args.agent.client()?;
    let list = block_on(client.objects())??;
    output::print(args.output, &list, &list.objects, "The agent has no objects.")?;
    Ok(list.last_error.is_none() && list.objects.iter().all(|object| object.ready))
}

impl Row for ObjectStatus {
    const COLUMNS: &'static [Column] = &[
        Column::text("KIND"),
        Column::text("NAME"),
        Column::text("READY"),
        Column::text("REASON"),
        Column::number("GENERATION").wide(),
        Column::number("AGE"),
        Column::text("SOURCE"),
        Column::text("MESSAGE"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        let age = Timestamp::now().duration_since(self.since).unsigned_abs();
        vec![
            dash(&self.kind),
            dash(&self.name),
            if self.ready { "yes" } else { "no" }.to_owned(),
            format!("{:?}", self.reason),
            self.generation
                .map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            output::age(Duration::from_secs(age.as_secs())),
            self.source.clone(),
            dash(&self.message),
        ]
    }
}
