//! `picket grant create`: gives agents a right.
//!
//! In: whom the grant is for, as whom the API server is asked, and one rule as `kubectl create role` has it. Out: a new
//! AgentGrant in a file, or on standard output for a dry run.

use clap::{ArgGroup, Args};
use picket_policy::api::API_VERSION;
use serde_json::{Value, json};

use super::KIND;
use crate::cli::target::{ChangeArgs, Changed, wait};
use crate::cli::{completion, output};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket grant create readers --to-group readers --user agent:triage --as-group agents:readers \\
    --verb get,list,watch --resource pods,pods/log,events,deployments.apps
  picket grant create restart --to triage --user agent:triage --namespace shop --verb patch --resource deployments.apps \\
    --resource-name checkout
  picket grant create health --to triage --user agent:triage --verb get --non-resource-url '/healthz*'

Resources are written as in `kubectl create role`: NAME.GROUP, with the subresource after a slash (`deployments.apps/scale`). \
The core group has none. Kubernetes RBAC decides last, as the user that the grant names, and the node's credential must be allowed \
to impersonate that user.

Exit codes: 0 the grant is in force on this node, 1 nothing is written, such as where one of that name exists, 2 wrong usage, 3 the grant \
is written, and no agent of this node is known to have it in force. With --dry-run or --wait 0 nothing is waited for.";

/// Give agents a right.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").required(true).multiple(true).args(["to", "to_group"]))]
#[command(group = ArgGroup::new("what").required(true).args(["resource", "non_resource_url"]))]
pub(super) struct CreateArgs {
    /// The grant's name.
    name: String,
    /// An AgentIdentity that the grant is for. May be given again, or with commas.
    #[arg(long, value_name = "IDENTITY", value_delimiter = ',', add = completion::identities())]
    to: Vec<String>,
    /// A group of AgentIdentities that the grant is for. May be given again, or with commas.
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    to_group: Vec<String>,
    /// The user that the API server is asked as.
    #[arg(long, value_name = "USER")]
    user: String,
    /// A group of that user. May be given again, or with commas.
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    as_group: Vec<String>,
    /// Namespaces (globs) that the rule holds in. Default: everywhere. May be given again, or with commas.
    #[arg(short, long, value_name = "NAME", value_delimiter = ',')]
    namespace: Vec<String>,
    /// What may be done. May be given again, or with commas.
    #[arg(long, value_name = "VERB", value_delimiter = ',', required = true)]
    verb: Vec<String>,
    /// On which resources, as NAME.GROUP or NAME.GROUP/SUBRESOURCE. May be given again, or with commas.
    #[arg(long, value_name = "RESOURCE", value_delimiter = ',')]
    resource: Vec<String>,
    /// On objects of these names alone. May be given again, or with commas.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        conflicts_with = "non_resource_url"
    )]
    resource_name: Vec<String>,
    /// On which paths outside resources. May be given again, or with commas.
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    non_resource_url: Vec<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// A resource as it is written here: its group, and its name as a rule has it.
fn resource(text: &str) -> (String, String) {
    let (name, subresource) = match text.split_once('/') {
        Some((name, subresource)) => (name, Some(subresource)),
        None => (text, None),
    };
    let (name, group) = name.split_once('.').unwrap_or((name, ""));
    let name = match subresource {
        Some(subresource) => format!("{name}/{subresource}"),
        None => name.to_owned(),
    };
    (group.to_owned(), name)
}

/// The rules: one for each API group, as a rule with two groups would give every resource in both.
fn rules(args: &CreateArgs) -> Vec<Value> {
    if !args.non_resource_url.is_empty() {
        return vec![json!({"nonResourceURLs": args.non_resource_url, "verbs": args.verb})];
    }
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (group, name) in args.resource.iter().map(|text| resource(text)) {
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, names)) => names.push(name),
            None => groups.push((group, vec![name])),
        }
    }
    let rule = |(group, resources): (String, Vec<String>)| {
        let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": args.verb});
        if !args.resource_name.is_empty() {
            rule["resourceNames"] = json!(args.resource_name);
        }
        rule
    };
    groups.into_iter().map(rule).collect()
}

/// The object that the arguments say.
fn object(args: &CreateArgs) -> Value {
    let mut to = json!({});
    if !args.to.is_empty() {
        to["identities"] = json!(args.to);
    }
    if !args.to_group.is_empty() {
        to["groups"] = json!(args.to_group);
    }
    let mut impersonate = json!({"user": args.user});
    if !args.as_group.is_empty() {
        impersonate["groups"] = json!(args.as_group);
    }
    let mut spec = json!({"to": to, "upstream": {"impersonate": impersonate}});
    if !args.namespace.is_empty() {
        spec["namespaces"] = json!(args.namespace);
    }
    spec["rules"] = Value::Array(rules(args));
    json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": args.name}, "spec": spec})
}

/// What a right takes besides: the API server answers 403, and kubectl may show no more of it than `unknown`.
fn also_needed(args: &CreateArgs) -> String {
    format!(
        "The API server must let the nodes act as {}. With the chart, list it and its groups under impersonate.users and \
         impersonate.groups, and run helm upgrade; elsewhere apply what `picket grant rbac` prints. Nothing is to be done where \
         that is so already",
        args.user
    )
}

pub(super) fn run(args: &CreateArgs) -> anyhow::Result<Changed> {
    let there = wait::is_there(KIND, &args.name);
    let changed = args.change.add(KIND, &args.name, &object(args), there)?;
    if !args.change.dry_run {
        output::warn(format_args!("{}.", also_needed(args)));
    }
    Ok(changed)
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

    fn made(line: &str) -> Value {
        let line = Line::try_parse_from(format!("create {line}").split_whitespace());
        object(&line.unwrap_or_else(|error| panic!("{error}")).args)
    }

    #[test]
    fn each_group_gets_a_rule_and_the_reader_takes_it() {
        let object = made(
            "g --to a,b --to-group r --user u --as-group x --namespace shop --verb get,patch --resource \
             pods,deployments.apps/scale,pods/log,deployments.apps",
        );
        assert_eq!(
            object["spec"]["rules"],
            json!([
                {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "patch"]},
                {"apiGroups": ["apps"], "resources": ["deployments/scale", "deployments"], "verbs": ["get", "patch"]},
            ])
        );
        assert_eq!(
            object["spec"]["to"],
            json!({"identities": ["a", "b"], "groups": ["r"]})
        );
        for object in [
            object,
            made("g --to a --user u --verb get --resource pods --resource-name x,y"),
            made("g --to a --user u --verb get --non-resource-url /healthz*"),
            made("g --to a --user u --verb * --resource *"),
        ] {
            let yaml = print::new_yaml(&object).expect("YAML");
            let read = picket_policy::read_documents("g.yaml", &yaml);
            assert!(
                read.as_ref().is_ok_and(|documents| documents.len() == 1),
                "{yaml}{read:?}"
            );
        }
    }

    #[test]
    fn whom_and_what_must_be_said() {
        let parses = |line: &str| Line::try_parse_from(format!("create {line}").split_whitespace()).is_ok();
        assert!(!parses("g --user u --verb get --resource pods"));
        assert!(!parses("g --to a --verb get --resource pods"));
        assert!(!parses("g --to a --user u --resource pods"));
        assert!(!parses("g --to a --user u --verb get"));
        assert!(!parses(
            "g --to a --user u --verb get --resource pods --non-resource-url /x"
        ));
    }
}
