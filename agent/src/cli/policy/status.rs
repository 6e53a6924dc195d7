//! `picket policy status`: the objects that this node's agent read, and whether each is in force as it is written.
//!
//! In: the admin socket's list of objects. Out: a table, JSON or YAML on standard output.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use crate::cli::output::{self, Column, Format, Row};
use crate::cli::sessions::{Agent, block_on};
use crate::store::{IdentityState, ObjectStatus};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket policy status
  picket policy status --node worker-1
  picket policy status -o json | jq '.objects[] | select(.ready | not)'

An object is READY while it is in force as it is written. Objects come into force all together: while one is Invalid, those that \
changed since wait (OthersInvalid), and the last good set stays in force. STATE says whether the agent of an AgentIdentity may act: \
Active, Suspended, Revoked or Expired. MESSAGE says where several workloads of the node claim an exclusive one.

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

impl StatusArgs {
    /// Another node that the command is to run on.
    pub(super) fn node(&self) -> Option<&str> {
        self.agent.node()
    }
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

/// How long ago that was, as `3m`.
fn passed(then: Timestamp, now: Timestamp) -> String {
    let passed = now.duration_since(then).unsigned_abs();
    output::age(Duration::from_secs(passed.as_secs()))
}

/// Whether an AgentIdentity's agent may act; `-` for other kinds, and where no version of the identity is in force.
fn state(object: &ObjectStatus, now: Timestamp) -> String {
    match (object.state, object.expires_at) {
        (Some(IdentityState::Expired), Some(at)) => format!("Expired {} ago", passed(at, now)),
        (Some(state), _) => format!("{state:?}"),
        (None, _) => "-".to_owned(),
    }
}

impl Row for ObjectStatus {
    const COLUMNS: &'static [Column] = &[
        Column::text("KIND"),
        Column::text("NAME"),
        Column::text("READY"),
        Column::text("REASON"),
        Column::text("STATE"),
        Column::number("GENERATION").wide(),
        Column::number("AGE"),
        Column::text("SOURCE"),
        Column::text("MESSAGE"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        let now = Timestamp::now();
        vec![
            dash(&self.kind),
            dash(&self.name),
            if self.ready { "yes" } else { "no" }.to_owned(),
            format!("{:?}", self.reason),
            state(self, now),
            self.generation
                .map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            passed(self.since, now),
            self.source.clone(),
            dash(&self.message),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    const EXPIRED: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata:\n  name: a\nspec:\n  owner: team\n  \
        expiresAt: MOMENT\n  attest:\n    pod: {namespace: ns, serviceAccount: sa}\n";

    /// The places of these cells.
    const READY: usize = 2;
    const STATE: usize = 4;
    const MESSAGE: usize = 8;

    /// The cells of the one object that a file with this text has.
    fn cells(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.yaml"), text).expect("written");
        let store = Store::open(&[folder.path().to_owned()]).expect("valid");
        store.statuses()[0].cells(Format::Table)
    }

    #[test]
    fn an_identity_past_its_expiry_says_how_long() {
        let expired = Timestamp::now() - Duration::from_secs(190);
        let of = |moment: Timestamp| cells(&EXPIRED.replace("MOMENT", &moment.to_string()));
        let shown = of(expired);
        assert_eq!(shown[STATE], "Expired 3m ago");
        assert_eq!(shown[READY], "yes");
        let said = &shown[MESSAGE];
        assert_eq!(
            *said,
            format!("Expired at {expired}: every request of this agent is denied")
        );
        let later = of(Timestamp::now() + Duration::from_secs(600));
        assert_eq!(later[STATE], "Active");
        assert_eq!(later[MESSAGE], "-");
        let suspended = EXPIRED.replace("expiresAt: MOMENT", "state: Suspended");
        assert_eq!(cells(&suspended)[STATE], "Suspended");
    }
}
