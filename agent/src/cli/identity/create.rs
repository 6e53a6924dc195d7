//! `picket identity create`: names an agent.
//!
//! In: who answers for the agent, and how it is recognised. Out: a new AgentIdentity in a file or in the cluster, or on standard
//! output for a dry run.

use clap::{ArgGroup, Args};
use jiff::Timestamp;
use picket_policy::api::API_VERSION;
use serde_json::{Map, Value, json};

use crate::cli::target::{ChangeArgs, Changed, moment, wait};

/// The kind of the object.
const KIND: &str = "AgentIdentity";

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket identity create triage --owner sre@example.com --namespace agents --service-account triage --group readers
  picket identity create fixer --owner platform --namespace agents --service-account fixer --expires 30d --review-by 2027-06-30
  picket identity create deploy --owner ci --jwt-issuer https://token.actions.example.com \\
    --jwt-subject repo:shop/web:ref:refs/heads/main --jwt-audience picket
  picket identity create batch --owner data --spiffe-id spiffe://prod.example.com/ns/data/sa/batch
  picket identity create triage --owner sre --namespace agents --service-account triage --dry-run | kubectl diff -f -

An agent is recognised by its pods, by a token, by a certificate, or by several of these: all that are given must hold. A new agent \
may do nothing until an AgentGrant names it or one of its groups; `picket grant create` makes one.

Exit codes: 0 the identity is in force on this node, 1 nothing is written, such as where one of that name exists, 2 wrong usage, 3 the \
identity is written, and no agent of this node is known to have it in force. With --dry-run or --wait 0 nothing is waited for.";

/// Name an agent.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("by").required(true).multiple(true).args(["namespace", "jwt_issuer", "spiffe_id"]))]
pub(super) struct CreateArgs {
    /// The identity's name.
    name: String,
    /// Who answers for the agent: a team or an address.
    #[arg(long, value_name = "TEXT")]
    owner: String,
    /// The namespace of the agent's pods.
    #[arg(long, value_name = "NAME", requires = "service_account")]
    namespace: Option<String>,
    /// The service account of the agent's pods.
    #[arg(long, value_name = "NAME", requires = "namespace")]
    service_account: Option<String>,
    /// A label that the agent's pods have, as KEY=VALUE. May be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair, requires = "namespace")]
    selector: Vec<(String, String)>,
    /// The issuer of the agent's token, as the configuration of issuers has its URL.
    #[arg(long, value_name = "URL", requires = "jwt_subject")]
    jwt_issuer: Option<String>,
    /// The subject of the agent's token.
    #[arg(long, value_name = "TEXT", requires = "jwt_issuer")]
    jwt_subject: Option<String>,
    /// An audience that the agent's token has.
    #[arg(long, value_name = "TEXT", requires = "jwt_issuer")]
    jwt_audience: Option<String>,
    /// A claim that the agent's token has, as NAME=TEXT. May be given again.
    #[arg(long, value_name = "NAME=TEXT", value_parser = pair, requires = "jwt_issuer")]
    jwt_claim: Vec<(String, String)>,
    /// The SPIFFE ID of the agent's client certificate.
    #[arg(long, value_name = "spiffe://...")]
    spiffe_id: Option<String>,
    /// A group that grants and policies can name. May be given again.
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// When the agent may act no more: 2027-01-31T00:00:00Z, 2027-01-31, or a time from now such as 24h.
    #[arg(long, value_name = "MOMENT", value_parser = moment::to_come)]
    expires: Option<Timestamp>,
    /// By when somebody should look at the identity again.
    #[arg(long, value_name = "MOMENT", value_parser = moment::to_come)]
    review_by: Option<Timestamp>,
    /// Deny every request from that moment on, until --review-by of the identity is later.
    #[arg(long, requires = "review_by")]
    suspend_overdue: bool,
    /// Let one workload at most be the agent at a time: while two claim it on a node, every request of both is denied there.
    #[arg(long, requires = "namespace")]
    exclusive: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} has no `=`"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn map(pairs: &[(String, String)]) -> Value {
    let entries = pairs.iter().map(|(key, value)| (key.clone(), json!(value)));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// How the agent is recognised.
fn attest(args: &CreateArgs) -> Value {
    let mut attest = json!({});
    if let Some(namespace) = &args.namespace {
        let mut pod = json!({"namespace": namespace, "serviceAccount": args.service_account});
        if !args.selector.is_empty() {
            pod["selector"] = json!({"matchLabels": map(&args.selector)});
        }
        attest["pod"] = pod;
    }
    if let Some(issuer) = &args.jwt_issuer {
        let mut jwt = json!({"issuer": issuer, "subject": args.jwt_subject});
        if let Some(audience) = &args.jwt_audience {
            jwt["audience"] = json!(audience);
        }
        if !args.jwt_claim.is_empty() {
            jwt["claims"] = map(&args.jwt_claim);
        }
        attest["jwt"] = jwt;
    }
    if let Some(id) = &args.spiffe_id {
        attest["spiffe"] = json!({"id": id});
    }
    attest
}

/// The object that the arguments say.
fn object(args: &CreateArgs) -> Value {
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
    if args.suspend_overdue {
        spec["whenOverdue"] = json!("Suspend");
    }
    if args.exclusive {
        spec["exclusive"] = json!(true);
    }
    spec["attest"] = attest(args);
    json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": args.name}, "spec": spec})
}

pub(super) fn run(args: &CreateArgs) -> anyhow::Result<Changed> {
    args.change
        .add(KIND, &args.name, &object(args), wait::is_there(KIND, &args.name))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::target::print;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn parse(line: &str) -> Result<CreateArgs, clap::Error> {
        let line = format!("create a --owner o {line}");
        Line::try_parse_from(line.split_whitespace()).map(|line| line.args)
    }

    #[test]
    fn an_agent_is_recognised_by_pod_token_or_certificate_and_the_reader_takes_it() {
        for (line, wanted) in [
            (
                "--namespace n --service-account s --selector app=x",
                json!({"pod": {"namespace": "n", "serviceAccount": "s", "selector": {"matchLabels": {"app": "x"}}}}),
            ),
            (
                "--jwt-issuer https://i --jwt-subject s --jwt-audience a --jwt-claim ref=main",
                json!({"jwt": {"issuer": "https://i", "subject": "s", "audience": "a", "claims": {"ref": "main"}}}),
            ),
            (
                "--spiffe-id spiffe://d/x --namespace n --service-account s",
                json!({"spiffe": {"id": "spiffe://d/x"}, "pod": {"namespace": "n", "serviceAccount": "s"}}),
            ),
        ] {
            let object = object(&parse(line).unwrap_or_else(|error| panic!("{line}: {error}")));
            assert_eq!(object["spec"]["attest"], wanted, "{line}");
            let yaml = print::new_yaml(&object).expect("YAML");
            let read = picket_policy::read_documents("a.yaml", &yaml);
            assert!(read.as_ref().is_ok_and(|read| read.len() == 1), "{yaml}{read:?}");
        }
    }

    #[test]
    fn an_agent_of_pods_can_be_exclusive() {
        let spec = |line: &str| object(&parse(line).expect("parses"))["spec"].clone();
        let pods = "--namespace n --service-account s";
        assert_eq!(spec(&format!("{pods} --exclusive"))["exclusive"], true);
        assert_eq!(spec(pods)["exclusive"], Value::Null);
    }

    #[test]
    fn half_of_a_way_to_recognise_an_agent_is_wrong_usage() {
        for line in [
            "",
            "--namespace n",
            "--service-account s",
            "--jwt-issuer https://i",
            "--jwt-subject s",
            "--spiffe-id spiffe://d/x --jwt-audience a",
            "--spiffe-id spiffe://d/x --selector app=x",
            "--spiffe-id spiffe://d/x --exclusive",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
