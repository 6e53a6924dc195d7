//! `picket policy shadow`: what rules noted and let pass.
//!
//! In: audit records. Out: would-be denials by rule and agent, as a table or JSON, and an exit code that tells whether there are any.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use picket_policy::testing::recorded::AuditEvent;
use serde::Serialize;

use super::records::{self, Reading};
use crate::cli::output::{self, Column, Format, Row, clean};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket policy shadow --audit /var/log/picket/audit
  picket policy shadow --audit node-1.jsonl node-2.jsonl --policy no-destruction
  picket policy shadow --audit node-1.jsonl -o json | jq -r '.wouldDeny[] | \"\\(.policy)/\\(.rule) \\(.identity) \\(.count)\"'

Counted are, for each agent, the rules and limits of policies in mode Audit that would have denied a request or hidden objects of its \
answer, and the rules without an outcome that `failurePolicy: Ignore` let pass. EXAMPLE is the last such request: \
`picket audit tail --audit-id ID LOG` shows it. Where every agent is on the list for good reason, or nobody is, set `mode: Enforce`.

Exit codes: 0 no rule noted a request, 1 some did, 2 a file cannot be read or has no request, or wrong usage.";

/// Most rules and agents that are counted: rules times agents of a large cluster, in some 10 MB.
const MAX_COUNTED: usize = 50_000;

/// Count would-be denials.
#[derive(Debug, Args)]
pub(super) struct ShadowArgs {
    /// Files with audit records, one a line, or audit directories of agents.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    audit: Vec<PathBuf>,
    /// Only rules of these policies.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    policy: Vec<String>,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What a rule noted of an agent and let pass.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct WouldDeny {
    policy: String,
    rule: String,
    identity: String,
    count: u64,
    first_seen: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    /// The last one.
    #[serde(rename = "exampleAuditID")]
    example: String,
    message: String,
}

impl Row for WouldDeny {
    const COLUMNS: &'static [Column] = &[
        Column::text("POLICY"),
        Column::text("RULE"),
        Column::text("IDENTITY"),
        Column::number("COUNT"),
        Column::text("FIRST SEEN"),
        Column::text("LAST SEEN"),
        Column::text("EXAMPLE"),
        Column::text("MESSAGE").wide(),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let moment = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), output::moment);
        vec![
            self.policy.clone(),
            self.rule.clone(),
            self.identity.clone(),
            self.count.to_string(),
            moment(self.first_seen),
            moment(self.last_seen),
            self.example.clone(),
            self.message.clone(),
        ]
    }
}

/// The result.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    would_deny: Vec<WouldDeny>,
    /// Findings that are not listed, since there were too many rules and agents.
    unlisted: u64,
    /// Policies that were asked for and have no finding.
    unseen_policies: Vec<String>,
    reading: Reading,
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &ShadowArgs) -> ExitCode {
    match examine(args).and_then(|report| show(args, &report).map(|()| report)) {
        Ok(report) if report.would_deny.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => super::trouble(&error),
    }
}

fn examine(args: &ShadowArgs) -> anyhow::Result<Report> {
    let mut found: BTreeMap<(String, String, String), WouldDeny> = BTreeMap::new();
    let mut unlisted = 0;
    let reading = records::read(&args.audit, |event| {
        unlisted += add(&mut found, args, event);
        Ok(())
    })?;
    if reading.requests == 0 {
        bail!("no record of a request is in these files");
    }
    let is_seen = |policy: &String| found.keys().any(|(seen, _, _)| seen == policy);
    let unseen_policies = match unlisted {
        0 => args
            .policy
            .iter()
            .filter(|policy| !is_seen(policy))
            .cloned()
            .collect(),
        // It may be among those that are not listed.
        _ => Vec::new(),
    };
    Ok(Report {
        unseen_policies,
        would_deny: found.into_values().collect(),
        unlisted,
        reading,
    })
}

/// Counts what a record says, and tells how much of it could not be listed.
fn add(
    found: &mut BTreeMap<(String, String, String), WouldDeny>,
    args: &ShadowArgs,
    event: &AuditEvent,
) -> u64 {
    let mut unlisted = 0;
    let identity = event.identity().unwrap_or("-");
    for finding in event.would_deny() {
        if !args.policy.is_empty() && !args.policy.contains(&finding.policy) {
            continue;
        }
        let key = (finding.policy.clone(), finding.rule.clone(), identity.to_owned());
        if found.len() >= MAX_COUNTED && !found.contains_key(&key) {
            unlisted += 1;
            continue;
        }
        let known = found.entry(key).or_insert_with(|| WouldDeny {
            policy: finding.policy.clone(),
            rule: finding.rule.clone(),
            identity: identity.to_owned(),
            count: 0,
            first_seen: event.at(),
            last_seen: None,
            example: String::new(),
            message: String::new(),
        });
        known.count += 1;
        known.first_seen = known.first_seen.into_iter().chain(event.at()).min();
        // Logs of several nodes are not in one order.
        if event.at() >= known.last_seen {
            known.last_seen = event.at();
            known.example.clone_from(&event.audit_id);
            known.message.clone_from(&finding.message);
        }
    }
    unlisted
}

fn show(args: &ShadowArgs, report: &Report) -> anyhow::Result<()> {
    output::print(
        args.output,
        report,
        &report.would_deny,
        "No rule noted a request and let it pass.",
    )?;
    if matches!(args.output, Format::Json | Format::Yaml) {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    for remark in remarks(report) {
        writeln!(out, "{remark}")?;
    }
    out.flush()?;
    Ok(())
}

fn remarks(report: &Report) -> Vec<String> {
    let requests = report.reading.requests;
    // A misspelt name must not read as a policy that is ready.
    let next = match (report.would_deny.is_empty(), report.unseen_policies.is_empty()) {
        (true, true) => " Set `mode: Enforce` where these records are of all that the agents do.",
        (true, false) => "",
        (false, _) => {
            " Look at each example; change the rule, or set `mode: Enforce` where its effect is meant."
        }
    };
    let mut remarks = vec![format!("{requests} requests were read.{next}")];
    for policy in &report.unseen_policies {
        remarks.push(format!(
            "No record names a rule of policy {}: check the name, and that it is in force in mode Audit (`picket policy status`)",
            clean(policy)
        ));
    }
    if report.unlisted > 0 {
        remarks.push(format!(
            "{} findings are not listed: there are too many rules and agents",
            report.unlisted
        ));
    }
    remarks.extend(report.reading.remarks());
    remarks
}

#[cfg(test)]
#[path = "shadow_tests.rs"]
mod tests;
