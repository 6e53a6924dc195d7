//! Refusals in words: who may not do what, by which rule, why, and what is allowed instead.
//!
//! In: the refusal's parts, and what is allowed instead (instead.rs). Out: the text that the agent and the record get.

use std::sync::Arc;

use super::Refusal;
use super::grants::Grant;
use super::match_input::may_create;
use super::{Cause, FiredRule};
use crate::identity::Principal;
use crate::request::KubeRequest;

/// A refusal before it is put in words.
pub(super) struct Reasons<'a> {
    /// The kind of refusal.
    pub(super) cause: Cause,
    /// The policy.
    pub(super) policy: Option<String>,
    /// Its rule.
    pub(super) rule: Option<String>,
    /// Policy and rule, as the message has them after what was asked.
    pub(super) by: String,
    /// The reason.
    pub(super) why: &'a str,
    /// What is allowed instead.
    pub(super) allowed: String,
}

impl Reasons<'_> {
    /// The refusal of a principal's request.
    pub(super) fn refusal(
        self,
        principal: &Principal,
        request: &KubeRequest,
        would_deny: Vec<FiredRule>,
    ) -> Box<Refusal> {
        let mut message = format!(
            "agent {} may not {}{}",
            principal.name(),
            request.words(),
            self.by
        );
        if !self.why.is_empty() {
            message.push_str(": ");
            message.push_str(self.why);
        }
        if !message.ends_with(['.', '!', '?']) {
            message.push('.');
        }
        if !self.allowed.is_empty() {
            message.push_str(" Allowed instead: ");
            message.push_str(&self.allowed);
            message.push('.');
        }
        Box::new(Refusal {
            cause: self.cause,
            policy: self.policy,
            rule: self.rule,
            message,
            allowed: self.allowed,
            would_deny,
        })
    }
}

/// Why no grant allows a request.
pub(super) fn why_not_granted(grants: &[Arc<Grant>], request: &KubeRequest) -> &'static str {
    if grants.is_empty() {
        "no AgentGrant names this agent, so nothing is allowed until a cluster operator adds one"
    } else if request.apply {
        "no grant allows it; a server-side apply needs the verbs patch and create"
    } else if may_create(request) {
        "no grant allows it; an update can create this resource, so it needs the verbs update and create"
    } else {
        "no grant allows it"
    }
}
