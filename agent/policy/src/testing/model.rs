//! What an AgentPolicyTest says.
//!
//! In: a document, by serde. Out: an [`AgentPolicyTestSpec`], and errors that its schema cannot say.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::FieldErrors;
use crate::api::v1alpha1::Spec;
use crate::engine::{NamespaceFacts, Namespaces};
use crate::yaml::FieldPath;

/// Most cases of a file: a table of command lines has several hundred.
const MAX_CASES: usize = 4096;

/// Most characters of an object that a case sends. Objects of Kubernetes are seldom larger.
const MAX_STDIN: usize = 65_536;

/// A test of policies: an agent, and requests with the decision that each must get. It is a file for `picket policy test`, and no
/// object of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentPolicyTestSpec {
    /// The files and folders of objects that are tested, relative to the test file. Those that the command line names come beside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The moment of the requests. Without it the moment of the test's run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
    /// The agent that sends the requests.
    pub agent: TestAgent,
    /// The namespaces of the cluster, for rules with `namespaceSelector` and expressions with `namespaceObject`. One that is not listed
    /// here is not known, so that such a rule fires.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<TestNamespace>,
    /// The requests.
    #[schemars(length(min = 1, max = MAX_CASES))]
    pub cases: Vec<TestCase>,
}

/// A namespace of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestNamespace {
    /// Its name. The label `kubernetes.io/metadata.name` has it too, as in a cluster.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl TestNamespace {
    /// What decisions are given of these namespaces.
    #[must_use]
    pub fn known(namespaces: &[Self]) -> Namespaces {
        Namespaces::given(namespaces.iter().map(|namespace| {
            let Self {
                name,
                labels,
                annotations,
            } = namespace;
            (name.clone(), NamespaceFacts::described(name, labels, annotations))
        }))
    }
}

/// The agent that sends a request. Its groups are those of its AgentIdentity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestAgent {
    /// The name of an AgentIdentity of the files.
    #[schemars(length(min = 1))]
    pub identity: String,
    /// The namespace of the agent's pod. Without it that of the identity's attest.pod; without both the agent is a client of the
    /// gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name of the agent's pod. Without it `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The person whose token the agent sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<TestPerson>,
}

/// A person for whom an agent asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestPerson {
    /// The URL of the token's issuer.
    #[schemars(length(min = 1))]
    pub issuer: String,
    /// The user's name, as the issuer's mappings make it.
    #[schemars(length(min = 1))]
    pub user: String,
    /// The user's groups, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// One request or command, and what must become of it. It has exactly one of kubectl, request, audit and auditFile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestCase {
    /// What is tested, in words. Without it the command or request itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub name: Option<String>,
    /// Another agent than the test's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<TestAgent>,
    /// Another moment than the test's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
    /// A command line of kubectl, such as `delete pod web -n shop`. The namespace is the agent's own where the line has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub kubectl: Option<String>,
    /// The YAML or JSON that `kubectl ... -f -` reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_STDIN))]
    pub stdin: Option<String>,
    /// Whether the object is in the cluster already. Without it those that kubectl applies are, so that they are changed and not created.
    /// `false` says too that rules see `null` as oldObject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// The stored object, which rules see as oldObject of a change or a deletion. Without it the stored object is not known, and rules that
    /// look at it fire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_object: Option<serde_json::Value>,
    /// A request as a client sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<TestRequest>,
    /// A record of the audit log of Picket or of an API server: the request that it tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<serde_json::Value>,
    /// A file of such records, one a line, relative to the test file. All of them must get what is expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub audit_file: Option<String>,
    /// What must become of it.
    pub expect: Expectation,
}

/// A request as a client sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestRequest {
    /// The HTTP method. Without it GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path with its query, such as `/api/v1/namespaces/shop/pods?limit=500`.
    #[schemars(length(min = 1, max = 8192))]
    pub path: String,
    /// The headers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body: a mapping is sent as JSON, and text as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<serde_json::Value>,
}

/// What must become of a case. All that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expectation {
    /// The decision.
    pub decision: ExpectedDecision,
    /// What decided: `policy/rule`, `builtin/NAME`, or `no_grant`. Of a request with warnings, a rule that warned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub rule: Option<String>,
    /// The AgentGrant that allowed the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub grant: Option<String>,
    /// A part of the message that the agent reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub message: Option<String>,
    /// A rule in mode Audit, as `policy/rule`, that would have denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub would_deny: Option<String>,
}

/// What becomes of a command or request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExpectedDecision {
    /// Everything that the command asks for is allowed.
    Allow,
    /// What the command is for is refused.
    Deny,
    /// Everything is allowed, with a warning.
    Warn,
    /// What the command is for waits for a person.
    Pending,
    /// Some of the command's requests are refused and some are not, so that it does a part of its work.
    Partial,
}

impl ExpectedDecision {
    /// As files have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Warn => "warn",
            Self::Pending => "pending",
            Self::Partial => "partial",
        }
    }
}

impl Spec for AgentPolicyTestSpec {
    const KIND: &'static str = "AgentPolicyTest";
    const PLURAL: &'static str = "agentpolicytests";

    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let mut names = BTreeSet::new();
        for (index, namespace) in self.namespaces.iter().enumerate() {
            if !names.insert(namespace.name.as_str()) {
                let path = path.field("namespaces").index(index).field("name");
                errors.add(path, format!("namespace {:?} is there twice", namespace.name));
            }
        }
        for (index, case) in self.cases.iter().enumerate() {
            case.validate(&path.field("cases").index(index), errors);
        }
    }
}

impl TestCase {
    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let inputs = [
            ("kubectl", self.kubectl.is_some()),
            ("request", self.request.is_some()),
            ("audit", self.audit.is_some()),
            ("auditFile", self.audit_file.is_some()),
        ];
        let given: Vec<_> = inputs.iter().filter(|(_, given)| *given).collect();
        match given[..] {
            [_] => {}
            [] => errors.add(
                path.clone(),
                format!(
                    "`{path}` has no input: write kubectl: \"get pods\", or request: {{path: /api/v1/pods}}, or audit or auditFile"
                ),
            ),
            [_, second, ..] => errors.add(
                path.field(second.0),
                format!("`{path}` has more than one of kubectl, request, audit and auditFile: make a case of each"),
            ),
        }
        if self.stdin.is_some() && self.kubectl.is_none() {
            let path = path.field("stdin");
            let reason = format!("field `{path}` is for `kubectl` only: a request has `body`");
            errors.add(path, reason);
        }
        if self.exists == Some(false) && self.old_object.is_some() {
            let path = path.field("oldObject");
            let reason = format!("field `{path}` is of an object that is there: take out `exists: false`");
            errors.add(path, reason);
        }
        if self.old_object.as_ref().is_some_and(|object| !object.is_object()) {
            let path = path.field("oldObject");
            let reason = format!("field `{path}` must be an object, as `kubectl get -o yaml` shows it");
            errors.add(path, reason);
        }
        let expect = path.field("expect");
        if self.expect.grant.is_some() && self.expect.decision == ExpectedDecision::Deny {
            let path = expect.field("grant");
            let reason = format!("field `{path}`: no grant allows what is denied: take it out");
            errors.add(path, reason);
        }
        for (name, rule) in [
            ("rule", &self.expect.rule),
            ("wouldDeny", &self.expect.would_deny),
        ] {
            let path = expect.field(name);
            if rule
                .as_deref()
                .is_some_and(|rule| !rule.contains('/') && rule != "no_grant")
            {
                let reason = format!(
                    "field `{path}` must name policy and rule as `policy/rule`, or be `builtin/NAME` or `no_grant`"
                );
                errors.add(path, reason);
            }
        }
    }
}
