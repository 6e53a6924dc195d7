//! `picket status`: the nodes of the cluster, what the agent of each says, and what is to be acted on.
//!
//! In: the person's own kubeconfig. Out: a table, JSON or YAML, and an exit code that says whether all is well.

mod ask;
mod objects;
mod report;
mod rollout;
mod rows;
mod selection;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kube::Client;

use crate::cli::output::{self, Format, clean};
use crate::cli::target::person::PersonalClientArgs;
pub(super) use report::StatusReport;

const HELP: &str = "\
Examples:
  picket status
  picket status --node worker-1 -o wide
  picket status -o json | jq -r '.findings[]'

READY says `no agent` where a node has none, `stopped` where its agent said so, and for how long an agent was not heard. NOT-ENFORCED \
counts pods that should be enforced and are not, or not wholly; the lines below say why. POLICY is a digest of the objects in force: \
`(old)` marks a node that has others than the node whose objects are the newest. CERTS is the time until the first certificate of the \
node ends; an upstream client certificate counts once it has ended, since the agent reads it anew. AGE is that of the agent.

Exit codes: 0 all is well, 1 something is to be acted on, 2 the cluster cannot be asked, Picket is not installed in it, or \
wrong usage.";

/// The exit code where nothing is known.
const CANNOT_ASK: u8 = 2;

/// Show the nodes of the cluster.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct StatusArgs {
    /// Only this node.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// How soon a certificate ends that is to be acted on, such as 12h or 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    expiring_within: Duration,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: PersonalClientArgs,
}

/// How soon a certificate ends that is to be acted on, unless this is said: node CAs may live for a day.
pub(super) const EXPIRING: Duration = Duration::from_secs(3600);

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write 12h, 7d or 1h30m");
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    // A day has 24 hours: what is compared are moments.
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    let length: SignedDuration = span.to_duration(relative).map_err(|_| wrong())?;
    Duration::try_from(length).map_err(|_| wrong())
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &StatusArgs) -> ExitCode {
    match status(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if output::reader_went(&error) => ExitCode::SUCCESS,
        Err(error) => {
            crate::cli::fail(&error);
            ExitCode::from(CANNOT_ASK)
        }
    }
}

/// Prints the report; true where nothing is to be acted on.
fn status(args: &StatusArgs) -> anyhow::Result<bool> {
    let (runtime, client) = args.cluster.connect()?;
    let node = args.node.as_deref();
    let report = runtime.block_on(report(&client, node, args.expiring_within))?;
    if let (Some(node), true) = (node, report.nodes.is_empty()) {
        anyhow::bail!("the cluster has no node {}", clean(node));
    }
    rows::print(args.output, &report)?;
    Ok(report.findings.is_empty())
}

/// Asks the API server, and makes a report of what it says.
///
/// # Errors
/// Where the person cannot ask what the agents say.
pub(super) async fn report(
    client: &Client,
    node: Option<&str>,
    expiring: Duration,
) -> anyhow::Result<StatusReport> {
    let answers = ask::ask(client, node).await?;
    Ok(StatusReport::of(answers, Timestamp::now(), expiring))
}

/// The report as people read it, for a file.
pub(super) fn text(report: &StatusReport) -> String {
    rows::text(report, Format::Wide, false)
}

#[cfg(test)]
mod tests;
