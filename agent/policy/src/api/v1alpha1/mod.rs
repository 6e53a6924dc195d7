//! Version `v1alpha1` of the objects.

pub(super) mod agent_grant;
pub(super) mod agent_identity;
pub(super) mod agent_policy;
mod policy_rule;

use std::fmt;

use jiff::Timestamp;

use crate::yaml::{SourceLocation, Spanned};

/// Who an agent is, who answers for it, and how its workload is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// `metadata.name`.
    pub name: Spanned<String>,
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
    pub name: Spanned<String>,
    /// Identities it is for, by name.
    pub identities: Vec<Spanned<String>>,
    /// Groups it is for.
    pub groups: Vec<String>,
    /// Whom the API server is asked to act as, and where that is written.
    pub impersonate: Spanned<crate::decision::Impersonate>,
    /// Namespaces (globs) the rules hold in. Empty: everywhere, cluster-scoped and non-resource requests included.
    pub namespaces: Vec<Spanned<String>>,
    /// RBAC PolicyRules.
    pub rules: Vec<PolicyRule>,
}

/// An RBAC PolicyRule, with RBAC's meaning (k8s.io/api/rbac/v1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Where it stands.
    pub at: SourceLocation,
    /// Verbs, or `*`.
    pub verbs: Vec<Spanned<String>>,
    /// API groups, or `*`; the core group is the empty string.
    pub api_groups: Vec<Spanned<String>>,
    /// `pods`, `pods/log`, `*/scale` or `*`.
    pub resources: Vec<Spanned<String>>,
    /// Names; empty means any.
    pub resource_names: Vec<Spanned<String>>,
    /// Paths, a trailing `*` matching any rest.
    pub non_resource_urls: Vec<Spanned<String>>,
}

/// What agents must not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPolicy {
    /// `metadata.name`.
    pub name: Spanned<String>,
    /// Whom it is about: any one named here. `None`: every agent.
    pub subjects: Option<Subjects>,
    /// Whether it refuses or only notes.
    pub mode: Mode,
    /// Names of built-in denies that do not hold for the subjects.
    pub exceptions: Vec<Spanned<String>>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// Whom a policy is about. An agent that one of the lists names is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subjects {
    /// Identity names (globs).
    pub identities: Vec<Spanned<String>>,
    /// Groups of identities (globs).
    pub groups: Vec<Spanned<String>>,
    /// Namespaces that the agents' own pods run in (globs).
    pub namespaces: Vec<Spanned<String>>,
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
    pub name: Spanned<String>,
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
    /// Hold until a person approves; no file can say so yet.
    RequireApproval,
    /// Let pass with a `Warning` header.
    Warn,
}

/// The requests a rule is about: every list that is given must match; a list that is left out matches anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Where it stands.
    pub at: SourceLocation,
    /// Verbs, or `*`. A verb stands for all that has its effect: `create` for a server-side apply and for an update of
    /// resources that a PUT can create (services, endpoints, events, limitranges, leases, leasecandidates,
    /// runtimeclasses, roles and bindings); `delete` of pods for an eviction. `events` of the core group and of
    /// `events.k8s.io` are the same objects, and are two to a rule.
    pub verbs: Option<Vec<Spanned<String>>>,
    /// API groups (globs); the core group is the empty string.
    pub api_groups: Option<Vec<Spanned<String>>>,
    /// `pods`, `pods/exec`, `*/scale`, `pods/*`, `*` (globs on either side of the slash).
    pub resources: Option<Vec<Spanned<String>>>,
    /// Namespaces of the request (globs).
    pub namespaces: Option<Vec<Spanned<String>>>,
    /// Object names (globs).
    pub names: Option<Vec<Spanned<String>>>,
    /// Paths (globs); without it a rule is about resources only.
    pub non_resource_urls: Option<Vec<Spanned<String>>>,
    /// Command lines of exec (globs over the arguments joined by one space; blank arguments before the program, white
    /// space around it, its folder, and how much white space there is between words make no difference).
    ///
    /// A list of what is refused can be gone around: by programs that run others (`env`, `busybox`, `nice`, `nohup`,
    /// `timeout`, `xargs`, `find -exec`), by interpreters (`sh -c`, `python -c`, `perl -e`), by a copy under another
    /// name. Where that matters give [`Match::except_commands`] alone, so that all but known lines is refused.
    pub commands: Option<Vec<Spanned<String>>>,
    /// Command lines of exec that the rule leaves alone (globs over the arguments joined by one space, exactly as they
    /// came). A `*` at the end admits whatever follows: `env *` would except every program.
    pub except_commands: Option<Vec<Spanned<String>>>,
}
