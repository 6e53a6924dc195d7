//! The objects people write (group `picket.dev`, version `v1alpha1`), and how their YAML is read.
//!
//! In: a file's name and text. Out: [`Document`]s, or every [`ObjectError`] in it with file, line and column. A field
//! that is unknown, or known to the design but not built yet, is an error: nothing that is written is ignored.

mod agent_policy;
mod fields;
mod grant;
mod identity;
mod rbac;
mod read;
mod tree;

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

pub use fields::{Fields, Reader};
pub use read::read_documents;
pub use tree::{Node, Value, parse};

/// The API group of every object.
pub const GROUP: &str = "picket.dev";
/// The `apiVersion` of every object.
pub const API_VERSION: &str = "picket.dev/v1alpha1";
/// Largest file that is read, in bytes: what a ConfigMap or an object in etcd can hold.
pub const MAX_FILE: usize = 1024 * 1024;

/// Where something stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file as it was named to [`read_documents`].
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// Something in a file that cannot stand, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}:{column}: {reason}")]
pub struct ObjectError {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong, naming the field.
    pub reason: String,
}

impl ObjectError {
    /// An error at a place.
    #[must_use]
    pub fn at(place: &Place, reason: impl Into<String>) -> Self {
        Self {
            file: place.file.to_string(),
            line: place.line,
            column: place.column,
            reason: reason.into(),
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: Place,
}

/// One document of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Who an agent is.
    Identity(AgentIdentity),
    /// What agents may do.
    Grant(AgentGrant),
    /// What agents must not do.
    Policy(AgentPolicy),
}

impl Document {
    /// The kind as it is written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Identity(_) => "AgentIdentity",
            Self::Grant(_) => "AgentGrant",
            Self::Policy(_) => "AgentPolicy",
        }
    }

    /// `metadata.name` and its place.
    #[must_use]
    pub fn name(&self) -> &Located<String> {
        match self {
            Self::Identity(identity) => &identity.name,
            Self::Grant(grant) => &grant.name,
            Self::Policy(policy) => &policy.name,
        }
    }
}

/// Who an agent is, who answers for it, and how its workload is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// `metadata.name`.
    pub name: Located<String>,
    /// Who answers for the agent: a team or an address.
    pub owner: String,
    /// Groups that grants and policies can name.
    pub groups: Vec<String>,
    /// Whether it may act.
    pub state: State,
    /// From this moment on it may not act.
    pub expires_at: Option<Timestamp>,
    /// By this moment someone should look at it again; nothing stops then.
    pub review_by: Option<Timestamp>,
    /// The pods that are this agent.
    pub pod: PodAttest,
}

/// Whether an identity may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// It may.
    #[default]
    Active,
    /// Not now.
    Suspended,
    /// Never again.
    Revoked,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "Active",
            Self::Suspended => "Suspended",
            Self::Revoked => "Revoked",
        })
    }
}

/// `attest.pod`: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAttest {
    /// The pod's namespace, exactly.
    pub namespace: String,
    /// The pod's service account, exactly.
    pub service_account: String,
    /// The pod's labels.
    pub selector: Selector,
}

/// A label selector in Kubernetes' words; `matchLabels` entries become `In` with one value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(pub Vec<Requirement>);

/// One line of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must hold for its value.
    pub test: LabelTest,
}

/// The operators of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelTest {
    /// The label is there with one of these values.
    In(Vec<String>),
    /// The label is absent or has none of these values.
    NotIn(Vec<String>),
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// What agents may do, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentGrant {
    /// `metadata.name`.
    pub name: Located<String>,
    /// Identities it is for, by name.
    pub identities: Vec<Located<String>>,
    /// Groups it is for.
    pub groups: Vec<String>,
    /// Whom the API server is asked to act as, and where that is written.
    pub impersonate: Located<crate::decision::Impersonate>,
    /// Namespaces (globs) the rules hold in. Empty: everywhere, cluster-scoped and non-resource requests included.
    pub namespaces: Vec<Located<String>>,
    /// RBAC PolicyRules.
    pub rules: Vec<PolicyRule>,
}

/// An RBAC PolicyRule, with RBAC's meaning (k8s.io/api/rbac/v1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Where it stands.
    pub at: Place,
    /// Verbs, or `*`.
    pub verbs: Vec<Located<String>>,
    /// API groups, or `*`; the core group is the empty string.
    pub api_groups: Vec<Located<String>>,
    /// `pods`, `pods/log`, `*/scale` or `*`.
    pub resources: Vec<Located<String>>,
    /// Names; empty means any.
    pub resource_names: Vec<Located<String>>,
    /// Paths, a trailing `*` matching any rest.
    pub non_resource_urls: Vec<Located<String>>,
}

/// What agents must not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPolicy {
    /// `metadata.name`.
    pub name: Located<String>,
    /// Whom it is about: any one named here. `None`: every agent.
    pub subjects: Option<Subjects>,
    /// Whether it refuses or only notes.
    pub mode: Mode,
    /// Names of built-in denies that do not hold for the subjects.
    pub lift: Vec<Located<String>>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// Whom a policy is about. An agent that one of the lists names is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subjects {
    /// Identity names (globs).
    pub identities: Vec<Located<String>>,
    /// Groups of identities (globs).
    pub groups: Vec<Located<String>>,
    /// Namespaces that the agents' own pods run in (globs).
    pub namespaces: Vec<Located<String>>,
}

/// Whether a policy's Deny rules refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They do.
    #[default]
    Enforce,
    /// They are noted in the audit record as `wouldDeny` and nothing else.
    Audit,
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique in its policy.
    pub name: Located<String>,
    /// The requests it is about.
    pub matches: Match,
    /// What it does.
    pub action: Action,
    /// What the agent is told.
    pub message: String,
}

/// What a rule does when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Refuse.
    Deny,
    /// Let pass with a `Warning` header.
    Warn,
}

/// The requests a rule is about: every list that is given must match; a list that is left out matches anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Where it stands.
    pub at: Place,
    /// Verbs, or `*`. A verb stands for all that has its effect: `create` for a server-side apply and for an update of
    /// resources that a PUT can create (services, endpoints, events, limitranges, leases, leasecandidates,
    /// runtimeclasses, roles and bindings); `delete` of pods for an eviction. `events` of the core group and of
    /// `events.k8s.io` are the same objects, and are two to a rule.
    pub verbs: Option<Vec<Located<String>>>,
    /// API groups (globs); the core group is the empty string.
    pub api_groups: Option<Vec<Located<String>>>,
    /// `pods`, `pods/exec`, `*/scale`, `pods/*`, `*` (globs on either side of the slash).
    pub resources: Option<Vec<Located<String>>>,
    /// Namespaces of the request (globs).
    pub namespaces: Option<Vec<Located<String>>>,
    /// Object names (globs).
    pub names: Option<Vec<Located<String>>>,
    /// Paths (globs); without it a rule is about resources only.
    pub non_resource_urls: Option<Vec<Located<String>>>,
    /// Command lines of exec (globs over the arguments joined by one space; blank arguments before the program, white
    /// space around it, its folder, and how much white space there is between words make no difference).
    ///
    /// A list of what is refused can be gone around: by programs that run others (`env`, `busybox`, `nice`, `nohup`,
    /// `timeout`, `xargs`, `find -exec`), by interpreters (`sh -c`, `python -c`, `perl -e`), by a copy under another
    /// name. Where that matters give [`Match::except_commands`] alone, so that all but known lines is refused.
    pub commands: Option<Vec<Located<String>>>,
    /// Command lines of exec that the rule leaves alone (globs over the arguments joined by one space, exactly as they
    /// came). A `*` at the end admits whatever follows: `env *` would except every program.
    pub except_commands: Option<Vec<Located<String>>>,
}

#[cfg(test)]
mod tests;
