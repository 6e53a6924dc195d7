//! Refusals in words: who may not do what, by which rule, why, and what is allowed instead.
//!
//! In: the refusal's parts, and what is allowed instead (instead.rs). Out: the text that the agent and the record get.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;

use super::builtin::implicit_grant;
use super::evaluate::{given, is_given};
use super::grants::{Grant, as_dry_run, needed};
use super::match_input::{MatchInput, may_create};
use super::namespaces::selector_in_words;
use super::rules::CompiledRule;
use super::{Cause, FiredRule};
use super::{PolicySet, Refusal};
use crate::glob::Glob;
use crate::identity::Principal;
use crate::request::{KubeRequest, Verb};

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
        let person = principal.person();
        let person = person.map(|person| format!(" on behalf of {}", person.username()));
        let mut message = format!(
            "agent {}{} may not {}{}",
            principal.name(),
            person.unwrap_or_default(),
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
            owner: principal.identity().owner.clone(),
            would_deny,
        })
    }
}

/// Globs in words: `"payments", "pay-*"`.
pub(super) fn quoted(globs: &[Glob]) -> String {
    let texts: Vec<_> = globs.iter().map(|glob| format!("\"{glob:?}\"")).collect();
    texts.join(", ")
}

/// Why a Deny rule is about a request where the request does not name what the rule names, and the rule's message.
pub(super) fn why_by_rule(
    rule: &CompiledRule,
    request: &KubeRequest,
    input: &MatchInput<'_>,
    message: &str,
) -> String {
    let mut reasons = Vec::new();
    let verb = request.verb;
    if input.is_of_all_namespaces() {
        if let Some(globs) = rule.namespaces() {
            let globs = quoted(globs);
            reasons.push(format!(
                "the rule is about namespace {globs}, which a {verb} over all namespaces includes"
            ));
        } else if let Some(selector) = rule.selector() {
            let labels = selector_in_words(selector);
            reasons.push(format!(
                "the rule is about namespaces with labels {labels}, which a {verb} over all namespaces includes"
            ));
        } else if !rule.excepted_namespaces().is_empty() {
            let globs = quoted(rule.excepted_namespaces());
            reasons.push(format!(
                "the rule leaves namespace {globs} alone, and a {verb} over all namespaces includes others"
            ));
        }
    }
    if let Some(globs) = rule.names().filter(|_| input.is_of_all_names()) {
        let globs = quoted(globs);
        reasons.push(format!(
            "the rule is about name {globs}, which a {verb} without a name can include"
        ));
    }
    let reads = rule.verbs().has(Verb::Get) || rule.verbs().has(Verb::List);
    let answers = matches!(
        verb,
        Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection
    );
    if reads && answers && !rule.verbs().has(verb) {
        reasons.push(format!(
            "the rule is about reading, and the answer to {verb} has the object"
        ));
    }
    if reasons.is_empty() {
        return message.to_owned();
    }
    let mut why = reasons.join("; ");
    if !message.is_empty() {
        why.push_str(". ");
        why.push_str(message);
    }
    why
}

/// Why no grant allows a request.
pub(super) fn why_not_granted(
    set: &PolicySet,
    principal: &Principal,
    grants: &[Arc<Grant>],
    request: &KubeRequest,
    now: Timestamp,
) -> Cow<'static, str> {
    if let (true, Some(person)) = (grants.is_empty(), principal.person()) {
        format!(
            "no AgentGrant lets this agent ask on behalf of {}",
            person.username()
        )
        .into()
    } else if grants.is_empty() && set.acts_for_people(principal.name()) {
        "all AgentGrants of this agent are on behalf of people, so nothing is allowed without the bearer token of such a person".into()
    } else if grants.is_empty() {
        "no AgentGrant names this agent, so nothing is allowed until a cluster operator adds one".into()
    } else if let Some(reason) = at_another_time(grants, request, now) {
        reason.into()
    } else if as_dry_run(request).is_some_and(|dry| is_given(grants, &dry, now)) {
        "a grant allows it as a dry run only".into()
    } else if request.apply {
        "no grant allows it; a server-side apply needs the verbs patch and create".into()
    } else if may_create(request) {
        "no grant allows it; an update can create this resource, so it needs the verbs update and create"
            .into()
    } else {
        "no grant allows it".into()
    }
}

/// Which grant allows the request at another time: the one that does so first from now on, else the last that did.
fn at_another_time(grants: &[Arc<Grant>], request: &KubeRequest, now: Timestamp) -> Option<String> {
    let (verbs, count) = needed(request);
    let missing = verbs[..count]
        .iter()
        .find(|verb| given(grants, **verb, request, now).is_none())?;
    let gives = |grant: &&Arc<Grant>| {
        implicit_grant(request).is_some() || grant.rule_for(*missing, request).is_some()
    };
    let closed = || grants.iter().filter(gives);
    let opening = |grant: &'_ Arc<Grant>| grant.window().next_opening(now);
    let next = closed()
        .filter_map(|grant| Some((opening(grant)?, grant)))
        .min_by(|one, other| (one.0, one.1.name()).cmp(&(other.0, other.1.name())));
    if let Some((next, grant)) = next {
        let window = grant.window();
        let next = window.local(next);
        return Some(format!(
            "grant {} gives this{window}; next at {next}",
            grant.name()
        ));
    }
    let ended = closed().max_by(|one, other| {
        let key = |grant: &'_ Arc<Grant>| (grant.window().end(), std::cmp::Reverse(grant.name().to_owned()));
        key(one).cmp(&key(other))
    })?;
    Some(format!(
        "grant {} gave this{}; that time is over",
        ended.name(),
        ended.window()
    ))
}
