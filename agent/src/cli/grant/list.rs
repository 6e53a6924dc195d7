//! `picket grant list`: whom each grant is for, and what it gives.
//!
//! In: the objects. Out: a table, a List as JSON, YAML documents, or names.

use clap::Args;
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::{AgentGrant, PolicyRule};

use crate::cli::output::{Column, Format, Row};
use crate::cli::target::Target;
use crate::cli::target::print::{self, ObjectFormat};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket grant list
  picket grant list --identity triage -o wide
  picket grant list --identity triage -o yaml

With --identity a grant is listed where it names the AgentIdentity or one of its groups.

Exit codes: 0 success, also where there is no grant, 1 the objects cannot be read, 2 wrong usage.";

/// List grants.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only grants of this AgentIdentity.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t)]
    output: ObjectFormat,
    #[command(flatten)]
    target: Target,
}

struct GrantRow(AgentGrant);

/// A rule in one line: `get,list pods,pods/log (apps) checkout`.
fn words(rule: &PolicyRule) -> String {
    let verbs = rule.verbs.join(",");
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
    format!("{verbs} {}{groups}{names}", rule.resources.join(","))
}

impl Row for GrantRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAME"),
        Column::text("IDENTITIES"),
        Column::text("GROUPS"),
        Column::text("USER"),
        Column::text("NAMESPACES"),
        Column::number("RULES"),
        Column::text("GIVES").wide(),
    ];

    fn cells(&self, _: Format) -> Vec<String> {
        let spec = &self.0.spec;
        let list = |names: &[String], none: &str| match names {
            [] => none.to_owned(),
            names => names.join(","),
        };
        let gives: Vec<_> = spec.rules.iter().map(words).collect();
        vec![
            self.0.metadata.name.clone(),
            list(&spec.to.identities, "-"),
            list(&spec.to.groups, "-"),
            spec.upstream.username(),
            list(&spec.namespaces, "*"),
            spec.rules.len().to_string(),
            gives.join("; "),
        ]
    }
}

pub(super) fn run(args: &ListArgs) -> anyhow::Result<()> {
    let files = args.target.read()?;
    if let Some(identity) = &args.identity {
        files.find("AgentIdentity", identity)?;
    }
    let (mut documents, mut rows) = (Vec::new(), Vec::new());
    for document in files.documents() {
        let AnyObject::Grant(grant) = &document.object else {
            continue;
        };
        let reaches = |identity: &String| {
            let grants = files.set().grants_of(identity);
            grants.iter().any(|of| of.name() == grant.metadata.name)
        };
        if args.identity.as_ref().is_none_or(reaches) {
            documents.push(document);
            rows.push(GrantRow(grant.clone()));
        }
    }
    print::print(args.output, &documents, &rows, "No AgentGrant is there.")?;
    Ok(())
}
