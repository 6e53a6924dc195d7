//! What an evaluation comes to: the parts of which [`crate::decision`] makes a permit, an ask or a denial.

use std::sync::Arc;

/// The user that the API server is asked to act as, from the grant that allows the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Impersonate {
    /// Sent as `Impersonate-User`.
    pub user: String,
    /// Sent as one `Impersonate-Group` each, in this order.
    pub groups: Vec<String>,
}

/// A rule that fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiredRule {
    /// The AgentPolicy's name.
    pub policy: String,
    /// The rule's name in it.
    pub rule: String,
    /// The rule's message.
    pub message: String,
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
}

impl Cause {
    /// A stable, low-cardinality name.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoGrant => "no_grant",
            Self::Builtin => "builtin",
            Self::Policy => "policy",
        }
    }
}

/// What the rules and grants come to, before [`crate::decision`] makes a proof of it.
pub(crate) enum Verdict {
    /// A grant allows the request and no rule stops it.
    Allow(Allowance),
    /// Likewise, but these rules want a person to approve it.
    Ask(Allowance, Vec<FiredRule>),
    /// It is refused.
    Refuse(Box<Refusal>),
}

/// By which grant a request is allowed, and as whom.
#[derive(Debug)]
pub(crate) struct Allowance {
    pub(crate) impersonate: Arc<Impersonate>,
    pub(crate) grant: Arc<str>,
    pub(crate) rule: Arc<str>,
    pub(crate) warnings: Vec<FiredRule>,
    pub(crate) would_deny: Vec<FiredRule>,
}

/// Why a request is refused; read through [`crate::Denial`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) cause: Cause,
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<String>,
    pub(crate) message: String,
    pub(crate) allowed: String,
    pub(crate) would_deny: Vec<FiredRule>,
}
