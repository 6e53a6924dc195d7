//! What is in grants and a reader may not see: rights that lead past Picket, though no rule is wrong.
//!
//! In: a [`PolicySet`]. Out: a [`Caution`] for each such right. Policies may deny it all the same, and RBAC decides last; neither is
//! looked at here.

use std::collections::BTreeSet;

use super::builtin::WORKLOADS;
use super::grants::{Grant, GrantRule};
use super::{NamespaceUse, PolicySet};
use crate::glob::Glob;
use crate::request::Verb;

/// Why a caution is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CautionCause {
    /// It gives creation and reading of Secrets.
    TokenSecrets,
    /// It gives port-forward to pods of every namespace.
    PortForward,
    /// It gives creation of pods, or creation or change of workloads, in every namespace.
    PodsAnywhere,
    /// It gives commands in the pods of every namespace.
    ExecAnywhere,
    /// It gives the labels of namespaces, and a rule decides by them.
    NamespaceLabels,
}

/// A right that grants give and that leads past Picket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caution {
    /// The grants that give it, one or two.
    pub grants: BTreeSet<String>,
    /// What it is.
    pub cause: CautionCause,
}

impl CautionCause {
    /// A stable name.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::TokenSecrets => "token_secrets",
            Self::PortForward => "port_forward",
            Self::PodsAnywhere => "pods_anywhere",
            Self::ExecAnywhere => "exec_anywhere",
            Self::NamespaceLabels => "namespace_labels",
        }
    }

    /// What follows from it, and what to do.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::TokenSecrets => {
                "create and read of Secrets: builtin/token-secrets alone keeps the agent from a Secret with a token that works without \
                 Picket. Apply deploy/token-secrets.yaml as a second guard, or take one of the two away"
            }
            Self::PortForward => {
                "port-forward in every namespace: by a pod on the node's network it reaches all ports of its node. Set the grant's \
                 namespaces to ones without such pods"
            }
            Self::PodsAnywhere => {
                "creation of pods, or creation or change of workloads, in every namespace: pods in a namespace that is not enforced \
                 reach the API server without Picket. Set the grant's namespaces"
            }
            Self::ExecAnywhere => {
                "exec, attach or ephemeral containers in every namespace: a command in a pod that is not enforced reaches the API \
                 server without Picket, by that pod's service account. Set the grant's namespaces"
            }
            Self::NamespaceLabels => {
                "changes of namespaces, and rules decide by the labels of namespaces: the agent takes a namespace out of such a rule by \
                 another label. Take update and patch of namespaces away, or set the grant's namespaces. A rule that denies both helps \
                 too, and does not end this warning"
            }
        }
    }
}

impl PolicySet {
    /// The rights that lead past Picket, by grant.
    #[must_use]
    pub fn cautions(&self) -> Vec<Caution> {
        let mut found = BTreeSet::new();
        let one = |grant: &Grant, cause| Caution {
            grants: [grant.name().to_owned()].into(),
            cause,
        };
        for grant in self.grants() {
            if is_everywhere(grant) && gives(grant, Verb::Create, "", "pods", Some("portforward")) {
                found.insert(one(grant, CautionCause::PortForward));
            }
            if is_everywhere(grant) && makes_pods(grant) {
                found.insert(one(grant, CautionCause::PodsAnywhere));
            }
            if is_everywhere(grant) && runs_in_pods(grant) {
                found.insert(one(grant, CautionCause::ExecAnywhere));
            }
            if self.namespace_use() != NamespaceUse::Nothing
                && is_everywhere(grant)
                && labels_namespaces(grant)
            {
                found.insert(one(grant, CautionCause::NamespaceLabels));
            }
        }
        for identity in self.identities() {
            let grants = self.grants_of(&identity.name);
            let with = |verbs: &'static [Verb]| {
                let gives = |grant: &Grant| verbs.iter().any(|verb| gives(grant, *verb, "", "secrets", None));
                grants.iter().filter(move |grant| gives(grant))
            };
            // One grant that gives both says it best.
            let both = with(&[Verb::Create]).find(|grant| {
                with(&[Verb::Get, Verb::List, Verb::Watch]).any(|reader| reader.name() == grant.name())
            });
            let create = both.or_else(|| with(&[Verb::Create]).next());
            let read = both.or_else(|| with(&[Verb::Get, Verb::List, Verb::Watch]).next());
            if let (Some(create), Some(read)) = (create, read) {
                found.insert(Caution {
                    grants: [create.name().to_owned(), read.name().to_owned()].into(),
                    cause: CautionCause::TokenSecrets,
                });
            }
        }
        found.into_iter().collect()
    }
}

/// Whether a grant holds in every namespace.
fn is_everywhere(grant: &Grant) -> bool {
    grant.namespaces().is_empty() || grant.namespaces().iter().any(|glob| matches!(glob, Glob::Any))
}

/// Whether a grant gives pods of any kind: new ones, or a change of what new ones are made from, or of a pod's image.
fn makes_pods(grant: &Grant) -> bool {
    let mut resources = WORKLOADS.into_iter().chain([("", "pods")]);
    resources.any(|(group, resource)| {
        [Verb::Create, Verb::Update, Verb::Patch]
            .into_iter()
            .any(|verb| gives(grant, verb, group, resource, None))
    })
}

/// Whether a grant gives the labels of namespaces that exist. Their status and `finalize` bring labels too.
fn labels_namespaces(grant: &Grant) -> bool {
    [None, Some("status"), Some("finalize")].into_iter().any(|sub| {
        [Verb::Update, Verb::Patch]
            .into_iter()
            .any(|verb| gives(grant, verb, "", "namespaces", sub))
    })
}

/// Whether a grant gives commands in pods that run.
fn runs_in_pods(grant: &Grant) -> bool {
    let on_pods = |verb, subresource| gives(grant, verb, "", "pods", Some(subresource));
    on_pods(Verb::Create, "exec")
        || on_pods(Verb::Create, "attach")
        || on_pods(Verb::Update, "ephemeralcontainers")
        || on_pods(Verb::Patch, "ephemeralcontainers")
}

/// Whether a grant gives a verb on some object of a resource, and not in dry runs alone.
fn gives(grant: &Grant, verb: Verb, group: &str, resource: &str, subresource: Option<&str>) -> bool {
    // A new object has a name of the rule by server-side apply, so that names are no bound but for what exists already.
    let is_there = subresource.is_some() || matches!(verb, Verb::Update | Verb::Patch);
    let unbound = |rule: &GrantRule| rule.names.is_empty() || !is_there;
    grant.rules().iter().any(|rule| {
        rule.urls.is_empty()
            && !rule.dry_run_only
            && rule.verbs.has(verb)
            && rule.group_matches(group)
            && rule.resource_matches(resource, subresource)
            && unbound(rule)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::read_documents;

    /// The codes of the cautions about grants of these rules, which hold in these namespaces, all to one identity.
    fn codes(grants: &[(&str, &str)]) -> Vec<String> {
        let mut text = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\nspec: {owner: o, attest: \
                        {pod: {namespace: n, serviceAccount: s}}}\n"
            .to_owned();
        for (number, (namespaces, rule)) in grants.iter().enumerate() {
            text += &format!(
                "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: g{number}}}\nspec:\n  to: {{identities: \
                 [a]}}\n  upstream: {{impersonate: {{user: u}}}}\n{namespaces}  rules: [{{{rule}}}]\n"
            );
        }
        let documents = read_documents("f.yaml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        let set = PolicySet::compile(documents).unwrap_or_else(|errors| panic!("{errors:?}"));
        let said = |caution: Caution| {
            let grants: Vec<_> = caution.grants.into_iter().collect();
            format!("{} {}", grants.join("+"), caution.cause.code())
        };
        set.cautions().into_iter().map(said).collect()
    }

    #[test]
    fn rights_that_lead_past_picket_are_told() {
        let secrets = |verbs: &str| format!("apiGroups: [''], resources: [secrets], verbs: [{verbs}]");
        for (rule, code) in [
            (secrets("create, get"), "g0 token_secrets"),
            (secrets("create, list"), "g0 token_secrets"),
            (secrets("create, watch"), "g0 token_secrets"),
            (
                secrets("create, patch, get") + ", resourceNames: [x]",
                "g0 token_secrets",
            ),
            (
                "apiGroups: [''], resources: [pods/portforward], verbs: [create]".to_owned(),
                "g0 port_forward",
            ),
            (
                "apiGroups: [batch], resources: [jobs], verbs: ['*']".to_owned(),
                "g0 pods_anywhere",
            ),
            (
                "apiGroups: [''], resources: [pods], verbs: [create]".to_owned(),
                "g0 pods_anywhere",
            ),
            (
                "apiGroups: [apps], resources: [controllerrevisions], verbs: [create]".to_owned(),
                "g0 pods_anywhere",
            ),
            (
                "apiGroups: [apps], resources: [deployments], verbs: [get, patch]".to_owned(),
                "g0 pods_anywhere",
            ),
            (
                "apiGroups: [''], resources: [pods], verbs: [update]".to_owned(),
                "g0 pods_anywhere",
            ),
            (
                "apiGroups: [''], resources: [pods/exec], verbs: [create]".to_owned(),
                "g0 exec_anywhere",
            ),
            (
                "apiGroups: [''], resources: ['pods/attach'], verbs: ['*']".to_owned(),
                "g0 exec_anywhere",
            ),
            (
                "apiGroups: [''], resources: [pods/ephemeralcontainers], verbs: [patch]".to_owned(),
                "g0 exec_anywhere",
            ),
        ] {
            assert_eq!(codes(&[("", &rule)]), [code], "{rule}");
        }
        for rule in [
            secrets("create"),
            secrets("get, list, watch, update, patch, delete"),
            secrets("create, get").replace("''", "example.com"),
            "apiGroups: [''], resources: [pods/portforward], resourceNames: [web], verbs: [create]"
                .to_owned(),
            secrets("create") + ", dryRun: Only",
            "apiGroups: [''], resources: [pods], verbs: [get, list, delete]".to_owned(),
            "apiGroups: [''], resources: [pods/log, pods/status], verbs: [get, create]".to_owned(),
            "apiGroups: [''], resources: [pods/exec], resourceNames: [web], verbs: [create]".to_owned(),
            "apiGroups: [apps], resources: [deployments], resourceNames: [web], verbs: [patch]".to_owned(),
            "apiGroups: [apps], resources: [deployments/scale], verbs: [patch]".to_owned(),
        ] {
            assert_eq!(codes(&[("", &rule)]), [""; 0], "{rule}");
        }
        assert_eq!(
            codes(&[("", "apiGroups: ['*'], resources: ['*'], verbs: ['*']")]),
            [
                "g0 token_secrets",
                "g0 port_forward",
                "g0 pods_anywhere",
                "g0 exec_anywhere"
            ]
        );
    }

    #[test]
    fn changes_of_namespaces_are_told_where_a_rule_decides_by_their_labels() {
        let told_in = |namespaces: &str, rule: &str, matches: &str| {
            let text = format!(
                "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a}}\nspec: {{owner: o, attest: {{pod: \
                 {{namespace: n, serviceAccount: s}}}}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: \
                 g}}\nspec: {{to: {{identities: [a]}}, upstream: {{impersonate: {{user: u}}}}{namespaces}, rules: [{{{rule}}}]}}\n---\n\
                 apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p}}\nspec: {{subjects: {{identities: [a]}}, rules: \
                 [{{name: r, action: Deny, match: {{resources: [pods]{matches}}}}}]}}\n"
            );
            let documents = read_documents("f.yaml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
            let set = PolicySet::compile(documents).unwrap_or_else(|errors| panic!("{errors:?}"));
            let cautions = set.cautions();
            let codes: Vec<_> = cautions.iter().map(|caution| caution.cause.code()).collect();
            codes == ["namespace_labels"]
        };
        let told = |rule: &str, matches: &str| told_in("", rule, matches);
        let by_label = ", namespaceSelector: {matchLabels: {env: prod}}";
        for (resource, verb) in [
            ("namespaces", "update"),
            ("namespaces", "patch"),
            ("namespaces/status", "patch"),
            ("namespaces/finalize", "update"),
        ] {
            let rule = format!("apiGroups: [''], resources: [{resource}], verbs: [{verb}]");
            assert!(told(&rule, by_label), "{rule}");
            assert!(!told(&rule, ""), "{rule}");
            assert!(!told_in(", namespaces: [lab]", &rule, by_label), "{rule}");
        }
        let reads = "apiGroups: [''], resources: [namespaces], verbs: [get, list, create, delete]";
        assert!(!told(reads, by_label));
        let one = "apiGroups: [''], resources: [namespaces], verbs: [patch], resourceNames: [lab]";
        assert!(!told(one, by_label), "somebody chose the namespace");
    }

    #[test]
    fn two_grants_of_one_agent_are_read_together() {
        let (create, get) = (
            "apiGroups: [''], resources: [secrets], verbs: [create]",
            "apiGroups: [''], resources: [secrets], verbs: [get]",
        );
        assert_eq!(codes(&[("", create), ("", get)]), ["g0+g1 token_secrets"]);
    }

    #[test]
    fn a_grant_of_some_namespaces_is_no_grant_of_all() {
        let rule = "apiGroups: ['', batch], resources: [pods, jobs, pods/portforward], verbs: [create]";
        assert_eq!(codes(&[("  namespaces: [shop, 'dev-*']\n", rule)]), [""; 0]);
        assert_eq!(codes(&[("  namespaces: ['*']\n", rule)]).len(), 2);
    }
}
