//! `picket policy explain`: what every built-in, rule and grant rule says of one request, and what the decision is.
//!
//! In: files of objects, an agent, and a request or a kubectl command. Out: a table for each request or one JSON document, and an exit code
//! that tells whether the command is allowed.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgGroup, Args};
use jiff::Timestamp;
use picket_policy::testing::kubectl::{self, CommandContext};
use picket_policy::testing::{
    CaseVerdict, Explained, PlannedRequest, TestAgent, TestNamespace, TestPerson, TestRequest, explain,
    of_http, together,
};
use picket_policy::yaml::MAX_FILE;
use picket_policy::{Inputs, OldObject, TraceOutcome, TracePart, TraceStep};
use serde::Serialize;

use super::objects;
use crate::cli::output::{self, Column, Format, Row, clean};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket policy explain objects/ --identity janitor --kubectl \"delete namespace shop\"
  picket policy explain objects/ --identity triage --request \"GET /api/v1/namespaces/shop/secrets\" --all
  picket policy explain objects/ --identity janitor --kubectl \"delete pod web -n shop\" --namespace-labels shop=env=prod
  picket policy explain objects/ --identity triage --kubectl \"get pods -n shop\" --now 2027-01-15T22:00:00Z -o json

The decision is that of the files and of the moment. Nothing is asked of an agent or a cluster, and RBAC decides after it.

Exit codes: 0 the request is allowed, or waits for a person; 1 it is denied in whole or in part; 2 it could not be judged: wrong usage, a file \
that is not valid or not there, or an agent that the files do not have.";

/// Explain a decision.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("input").required(true).args(["request", "kubectl"]))]
pub(super) struct ExplainArgs {
    /// Files, or folders whose .yaml and .yml files are read.
    #[arg(required = true, value_name = "FILES")]
    files: Vec<PathBuf>,
    /// The AgentIdentity that asks.
    #[arg(long, value_name = "NAME")]
    identity: String,
    /// A request: method and path with its query.
    #[arg(long, value_name = "REQUEST")]
    request: Option<String>,
    /// A header of the request, as `Name: value`.
    #[arg(long, value_name = "HEADER", requires = "request")]
    header: Vec<String>,
    /// A command line of kubectl. `-f -` reads from standard input.
    #[arg(long, value_name = "COMMAND")]
    kubectl: Option<String>,
    /// The body of the request, or `-` for standard input.
    #[arg(long, value_name = "BODY", requires = "request")]
    body: Option<String>,
    /// The stored object as JSON, `-` for standard input, or `null` where there is none. Rules see it as oldObject of a change or a
    /// deletion. Without this option the stored object is not known, and rules that look at it fire.
    #[arg(long, value_name = "OBJECT")]
    old_object: Option<String>,
    /// The namespace of the agent's pod. Without it that of the identity's attest.pod.
    #[arg(long, value_name = "NAMESPACE")]
    pod_namespace: Option<String>,
    /// The issuer of the token of a person for whom the agent asks.
    #[arg(long, value_name = "URL", requires = "user")]
    issuer: Option<String>,
    /// The user name of that person.
    #[arg(long, value_name = "NAME", requires = "issuer")]
    user: Option<String>,
    /// A group of that person.
    #[arg(long, value_name = "NAME", requires = "issuer")]
    group: Vec<String>,
    /// A namespace with its labels, such as `shop=env=prod,team=a`, or `shop=` for one without. May be repeated. Rules about the labels of
    /// other namespaces count as firing.
    #[arg(long, value_name = "NAME=LABELS", value_parser = namespace)]
    namespace_labels: Vec<TestNamespace>,
    /// The moment of the request. Without it the present one.
    #[arg(long, value_name = "TIME")]
    now: Option<Timestamp>,
    /// Show what is about other resources and paths too.
    #[arg(long)]
    all: bool,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The result, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    identity: String,
    decision: DecisionReport,
    requests: Vec<RequestReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DecisionReport {
    decision: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    rule: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    grant: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    would_deny: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    allowed_instead: String,
}

#[derive(Debug, Serialize)]
struct RequestReport {
    request: String,
    decision: DecisionReport,
    steps: Vec<StepReport>,
}

#[derive(Debug, Serialize)]
struct StepReport {
    part: &'static str,
    name: String,
    effect: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    why: Vec<String>,
}

impl From<&CaseVerdict> for DecisionReport {
    fn from(verdict: &CaseVerdict) -> Self {
        Self {
            decision: verdict.decision.word(),
            rule: verdict.rule.clone(),
            grant: verdict.grant.clone(),
            message: verdict.message.clone(),
            would_deny: verdict.would_deny.clone(),
            allowed_instead: verdict.allowed_instead.clone(),
        }
    }
}

impl From<TraceStep> for StepReport {
    fn from(step: TraceStep) -> Self {
        let (outcome, why) = match step.outcome {
            TraceOutcome::Fired if step.part == TracePart::Grant => ("gives it", Vec::new()),
            TraceOutcome::Fired => ("fires", Vec::new()),
            TraceOutcome::Audited => ("fires, mode Audit", Vec::new()),
            TraceOutcome::Lifted(by) => ("lifted", vec![by]),
            TraceOutcome::Silent(mismatches) => ("no", mismatches.iter().map(ToString::to_string).collect()),
        };
        Self {
            part: match step.part {
                TracePart::Builtin => "built-in",
                TracePart::Rule => "rule",
                TracePart::Grant => "grant",
            },
            name: step.name,
            effect: step.effect,
            outcome,
            why,
        }
    }
}

impl Row for StepReport {
    const COLUMNS: &'static [Column] = &[
        Column::text("PART"),
        Column::text("NAME"),
        Column::text("EFFECT"),
        Column::text("OUTCOME"),
        Column::text("WHY"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let why = if self.why.is_empty() {
            "-".to_owned()
        } else {
            self.why.join(" | ")
        };
        let cells = [self.part, &self.name, &self.effect, self.outcome, &why];
        cells.map(str::to_owned).into()
    }
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &ExplainArgs) -> ExitCode {
    match examine(args).and_then(|report| show(args, &report).map(|()| report)) {
        Ok(report) if matches!(report.decision.decision, "deny" | "partial") => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        // Whoever expects a denial must not take a slip of the pen for one.
        Err(error) => super::trouble(&error),
    }
}

fn examine(args: &ExplainArgs) -> anyhow::Result<Report> {
    let set = objects::compile(&args.files).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(|fault| clean(&fault.to_string())).collect();
        anyhow!("{}", faults.join("\n"))
    })?;
    let person = args.issuer.as_ref().zip(args.user.as_ref());
    let agent = TestAgent {
        identity: args.identity.clone(),
        namespace: args.pod_namespace.clone(),
        pod: None,
        on_behalf_of: person.map(|(issuer, user)| TestPerson {
            issuer: issuer.clone(),
            user: user.clone(),
            groups: args.group.clone(),
        }),
    };
    let now = args.now.unwrap_or_else(Timestamp::now);
    let namespace = agent.pod_namespace(&set).unwrap_or_else(|| "default".to_owned());
    let namespaces = Arc::new(TestNamespace::known(&args.namespace_labels));
    let mut requests = Vec::new();
    let mut outcomes = Vec::new();
    let old_object = old_object(args)?;
    for mut planned in planned(args, &namespace)? {
        planned.old_object = old_object.clone();
        let inputs = Inputs::at(now).beside(Some(&namespaces));
        let Explained { outcome, steps } = explain(&set, &agent, &planned, inputs)?;
        let steps = steps.into_iter().filter(|step| args.all || step.concerned);
        requests.push(RequestReport {
            request: outcome.line.clone(),
            decision: DecisionReport::from(&outcome.verdict),
            steps: steps.map(StepReport::from).collect(),
        });
        outcomes.push(outcome);
    }
    Ok(Report {
        identity: args.identity.clone(),
        decision: DecisionReport::from(&together(&outcomes)),
        requests,
    })
}

/// The object that the cluster has, as far as it is given.
fn old_object(args: &ExplainArgs) -> anyhow::Result<OldObject> {
    let text = match args.old_object.as_deref() {
        None => return Ok(OldObject::Unread),
        Some("-")
            if args.body.as_deref() == Some("-") || args.kubectl.as_deref().is_some_and(reads_input) =>
        {
            bail!("--old-object - and another `-` cannot both be standard input: write one of them down");
        }
        Some("-") => standard_input()?,
        Some(text) => text.to_owned(),
    };
    let object: serde_json::Value = serde_json::from_str(&text)
        .context("--old-object must be an object as JSON, as `kubectl get -o json` shows it, or null")?;
    match object {
        serde_json::Value::Null => Ok(OldObject::Absent),
        object if object.is_object() => Ok(OldObject::Read(object.into())),
        _ => bail!("--old-object must be an object as JSON, or null"),
    }
}

/// Whether a command line of kubectl reads standard input.
fn reads_input(line: &str) -> bool {
    line.split_whitespace().any(|word| word == "-")
}

/// A namespace as the command line has it.
fn namespace(text: &str) -> Result<TestNamespace, String> {
    let expected = || format!("{text:?} must be such as shop=env=prod,team=a");
    let (name, labels) = text.split_once('=').ok_or_else(expected)?;
    let labels = labels.split(',').filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
        let (key, value) = label.split_once('=').ok_or_else(expected)?;
        Ok((key.to_owned(), value.to_owned()))
    });
    match name.is_empty() {
        true => Err(expected()),
        false => Ok(TestNamespace {
            name: name.to_owned(),
            labels: labels.collect::<Result<_, String>>()?,
            annotations: BTreeMap::new(),
        }),
    }
}

/// The requests that are asked about.
fn planned(args: &ExplainArgs, namespace: &str) -> anyhow::Result<Vec<PlannedRequest>> {
    if let Some(line) = &args.kubectl {
        let stdin = reads_input(line).then(standard_input).transpose()?;
        let around = CommandContext {
            namespace,
            stdin: stdin.as_deref(),
            exists: true,
        };
        return Ok(kubectl::requests(line, around)?);
    }
    let text = args.request.as_deref().unwrap_or_default();
    let Some((method, path)) = text.split_once(' ') else {
        bail!("--request {text:?} must be a method and a path, such as \"GET /api/v1/namespaces/shop/pods\"");
    };
    let headers = args
        .header
        .iter()
        .map(|header| -> anyhow::Result<(String, String)> {
            let (name, value) = header.split_once(':').with_context(|| {
                format!("--header {header:?} must be such as \"Content-Type: application/json\"")
            })?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        });
    let body = match args.body.as_deref() {
        Some("-") => Some(standard_input()?),
        body => body.map(str::to_owned),
    };
    Ok(vec![of_http(&TestRequest {
        method: Some(method.to_owned()),
        path: path.trim().to_owned(),
        headers: headers.collect::<anyhow::Result<_>>()?,
        body: body.map(serde_json::Value::String),
    })?])
}

fn standard_input() -> anyhow::Result<String> {
    let mut text = String::new();
    // No larger object is read from a file either.
    let mut input = io::stdin().lock().take(MAX_FILE as u64);
    input
        .read_to_string(&mut text)
        .context("cannot read standard input")?;
    Ok(text)
}

fn show(args: &ExplainArgs, report: &Report) -> anyhow::Result<()> {
    if matches!(args.output, Format::Json | Format::Yaml) {
        let rows: &[StepReport] = &[];
        output::print(args.output, report, rows, "")?;
        return Ok(());
    }
    for request in &report.requests {
        let title = format!("{} by agent {}", clean(&request.request), clean(&report.identity));
        output::section(
            &title,
            &request.steps,
            "No built-in, rule or grant is about this.",
        )?;
        decision(&request.decision)?;
    }
    if report.requests.len() > 1 {
        writeln!(io::stdout().lock(), "\nThe command as a whole:")?;
        decision(&report.decision)?;
    }
    Ok(())
}

fn decision(decision: &DecisionReport) -> io::Result<()> {
    let mut fields = vec![("decision", decision.decision.to_owned())];
    for (name, value) in [
        ("rule", &decision.rule),
        ("grant", &decision.grant),
        ("message", &decision.message),
        ("allowed instead", &decision.allowed_instead),
    ] {
        if !value.is_empty() {
            fields.push((name, value.clone()));
        }
    }
    if !decision.would_deny.is_empty() {
        fields.push(("would deny", decision.would_deny.join(", ")));
    }
    output::fields(&fields)
}
