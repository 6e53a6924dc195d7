//! AgentGrant: what agents may do, and as whom the API server is asked.
//!
//! In: the `spec` of a document. Out: an [`AgentGrantSpec`], its part of the schema, and errors that no schema can express.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grant_upstream::GrantUpstream;
use super::grant_window::GrantWindow;
use super::object::{CelRule, Spec};
use super::policy_rule::PolicyRule;
use crate::api::field::FieldErrors;
use crate::glob::Glob;
use crate::kubernetes::resources::namespace_error;
use crate::yaml::FieldPath;

/// What agents may do, and as whom. What is not granted is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentGrantSpec {
    /// Whom the grant is for: identities, groups or both.
    pub to: GrantTo,
    /// As whom the API server is asked: exactly one of the fields. Kubernetes RBAC decides last, as that user.
    pub upstream: GrantUpstream,
    /// Namespaces (globs) that the rules hold in. Without this field the rules hold everywhere, for cluster-scoped and
    /// non-resource requests too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub namespaces: Vec<String>,
    /// What is granted, as RBAC PolicyRules with RBAC's meaning.
    #[schemars(length(min = 1))]
    pub rules: Vec<PolicyRule>,
    /// From this moment on the grant gives nothing, and watches and sessions by it end. A grant with this field is a just-in-time
    /// grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The times at which the grant holds. Watches and sessions by it end with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<GrantWindow>,
}

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct GrantTo {
    /// AgentIdentities by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub identities: Vec<String>,
    /// Groups of AgentIdentities, without globs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(regex(pattern = r"^[^*?]*$")), extend("uniqueItems" = true))]
    pub groups: Vec<String>,
}

impl Spec for AgentGrantSpec {
    const KIND: &'static str = "AgentGrant";
    const PLURAL: &'static str = "agentgrants";
    const CEL_RULES: &'static [CelRule] = &[
        CelRule {
            path: "spec",
            rule: "!has(self.namespaces) || self.rules.all(rule, !has(rule.nonResourceURLs))",
            message: "nonResourceURLs have no place in a grant with namespaces",
        },
        CelRule {
            path: "spec.rules[]",
            rule: "has(self.nonResourceURLs) || has(self.apiGroups)",
            message: "apiGroups is required with resources; the core group is \"\"",
        },
        CelRule {
            path: "spec.rules[]",
            rule: "has(self.nonResourceURLs) || has(self.resources)",
            message: "resources or nonResourceURLs is required",
        },
        CelRule {
            path: "spec.rules[]",
            rule: "!has(self.nonResourceURLs) || !(has(self.apiGroups) || has(self.resources) || has(self.resourceNames))",
            message: "resources and nonResourceURLs are mixed: make two rules of it",
        },
        CelRule {
            path: "spec.rules[]",
            rule: "has(self.nonResourceURLs) ? self.verbs.all(verb, verb in ['get', 'head', 'post', 'put', 'patch', 'delete', 'options', '*']) : self.verbs.all(verb, verb in ['get', 'list', 'watch', 'create', 'update', 'patch', 'delete', 'deletecollection', '*'])",
            message: "a verb that no request has: resources have get, list, watch, create, update, patch, delete and deletecollection; nonResourceURLs have get, head, post, put, patch, delete and options",
        },
    ];
    const PLANNED_FIELDS: &'static [&'static str] = &["spec.upstream.eks"];

    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let to = path.field("to");
        if self.to.identities.is_empty() && self.to.groups.is_empty() {
            let reason = format!("field `{to}` names nobody: give identities, groups or both");
            errors.add(to.clone(), reason);
        }
        errors.add_each(&to.field("groups"), &self.to.groups, |group| {
            group
                .contains(['*', '?'])
                .then(|| format!("group {group:?}: a grant names groups without globs"))
        });
        self.upstream.validate(&path.field("upstream"), errors);
        let namespaces = path.field("namespaces");
        errors.add_each(&namespaces, &self.namespaces, |namespace| {
            match Glob::name(namespace) {
                Err(error) => Some(format!("field `{namespaces}`: {error}")),
                Ok(_) => namespace_error(namespace, false),
            }
        });
        if let Some(window) = &self.window {
            window.validate(&path.field("window"), self.expires_at, errors);
        }
        let rules = path.field("rules");
        for (index, rule) in self.rules.iter().enumerate() {
            rule.validate(&rules.index(index), !self.namespaces.is_empty(), errors);
        }
    }
}
