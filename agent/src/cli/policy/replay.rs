//! `picket policy replay`: what other objects would have decided of recorded traffic.
//!
//! In: audit records, and files of objects. Out: what changes as a table or one JSON document, and an exit code that tells whether
//! anything does. Records are judged one by one and not kept.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use picket_policy::PolicySet;
use picket_policy::testing::recorded::{
    AuditEvent, Comparison, RecordedDecision, Replayed, Untold, replay as judge,
};
use serde::Serialize;

use super::objects;
use super::records::{self, Reading};
use crate::cli::output::{self, Column, Format, Row, clean};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket policy replay --audit /var/log/picket/audit --file objects/
  picket policy replay --audit node-1.jsonl node-2.jsonl --file objects/ new-policy.yaml
  picket policy replay --audit node-1.jsonl --file objects/ -o json | jq -r '.changes[] | \"\\(.change) \\(.requestURI)\"'

Each recorded request is judged by the objects of --file alone, for the recorded agent and at the recorded moment. Give all identities, \
grants and policies that will be in force. Who the agent was is not checked again, and limits are left out.

A record holds no headers, and none of Picket's holds a body. What it cannot tell is counted with the reason, and is no change.

BEFORE and AFTER name the grant that allows the request, or what denies it. Memory is bounded: one record, and 10000 groups of changes.

Exit codes: 0 nothing changes, 1 something does, 2 a file cannot be read or is not valid, nothing could be compared, or wrong usage.";

/// Most groups that are kept: a hundred times what a person reads, in some 5 MB. Changes of further ones are counted together.
const MAX_GROUPS: usize = 10_000;

/// Replay recorded traffic.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Files with audit records, one a line, or audit directories of agents.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    audit: Vec<PathBuf>,
    /// Files of objects, or folders whose .yaml and .yml files are read.
    #[arg(long, required = true, num_args = 1.., value_name = "FILES")]
    file: Vec<PathBuf>,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line for each group of changes, for people.
    Table,
    /// One JSON document, with each record that changes.
    Json,
}

/// What changes alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    change: String,
    identity: String,
    verb: String,
    resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    before: String,
    after: String,
}

/// Changes of one kind.
#[derive(Debug, Serialize)]
struct Group {
    #[serde(flatten)]
    change: Change,
    count: u64,
    #[serde(rename = "exampleAuditID")]
    example: String,
}

impl Row for Group {
    const COLUMNS: &'static [Column] = &[
        Column::text("CHANGE"),
        Column::number("COUNT"),
        Column::text("IDENTITY"),
        Column::text("VERB"),
        Column::text("RESOURCE"),
        Column::text("NAMESPACE"),
        Column::text("BEFORE"),
        Column::text("AFTER"),
        Column::text("EXAMPLE"),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        let change = &self.change;
        vec![
            change.change.clone(),
            self.count.to_string(),
            change.identity.clone(),
            change.verb.clone(),
            change.resource.clone(),
            dash(change.namespace.as_deref().unwrap_or_default()),
            dash(&change.before),
            dash(&change.after),
            dash(&self.example),
        ]
    }
}

/// One record that changes, as `-o json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangedRecord<'a> {
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    at: Option<Timestamp>,
    change: String,
    identity: &'a str,
    verb: &'a str,
    resource: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    recorded: Decided<'a>,
    replayed: Decided<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

#[derive(Serialize)]
struct Decided<'a> {
    outcome: &'static str,
    by: &'a str,
}

impl<'a> From<&'a RecordedDecision> for Decided<'a> {
    fn from(decided: &'a RecordedDecision) -> Self {
        Self {
            outcome: decided.outcome.word(),
            by: &decided.by,
        }
    }
}

/// The result, but for the records that change.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    groups: Vec<Group>,
    /// Changes that stand in no group, since there were too many.
    ungrouped: u64,
    compared: u64,
    changed: u64,
    /// Requests that another grant allows. They are no change.
    other_grant: u64,
    /// Requests that a rule notes and does not stop, in mode Audit or by `failurePolicy: Ignore`. They are no change.
    would_deny: u64,
    /// Requests of which the record does not tell whether such a rule notes them. They are no change.
    would_deny_untold: u64,
    /// Requests of which the record does not tell the outcome, by why.
    untold: BTreeMap<&'static str, u64>,
    reading: Reading,
    #[serde(skip)]
    explained: BTreeMap<Untold, u64>,
}

/// What was found so far.
#[derive(Default)]
struct Findings {
    groups: BTreeMap<Change, (u64, String)>,
    report: Report,
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &ReplayArgs) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let result = match args.output {
        Output::Json => json(args, &mut out),
        Output::Table => examine(args, |_| Ok(())),
    };
    let flushed = out.flush().map_err(anyhow::Error::from);
    drop(out);
    let result = result
        .and_then(|report| flushed.map(|()| report))
        .and_then(|report| {
            if args.output == Output::Table {
                table(&report)?;
            }
            Ok(report)
        });
    match result {
        Ok(report) if report.changed > 0 => ExitCode::from(1),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => super::trouble(&error),
    }
}

/// Judges all records, and gives each that changes.
fn examine(
    args: &ReplayArgs,
    mut each: impl FnMut(&ChangedRecord<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let set = objects::compile(&args.file).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(|fault| clean(&fault.to_string())).collect();
        anyhow!("{}", faults.join("\n"))
    })?;
    let mut findings = Findings::default();
    let reading = records::read(&args.audit, |event| findings.add(&set, event, &mut each))?;
    let mut report = findings.finished();
    report.reading = reading;
    if report.compared == 0 {
        let reasons: Vec<_> = remarks(&report)
            .into_iter()
            .map(|remark| format!("\n{remark}"))
            .collect();
        bail!("no request of these files could be compared{}", reasons.concat());
    }
    Ok(report)
}

impl Findings {
    fn add(
        &mut self,
        set: &PolicySet,
        event: &AuditEvent,
        each: &mut impl FnMut(&ChangedRecord<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let report = &mut self.report;
        // A record of no request that a client could send was decided by nobody.
        let comparison = match judge(set, event).unwrap_or(Replayed::Untold(Untold::Undecided)) {
            Replayed::Told(comparison) => comparison,
            Replayed::Untold(untold) => {
                *report.explained.entry(untold).or_default() += 1;
                return Ok(());
            }
        };
        report.compared += 1;
        report.other_grant += u64::from(comparison.is_other_grant());
        let would_deny = !comparison.would_deny.is_empty();
        report.would_deny += u64::from(would_deny);
        report.would_deny_untold += u64::from(!would_deny && comparison.would_deny_untold);
        if !comparison.is_change() {
            return Ok(());
        }
        report.changed += 1;
        each(&changed_record(event, &comparison))?;
        self.group(event, *comparison);
        Ok(())
    }

    fn group(&mut self, event: &AuditEvent, comparison: Comparison) {
        let change = Change {
            change: comparison.change(),
            identity: event.identity().unwrap_or_default().to_owned(),
            verb: comparison.verb,
            resource: comparison.resource,
            namespace: comparison.namespace,
            before: comparison.recorded.by,
            after: comparison.replayed.by,
        };
        if let Some((count, _)) = self.groups.get_mut(&change) {
            *count += 1;
        } else if self.groups.len() < MAX_GROUPS {
            self.groups.insert(change, (1, event.audit_id.clone()));
        } else {
            self.report.ungrouped += 1;
        }
    }

    fn finished(self) -> Report {
        let mut report = self.report;
        let groups = self.groups.into_iter();
        report.groups = groups
            .map(|(change, (count, example))| Group {
                change,
                count,
                example,
            })
            .collect();
        // What is denied anew comes first, and of each kind the most frequent.
        report
            .groups
            .sort_by(|one, other| (&one.change.change, other.count).cmp(&(&other.change.change, one.count)));
        let untold = report.explained.iter();
        report.untold = untold.map(|(why, count)| (why.word(), *count)).collect();
        report
    }
}

fn changed_record<'a>(event: &'a AuditEvent, comparison: &'a Comparison) -> ChangedRecord<'a> {
    ChangedRecord {
        audit_id: &event.audit_id,
        at: event.at(),
        change: comparison.change(),
        identity: event.identity().unwrap_or_default(),
        verb: &comparison.verb,
        resource: &comparison.resource,
        namespace: comparison.namespace.as_deref(),
        name: comparison.name.as_deref(),
        request_uri: &event.request_uri,
        recorded: (&comparison.recorded).into(),
        replayed: (&comparison.replayed).into(),
        message: &comparison.message,
    }
}

/// Prints one document, of which each record that changes is printed as it is found.
fn json(args: &ReplayArgs, out: &mut impl Write) -> anyhow::Result<Report> {
    let mut count = 0_u64;
    let report = examine(args, |record| {
        out.write_all(if count == 0 {
            b"{\n  \"changes\": [\n    "
        } else {
            b",\n    "
        })?;
        count += 1;
        serde_json::to_writer(&mut *out, record).map_err(io::Error::from)?;
        Ok(())
    })?;
    out.write_all(if count == 0 {
        b"{\n  \"changes\": [],\n"
    } else {
        b"\n  ],\n"
    })?;
    let rest = serde_json::to_string_pretty(&report)?;
    writeln!(out, "{}", rest.trim_start_matches("{\n"))?;
    Ok(report)
}

fn table(report: &Report) -> anyhow::Result<()> {
    if !report.groups.is_empty() {
        output::print(Format::Table, &(), &report.groups, "")?;
    }
    let mut out = io::stdout().lock();
    for remark in remarks(report) {
        writeln!(out, "{remark}")?;
    }
    out.flush()?;
    Ok(())
}

fn remarks(report: &Report) -> Vec<String> {
    let mut remarks = Vec::new();
    if report.compared > 0 {
        remarks.push(format!(
            "{} of {} compared requests change",
            report.changed, report.compared
        ));
    }
    let mut add = |count: u64, what: &str| {
        if count > 0 {
            remarks.push(format!("{count} {what}"));
        }
    };
    add(
        report.ungrouped,
        "changes are in none of the groups above: there are too many",
    );
    add(
        report.other_grant,
        "are allowed by another grant than before, which is no change",
    );
    add(
        report.would_deny,
        "are noted by rules that stop nothing (mode Audit, failurePolicy Ignore), which is no change",
    );
    add(
        report.would_deny_untold,
        "may be noted by rules that stop nothing, which the record does not tell; that is no change",
    );
    for (why, count) in &report.explained {
        remarks.push(format!(
            "{count} cannot be told from the record: {}",
            why.explain()
        ));
    }
    remarks.extend(report.reading.remarks());
    remarks
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
