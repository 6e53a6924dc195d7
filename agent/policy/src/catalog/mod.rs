//! Every identity, grant and policy, checked against each other and laid out for quick decisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::decide::{Cause, Decision, Denial, Impersonate, Subject};
use crate::objects::{Document, ObjectError, PodAttest, State};
use crate::request::KubeRequest;

/// An AgentIdentity that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Whether it may act.
    pub state: State,
    /// From this moment on it may not act.
    pub expires_at: Option<Timestamp>,
    /// By this moment someone should look at it again.
    pub review_by: Option<Timestamp>,
    /// The pods that are this agent.
    pub pod: PodAttest,
}

impl Identity {
    /// Whether it may act at `now`. Revocation outweighs suspension, and that expiry.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        match (self.state, self.expires_at) {
            (State::Revoked, _) => Standing::Revoked,
            (State::Suspended, _) => Standing::Suspended,
            (State::Active, Some(at)) if now >= at => Standing::Expired(at),
            (State::Active, _) => Standing::Active,
        }
    }
}

/// Whether an identity may act at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Active,
    /// Its state is Suspended.
    Suspended,
    /// Its state is Revoked.
    Revoked,
    /// It expired then.
    Expired(Timestamp),
}

/// An AgentGrant that was read and checked.
#[derive(Debug)]
pub struct Grant {
    name: Arc<str>,
    impersonate: Arc<Impersonate>,
}

/// How much a catalog holds, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Identities.
    pub identities: usize,
    /// Grants.
    pub grants: usize,
    /// Policies.
    pub policies: usize,
    /// Rules of all policies.
    pub rules: usize,
}

/// The compiled set.
#[derive(Debug, Default)]
pub struct Catalog {}

impl Catalog {
    /// Checks documents against each other and compiles them.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files.
    pub fn compile(_documents: Vec<Document>) -> Result<Self, Vec<ObjectError>> {
        Ok(Self {})
    }

    /// The identities whose attestation a pod satisfies; more than one is the caller's error to report.
    #[must_use]
    pub fn identities_of_pod(
        &self,
        _namespace: &str,
        _service_account: &str,
        _labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<Identity>> {
        Vec::new()
    }

    /// The grants that name an identity or one of its groups.
    #[must_use]
    pub fn grants_of(&self, _identity: &Identity) -> Vec<Arc<Grant>> {
        Vec::new()
    }

    /// Judges a request.
    #[must_use]
    pub fn decide(&self, subject: &Subject<'_>, _grants: &[Arc<Grant>], request: &KubeRequest) -> Decision {
        Decision::Deny(Denial {
            cause: Cause::NoGrant,
            policy: None,
            rule: None,
            message: format!("agent {} may not {}", subject.identity, request.words()),
            allowed: String::new(),
            would_deny: Vec::new(),
        })
    }
}
