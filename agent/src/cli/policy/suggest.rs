//! `picket policy suggest`: the narrowest AgentGrants for what agents were allowed.
//!
//! In: audit records. Out: AgentGrants as YAML, with a comment on each rule, for a person to review.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;
use picket_policy::read_documents;
use picket_policy::testing::recorded::{Rights, Suggestion};

use super::records;
use crate::cli::output::{self, clean};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket policy suggest --audit /var/log/picket/audit > suggested.yaml
  picket policy suggest --audit node-1.jsonl node-2.jsonl --identity triage
  picket policy suggest --audit node-1.jsonl > suggested.yaml && picket policy replay --audit node-1.jsonl --file identities.yaml \
suggested.yaml

Each rule gives what was allowed and used, and its comment says how often and when. Rules list up to 16 names, and grants up to 16 \
namespaces: beyond that a rule gives every name or every namespace, and a comment says so. Replaying the same records against the \
suggested grants refuses nothing that they cover. Policies and their exceptions still hold beside them. Requests that Picket allowed and the \
API server answered with 403 are left out and counted.

An audit log is of one node: give those of all nodes on which the agents run. Whatever is rare may be missing from any log.

Exit codes: 0 the grants cover each allowed request, 1 some are not covered, or there is none, 2 a file cannot be read, or wrong usage.";

/// Most agents of a log that are named where one is missing there: as many as a person reads.
const MOST_TOLD: usize = 16;

/// Suggest grants.
#[derive(Debug, Args)]
pub(super) struct SuggestArgs {
    /// Files with audit records, one a line, or audit directories of agents.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    audit: Vec<PathBuf>,
    /// Only grants for these agents.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    identity: Vec<String>,
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &SuggestArgs) -> ExitCode {
    let result = suggest(args).and_then(|(suggestion, yaml)| {
        let mut out = io::stdout().lock();
        out.write_all(yaml.as_bytes())?;
        out.flush()?;
        Ok(suggestion)
    });
    match result {
        Ok(suggestion) if suggestion.uncovered.is_empty() && !suggestion.grants.is_empty() => {
            ExitCode::SUCCESS
        }
        Ok(_) => ExitCode::from(1),
        Err(error) => super::trouble(&error),
    }
}

fn suggest(args: &SuggestArgs) -> anyhow::Result<(Suggestion, String)> {
    let mut rights = Rights::default();
    let mut agents = BTreeSet::new();
    let reading = records::read(&args.audit, |event| {
        let is_meant = |identity: &str| args.identity.iter().any(|name| name == identity);
        let is_meant = event.identity().is_some_and(is_meant);
        if args.identity.is_empty() || is_meant {
            rights.add(event);
        }
        if let Some(identity) = event.identity()
            && (is_meant || agents.len() <= MOST_TOLD)
            && !agents.contains(identity)
        {
            agents.insert(identity.to_owned());
        }
        Ok(())
    })?;
    let missing = missing(&args.identity, &agents);
    for remark in &missing {
        output::warn(format_args!("{remark}"));
    }
    for remark in reading.remarks() {
        output::warn(format_args!("{remark}"));
    }
    let suggestion = rights.suggest();
    let files = match args.audit.len() {
        1 => "one log".to_owned(),
        many => format!("{many} logs"),
    };
    // Without a record of these agents there is nothing to print.
    if !missing.is_empty() && missing.len() == args.identity.len() {
        return Ok((suggestion, String::new()));
    }
    let yaml = suggestion.to_yaml(&files);
    // Names come from agents: what is printed must be what a reader of objects takes.
    if !suggestion.grants.is_empty() {
        read_documents("the suggestion", &yaml).map_err(|errors| {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            anyhow!("the suggested grants are not valid: {}", errors.join("; "))
        })?;
    }
    Ok((suggestion, yaml))
}

/// What is said of agents that were asked for and are in no record.
fn missing(asked: &[String], agents: &BTreeSet<String>) -> Vec<String> {
    let told: Vec<_> = agents.iter().take(MOST_TOLD).map(|name| clean(name)).collect();
    let has = match told.is_empty() {
        true => "no agent".to_owned(),
        false => told.join(", "),
    };
    let more = if agents.len() > MOST_TOLD {
        " and others"
    } else {
        ""
    };
    let missing = asked.iter().filter(|name| !agents.contains(*name));
    missing
        .map(|name| format!("no record is of agent {}; the log has: {has}{more}", clean(name)))
        .collect()
}

#[cfg(test)]
#[path = "suggest_tests.rs"]
mod tests;
