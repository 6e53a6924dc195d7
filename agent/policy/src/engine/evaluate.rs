//! One decision: every rule is asked, and the strictest answer holds whatever the order of files and rules.

use std::sync::Arc;

use super::PolicySet;
use super::grants::{Grant, allowed_instead, needed};
use super::match_input::{MatchInput, may_create};
use super::rules::CompiledRule;
use crate::api::v1alpha1::{Action, Mode};
use crate::decision::{Cause, Decision, Denial, Finding, Permit, Subject};
use crate::engine::builtin::{Builtin, implicit_grant};
use crate::request::{KubeRequest, VerbSet};

/// Judges a request.
pub(super) fn decide(
    set: &PolicySet,
    subject: &Subject<'_>,
    grants: &[Arc<Grant>],
    request: &KubeRequest,
) -> Decision {
    let input = MatchInput::new(request);
    let on_object = MatchInput::on_object(request);
    let besides = on_object
        .iter()
        .flat_map(|on_object| set.rules.firing(subject, on_object))
        .filter(|(rule, _)| !rule.fires(&input));
    let mut warnings: Vec<Finding> = Vec::new();
    let mut would_deny: Vec<Finding> = Vec::new();
    let mut denied: Option<&CompiledRule> = None;
    for (rule, mode) in set.rules.firing(subject, &input).chain(besides) {
        match (rule.action, mode) {
            (Action::Warn, _) => warnings.push(rule.finding(&set.rules.policies)),
            (Action::Deny, Mode::Audit) => would_deny.push(rule.finding(&set.rules.policies)),
            (Action::Deny, Mode::Enforce) => {
                // Among several the first by name is told, so that the order of files does not show.
                let key = |rule: &CompiledRule| {
                    (
                        set.rules
                            .policies
                            .get(rule.policy as usize)
                            .map(|policy| policy.name.clone()),
                        rule.name.clone(),
                    )
                };
                if denied.is_none_or(|before| key(rule) < key(before)) {
                    denied = Some(rule);
                }
            }
        }
    }
    let by_name = |a: &Finding, b: &Finding| (&a.policy, &a.rule).cmp(&(&b.policy, &b.rule));
    warnings.sort_by(by_name);
    would_deny.sort_by(by_name);

    let builtin = Builtin::ALL
        .into_iter()
        .find(|builtin| builtin.fires(request, &set.own_namespace) && !is_excepted(set, subject, *builtin));
    if let Some(builtin) = builtin {
        let refused = Refused {
            cause: Cause::Builtin,
            policy: Some("builtin".to_owned()),
            rule: Some(builtin.name().to_owned()),
            by: format!(" ({})", builtin.name()),
            why: builtin.message(),
            allowed: String::new(),
        };
        return refused.denial(subject, request, would_deny);
    }
    if let Some(rule) = denied {
        let finding = rule.finding(&set.rules.policies);
        let mut refused = rule.verbs();
        if !refused.meets(input.verbs) {
            // It is about what the request does to the object: the request itself is refused with that.
            refused = refused.with(request.verb);
        }
        let refused = Refused {
            cause: Cause::Policy,
            by: format!(" (policy {}, rule {})", finding.policy, finding.rule),
            policy: Some(finding.policy),
            rule: Some(finding.rule),
            why: &finding.message,
            allowed: allowed_instead(grants, request, refused),
        };
        return refused.denial(subject, request, would_deny);
    }
    match granted(grants, request) {
        Some((grant, rule)) => Decision::Permit(Permit {
            impersonate: grant.shared_impersonate(),
            grant: grant.shared_name(),
            rule,
            warnings,
            would_deny,
        }),
        None => {
            let why = if grants.is_empty() {
                "no AgentGrant names this agent"
            } else if request.apply {
                "no grant allows it; a server-side apply needs patch and create"
            } else if may_create(request) {
                "no grant allows it; an update of these can create them, and needs update and create"
            } else {
                "no grant allows it"
            };
            let refused = Refused {
                cause: Cause::NoGrant,
                policy: None,
                rule: None,
                by: String::new(),
                why,
                allowed: allowed_instead(grants, request, VerbSet::default()),
            };
            refused.denial(subject, request, would_deny)
        }
    }
}

/// Whether a policy about this agent makes an exception from a built-in.
fn is_excepted(set: &PolicySet, subject: &Subject<'_>, builtin: Builtin) -> bool {
    set.exceptions.iter().any(|exceptions| {
        exceptions.builtins.contains(&builtin)
            && set
                .rules
                .policies
                .get(exceptions.policy as usize)
                .is_some_and(|policy| policy.is_about(subject))
    })
}

/// The grant and rule that allow a request. Where two verbs are needed, grants may give one each.
fn granted<'g>(grants: &'g [Arc<Grant>], request: &KubeRequest) -> Option<(&'g Arc<Grant>, Arc<str>)> {
    let (verbs, count) = needed(request);
    let mut found = None;
    for verb in &verbs[..count] {
        let rule = grants
            .iter()
            .find_map(|grant| Some((grant, grant.rule_for(*verb, request)?)));
        match rule {
            Some(rule) => found = found.or(Some(rule)),
            None => {
                // What every client needs to work at all comes with any grant.
                return Some((grants.first()?, implicit_grant(request)?.into()));
            }
        }
    }
    found
}

/// A refusal before it is put in words.
struct Refused<'a> {
    cause: Cause,
    policy: Option<String>,
    rule: Option<String>,
    by: String,
    why: &'a str,
    allowed: String,
}

impl Refused<'_> {
    fn denial(self, subject: &Subject<'_>, request: &KubeRequest, would_deny: Vec<Finding>) -> Decision {
        let mut message = format!(
            "agent {} may not {}{}",
            subject.identity,
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
        Decision::Deny(Denial {
            cause: self.cause,
            policy: self.policy,
            rule: self.rule,
            message,
            allowed: self.allowed,
            would_deny,
        })
    }
}
