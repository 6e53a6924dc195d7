//! `picket identity create`: names an agent.
//!
//! In: who answers for the agent, and which pods it is. Out: a new AgentIdentity in a file or in the cluster, or on standard
//! output for a dry run.

use clap::Args;
use jiff::Timestamp;
use picket_policy::api::API_VERSION;
use serde_json::{Map, Value, json};

use crate::cli::target::{ChangeArgs, moment, print, wait};

/// The kind of the object.
const KIND: &str = "AgentIdentity";

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket identity create triage --owner sre@example.com --namespace agents --service-account triage --group readers
  picket identity create fixer --owner platform --namespace agents --service-account fixer --expires 30d --review-by 2027-06-30
  picket identity create triage --owner sre --namespace agents --service-account triage --dry-run | kubectl diff -f -

A new agent may do nothing until an AgentGrant names it or one of its groups; `picket grant create` makes one.

Exit codes: 0 the identity is written, 1 it is not, such as where one of that name exists, 2 wrong usage.";

/// Name an agent.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The identity's name.
    name: String,
    /// Who answers for the agent: a team or an address.
    #[arg(long, value_name = "TEXT")]
    owner: String,
    /// The namespace of the agent's pods.
    #[arg(long, value_name = "NAME")]
    namespace: String,
    /// The service account of the agent's pods.
    #[arg(long, value_name = "NAME")]
    service_account: String,
    /// A label that the agent's pods have, as KEY=VALUE. May be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    selector: Vec<(String, String)>,
    /// A group that grants and policies can name. May be given again.
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// When the agent may act no more: 2027-01-31T00:00:00Z, 2027-01-31, or a time from now such as 24h.
    #[arg(long, value_name = "MOMENT", value_parser = moment::to_come)]
    expires: Option<Timestamp>,
    /// By when somebody should look at the identity again.
    #[arg(long, value_name = "MOMENT", value_parser = moment::to_come)]
    review_by: Option<Timestamp>,
    #[command(flatten)]
    change: ChangeArgs,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The object that the arguments say.
fn object(args: &CreateArgs) -> Value {
    let mut pod = json!({"namespace": args.namespace, "serviceAccount": args.service_account});
    if !args.selector.is_empty() {
        let labels: Map<_, _> = args
            .selector
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        pod["selector"] = json!({"matchLabels": labels});
    }
    let mut spec = json!({"owner": args.owner});
    if !args.group.is_empty() {
        spec["groups"] = json!(args.group);
    }
    if let Some(expires) = args.expires {
        spec["expiresAt"] = json!(expires);
    }
    if let Some(review_by) = args.review_by {
        spec["reviewBy"] = json!(review_by);
    }
    spec["attest"] = json!({"pod": pod});
    json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": args.name}, "spec": spec})
}

pub(super) fn run(args: &CreateArgs) -> anyhow::Result<()> {
    let yaml = print::new_yaml(&object(args))?;
    args.change
        .add(KIND, &args.name, &yaml, wait::is_there(KIND, &args.name))
}
