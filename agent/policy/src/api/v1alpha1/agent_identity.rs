//! AgentIdentity: who an agent is, who answers for it, and how its workload is recognised.
//!
//! In: the `spec` of a document. Out: an [`AgentIdentitySpec`], its part of the schema, and errors that no schema can express.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::label_selector::LabelSelector;
use super::object::{CelRule, Spec};
use crate::api::field::FieldErrors;
use crate::kubernetes::resources::is_subdomain;
use crate::spiffe::SpiffeId;
use crate::yaml::FieldPath;

/// Who an agent is, who answers for it, and how its workload is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentIdentitySpec {
    /// Who answers for the agent: a team or an address.
    #[schemars(length(min = 1), regex(pattern = r"\S"))]
    pub owner: String,
    /// Groups that grants and policies can name. They are names of your own, without `system:`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1),
        extend("uniqueItems" = true),
        extend("items" = {"type": "string", "not": {"pattern": r"^system:|^\s|\s$|^$"}})
    )]
    pub groups: Vec<String>,
    /// Whether the agent may act.
    #[serde(default)]
    pub state: State,
    /// From this moment on the agent may not act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// By this moment someone should look at the identity again. `whenOverdue` says what happens then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_by: Option<Timestamp>,
    /// What happens at `reviewBy`: Warn tells it in the agents' logs and metrics, and Suspend denies every request too, until
    /// `reviewBy` is set to a later moment.
    #[serde(default, skip_serializing_if = "WhenOverdue::is_default")]
    pub when_overdue: WhenOverdue,
    /// Whether one workload at most may be the agent at a time. A workload is a Deployment, StatefulSet, DaemonSet, Job or other
    /// controller with all of its pods, or a pod that no controller made. While enforced pods of two workloads on one node match
    /// `attest.pod`, every request of all of them is denied there. Needs `attest.pod`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// How the agent's workload is recognised. All that is given must hold.
    pub attest: Attest,
}

/// Whether an identity may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// The agent may act.
    #[default]
    Active,
    /// The agent may not act now.
    Suspended,
    /// The agent may never act again.
    Revoked,
}

/// What happens when the review of an identity is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum WhenOverdue {
    /// It is told and counted.
    #[default]
    Warn,
    /// The agent may not act until somebody has looked.
    Suspend,
}

impl WhenOverdue {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl AgentIdentitySpec {
    /// From when on the agent may not act because nobody looked at its identity.
    #[must_use]
    pub fn suspended_from(&self) -> Option<Timestamp> {
        self.review_by
            .filter(|_| self.when_overdue == WhenOverdue::Suspend)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Active => "Active",
            Self::Suspended => "Suspended",
            Self::Revoked => "Revoked",
        })
    }
}

/// How an agent's workload is recognised. All that is given must hold; at least one is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Attest {
    /// The pods that are this agent, as the node's kernel and kubelet know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodAttest>,
    /// The token that the agent sends as its bearer token. Its issuer is one of the node's `authentication.configFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtAttest>,
    /// The client certificate that the agent shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<SpiffeAttest>,
}

/// A token, by what its issuer signed. Everything is compared exactly: a glob would widen who an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtAttest {
    /// The token's issuer (`iss`), as the AuthenticationConfiguration has its URL.
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https://"))]
    pub issuer: String,
    /// The token's subject (`sub`).
    #[schemars(length(min = 1, max = 1024))]
    pub subject: String,
    /// One of the token's audiences (`aud`), beside what the issuer's own audiences demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
    /// Further claims, each with the text that it has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
}

/// A client certificate that is an agent's: an X.509 SVID that the node's trust bundles prove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpiffeAttest {
    /// The certificate's SPIFFE ID, exactly: `spiffe://TRUST-DOMAIN/PATH`.
    #[schemars(
        length(min = 1, max = 2048),
        // No segment is `.` or `..`, without a look ahead, which the API server's regular expressions lack.
        regex(
            pattern = r"^spiffe://[a-z0-9._-]{1,255}(/([A-Za-z0-9_-][A-Za-z0-9._-]*|[.][A-Za-z0-9_-][A-Za-z0-9._-]*|[.][.][A-Za-z0-9._-]+))+$"
        )
    )]
    pub id: String,
}

impl Attest {
    /// Whether it names nothing, so that every caller would satisfy it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { pod, jwt, spiffe } = self;
        pod.is_none() && jwt.is_none() && spiffe.is_none()
    }
}

/// The pods that are an agent. Names are compared exactly: a glob would widen who an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodAttest {
    /// The pod's namespace, exactly.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub namespace: String,
    /// The pod's service account, exactly.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub service_account: String,
    /// The pod's labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

impl Spec for AgentIdentitySpec {
    const KIND: &'static str = "AgentIdentity";
    const PLURAL: &'static str = "agentidentities";
    const CEL_RULES: &'static [CelRule] = &[
        CelRule {
            path: "spec",
            rule: "oldSelf.state != 'Revoked' || self.state == 'Revoked'",
            message: "a revoked identity stays revoked: make another one",
        },
        CelRule {
            path: "spec",
            rule: "!has(self.whenOverdue) || self.whenOverdue != 'Suspend' || has(self.reviewBy)",
            message: "whenOverdue is Suspend, and there is no reviewBy at which that would be",
        },
        CelRule {
            path: "spec",
            rule: "!has(self.exclusive) || !self.exclusive || has(self.attest.pod)",
            message: "exclusive is about pods: without attest.pod nothing says which workload a caller belongs to",
        },
        CelRule {
            path: "spec.attest.pod.selector.matchExpressions[]",
            rule: "self.operator in ['In', 'NotIn'] == has(self.values)",
            message: "values are required with In and NotIn, and have no place with Exists and DoesNotExist",
        },
    ];

    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if self.when_overdue == WhenOverdue::Suspend && self.review_by.is_none() {
            let field = path.field("whenOverdue");
            let reason =
                format!("field `{field}` is Suspend, and there is no reviewBy at which that would be");
            errors.add(field, reason);
        }
        if self.exclusive && self.attest.pod.is_none() {
            let field = path.field("exclusive");
            let reason = format!(
                "field `{field}` is about pods: without attest.pod nothing says which workload a caller belongs to"
            );
            errors.add(field, reason);
        }
        errors.add_each(&path.field("groups"), &self.groups, |group| {
            let reserved = group.starts_with("system:") || group.trim() != group || group.is_empty();
            reserved
                .then(|| format!("group {group:?}: Picket's groups are names of your own, without `system:`"))
        });
        let path = path.field("attest");
        if self.attest.is_empty() {
            // Every caller would be this agent.
            let reason = format!(
                "field `{path}` names nothing: say by which pod, token or certificate the agent is recognised"
            );
            errors.add(path.clone(), reason);
        }
        if let Some(pod) = &self.attest.pod {
            pod.validate(&path.field("pod"), errors);
        }
        if let Some(jwt) = &self.attest.jwt {
            jwt.validate(&path.field("jwt"), errors);
        }
        if let Some(SpiffeAttest { id }) = &self.attest.spiffe
            && let Err(error) = SpiffeId::parse(id)
        {
            let path = path.field("spiffe").field("id");
            errors.add(path.clone(), format!("field `{path}` is {id:?}: {error}"));
        }
    }
}

impl JwtAttest {
    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if !self.issuer.starts_with("https://") {
            let path = path.field("issuer");
            let reason = format!(
                "field `{path}` is {:?}; it must be the issuer's URL, https://...",
                self.issuer
            );
            errors.add(path, reason);
        }
        let texts = [
            ("subject", Some(&self.subject)),
            ("audience", self.audience.as_ref()),
        ];
        for (field, text) in texts {
            if text.is_some_and(String::is_empty) {
                let path = path.field(field);
                let reason = format!("field `{path}` must not be empty");
                errors.add(path, reason);
            }
        }
    }
}

impl PodAttest {
    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        for (field, name) in [
            ("namespace", &self.namespace),
            ("serviceAccount", &self.service_account),
        ] {
            if !is_subdomain(name) {
                let path = path.field(field);
                let reason = format!("field `{path}` is {name:?}; it must be one plain name, without globs");
                errors.add(path, reason);
            }
        }
        if let Some(selector) = &self.selector {
            selector.validate(&path.field("selector"), errors);
        }
    }
}
