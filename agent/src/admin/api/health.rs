//! Whether the agent serves, and which version it is.
//!
//! In: what each part says of its readiness. Out: [`ReadyReport`] and [`Version`], the answers to `/readyz` and `/version`; and
//! [`ReadyAnswer`], which is the first as a client reads it.

use serde::{Deserialize, Serialize};

/// What `/readyz` says: ready when nothing waits and nothing fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReadyReport {
    /// Parts that have not come up yet.
    pub waiting: Vec<String>,
    /// Parts that came up and do not work now, each with the reason.
    pub failing: Vec<Failing>,
}

/// A part that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failing {
    /// The part.
    pub part: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl ReadyReport {
    /// Whether the agent serves.
    pub fn ready(&self) -> bool {
        self.waiting.is_empty() && self.failing.is_empty()
    }
}

/// What `/readyz` said, of whatever version the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ReadyAnswer {
    /// Whether the agent serves.
    pub ready: bool,
    /// Parts that have not come up yet.
    pub waiting: Vec<String>,
    /// Parts that do not work now.
    pub failing: Vec<FailingPart>,
}

/// A part that does not work, as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FailingPart {
    /// The part.
    pub part: String,
    /// What is wrong.
    pub reason: String,
}

/// What `/version` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The agent's version.
    pub version: String,
}
