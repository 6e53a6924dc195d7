//! What an evaluation comes to: the parts of which [`crate::decision`] makes a permit, an ask or a denial.
//!
//! In: the grant that allows the request, and the rules that fired. Out: a [`Evaluation`], with the user upstream or the [`Cause`] of a
//! refusal.

use std::sync::Arc;

use jiff::Timestamp;

use super::ItemFilter;
use crate::upstream_user::UpstreamUser;

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
pub(crate) enum Evaluation {
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
    pub(crate) user: Arc<UpstreamUser>,
    pub(crate) grant: Arc<str>,
    pub(crate) rule: Arc<str>,
    /// The first moment at which time alone may end what the grant gives.
    pub(crate) until: Option<Timestamp>,
    pub(crate) warnings: Vec<FiredRule>,
    pub(crate) would_deny: Vec<FiredRule>,
    /// What is taken out of the answer.
    pub(crate) filter: Option<Arc<ItemFilter>>,
}

/// Why a request is refused; read through [`crate::Denial`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) cause: Cause,
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<String>,
    pub(crate) message: String,
    pub(crate) allowed: String,
    /// Who answers for the agent.
    pub(crate) owner: String,
    pub(crate) would_deny: Vec<FiredRule>,
}
