//! `picket grant list`: whom each grant is for, and what it gives.
//!
//! In: the objects. Out: a table, a List as JSON, YAML documents, or names.

use clap::Args;
use jiff::Timestamp;
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::{AgentGrant, PolicyRule};
use picket_policy::{GrantHours, GrantState};

use crate::cli::completion;
use crate::cli::output::{self, Column, Format, Row};
use crate::cli::target::Target;
use crate::cli::target::print::{self, ObjectFormat};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket grant list
  picket grant list --identity triage -o wide
  picket grant list --identity triage -o yaml

With --identity a grant is listed where it names the AgentIdentity or one of its groups.

STATE says whether the grant holds now: Active, Waiting for its hours, or Expired. UNTIL is when that changes.

Exit codes: 0 success, also where there is no grant, 1 the objects cannot be read, 2 wrong usage.";

/// List grants.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only grants of this AgentIdentity.
    #[arg(long, value_name = "NAME", add = completion::identities())]
    identity: Option<String>,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t)]
    output: ObjectFormat,
    #[command(flatten)]
    target: Target,
}

struct GrantRow {
    grant: AgentGrant,
    hours: GrantHours,
}

/// A rule in one line: `get,list pods,pods/log (apps) named checkout`. It says what bounds the rule, so that no right is read
/// from it that the grant does not give.
pub(in crate::cli) fn words(rule: &PolicyRule) -> String {
    let mut verbs = rule.verbs.join(",");
    if rule.dry_run.is_some() {
        verbs = format!("dry-run {verbs}");
    }
    if !rule.non_resource_urls.is_empty() {
        return format!("{verbs} {}", rule.non_resource_urls.join(","));
    }
    let core = rule.api_groups.iter().all(String::is_empty);
    let groups = if core {
        String::new()
    } else {
        format!(" ({})", rule.api_groups.join(","))
    };
    let names = match rule.resource_names.len() {
        0 => String::new(),
        _ => format!(" named {}", rule.resource_names.join(",")),
    };
    let paths = match rule.proxy_paths.len() {
        0 => String::new(),
        _ => format!(" only {}", rule.proxy_paths.join(",")),
    };
    format!("{verbs} {}{groups}{names}{paths}", rule.resources.join(","))
}

impl Row for GrantRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAME"),
        Column::text("IDENTITIES"),
        Column::text("GROUPS"),
        Column::text("USER"),
        Column::text("NAMESPACES"),
        Column::number("RULES"),
        Column::text("STATE"),
        Column::text("UNTIL"),
        Column::text("WINDOW").wide(),
        Column::text("GIVES").wide(),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let spec = &self.grant.spec;
        let state = match self.hours.state {
            GrantState::Active => "Active",
            GrantState::Waiting => "Waiting",
            GrantState::Expired => "Expired",
        };
        let none = || "-".to_owned();
        let list = |names: &[String], none: &str| match names {
            [] => none.to_owned(),
            names => names.join(","),
        };
        let gives: Vec<_> = spec.rules.iter().map(words).collect();
        vec![
            self.grant.metadata.name.clone(),
            list(&spec.to.identities, "-"),
            list(&spec.to.groups, "-"),
            spec.upstream.in_words(),
            list(&spec.namespaces, "*"),
            spec.rules.len().to_string(),
            state.to_owned(),
            self.hours.until.map_or_else(none, output::moment),
            self.hours.window.clone().unwrap_or_else(none),
            gives.join("; "),
        ]
    }
}

pub(super) fn run(args: &ListArgs) -> anyhow::Result<()> {
    let files = args.target.read()?;
    if let Some(identity) = &args.identity {
        files.find("AgentIdentity", identity)?;
    }
    let now = Timestamp::now();
    let (mut documents, mut rows) = (Vec::new(), Vec::new());
    for document in files.documents() {
        let AnyObject::Grant(grant) = &document.object else {
            continue;
        };
        let reaches = |identity: &String| {
            let grants = files.set().grants_of(identity);
            grants.iter().any(|of| of.name() == grant.metadata.name)
        };
        let mut compiled = files.set().grants().iter();
        let Some(compiled) = compiled.find(|of| of.name() == grant.metadata.name) else {
            continue;
        };
        if args.identity.as_ref().is_none_or(reaches) {
            documents.push(document);
            rows.push(GrantRow {
                grant: grant.clone(),
                hours: compiled.hours(now),
            });
        }
    }
    print::print(args.output, &documents, &rows, "No AgentGrant is there.")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use picket_policy::PolicySet;
    use picket_policy::api::read_documents;

    use super::*;

    /// The cells of a grant of these fields, at noon of 2026-06-01.
    fn cells(fields: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a}}\nspec: {{owner: o, attest: {{pod: \
             {{namespace: n, serviceAccount: a}}}}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: g}}\nspec:\n  \
             to: {{identities: [a]}}\n  upstream: {{impersonate: {{user: u}}}}\n{fields}"
        );
        let documents = read_documents("grants.yaml", &text).expect("valid");
        let grant = documents.iter().find_map(|document| match &document.object {
            AnyObject::Grant(grant) => Some(grant.clone()),
            _ => None,
        });
        let set = PolicySet::compile(documents).expect("valid");
        let now = "2026-06-01T12:00:00Z".parse().expect("a moment");
        let row = GrantRow {
            grant: grant.expect("a grant"),
            hours: set.grants()[0].hours(now),
        };
        assert_eq!(GrantRow::COLUMNS.len(), row.cells(Format::Wide).len());
        row.cells(Format::Wide)[6..].to_vec()
    }

    #[test]
    fn a_grant_is_listed_with_what_bounds_it() {
        let rules = |rule: &str| format!("  rules: [{{{rule}}}]\n");
        let pods = rules("verbs: [get], apiGroups: [''], resources: [pods], resourceNames: [x]");
        for (fields, wanted) in [
            (pods.clone(), ["Active", "-", "-", "get pods named x"]),
            (
                rules("verbs: [create, patch], apiGroups: [apps], resources: [deployments], dryRun: Only"),
                ["Active", "-", "-", "dry-run create,patch deployments (apps)"],
            ),
            (
                rules(
                    "verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]",
                ),
                ["Active", "-", "-", "get nodes/proxy only /stats/summary"],
            ),
            (
                format!("{pods}  expiresAt: 2026-06-01T11:00:00Z\n"),
                ["Expired", "-", "until 2026-06-01T11:00:00Z", "get pods named x"],
            ),
            (
                format!("{pods}  window: {{notBefore: 2026-06-02T00:00:00Z}}\n"),
                [
                    "Waiting",
                    "2026-06-02T00:00:00Z",
                    "from 2026-06-02T00:00:00Z on",
                    "get pods named x",
                ],
            ),
            (
                format!("{pods}  window: {{daily: {{from: '11:00', to: '13:00', timezone: UTC}}}}\n"),
                [
                    "Active",
                    "2026-06-01T13:00:00Z",
                    "from 11:00 to 13:00 UTC",
                    "get pods named x",
                ],
            ),
        ] {
            assert_eq!(cells(&fields), wanted, "{fields}");
        }
    }
}
