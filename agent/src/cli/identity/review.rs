//! `picket identity review`: which rights were not used, and a narrower grant in place of each.
//!
//! In: an AgentIdentity or all of them, the objects, and audit logs. Out: each grant with its last use and what to do with it, as a
//! table, JSON or names; or the narrower AgentGrants as YAML.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::{Span, Timestamp};
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::{AgentGrant, AgentIdentity, State};
use serde_json::{Value, json};

use super::usage::{self, GrantUsage, Proposal, Usage};
use crate::cli::completion;
use crate::cli::grant::list::words;
use crate::cli::on_node::NodeName;
use crate::cli::output::{self, Column, Format, Row};
use crate::cli::target::{Objects, Target, print};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket identity review
  picket identity review triage --unused-days 90 -o wide
  picket identity review triage --node worker-1
  picket identity review triage -o yaml > proposed.yaml && picket policy check objects/identities.yaml proposed.yaml
  picket identity review --audit /mnt/node-1/audit --audit /mnt/node-2/audit
  picket identity review -o name | cut -d/ -f2 | xargs -n1 picket grant delete

PROPOSAL is `delete` where nothing of a grant was used in that time, `narrow` where a part was not, and `keep` elsewhere. A narrower \
grant gives whatever the log shows as used, and nothing that the present grant does not give. -o yaml prints the narrower grants, and \
-o name the grants to delete.

An audit log is of one node: name those of all nodes on which the agent runs. What is rare, such as the work of an incident, may be \
missing from any log. The last lines say how far back the logs reach.

Exit codes: 0 success, 1 there is no such identity, or the objects or a log cannot be read, 2 wrong usage.";

/// Review the rights of agents.
#[derive(Debug, Args)]
pub(super) struct ReviewArgs {
    /// The identity's name. Default: all.
    #[arg(add = completion::identities())]
    name: Option<String>,
    /// How many days a right may go unused.
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3650))]
    unused_days: u16,
    /// An audit log to read: an agent's audit.directory, or a file with records. May be given again. Default: this node's.
    #[arg(long, value_name = "PATH")]
    audit: Vec<PathBuf>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: ReviewFormat,
    #[command(flatten)]
    pub(super) node: NodeName,
    #[command(flatten)]
    target: Target,
}

/// How to print a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum ReviewFormat {
    /// Aligned columns.
    #[default]
    Table,
    /// With the rules of the narrower grants.
    Wide,
    /// One JSON document.
    Json,
    /// The narrower AgentGrants as YAML documents.
    Yaml,
    /// The grants of which nothing was used, one agentgrant.picket.dev/NAME a line.
    Name,
}

/// What a review finds.
struct Review {
    since: Timestamp,
    identities: Vec<AgentIdentity>,
    usage: Usage,
}

pub(super) fn run(args: &ReviewArgs) -> anyhow::Result<()> {
    let files = args.target.read()?;
    let now = Timestamp::now();
    let review = review(args, &files, now)?;
    match args.output {
        ReviewFormat::Table => table(&review, Format::Table, now)?,
        ReviewFormat::Wide => table(&review, Format::Wide, now)?,
        ReviewFormat::Json => output::print::<GrantUsage>(Format::Json, &document(&review, now), &[], "")?,
        ReviewFormat::Yaml => io::stdout().lock().write_all(yaml(&review)?.as_bytes())?,
        ReviewFormat::Name => names(&review)?,
    }
    Ok(())
}

fn review(args: &ReviewArgs, files: &Objects, now: Timestamp) -> anyhow::Result<Review> {
    if let Some(name) = &args.name {
        files.find("AgentIdentity", name)?;
    }
    let is_meant = |identity: &AgentIdentity| {
        args.name
            .as_ref()
            .is_none_or(|name| *name == identity.metadata.name)
    };
    let (mut identities, mut grants) = (Vec::new(), Vec::new());
    for document in files.documents() {
        match &document.object {
            AnyObject::Identity(identity) if is_meant(identity) => identities.push(identity.clone()),
            AnyObject::Grant(grant) => grants.push(grant.clone()),
            AnyObject::Identity(_) | AnyObject::Policy(_) => {}
        }
    }
    let reaches = |grant: &AgentGrant| {
        args.name.as_ref().is_none_or(|name| {
            let of_identity = files.set().grants_of(name);
            of_identity.iter().any(|of| of.name() == grant.metadata.name)
        })
    };
    grants.retain(reaches);
    let since = now.checked_sub(Span::new().hours(i64::from(args.unused_days) * 24))?;
    let logs = args.target.audit_logs(&args.audit)?;
    Ok(Review {
        since,
        identities,
        usage: usage::of(grants, files.set(), &logs, since)?,
    })
}

impl Review {
    /// Identities that somebody should have looked at.
    fn overdue(&self, now: Timestamp) -> impl Iterator<Item = (&AgentIdentity, Timestamp)> {
        self.identities.iter().filter_map(move |identity| {
            let at = identity.spec.review_by.filter(|at| *at <= now)?;
            (identity.spec.state != State::Revoked).then_some((identity, at))
        })
    }

    /// What a reader should know of the logs.
    fn remarks(&self) -> Vec<String> {
        let Usage { reach, unread, .. } = &self.usage;
        let since = output::moment(self.since);
        let mut remarks = match reach.oldest {
            None => vec![format!(
                "The log has no record since {since}: nothing follows from it"
            )],
            Some(at) if at > self.since => vec![format!(
                "The log reaches back to {} alone, and not to {since}: what was used before is not in it",
                output::moment(at)
            )],
            Some(_) => vec![format!("The log was read back to {since}")],
        };
        if reach.forged > 0 {
            remarks.push(format!(
                "{} lines are not as the agent stored them, and were left out: run `picket audit verify`",
                reach.forged
            ));
        }
        if *unread > 0 {
            remarks.push(format!(
                "{unread} records do not hold enough to tell what they used: look at them before you narrow a grant"
            ));
        }
        remarks
    }
}

impl Row for GrantUsage {
    const COLUMNS: &'static [Column] = &[
        Column::text("GRANT"),
        Column::text("TO"),
        Column::text("LAST USED"),
        Column::number("REQUESTS"),
        Column::text("PROPOSAL"),
        Column::text("GIVES THEN").wide(),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let to = &self.grant.spec.to;
        let groups = to.groups.iter().map(|group| format!("group {group}"));
        let to: Vec<_> = to.identities.iter().cloned().chain(groups).collect();
        let then = match &self.proposal {
            Proposal::Keep => "as now".to_owned(),
            Proposal::Delete => "nothing".to_owned(),
            Proposal::Narrow(spec) => {
                let rules: Vec<_> = spec.rules.iter().map(words).collect();
                let within = match spec.namespaces.is_empty() {
                    true => String::new(),
                    false => format!(" in {}", spec.namespaces.join(",")),
                };
                format!("{}{within}", rules.join("; "))
            }
        };
        let last = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M").to_string();
        vec![
            self.grant.metadata.name.clone(),
            to.join(","),
            self.last.map_or_else(|| "-".to_owned(), last),
            self.requests.to_string(),
            self.proposal.word().to_owned(),
            then,
        ]
    }
}

fn table(review: &Review, format: Format, now: Timestamp) -> io::Result<()> {
    output::print(format, &(), &review.usage.grants, "No AgentGrant is there.")?;
    let mut out = io::stdout().lock();
    for (identity, at) in review.overdue(now) {
        writeln!(
            out,
            "{}",
            output::clean(&format!(
                "Overdue: {} of {} was to be reviewed by {}.",
                identity.metadata.name,
                identity.spec.owner,
                output::moment(at)
            ))
        )?;
    }
    for remark in review.remarks() {
        writeln!(out, "{remark}.")?;
    }
    out.flush()
}

fn document(review: &Review, now: Timestamp) -> Value {
    let overdue: Vec<_> = review
        .overdue(now)
        .map(|(identity, _)| &identity.metadata.name)
        .collect();
    let grant = |usage: &GrantUsage| {
        let mut value = json!({
            "name": usage.grant.metadata.name,
            "lastUsed": usage.last,
            "requests": usage.requests,
            "proposal": usage.proposal.word(),
        });
        if let Proposal::Narrow(spec) = &usage.proposal {
            value["proposed"] = json!(spec);
        }
        value
    };
    json!({
        "since": review.since,
        "reachesBackTo": review.usage.reach.oldest,
        "unreadRecords": review.usage.unread,
        "overdue": overdue,
        "grants": review.usage.grants.iter().map(grant).collect::<Vec<_>>(),
    })
}

/// The narrower grants, ready to be applied; what is not one is a comment.
fn yaml(review: &Review) -> anyhow::Result<String> {
    let mut text = String::new();
    for remark in review.remarks() {
        text.push_str(&format!("# {}.\n", output::clean(&remark)));
    }
    let mut documents = Vec::new();
    for usage in &review.usage.grants {
        let name = &usage.grant.metadata.name;
        match &usage.proposal {
            Proposal::Keep => text.push_str(&format!("# AgentGrant {name} stays as it is.\n")),
            Proposal::Delete => text.push_str(&format!(
                "# Nothing of AgentGrant {name} was used: `picket grant delete {name}`.\n"
            )),
            Proposal::Narrow(spec) => {
                let mut narrower = AgentGrant {
                    spec: (**spec).clone(),
                    ..usage.grant.clone()
                };
                // What the API server sets, it takes from nobody who applies the object.
                let metadata = &mut narrower.metadata;
                (metadata.uid, metadata.generation) = (None, None);
                (metadata.resource_version, metadata.creation_timestamp) = (None, None);
                metadata.managed_fields = None;
                documents.push(print::new_yaml(&serde_json::to_value(narrower)?)?);
            }
        }
    }
    text.push_str(&documents.join("---\n"));
    Ok(text)
}

fn names(review: &Review) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for usage in &review.usage.grants {
        if usage.proposal == Proposal::Delete {
            writeln!(
                out,
                "{}",
                print::reference("AgentGrant", &usage.grant.metadata.name)
            )?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::audit::spool::chain::stored;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ReviewArgs,
    }

    const OBJECTS: &str = "\
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: a}
spec: {owner: o, reviewBy: 2026-01-01T00:00:00Z, attest: {pod: {namespace: n, serviceAccount: a}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: b}
spec: {owner: o, attest: {pod: {namespace: n, serviceAccount: b}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: used, uid: u-1, generation: 3, resourceVersion: '7'}
spec: {to: {identities: [a]}, upstream: {impersonate: {user: u}}, rules: [{apiGroups: [''], resources: [pods], verbs: [get, list]}]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: unused}
spec: {to: {identities: [a]}, upstream: {impersonate: {user: u}}, rules: [{apiGroups: [''], resources: [secrets], verbs: [get]}]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: of-b}
spec: {to: {identities: [b]}, upstream: {impersonate: {user: v}}, rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}
";

    const RECORD: &str = r#"{"kind":"Event","stage":"ResponseComplete","verb":"list","requestURI":"/api/v1/pods","stageTimestamp":"2026-03-01T00:00:00.000000Z","agent":{"identity":"a"},"decision":{"outcome":"allow","policy":"used"}}"#;

    fn reviewed(line: &str, now: &str) -> (Review, Timestamp) {
        let folder = tempfile::tempdir().expect("a folder");
        let (objects, log) = (folder.path().join("objects"), folder.path().join("log.jsonl"));
        std::fs::create_dir(&objects).expect("a folder");
        std::fs::write(objects.join("o.yaml"), OBJECTS).expect("written");
        std::fs::write(&log, stored(RECORD, 1) + "\n").expect("written");
        let line = format!(
            "review {line} --audit {} --files {}",
            log.display(),
            objects.display()
        );
        let args = Line::try_parse_from(line.split_whitespace())
            .expect("parses")
            .args;
        let now = now.parse().expect("a moment");
        (
            review(&args, &args.target.read().expect("valid"), now).expect("reviewed"),
            now,
        )
    }

    #[test]
    fn the_proposal_is_yaml_that_the_reader_takes_and_deletions_are_comments() {
        let (review, now) = reviewed("a", "2026-03-10T00:00:00Z");
        let text = yaml(&review).expect("YAML");
        let documents = picket_policy::read_documents("p.yaml", &text)
            .unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        assert_eq!(documents.len(), 1, "{text}");
        assert_eq!(documents[0].name(), "used");
        assert!(
            text.contains("verbs:\n  - list\n") || text.contains("- list\n"),
            "{text}"
        );
        assert!(!text.contains("- get\n"), "{text}");
        assert!(text.contains("# Nothing of AgentGrant unused was used"), "{text}");
        assert!(!text.contains("uid") && !text.contains("generation"), "{text}");
        // A grant of another identity is no part of it.
        assert!(!text.contains("of-b"), "{text}");
        let document = document(&review, now);
        assert_eq!(document["overdue"], json!(["a"]));
        assert_eq!(
            document["grants"][0]["proposed"]["rules"][0]["verbs"],
            json!(["list"])
        );
    }

    #[test]
    fn how_far_back_the_log_reaches_is_told() {
        let remark = |line: &str, now: &str| reviewed(line, now).0.remarks().remove(0);
        let short = remark("--unused-days 30", "2026-03-10T00:00:00Z");
        assert!(
            short.starts_with("The log reaches back to 2026-03-01T00:00:00Z alone"),
            "{short}"
        );
        let empty = remark("--unused-days 1", "2026-03-10T00:00:00.502914417Z");
        assert_eq!(empty, "The log was read back to 2026-03-09T00:00:00Z");
        let short = remark("--unused-days 30", "2026-03-10T00:00:00.502914417Z");
        assert!(short.contains("and not to 2026-02-08T00:00:00Z: "), "{short}");
    }

    #[test]
    fn what_was_used_long_ago_is_unused() {
        let (review, _) = reviewed("a --unused-days 5", "2026-03-10T00:00:00Z");
        assert!(
            review
                .usage
                .grants
                .iter()
                .all(|usage| usage.proposal == Proposal::Delete)
        );
    }
}
