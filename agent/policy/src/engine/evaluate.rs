//! One evaluation: every rule is asked, and the strictest answer holds whatever the order of files and rules.
//!
//! In: a principal, a request, and the inputs that were named as needed. Out: a [`Evaluation`].

use std::sync::Arc;

use jiff::Timestamp;

use super::builtin::{Builtin, Surroundings, implicit_grant};
use super::condition::{Condition, Facts, Failure, Held, or_as_creation};
use super::explain::{Reasons, why_by_rule, why_not_granted};
use super::grants::{Grant, needed};
use super::item_filter::{Hidden, ItemFilter, as_over_all_namespaces, can_be_filtered};
use super::match_input::MatchInput;
use super::namespaces::Selected;
use super::needs::Inputs;
use super::rules::CompiledRule;
use super::{Allowance, Evaluation, PolicySet, Refusal};
use super::{Cause, FiredRule};
use crate::api::v1alpha1::{Action, Mode};
use crate::cel::{Activation, Root};
use crate::identity::Principal;
use crate::request::{KubeRequest, Verb, VerbSet};

/// The rules that fired, by what they do.
#[derive(Default)]
struct Fired<'s> {
    warnings: Vec<FiredRule>,
    would_deny: Vec<FiredRule>,
    asks: Vec<FiredRule>,
    denied: Option<(&'s CompiledRule, Option<Failure>)>,
    hidden: Vec<Arc<Hidden>>,
}

impl PolicySet {
    /// Judges a request.
    pub(crate) fn evaluate(
        &self,
        principal: &Principal,
        request: &KubeRequest,
        inputs: Inputs,
    ) -> Evaluation {
        let input = MatchInput::new(request);
        let grants = &*self.grants_for(principal);
        let given = granted(grants, request, inputs.now);
        let given = given.and_then(|given| Some((given.grant.user_for(principal)?, given)));
        let user = given.as_ref().map(|(user, _)| &**user);
        let facts = Facts::new(principal, request, user, inputs.namespaces());
        let fired = self.fired(&facts, &input);
        let mut hidden = fired.hidden;
        let lifted = match self.builtin(principal, request, inputs.now) {
            Ok(passed) => {
                hidden.extend(passed.hidden);
                passed.lifted
            }
            Err(builtin) => {
                let refusal = self.refused_by_builtin(builtin, principal, request, inputs, fired.would_deny);
                return Evaluation::Refuse(refusal);
            }
        };
        if let Some(denied) = fired.denied {
            let refusal = self.refused_by(denied, principal, request, (&input, inputs), fired.would_deny);
            return Evaluation::Refuse(refusal);
        }
        let Some((user, given)) = given else {
            let reasons = Reasons {
                cause: Cause::NoGrant,
                policy: None,
                rule: None,
                by: String::new(),
                why: &why_not_granted(self, principal, grants, request, inputs.now),
                allowed: self.allowed_instead(principal, request, inputs, (None, VerbSet::default())),
            };
            return Evaluation::Refuse(reasons.refusal(principal, request, fired.would_deny));
        };
        let allowance = Allowance {
            user,
            grant: given.grant.shared_name(),
            rule: given.rule,
            until: sooner(given.until, lifted.and_then(|lifted| lifted.until)),
            warnings: fired.warnings,
            would_deny: fired.would_deny,
            filter: ItemFilter::new(request, hidden, inputs.namespaces()),
        };
        if fired.asks.is_empty() {
            Evaluation::Allow(allowance)
        } else {
            Evaluation::Ask(allowance, fired.asks)
        }
    }

    /// The built-in that refuses a request; else how long a grant lifts one, if it has to, and what is hidden in place of a refusal.
    fn builtin(
        &self,
        principal: &Principal,
        request: &KubeRequest,
        now: Timestamp,
    ) -> Result<PastBuiltins, Builtin> {
        let mut past = PastBuiltins::default();
        let around = self.surroundings(principal);
        for builtin in Builtin::ALL {
            if !builtin.fires(request, around) || self.is_excepted(principal, builtin) {
                continue;
            }
            if let Some(namespace) = builtin.hides(request, around) {
                past.hidden = Some(Arc::new(Hidden::namespace(builtin.name(), namespace)));
                continue;
            }
            past.lifted = Some(self.lifted(principal, builtin, request, now).ok_or(builtin)?);
        }
        Ok(past)
    }

    /// Whether a built-in would refuse the request for what its object could be.
    pub(super) fn builtin_needs_object(&self, principal: &Principal, request: &KubeRequest) -> bool {
        let around = self.surroundings(principal);
        Builtin::ALL
            .into_iter()
            .any(|builtin| builtin.fires(request, around) && !self.is_excepted(principal, builtin))
    }

    /// What the built-ins are judged by besides a request of this agent.
    pub(super) fn surroundings<'a>(&'a self, principal: &'a Principal) -> Surroundings<'a> {
        Surroundings {
            own_namespace: &self.own_namespace,
            agents: &self.agent_namespaces,
            caller: principal.name(),
        }
    }

    /// Whether a grant in force names the very path behind a proxy that a built-in refuses.
    pub(super) fn lifted(
        &self,
        principal: &Principal,
        builtin: Builtin,
        request: &KubeRequest,
        now: Timestamp,
    ) -> Option<Lifted> {
        if !builtin.is_of_proxies() {
            return None;
        }
        let grants = self.grants_for(principal);
        let mut grants = grants.iter();
        grants.find_map(|grant| {
            let until = grant.in_force(now)?;
            grant.gives_proxied(request).then_some(Lifted { until })
        })
    }

    /// The refusal by a built-in.
    fn refused_by_builtin(
        &self,
        builtin: Builtin,
        principal: &Principal,
        request: &KubeRequest,
        inputs: Inputs,
        would_deny: Vec<FiredRule>,
    ) -> Box<Refusal> {
        let reasons = Reasons {
            cause: Cause::Builtin,
            policy: Some("builtin".to_owned()),
            rule: Some(builtin.name().to_owned()),
            by: format!(" ({})", builtin.name()),
            why: builtin.message(),
            allowed: self.instead_of_builtin(principal, request, inputs, builtin),
        };
        reasons.refusal(principal, request, would_deny)
    }

    /// Whether a request would be permitted, or held for an approval.
    pub(super) fn may_pass(&self, principal: &Principal, request: &KubeRequest, inputs: Inputs) -> bool {
        if self.builtin(principal, request, inputs.now).is_err() {
            return false;
        }
        let grants = self.grants_for(principal);
        let given = granted(&grants, request, inputs.now);
        let Some(user) = given.and_then(|given| given.grant.user_for(principal)) else {
            return false;
        };
        let facts = Facts::new(principal, request, Some(&user), inputs.namespaces());
        self.fired(&facts, &MatchInput::new(request)).denied.is_none()
    }

    /// Every rule that fires on a request, or on what the request does to its object.
    fn fired<'s>(&'s self, facts: &Facts<'_>, input: &MatchInput<'_>) -> Fired<'s> {
        let principal = facts.principal;
        let on_object = MatchInput::on_object(facts.request);
        let besides = on_object
            .iter()
            .flat_map(|on_object| self.rules.firing(principal, on_object))
            .filter(|(rule, _)| !rule.fires(input));
        let on_namespaces = as_over_all_namespaces(facts.request);
        let of_namespaces = on_namespaces
            .iter()
            .flat_map(|on_namespaces| self.rules.firing(principal, on_namespaces))
            .filter(|(rule, _)| rule.action == Action::Filter && !rule.fires(input));
        let filterable = can_be_filtered(facts.request);
        let mut fired = Fired::default();
        let (agent, namespace) = (|| facts.agent(), || facts.namespace_object());
        let (object, old, asked) = (|| facts.object(), || facts.old_object(), || facts.request());
        let roots: [Root<'_>; 5] = [
            ("agent", &agent),
            ("namespaceObject", &namespace),
            ("object", &object),
            ("oldObject", &old),
            ("request", &asked),
        ];
        // Most decisions evaluate nothing, and an activation allocates.
        let mut activation = None;
        let creation = facts.as_creation();
        let creation = creation.as_ref().unwrap_or(facts);
        let (agent, namespace) = (|| creation.agent(), || creation.namespace_object());
        let (object, old, asked) = (
            || creation.object(),
            || creation.old_object(),
            || creation.request(),
        );
        let roots_of_creation: [Root<'_>; 5] = [
            ("agent", &agent),
            ("namespaceObject", &namespace),
            ("object", &object),
            ("oldObject", &old),
            ("request", &asked),
        ];
        let mut activation_of_creation = None;
        let firing = self.rules.firing(principal, input).chain(besides);
        for (rule, mode) in firing.chain(of_namespaces) {
            let selected = rule.selects(facts.request, facts.namespaces);
            let held = match &rule.condition {
                _ if selected == Selected::No => Held::No,
                None => Held::Yes,
                Some(_) if rule.is_about_unseen(facts.request, &on_object) => Condition::holds_unseen(facts),
                // The policies changed since: nobody held the write to what was looked at.
                Some(condition)
                    if condition.uses_old_object()
                        && facts.request.is_only_looked_at()
                        && can_stop(rule, mode) =>
                {
                    Condition::holds_unseen(facts)
                }
                Some(condition) => {
                    let activation = activation.get_or_insert_with(|| Activation::new(&roots));
                    let held = condition.holds(facts, activation);
                    match condition.uses_request() && !std::ptr::eq(creation, facts) {
                        true => or_as_creation(held, || {
                            let activation = activation_of_creation
                                .get_or_insert_with(|| Activation::new(&roots_of_creation));
                            condition.holds(creation, activation)
                        }),
                        false => held,
                    }
                }
            };
            let failure = match (held, selected) {
                (Held::No, _) => continue,
                (Held::Failed(failure) | Held::Ignored(failure), _) => Some(failure),
                (Held::Yes, Selected::Unknown(why)) => Some(Failure::of_labels(why)),
                // Without any labels each list would look empty, so that it is refused.
                (Held::Yes, _) if rule.action == Action::Filter => rule
                    .selector()
                    .and_then(|_| facts.namespaces.why_unknown())
                    .map(Failure::of_labels),
                (Held::Yes, _) => None,
            };
            let finding = || rule.finding(&self.rules.policies, (failure, facts.request));
            match (rule.action, mode, held) {
                (Action::Deny | Action::Filter | Action::RequireApproval, _, Held::Ignored(_))
                | (Action::Deny | Action::Filter | Action::RequireApproval, Mode::Audit, _) => {
                    fired.would_deny.push(finding())
                }
                (Action::Filter, Mode::Enforce, _)
                    if filterable
                        && rule.can_hide(facts.namespaces)
                        && rule.is_about_some_of(on_namespaces.as_ref().unwrap_or(input)) =>
                {
                    fired.hidden.extend(rule.hidden.clone());
                    let finding = finding();
                    // A rule with a message tells whoever reads the list that it is not whole.
                    if !finding.message.is_empty() {
                        fired.warnings.push(finding);
                    }
                }
                (Action::Warn, _, Held::Ignored(_)) => {}
                (Action::Warn, ..) => fired.warnings.push(finding()),
                (Action::RequireApproval, Mode::Enforce, _) => fired.asks.push(finding()),
                (Action::Deny | Action::Filter, Mode::Enforce, _) => {
                    // Among several the first by name is told, so that the order of files does not show.
                    let is_first = |(before, _): (&CompiledRule, _)| {
                        self.rules.name_of(rule) < self.rules.name_of(before)
                    };
                    if fired.denied.is_none_or(is_first) {
                        fired.denied = Some((rule, failure));
                    }
                }
            }
        }
        let by_name = |a: &FiredRule, b: &FiredRule| (&a.policy, &a.rule).cmp(&(&b.policy, &b.rule));
        for findings in [&mut fired.warnings, &mut fired.would_deny, &mut fired.asks] {
            findings.sort_by(by_name);
            // A rule may be about several of the things that a request does.
            findings.dedup();
        }
        fired
    }

    /// The refusal by a Deny rule.
    fn refused_by(
        &self,
        (rule, failure): (&CompiledRule, Option<Failure>),
        principal: &Principal,
        request: &KubeRequest,
        (input, inputs): (&MatchInput<'_>, Inputs),
        would_deny: Vec<FiredRule>,
    ) -> Box<Refusal> {
        let finding = rule.finding(&self.rules.policies, (failure, request));
        let mut refused = rule.refused_verbs();
        if !refused.meets(input.verbs) {
            // It is about what the request does to the object: the request itself is refused with that.
            refused = refused.with(request.verb);
        }
        if request.is_session() {
            // Opened by either, as SPDY or WebSocket clients do.
            refused = refused.with(Verb::Get).with(Verb::Create);
        }
        let why = why_by_rule(rule, request, input, &finding.message);
        let reasons = Reasons {
            cause: Cause::Policy,
            by: format!(" (policy {}, rule {})", finding.policy, finding.rule),
            policy: Some(finding.policy),
            rule: Some(finding.rule),
            why: &why,
            allowed: self.allowed_instead_of_rule(rule, principal, request, (input, inputs), refused),
        };
        reasons.refusal(principal, request, would_deny)
    }

    /// Whether a policy about this agent makes an exception from a built-in.
    pub(super) fn is_excepted(&self, principal: &Principal, builtin: Builtin) -> bool {
        self.exceptions.iter().any(|exceptions| {
            exceptions.builtins.contains(&builtin)
                && self
                    .rules
                    .policies
                    .get(exceptions.policy as usize)
                    .is_some_and(|policy| policy.is_about(principal))
        })
    }
}

/// Whether a rule that fires stops a request, and does not only note or warn.
pub(super) fn can_stop(rule: &CompiledRule, mode: Mode) -> bool {
    rule.action != Action::Warn && mode == Mode::Enforce
}

/// What became of the built-ins that did not refuse a request.
#[derive(Default)]
struct PastBuiltins {
    lifted: Option<Lifted>,
    hidden: Option<Arc<Hidden>>,
}

/// That a grant lifts a built-in for a request.
pub(super) struct Lifted {
    /// The first moment at which it may no longer.
    until: Option<Timestamp>,
}

fn sooner(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}

/// What gives a request.
pub(super) struct Given<'g> {
    pub(super) grant: &'g Arc<Grant>,
    rule: Arc<str>,
    /// The first moment at which it may be given no longer.
    until: Option<Timestamp>,
}

/// The grant in force and the rule that allow a request. Where two verbs are needed, grants may give one each.
pub(super) fn granted<'g>(
    grants: &'g [Arc<Grant>],
    request: &KubeRequest,
    now: Timestamp,
) -> Option<Given<'g>> {
    let (verbs, count) = needed(request);
    let mut found: Option<Given<'g>> = None;
    for verb in &verbs[..count] {
        let Some(given) = given(grants, *verb, request, now) else {
            return implicitly_granted(grants, request, now);
        };
        found = Some(match found {
            Some(first) => Given {
                until: sooner(first.until, given.until),
                ..first
            },
            None => given,
        });
    }
    found
}

/// Whether grants in force allow a request.
pub(super) fn is_given(grants: &[Arc<Grant>], request: &KubeRequest, now: Timestamp) -> bool {
    granted(grants, request, now).is_some()
}

/// The grant in force that gives one verb.
pub(super) fn given<'g>(
    grants: &'g [Arc<Grant>],
    verb: Verb,
    request: &KubeRequest,
    now: Timestamp,
) -> Option<Given<'g>> {
    grants.iter().find_map(|grant| {
        let rule = grant.rule_for(verb, request)?;
        let until = grant.in_force(now)?;
        Some(Given { grant, rule, until })
    })
}

/// What every client needs to work at all comes with any grant in force.
fn implicitly_granted<'g>(
    grants: &'g [Arc<Grant>],
    request: &KubeRequest,
    now: Timestamp,
) -> Option<Given<'g>> {
    let rule = implicit_grant(request)?;
    grants.iter().find_map(|grant| {
        Some(Given {
            grant,
            rule: rule.into(),
            until: grant.in_force(now)?,
        })
    })
}
