//! `picket grant rbac`: what the node's credential must be let do at the API server, as RBAC objects to apply.
//!
//! In: the objects in files and in the cluster. Out: a ClusterRole and Roles with their bindings, as YAML, JSON or names; and as comments
//! whatever a reader should know of them.

use std::io::{self, Write as _};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use picket_policy::Standing;
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::{AgentGrant, AgentIdentity};
use serde_json::{Value, json};

use super::rights::{Mode, Rights};
use crate::cli::output;
use crate::cli::target::chart::IMPERSONATOR;
use crate::cli::target::person::AskError;
use crate::cli::target::{Objects, Target};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket grant rbac | kubectl diff -f -
  picket grant rbac | kubectl apply -f -
  picket grant rbac --files objects/ --plain > node-rbac.yaml

The objects let the node's credential do what the present grants take, and no more: impersonate their users and groups by name, \
send what their rules give while it does so, and request tokens of the service accounts that they name. ClusterRole picket-node of \
deploy/rbac.yaml gives the rest; the output takes the place of ClusterRole picket-node-impersonate there. Where the chart is installed, \
the output is for its agents, and is called picket-grants, so that Helm can keep a role of the other name.

Print and apply the objects again when grants change: a new user, group, resource or verb is refused by the API server until then. \
Grants that nobody can use are left out, and so are those that have expired; comments name them.

On a node whose agent reads files and the objects of the cluster, the grants of both are taken, unless --files, --cluster or --context \
asks for one place. The roles are the same for all nodes: their files must hold the same grants then.

Roles that a grant no longer takes stay in their namespaces. This removes them too:
  picket grant rbac | kubectl apply -f - --prune -l picket.dev/generated-by=grant-rbac \\
    --prune-allowlist=rbac.authorization.k8s.io/v1/Role --prune-allowlist=rbac.authorization.k8s.io/v1/RoleBinding

Exit codes: 0 success, 1 the objects cannot be read, 2 wrong usage.";

/// The group of the nodes' credentials, as deploy/rbac.yaml has it.
const GROUP: &str = "picket:nodes";

/// The name of the roles where the chart is, or may be: Helm keeps [`IMPERSONATOR`] by turns, and cannot make it where it is others'.
const BESIDE_HELM: &str = "picket-grants";

/// Print the rights that the grants take at the API server.
#[derive(Debug, Args)]
pub(super) struct RbacArgs {
    /// The name of the roles and their bindings. Default: picket-grants where the chart is installed in the cluster of the grants, else
    /// picket-node-impersonate
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The group that the nodes' credentials are in. Default: picket:nodes, unless the chart is installed in the cluster of the grants
    #[arg(long, value_name = "GROUP", conflicts_with = "service_account")]
    group: Option<String>,
    /// The service account whose token the node shows, in place of a group. Default: that of the chart's agents, where the chart is
    /// installed in the cluster of the grants
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = account)]
    service_account: Option<(String, String)>,
    /// Use the verb `impersonate` alone: for API servers without constrained impersonation, which is on by default from
    /// Kubernetes 1.36.
    #[arg(long)]
    plain: bool,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t)]
    output: RbacFormat,
    #[command(flatten)]
    target: Target,
}

/// How to print the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum RbacFormat {
    /// YAML documents with comments.
    #[default]
    Yaml,
    /// One JSON document, a List.
    Json,
    /// One KIND.GROUP/NAME a line.
    Name,
}

fn account(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(format!("{text:?} is no NAMESPACE/NAME")),
    }
}

/// Namespace and name of the service account of the chart's agents, as far as the person may know.
type Chart = Result<Option<(String, String)>, AskError>;

/// The objects, and what there is to say of them.
struct Printed {
    objects: Vec<Value>,
    remarks: Vec<String>,
}

impl RbacArgs {
    /// Whom the rights are for: as the command line says, else the chart's agents, else the nodes' group.
    fn subject(&self, chart: &Chart) -> Value {
        let of_chart = chart.as_ref().ok().and_then(Option::as_ref);
        let of_chart = of_chart.filter(|_| self.group.is_none());
        match self.service_account.as_ref().or(of_chart) {
            Some((namespace, name)) => {
                json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
            }
            None => {
                let group = self.group.as_deref().unwrap_or(GROUP);
                json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group})
            }
        }
    }

    /// The next `helm upgrade` would undo what is written into a role that Helm keeps, and no `helm install` takes over one of others.
    fn name(&self, chart: &Chart) -> &str {
        let default = match chart {
            Ok(None) => IMPERSONATOR,
            // Who names a group means nodes without the chart, whose role this is.
            Err(_) if self.group.is_some() => IMPERSONATOR,
            Ok(Some(_)) | Err(_) => BESIDE_HELM,
        };
        self.name.as_deref().unwrap_or(default)
    }

    /// Whom the rights are for, where that is a guess.
    fn guess(&self, chart: &Chart) -> Option<String> {
        let error = chart.as_ref().err()?;
        let is_said = self.group.is_some() || self.service_account.is_some();
        (!is_said).then(|| {
            let error = output::clean(&error.to_string());
            format!(
                "The rights are for group {GROUP}, which the chart's agents are not in. Whether the chart is installed is not known: \
                 {error}. For its agents add --service-account picket-system/picket, and for nodes without it --group {GROUP}"
            )
        })
    }

    fn mode(&self) -> Mode {
        if self.plain {
            Mode::Plain
        } else {
            Mode::Constrained
        }
    }
}

/// Why a grant gives nobody anything from now on.
fn is_idle(grant: &AgentGrant, identities: &[&AgentIdentity], now: Timestamp) -> Option<String> {
    if let Some(at) = grant.spec.expires_at.filter(|at| *at <= now) {
        return Some(format!("it expired at {}", output::moment(at)));
    }
    let to = &grant.spec.to;
    let reached = identities.iter().filter(|identity| {
        to.identities.contains(&identity.metadata.name)
            || to.groups.iter().any(|group| identity.spec.groups.contains(group))
    });
    // A suspended one may be resumed, and needs its rights then.
    let may_act = |identity: &AgentIdentity| {
        let standing = Standing::of_spec(&identity.spec, now);
        !matches!(standing, Standing::Revoked | Standing::Expired(_))
    };
    (!reached.into_iter().any(|identity| may_act(identity)))
        .then(|| "no AgentIdentity that it names, or that is in its groups, can act".to_owned())
}

fn printed(args: &RbacArgs, places: &[Objects], chart: &Chart, now: Timestamp) -> Printed {
    let documents = || places.iter().flat_map(Objects::documents);
    let objects = || documents().map(|document| &document.object);
    let identities: Vec<_> = objects()
        .filter_map(|object| match object {
            AnyObject::Identity(identity) => Some(identity),
            AnyObject::Grant(_) | AnyObject::Policy(_) => None,
        })
        .collect();
    let mut rights = Rights::new(args.mode());
    let mut remarks: Vec<_> = args.guess(chart).into_iter().collect();
    for object in objects() {
        let AnyObject::Grant(grant) = object else { continue };
        match is_idle(grant, &identities, now) {
            Some(reason) => remarks.push(format!(
                "AgentGrant {} is left out: {reason}",
                grant.metadata.name
            )),
            None => rights.add(&grant.metadata.name, &grant.spec),
        }
    }
    remarks.extend_from_slice(rights.wider());
    Printed {
        objects: rights.objects(args.name(chart), &args.subject(chart)),
        remarks,
    }
}

/// One object's name as kubectl prints it: `clusterrole.rbac.authorization.k8s.io/NAME`.
fn reference(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, _version) = match text(&object["apiVersion"]).split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), String::new()),
    };
    let kind = text(&object["kind"]).to_ascii_lowercase();
    format!("{kind}.{group}/{}", text(&object["metadata"]["name"]))
}

pub(super) fn run(args: &RbacArgs) -> anyhow::Result<()> {
    let places = args.target.read_all()?;
    let mut charts = places.iter().map(Objects::chart_agents);
    let chart = charts.find(|chart| *chart != Ok(None)).unwrap_or(Ok(None));
    let Printed { objects, remarks } = printed(args, &places, &chart, Timestamp::now());
    if let (RbacFormat::Yaml, Some(guess)) = (args.output, args.guess(&chart)) {
        // Beside the comment, which nobody reads of what goes into a pipe.
        output::warn(format_args!("picket: {guess}."));
    }
    let mut out = io::stdout().lock();
    if args.output != RbacFormat::Yaml {
        for remark in &remarks {
            output::warn(format_args!("{remark}."));
        }
    }
    match args.output {
        RbacFormat::Yaml => out.write_all(yaml(&objects, &remarks)?.as_bytes())?,
        RbacFormat::Json => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            serde_json::to_writer_pretty(&mut out, &list)?;
            writeln!(out)?;
        }
        RbacFormat::Name => {
            for object in &objects {
                writeln!(out, "{}", reference(object))?;
            }
        }
    }
    Ok(out.flush()?)
}

/// The documents, with what there is to say before them.
fn yaml(objects: &[Value], remarks: &[String]) -> anyhow::Result<String> {
    let mut text = String::from(
        "# What the present AgentGrants take at the API server: the output of `picket grant rbac`.\n",
    );
    for remark in remarks {
        // Names of users come as somebody wrote them: a line of their own would be a document for kubectl.
        text.push_str(&format!("# {}.\n", output::clean(remark)));
    }
    let documents: Result<Vec<_>, _> = objects.iter().map(serde_saphyr::to_string).collect();
    let documents: Vec<_> = documents?
        .iter()
        .map(|document| format!("{}\n", document.trim_end()))
        .collect();
    text.push_str(&documents.join("---\n"));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RbacArgs,
    }

    fn read(folder: &tempfile::TempDir, line: &str) -> (RbacArgs, Objects) {
        let line = format!("rbac {line} --files {}", folder.path().display());
        let args = Line::try_parse_from(line.split_whitespace())
            .expect("parses")
            .args;
        let files = args.target.read().expect("valid");
        (args, files)
    }

    const OBJECTS: &str = "\
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: a}
spec: {owner: o, groups: [readers], attest: {pod: {namespace: n, serviceAccount: a}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: off}
spec: {owner: o, state: Suspended, attest: {pod: {namespace: n, serviceAccount: off}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: gone}
spec: {owner: o, groups: [old], state: Revoked, attest: {pod: {namespace: n, serviceAccount: gone}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: GRANT}
spec:
  to: TO
  upstream: {impersonate: {user: agent:x}}
  EXPIRES
  rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
";

    fn of_grant(to: &str, expires: &str) -> Printed {
        let folder = tempfile::tempdir().expect("a folder");
        let text = OBJECTS
            .replace("GRANT", "g")
            .replace("TO", to)
            .replace("EXPIRES", expires);
        std::fs::write(folder.path().join("o.yaml"), text).expect("written");
        let (args, files) = read(&folder, "");
        printed(
            &args,
            &[files],
            &Ok(None),
            "2026-06-01T00:00:00Z".parse().expect("a moment"),
        )
    }

    #[test]
    fn a_grant_that_nobody_can_use_gives_the_node_nothing() {
        for (to, expires, left_out) in [
            ("{identities: [a]}", "", None),
            ("{groups: [readers]}", "", None),
            ("{identities: [off]}", "", None),
            ("{identities: [gone, a]}", "expiresAt: 2026-06-01T00:00:01Z", None),
            ("{identities: [gone]}", "", Some("can act")),
            ("{groups: [old]}", "", Some("can act")),
            (
                "{identities: [a]}",
                "expiresAt: 2026-06-01T00:00:00Z",
                Some("expired at"),
            ),
        ] {
            let Printed { objects, remarks } = of_grant(to, expires);
            let rules = objects[0]["rules"].as_array().expect("rules").len();
            assert_eq!(objects.len(), 2, "{to}: {objects:?}");
            match left_out {
                None => assert!(
                    rules == 7 && remarks.is_empty(),
                    "{to} {expires}: {objects:?} {remarks:?}"
                ),
                Some(words) => {
                    assert!(
                        rules == 0 && remarks[0].contains(words),
                        "{to} {expires}: {objects:?} {remarks:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_remark_begins_a_line_of_its_own() {
        for end in ["\n", "\r", "\u{85}", "\u{2028}", "\u{2029}"] {
            let remark = format!("on behalf of {end}---{end}kind: ClusterRoleBinding");
            let text = yaml(&[], &[remark]).expect("YAML");
            let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
            assert!(
                lines
                    .into_iter()
                    .all(|line| line.is_empty() || line.starts_with('#')),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_output_is_yaml_with_remarks_as_comments() {
        let Printed { objects, remarks } = of_grant("{identities: [gone]}", "");
        let text = yaml(&objects, &remarks).expect("YAML");
        assert!(text.contains("# AgentGrant g is left out: "), "{text}");
        assert_eq!(text.matches("\n---\n").count(), 1, "{text}");
        let names: Vec<_> = objects.iter().map(reference).collect();
        assert_eq!(
            names,
            [
                "clusterrole.rbac.authorization.k8s.io/picket-node-impersonate",
                "clusterrolebinding.rbac.authorization.k8s.io/picket-node-impersonate"
            ]
        );
    }

    #[test]
    fn a_service_account_can_be_the_subject() {
        let folder = tempfile::tempdir().expect("a folder");
        let (args, _) = read(&folder, "--service-account picket-system/node-1");
        let subject = json!({"kind": "ServiceAccount", "namespace": "picket-system", "name": "node-1"});
        let chart: Chart = Ok(Some(("picket-system".to_owned(), "picket".to_owned())));
        let (none, unknown): (Chart, Chart) = (Ok(None), Err(AskError::Denied("not\nyou".to_owned())));
        assert_eq!(args.subject(&none), subject);
        assert_eq!(args.subject(&chart), subject, "the command line wins");
        assert_eq!(args.guess(&unknown), None);
        let (plain, _) = read(&folder, "");
        assert_eq!(plain.subject(&chart)["name"], "picket");
        assert_eq!(plain.subject(&none)["name"], GROUP);
        assert_eq!(plain.name(&chart), BESIDE_HELM);
        assert_eq!(plain.name(&none), IMPERSONATOR);
        let (named, _) = read(&folder, "--group nodes --name mine");
        assert_eq!(named.subject(&chart)["name"], "nodes");
        assert_eq!(named.name(&chart), "mine");
        // Where it is not known whether the chart is there, the output says so, and harms no role of the chart.
        assert_eq!((plain.guess(&none), plain.guess(&chart)), (None, None));
        assert_eq!(plain.subject(&unknown)["name"], GROUP);
        assert_eq!(plain.name(&unknown), BESIDE_HELM);
        let guess = plain.guess(&unknown).expect("a remark");
        assert!(
            guess.contains("group picket:nodes") && guess.contains("not\\nyou"),
            "{guess}"
        );
        assert_eq!(named.guess(&unknown), None);
        for wrong in ["a", "a/", "/b", "a/b/c"] {
            assert!(account(wrong).is_err(), "{wrong}");
        }
    }
}
