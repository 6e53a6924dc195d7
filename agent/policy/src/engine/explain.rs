//! Refusals in words: who may not do what, by which rule, why, and what is allowed instead.
//!
//! In: the refusal's parts and the agent's grants. Out: the text that the agent and the record get.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Refusal;
use super::grants::Grant;
use super::match_input::may_create;
use super::{Cause, FiredRule};
use crate::identity::Principal;
use crate::request::{KubeRequest, Target, Verb, VerbSet};

/// Longest text that says what is allowed instead, in bytes.
const MAX_ALLOWED: usize = 300;

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

/// What the grants allow on the same resource but for these verbs; where that is nothing, what they are about at all.
pub(super) fn allowed_instead(grants: &[Arc<Grant>], request: &KubeRequest, refused: VerbSet) -> String {
    let Target::Resource {
        group,
        resource,
        subresource,
        ..
    } = &request.target
    else {
        return String::new();
    };
    let mut places: Vec<String> = Vec::new();
    for grant in grants {
        for rule in grant.rules() {
            if !rule.group_matches(group) || !rule.resource_matches(resource, subresource.as_deref()) {
                continue;
            }
            let verbs: Vec<_> = Verb::of_resources()
                .filter(|verb| rule.verbs.has(*verb) && !refused.has(*verb))
                .collect();
            if verbs.is_empty() {
                continue;
            }
            let verbs: Vec<_> = verbs.iter().map(|verb| verb.as_str()).collect();
            let mut place = format!("{} {}", verbs.join(", "), request.resource_words());
            if !rule.names.is_empty() {
                let _ = write!(place, " named {}", rule.names.join(", "));
            }
            push_namespaces(&mut place, grant);
            places.push(place);
        }
    }
    if places.is_empty() {
        for grant in grants {
            let mut resources: Vec<&str> = grant
                .rules()
                .iter()
                .flat_map(|rule| rule.resources.iter().map(String::as_str))
                .collect();
            resources.dedup();
            if resources.is_empty() {
                continue;
            }
            let mut place = match resources.contains(&"*") {
                // Not this one, of which nothing is left.
                true => "requests for other resources".to_owned(),
                false => format!("requests for {}", resources.join(", ")),
            };
            push_namespaces(&mut place, grant);
            places.push(place);
        }
    }
    places.dedup();
    shorten(places.join("; "))
}

fn push_namespaces(place: &mut String, grant: &Grant) {
    if !grant.namespaces().is_empty() {
        let names: Vec<_> = grant
            .namespaces()
            .iter()
            .map(|glob| format!("{glob:?}"))
            .collect();
        let _ = write!(place, " in namespace {}", names.join(", "));
    }
}

/// Cuts a text at a character's boundary and says so.
fn shorten(mut text: String) -> String {
    if text.len() > MAX_ALLOWED {
        let mut end = MAX_ALLOWED - "...".len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}
