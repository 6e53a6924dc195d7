//! The decision on one request: what comes in (subject, grants, request) and what goes out (permit or denial).

use std::sync::Arc;

/// Who asks, as far as a decision depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The AgentIdentity's name.
    pub identity: &'a str,
    /// The groups that the AgentIdentity names.
    pub groups: &'a [String],
    /// The namespace the agent's pod runs in.
    pub namespace: &'a str,
}

/// The user that the API server is asked to act as, from the grant that allows the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Impersonate {
    /// Sent as `Impersonate-User`.
    pub user: String,
    /// Sent as one `Impersonate-Group` each, in this order.
    pub groups: Vec<String>,
}

/// A rule that fired without stopping the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The AgentPolicy's name.
    pub policy: String,
    /// The rule's name in it.
    pub rule: String,
    /// The rule's message.
    pub message: String,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It may go upstream.
    Permit(Permit),
    /// It may not.
    Deny(Denial),
}

/// The proof that a request was judged and let through. Only this package makes one, and upstream takes nothing else.
#[derive(Debug, Clone)]
pub struct Permit {
    pub(crate) impersonate: Arc<Impersonate>,
    pub(crate) grant: Arc<str>,
    pub(crate) rule: Arc<str>,
    pub(crate) warnings: Vec<Finding>,
    pub(crate) would_deny: Vec<Finding>,
}

impl Permit {
    /// Whom the API server is asked to act as.
    #[must_use]
    pub fn impersonate(&self) -> &Impersonate {
        &self.impersonate
    }

    /// Rules with the action Warn that fired; the client gets each as a `Warning` header.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// Deny rules of policies in mode Audit that fired.
    #[must_use]
    pub fn would_deny(&self) -> &[Finding] {
        &self.would_deny
    }

    /// The name of the AgentGrant that allows the request.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.grant
    }

    /// The rule that allows it: `rules[N]` of the grant, or the name of an implicit grant such as `builtin/discovery`.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

/// Why a request was refused, for metrics and audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No grant allows it.
    NoGrant,
    /// A built-in deny.
    Builtin,
    /// A Deny rule of an AgentPolicy.
    Policy,
    /// The caller has no identity, or one that may not act now.
    Identity,
    /// There is no valid policy set.
    NoPolicy,
}

impl Cause {
    /// A stable, low-cardinality name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoGrant => "no_grant",
            Self::Builtin => "builtin",
            Self::Policy => "policy",
            Self::Identity => "identity",
            Self::NoPolicy => "no_policy",
        }
    }
}

/// A refusal, in words for the agent and for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The kind of refusal.
    pub cause: Cause,
    /// The policy that refused, or `builtin`.
    pub policy: Option<String>,
    /// The rule that refused, or the built-in's name such as `builtin/nodes-proxy`.
    pub rule: Option<String>,
    /// Who was refused what, by which policy and rule, the rule's own message, and what is allowed instead.
    pub message: String,
    /// What the agent may do instead, in at most 300 characters; empty where nothing sensible can be said.
    pub allowed: String,
    /// Deny rules of policies in mode Audit that fired too.
    pub would_deny: Vec<Finding>,
}
