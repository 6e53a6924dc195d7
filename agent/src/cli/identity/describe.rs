//! `picket identity describe`: one agent, and whatever is known of it.
//!
//! In: an AgentIdentity's name, the objects, this node's agent and audit logs. Out: who answers for the agent, whether it may act,
//! how it is recognised, what it may do, what it does now, and what it did last; as text, JSON or YAML.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use picket_policy::Standing;
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::{
    AgentGrant, AgentIdentity, AgentIdentitySpec, AgentPolicy, Attest, IdentityNode, Mode, Spec as _, State,
};
use serde_json::{Value, json};

use super::nodes::{self, NodeLine};
use super::state::{CHANGED_AT, CHANGED_BY, REASON};
use crate::admin::api::{SessionItem, SessionQuery};
use crate::admin::{Client, ClientError, ON_NODE};
use crate::cli::audit::filter::parse_since;
use crate::cli::audit::history::{self, Reach, Unreadable};
use crate::cli::audit::view;
use crate::cli::completion;
use crate::cli::grant::list::words;
use crate::cli::on_node::NodeName;
use crate::cli::output::{self, Column, Format, Row};
use crate::cli::sessions::block_on;
use crate::cli::target::{Objects, Target};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket identity describe triage
  picket identity describe triage --since 7d --records 50
  picket identity describe triage --audit /mnt/node-1/audit --audit /mnt/node-2/audit
  picket identity describe triage --node worker-1
  picket identity describe triage --cluster
  picket identity describe triage -o json | jq '.log.refused[].requestURI'

The records are those of this node's audit log, or of the logs that --audit names; the last line says how far back they reach. \
The sessions are those of this node. Of an object in the cluster, a table has what the agent of each node told: its pods, the last use and \
the last refusal, each up to an hour late.

Exit codes: 0 success, 1 there is no such identity, or the objects or a named log cannot be read, 2 wrong usage.";

/// Describe an agent.
#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    /// The identity's name.
    #[arg(add = completion::identities())]
    name: String,
    /// How many of the last requests, and of the last refused ones, are shown.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    records: usize,
    /// How far back to look: `90s`, `2h`, `7d` ago, or `2026-01-02T03:04:05Z`.
    #[arg(long, value_name = "TIME", value_parser = parse_since, default_value = "30d")]
    since: Timestamp,
    /// An audit log to read: an agent's audit.directory, or a file with records. May be given again. Default: this node's.
    #[arg(long, value_name = "PATH")]
    audit: Vec<PathBuf>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: DescribeFormat,
    #[command(flatten)]
    pub(super) node: NodeName,
    #[command(flatten)]
    target: Target,
}

/// How to print a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum DescribeFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// What is known of an agent.
struct Description {
    identity: AgentIdentity,
    standing: Standing,
    /// The workloads of this node that claim it, where it is exclusive and an agent answers.
    workloads: Option<Vec<String>>,
    grants: Vec<AgentGrant>,
    policies: Vec<AgentPolicy>,
    /// What the nodes say of an object in the cluster.
    nodes: Option<Vec<IdentityNode>>,
    sessions: Result<Vec<SessionItem>, NotKnown>,
    log: Result<Log, NotKnown>,
}

/// Why something is not known here.
#[derive(Debug)]
struct NotKnown {
    /// With what to do.
    why: String,
    /// What is wrong alone.
    fault: String,
}

impl NotKnown {
    fn sentence(&self) -> String {
        let stop = if self.why.ends_with(['.', '?']) { "" } else { "." };
        format!("Not known: {}{stop}", self.why)
    }
}

/// What audit logs say of it, the newest first.
#[derive(Default)]
struct Log {
    last: Vec<Value>,
    refused: Vec<Value>,
    reach: Reach,
}

pub(super) fn run(args: &DescribeArgs) -> anyhow::Result<()> {
    let files = args.target.read()?;
    let described = describe(args, &files, Timestamp::now())?;
    let document = document(&described);
    match args.output {
        DescribeFormat::Text => Ok(text(&described)?),
        DescribeFormat::Json => Ok(output::print::<Record>(Format::Json, &document, &[], "")?),
        DescribeFormat::Yaml => Ok(output::print::<Record>(Format::Yaml, &document, &[], "")?),
    }
}

fn describe(args: &DescribeArgs, files: &Objects, now: Timestamp) -> anyhow::Result<Description> {
    let AnyObject::Identity(identity) = &files.find("AgentIdentity", &args.name)?.object else {
        bail!("{} is no AgentIdentity", args.name);
    };
    let set = files.set();
    let given = |name: &str| set.grants_of(&args.name).iter().any(|grant| grant.name() == name);
    let known = set.identities().iter().find(|known| known.name == args.name);
    let namespace = identity
        .spec
        .attest
        .pod
        .as_ref()
        .map(|pod| pod.namespace.as_str());
    let about: Vec<_> = known
        .map(|known| set.policies_of(known, namespace).collect())
        .unwrap_or_default();
    let (mut grants, mut policies) = (Vec::new(), Vec::new());
    for document in files.documents() {
        match &document.object {
            AnyObject::Grant(grant) if given(&grant.metadata.name) => grants.push(grant.clone()),
            AnyObject::Policy(policy) if about.contains(&policy.metadata.name.as_str()) => {
                policies.push(policy.clone());
            }
            AnyObject::Identity(_) | AnyObject::Grant(_) | AnyObject::Policy(_) => {}
        }
    }
    Ok(Description {
        workloads: workloads(args, identity),
        identity: identity.clone(),
        standing: Standing::of_spec(&identity.spec, now),
        grants,
        policies,
        nodes: files.nodes_of(&args.name).map(<[IdentityNode]>::to_vec),
        sessions: sessions(args),
        log: log(args)?,
    })
}

/// The workloads of this node that claim an exclusive identity, where an agent answers.
fn workloads(args: &DescribeArgs, identity: &AgentIdentity) -> Option<Vec<String>> {
    if !identity.spec.exclusive {
        return None;
    }
    let client = Client::new(args.target.socket());
    let list = block_on(client.objects()).ok()?.ok()?;
    let mut objects = list.objects.into_iter();
    let status = objects.find(|object| object.kind == AgentIdentitySpec::KIND && object.name == args.name)?;
    status.state.map(|_| status.workloads)
}

/// Whether one workload at most may be the agent, and which it is on this node.
fn exclusive(workloads: Option<&[String]>) -> String {
    match workloads {
        None => {
            "yes; no agent answers on this machine; with --cluster, see WORKLOADS of the nodes".to_owned()
        }
        Some([]) => "yes; no workload of this node claims it".to_owned(),
        Some([one]) => format!("yes; claimed by {one} on this node"),
        Some(several) => format!(
            "yes; contested by {} on this node: every request is denied here until one is left",
            several.join(" and ")
        ),
    }
}

/// The sessions that run on this node, where an agent answers.
fn sessions(args: &DescribeArgs) -> Result<Vec<SessionItem>, NotKnown> {
    let client = Client::new(args.target.socket());
    let query = SessionQuery {
        identity: Some(args.name.clone()),
        kind: None,
    };
    let asked = block_on(client.sessions(&query)).map_err(|error| NotKnown {
        why: error.to_string(),
        fault: error.to_string(),
    })?;
    let unanswered = |error: &ClientError| NotKnown {
        why: error.to_string(),
        fault: error.fault(),
    };
    let answers = asked.map_err(|error| unanswered(&error))?;
    match answers.failed.first() {
        None => Ok(answers.answer.sessions),
        Some(error) => Err(unanswered(error)),
    }
}

/// A log that was named must be readable; this node's own may be absent, as on a machine that has the objects alone.
fn log(args: &DescribeArgs) -> anyhow::Result<Result<Log, NotKnown>> {
    let logs = args.target.audit_logs(&args.audit)?;
    match read_log(args, &logs) {
        Ok(log) => Ok(Ok(log)),
        Err(error) if args.audit.is_empty() => Ok(Err(NotKnown {
            why: error.to_string(),
            fault: match error.downcast_ref::<Unreadable>() {
                Some(unreadable) => unreadable.fault(),
                None => error.to_string(),
            },
        })),
        Err(error) => Err(error),
    }
}

fn read_log(args: &DescribeArgs, logs: &[PathBuf]) -> anyhow::Result<Log> {
    let mut all = Log::default();
    for path in logs {
        let mut of_one = Log::default();
        let reach = history::read(std::slice::from_ref(path), Some(args.since), |act, line| {
            // Alarms about an agent are no acts of it.
            if act.identity() != Some(args.name.as_str()) || act.verb == "alarm" {
                return ControlFlow::Continue(());
            }
            let refused = act.decision.outcome == "deny";
            let full = |records: &[Value]| records.len() >= args.records;
            let wanted = !full(&of_one.last) || (refused && !full(&of_one.refused));
            if let Some(record) = wanted
                .then(|| serde_json::from_slice::<Value>(line).ok())
                .flatten()
            {
                if refused && !full(&of_one.refused) {
                    of_one.refused.push(record.clone());
                }
                if !full(&of_one.last) {
                    of_one.last.push(record);
                }
            }
            match full(&of_one.last) && full(&of_one.refused) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        all.last.extend(of_one.last);
        all.refused.extend(of_one.refused);
        all.reach.oldest = all.reach.oldest.max(reach.oldest);
        all.reach.cut |= reach.cut;
        all.reach.forged += reach.forged;
    }
    for records in [&mut all.last, &mut all.refused] {
        let at = |record: &Value| record["stageTimestamp"].as_str().unwrap_or_default().to_owned();
        records.sort_by_key(|record| std::cmp::Reverse(at(record)));
        records.truncate(args.records);
    }
    Ok(all)
}

/// The state in one word.
fn state(standing: Standing) -> &'static str {
    match standing {
        Standing::Active => "Active",
        Standing::Suspended => "Suspended",
        Standing::Revoked => "Revoked",
        Standing::Expired(_) => "Expired",
        Standing::Overdue(_) => "Overdue",
    }
}

fn document(described: &Description) -> Value {
    let mut document = json!({
        "identity": described.identity,
        "state": state(described.standing),
        "grants": described.grants,
        "policies": described.policies,
    });
    if let Some(workloads) = &described.workloads {
        document["workloads"] = json!(workloads);
    }
    if let Some(nodes) = &described.nodes {
        document["nodes"] = json!(nodes);
    }
    match &described.sessions {
        Ok(sessions) => document["sessions"] = json!(sessions),
        Err(unknown) => document["sessionsError"] = json!(unknown.why),
    }
    match &described.log {
        Ok(log) => {
            document["log"] = json!({
                "reachesBackTo": log.reach.oldest,
                "last": log.last,
                "refused": log.refused,
            });
        }
        Err(unknown) => document["logError"] = json!(unknown.why),
    }
    document
}

/// How the agent is recognised; all of it must hold.
pub(super) fn recognised_by(attest: &Attest) -> String {
    let mut ways = Vec::new();
    if let Some(pod) = &attest.pod {
        let labels = pod.selector.as_ref().map_or("", |_| ", by labels");
        ways.push(format!(
            "pods of service account {}/{}{labels}",
            pod.namespace, pod.service_account
        ));
    }
    if let Some(jwt) = &attest.jwt {
        ways.push(format!(
            "a token of {} with subject {:?}",
            jwt.issuer, jwt.subject
        ));
    }
    if let Some(spiffe) = &attest.spiffe {
        ways.push(format!("a certificate of {}", spiffe.id));
    }
    ways.join(", and ")
}

/// What stands before the tables.
fn fields(described: &Description, now: Timestamp) -> Vec<(&'static str, String)> {
    let spec = &described.identity.spec;
    let annotation = |name: &str| described.identity.metadata.annotations.get(name).cloned();
    let mut fields = vec![
        ("Name", described.identity.metadata.name.clone()),
        ("Owner", spec.owner.clone()),
        ("State", state(described.standing).to_owned()),
    ];
    if let Some(by) = annotation(CHANGED_BY) {
        let at = annotation(CHANGED_AT).unwrap_or_else(|| "unknown".to_owned());
        let why = annotation(REASON).unwrap_or_else(|| "not given".to_owned());
        fields.push(("Changed", format!("by {by} at {at}; reason: {why}")));
    }
    let moment = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), output::moment);
    let overdue = spec.review_by.is_some_and(|at| at <= now) && spec.state != State::Revoked;
    let groups = if spec.groups.is_empty() {
        "-".to_owned()
    } else {
        spec.groups.join(", ")
    };
    fields.extend([
        ("Expires", moment(spec.expires_at)),
        (
            "Review by",
            format!(
                "{}{}",
                moment(spec.review_by),
                if overdue { " (overdue)" } else { "" }
            ),
        ),
        ("Groups", groups),
        ("Recognised by", recognised_by(&spec.attest)),
    ]);
    if spec.exclusive {
        fields.push(("Exclusive", exclusive(described.workloads.as_deref())));
    }
    fields
}

struct GrantLine<'d>(&'d AgentGrant);

impl Row for GrantLine<'_> {
    const COLUMNS: &'static [Column] = &[
        Column::text("GRANT"),
        Column::text("AS USER"),
        Column::text("NAMESPACES"),
        Column::text("UNTIL"),
        Column::text("GIVES"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let spec = &self.0.spec;
        let hours = spec.window.as_ref().map_or("", |_| ", in its hours");
        let until = spec.expires_at.map_or_else(|| "-".to_owned(), output::moment);
        let gives: Vec<_> = spec.rules.iter().map(words).collect();
        vec![
            self.0.metadata.name.clone(),
            spec.upstream.in_words(),
            if spec.namespaces.is_empty() {
                "*".to_owned()
            } else {
                spec.namespaces.join(",")
            },
            format!("{until}{hours}"),
            gives.join("; "),
        ]
    }
}

struct PolicyLine<'d>(&'d AgentPolicy);

impl Row for PolicyLine<'_> {
    const COLUMNS: &'static [Column] = &[
        Column::text("POLICY"),
        Column::text("MODE"),
        Column::text("RULES"),
        Column::text("EXCEPTIONS"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let spec = &self.0.spec;
        let rules: Vec<_> = spec.rules.iter().map(|rule| rule.name.as_str()).collect();
        let mode = match spec.mode {
            Mode::Enforce => "Enforce",
            Mode::Audit => "Audit",
        };
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        vec![
            self.0.metadata.name.clone(),
            mode.to_owned(),
            or_dash(rules.join(",")),
            or_dash(spec.exceptions.join(",")),
        ]
    }
}

struct Record<'d>(&'d Value);

impl Row for Record<'_> {
    const COLUMNS: &'static [Column] = &[
        Column::text("TIME"),
        Column::text("OUTCOME"),
        Column::text("VERB"),
        Column::text("OBJECT"),
        Column::text("FROM"),
        Column::text("WHY"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let text = |at: &str| {
            self.0
                .pointer(at)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (namespace, pod, node) = (
            text("/agent/pod/namespace"),
            text("/agent/pod/name"),
            text("/agent/node"),
        );
        let from = if pod.is_empty() {
            text("/sourceIPs/0")
        } else {
            format!("{namespace}/{pod}")
        };
        let time = text("/stageTimestamp");
        vec![
            time.split('.').next().unwrap_or_default().replace('T', " "),
            text("/decision/outcome"),
            text("/verb"),
            view::object(self.0),
            format!("{from} on {node}"),
            view::why(self.0),
        ]
    }
}

fn records(records: &[Value]) -> Vec<Record<'_>> {
    records.iter().map(Record).collect()
}

fn text(described: &Description) -> std::io::Result<()> {
    output::fields(&fields(described, Timestamp::now()))?;
    let grants: Vec<_> = described.grants.iter().map(GrantLine).collect();
    output::section(
        "May do",
        &grants,
        "Nothing: no AgentGrant names it or one of its groups.",
    )?;
    let policies: Vec<_> = described.policies.iter().map(PolicyLine).collect();
    output::section(
        "Policies about it, beside the built-in denies",
        &policies,
        "None.",
    )?;
    if let Some(entries) = &described.nodes {
        let lines: Vec<_> = entries.iter().map(NodeLine).collect();
        output::section(nodes::TITLE, &lines, nodes::NONE)?;
    }
    let sentence = |title: &str, text: &str| output::section::<Record<'_>>(title, &[], text);
    if let (Err(sessions), Err(log)) = (&described.sessions, &described.log) {
        return sentence("Sessions and requests", &not_here(sessions, log));
    }
    match &described.sessions {
        Ok(sessions) => output::section("Runs now on this node", sessions, "No session.")?,
        Err(unknown) => sentence("Runs now on this node", &unknown.sentence())?,
    }
    match &described.log {
        Ok(log) => {
            output::section("Did last (UTC)", &records(&log.last), "Nothing that the log has.")?;
            output::section(
                "Was refused last (UTC)",
                &records(&log.refused),
                "Nothing that the log has.",
            )?;
            sentence("Log", &log.reach.sentence())
        }
        Err(unknown) => sentence("Did last", &unknown.sentence()),
    }
}

/// What people are told where neither is known, as away from a node.
fn not_here(sessions: &NotKnown, log: &NotKnown) -> String {
    format!(
        "Not known here: {}, and {}. Run the command as root on a node where the agent's pods run, or name audit logs with --audit. {ON_NODE}.",
        sessions.fault, log.fault
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::audit::spool::chain::stored;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DescribeArgs,
    }

    const OBJECTS: &str = "\
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: a, annotations: {picket.dev/state-changed-by: me, picket.dev/state-reason: late}}
spec: {owner: o, groups: [g], state: Suspended, reviewBy: 2020-01-01T00:00:00Z, attest: {pod: {namespace: n, serviceAccount: a}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: b}
spec: {owner: o, attest: {jwt: {issuer: 'https://i', subject: s}, spiffe: {id: 'spiffe://d/x'}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: of-g}
spec: {to: {groups: [g]}, upstream: {impersonate: {user: u}}, rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: in-n}
spec: {subjects: {namespaces: [n]}, rules: [{name: r, match: {verbs: [delete]}, action: Deny, message: No.}]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: of-b}
spec: {subjects: {identities: [b]}, rules: [{name: r, match: {verbs: [delete]}, action: Deny, message: No.}]}
";

    fn record(identity: &str, number: usize, outcome: &str) -> String {
        let event = format!(
            r#"{{"kind":"Event","stage":"ResponseComplete","verb":"get","requestURI":"/x/{number}","stageTimestamp":"2026-01-02T03:04:{number:02}.000000Z","agent":{{"identity":"{identity}","node":"node1"}},"decision":{{"outcome":"{outcome}"}}}}"#
        );
        stored(&event, 1) + "\n"
    }

    fn described(name: &str, records: &str) -> Description {
        let folder = tempfile::tempdir().expect("a folder");
        let (objects, log) = (folder.path().join("objects"), folder.path().join("log.jsonl"));
        std::fs::create_dir(&objects).expect("a folder");
        std::fs::write(objects.join("o.yaml"), OBJECTS).expect("written");
        std::fs::write(&log, records).expect("written");
        let line = format!(
            "describe {name} -n 2 --since 2026-01-01T00:00:00Z --audit {} --files {}",
            log.display(),
            objects.display()
        );
        let args = Line::try_parse_from(line.split_whitespace())
            .expect("parses")
            .args;
        let files = args.target.read().expect("valid");
        describe(&args, &files, Timestamp::now()).expect("described")
    }

    #[test]
    fn grants_by_group_and_policies_by_namespace_are_its_own() {
        let of_a = described("a", "");
        let names = |document: &Value, at: &str| -> Vec<String> {
            let objects = document[at].as_array().expect("a list").iter();
            objects
                .map(|object| object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        let document = document(&of_a);
        assert_eq!(names(&document, "grants"), ["of-g"]);
        assert_eq!(names(&document, "policies"), ["in-n"]);
        assert_eq!(document["state"], "Suspended");
        let fields = fields(&of_a, Timestamp::now());
        let field = |name: &str| {
            fields
                .iter()
                .find(|field| field.0 == name)
                .map(|field| field.1.as_str())
        };
        assert_eq!(field("Changed"), Some("by me at unknown; reason: late"));
        assert_eq!(field("Review by"), Some("2020-01-01T00:00:00Z (overdue)"));
        let of_b = described("b", "");
        assert!(of_b.grants.is_empty());
        assert_eq!(of_b.policies.len(), 1);
        assert_eq!(
            recognised_by(&of_b.identity.spec.attest),
            "a token of https://i with subject \"s\", and a certificate of spiffe://d/x"
        );
    }

    #[test]
    fn an_alarm_about_an_agent_is_no_act_of_it() {
        let alarm = record("a", 3, "error").replace("\"verb\":\"get\"", "\"verb\":\"alarm\"");
        // A line that was changed is none of the agent's: the alarm's hash is made anew.
        let alarm = alarm.split(",\"integrity\"").next().expect("a record").to_owned() + "}";
        let alarm = stored(&alarm, 1) + "\n";
        let records = record("a", 1, "allow") + &alarm;
        let log = described("a", &records).log.expect("a log");
        let uris: Vec<_> = log
            .last
            .iter()
            .map(|record| record["requestURI"].clone())
            .collect();
        assert_eq!(uris, ["/x/1"]);
    }

    #[test]
    fn an_exclusive_identity_says_who_claims_it() {
        let of = |workloads: &[&str]| {
            let workloads: Vec<_> = workloads.iter().map(|name| (*name).to_owned()).collect();
            exclusive(Some(&workloads))
        };
        assert_eq!(of(&["Job/a"]), "yes; claimed by Job/a on this node");
        assert!(of(&["Job/a", "Job/b"]).starts_with("yes; contested by Job/a and Job/b on this node: every"));
        assert_eq!(of(&[]), "yes; no workload of this node claims it");
        // No agent answers, and the identity is not exclusive.
        let plain = described("a", "");
        assert_eq!(plain.workloads, None);
        let fields = fields(&plain, Timestamp::now());
        assert!(fields.iter().all(|(name, _)| *name != "Exclusive"), "{fields:?}");
    }

    #[test]
    fn what_is_not_known_here_is_one_sentence() {
        let path = "/nonexistent/picket/admin.sock";
        let error = ClientError::Connect {
            path: path.into(),
            source: std::io::Error::from_raw_os_error(2),
        };
        let sessions = NotKnown {
            why: error.to_string(),
            fault: error.fault(),
        };
        assert!(
            sessions
                .sentence()
                .contains("are you root? Where the chart runs it"),
            "{}",
            sessions.sentence()
        );
        let log = NotKnown {
            why: "/var/log/picket/audit: it is no folder (try another)".to_owned(),
            fault: "/var/log/picket/audit: it is no folder".to_owned(),
        };
        assert!(log.sentence().ends_with("(try another)."), "{}", log.sentence());
        assert_eq!(
            not_here(&sessions, &log),
            format!(
                "Not known here: no agent answers at /nonexistent/picket/admin.sock: No such file or directory (os error 2), and \
                 /var/log/picket/audit: it is no folder. Run the command as root on a node where the agent's pods run, or name audit \
                 logs with --audit. {ON_NODE}."
            )
        );
    }

    #[test]
    fn nodes_are_told_of_objects_in_the_cluster_alone() {
        let mut of_a = described("a", "");
        assert!(document(&of_a).get("nodes").is_none());
        of_a.nodes = Some(vec![IdentityNode {
            node: "node-1".to_owned(),
            pods: 2,
            ..IdentityNode::default()
        }]);
        assert_eq!(document(&of_a)["nodes"][0]["pods"], 2);
    }

    #[test]
    fn the_last_records_are_its_own_and_refusals_are_found_behind_them() {
        let records = [
            record("a", 1, "deny"),
            record("b", 2, "deny"),
            record("a", 3, "allow"),
            record("a", 4, "allow"),
            record("a", 5, "allow"),
        ];
        let log = described("a", &records.concat()).log.expect("a log");
        let uris = |records: &[Value]| -> Vec<String> {
            records
                .iter()
                .map(|record| record["requestURI"].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        assert_eq!(uris(&log.last), ["/x/5", "/x/4"]);
        assert_eq!(uris(&log.refused), ["/x/1"]);
        assert_eq!(
            log.reach.oldest.map(|at| at.to_string()).as_deref(),
            Some("2026-01-02T03:04:01Z")
        );
    }
}
