//! What a client and the record are told of a request above a limit.
//!
//! In: the limit, its policy, and when to try again. Out: a [`LimitExceeded`], which `reject` makes the answer of.

use std::fmt;
use std::sync::Arc;

use picket_policy::Rate;

use super::breaker::OpenBreaker;

/// A field of `spec.limits` that refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests a second.
    Rate,
    /// Requests at once.
    Concurrent,
    /// The same refused request.
    RepeatedDenials,
}

impl LimitKind {
    pub(super) const ALL: [LimitKind; 3] =
        [LimitKind::Rate, LimitKind::Concurrent, LimitKind::RepeatedDenials];

    /// The field's name.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            LimitKind::Rate => "requestsPerSecond",
            LimitKind::Concurrent => "concurrentRequests",
            LimitKind::RepeatedDenials => "repeatedDenialsPerMinute",
        }
    }

    /// What records name as the rule.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            LimitKind::Rate => "limits.requestsPerSecond",
            LimitKind::Concurrent => "limits.concurrentRequests",
            LimitKind::RepeatedDenials => "limits.repeatedDenialsPerMinute",
        }
    }

    /// A stable name for metrics and records.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            LimitKind::Rate => "rate_limited",
            LimitKind::Concurrent => "too_many_requests_at_once",
            LimitKind::RepeatedDenials => "loop",
        }
    }
}

/// The number that was exceeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exceeded {
    Rate(Rate),
    Concurrent(u32),
    RepeatedDenials { most: u32, refusal: String },
}

impl Exceeded {
    pub(super) fn kind(&self) -> LimitKind {
        match self {
            Exceeded::Rate(_) => LimitKind::Rate,
            Exceeded::Concurrent(_) => LimitKind::Concurrent,
            Exceeded::RepeatedDenials { .. } => LimitKind::RepeatedDenials,
        }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exceeded::Rate(Rate { per_second, burst }) => {
                write!(out, "more than {per_second} requests a second, {burst} at once")
            }
            Exceeded::Concurrent(most) => {
                write!(
                    out,
                    "more than {most} requests under way, watches and sessions included"
                )
            }
            Exceeded::RepeatedDenials { most, .. } => {
                write!(out, "the same refused request more than {most} times a minute")
            }
        }
    }
}

/// What a repetition is to the log.
#[derive(Debug, Clone)]
pub enum Repeat {
    /// The first one above the limit. Its record stands for the further ones.
    First(Arc<OpenBreaker>),
    /// A further one, without a record of its own.
    Further(Arc<OpenBreaker>),
}

/// A request above a limit.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.words())]
pub struct LimitExceeded(Box<Facts>);

#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) agent: Arc<str>,
    /// Who answers for the agent.
    pub(super) owner: String,
    pub(super) policy: Arc<str>,
    pub(super) exceeded: Exceeded,
    pub(super) retry_after: u32,
    /// Whether it is the first one for a while.
    pub(super) news: bool,
    pub(super) repeat: Option<Repeat>,
}

impl Facts {
    fn words(&self) -> String {
        let Facts {
            agent,
            owner,
            policy,
            exceeded,
            retry_after,
            ..
        } = self;
        let rule = exceeded.kind().rule();
        let seconds = match retry_after {
            1 => "1 second".to_owned(),
            seconds => format!("{seconds} seconds"),
        };
        match exceeded {
            Exceeded::RepeatedDenials { refusal, .. } => format!(
                "agent {agent} sends {exceeded} (policy {policy}, {rule}). Do not repeat it: Picket answers it again after \
                 {seconds}, and its refusal is: {refusal}"
            ),
            _ => format!(
                "agent {agent} sends {exceeded} (policy {policy}, {rule}). Try again after {seconds}; ask {owner} if the agent \
                 needs more"
            ),
        }
    }
}

impl LimitExceeded {
    pub(super) fn new(facts: Facts) -> Self {
        Self(Box::new(facts))
    }

    /// Which limit it is.
    #[must_use]
    pub fn kind(&self) -> LimitKind {
        self.0.exceeded.kind()
    }

    /// The AgentPolicy that sets it.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.0.policy
    }

    /// Seconds until another try may pass; at least 1.
    #[must_use]
    pub fn retry_after(&self) -> u32 {
        self.0.retry_after
    }

    /// The limit in words, for a program's cause.
    #[must_use]
    pub fn limit(&self) -> String {
        format!("policy {}: {}", self.0.policy, self.0.exceeded)
    }

    /// Whether nobody was told of this limit for the last minute.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.0.news
    }

    /// What it is to the log, where it repeats a refused request.
    #[must_use]
    pub fn repeat(&self) -> Option<&Repeat> {
        self.0.repeat.as_ref()
    }
}
