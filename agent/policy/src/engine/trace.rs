//! Why a decision is as it is: every built-in, rule and grant rule, each with what it said of a request.
//!
//! In: a principal, a request and the inputs of a decision. Out: a [`DecisionTrace`], for `picket policy explain` and for tests' coverage.
//!
//! A decision never makes a trace. Every rule is looked at, without the index; a test holds the two to the same verdict.

use std::sync::Arc;

use super::builtin::{Builtin, implicit_grant};
use super::condition::{Condition, Facts, Held, or_as_creation};
use super::evaluate::granted;
use super::grants::{Grant, GrantRule, needed};
use super::item_filter::{as_over_all_namespaces, can_be_filtered};
use super::match_input::MatchInput;
use super::namespaces::{Selected, selector_in_words};
use super::needs::Inputs;
use super::rules::CompiledRule;
use super::{Cause, PolicySet};
use crate::api::v1alpha1::{Action, Mode};
use crate::cel::{Activation, Root};
use crate::identity::Principal;
use crate::request::{KubeRequest, Target, Verb};

/// What a grant's rule does.
const ALLOW: &str = "Allow";

/// What every part of a policy set said of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionTrace {
    /// Built-ins, then rules of policies, then rules of grants.
    pub steps: Vec<TraceStep>,
    /// The reason of the refusal that the steps come to; `None` where the request is let through or waits for a person.
    pub refused: Option<Cause>,
}

/// What one part said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// What it is.
    pub part: TracePart,
    /// `builtin/nodes-proxy`, `policy/rule`, `grant/rules[0]`.
    pub name: String,
    /// What it does to this request where it fires: `Deny`, `Filter`, `Warn`, `RequireApproval` or `Allow`. A Filter rule denies what
    /// it cannot filter.
    pub effect: String,
    /// What it said.
    pub outcome: TraceOutcome,
    /// Whether it is about what the request is about, as far as resource or path go.
    pub concerned: bool,
}

/// A part of a policy set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracePart {
    /// A built-in deny.
    Builtin,
    /// A rule of an AgentPolicy.
    Rule,
    /// A rule of an AgentGrant, or what comes with every grant.
    Grant,
}

/// What a part said of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceOutcome {
    /// It fired.
    Fired,
    /// It fired in a policy that is in mode Audit: the record has it, and it changes nothing.
    Audited,
    /// A built-in would have fired; this policy excepts the agent, or this grant names the path.
    Lifted(String),
    /// It did not fire, for each of these reasons.
    Silent(Vec<Mismatch>),
}

/// Why a part did not fire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What does not fit.
    pub field: Field,
    /// What the rule has.
    pub rule: String,
    /// What the request has.
    pub request: String,
}

impl Mismatch {
    pub(super) fn new(field: Field, rule: impl Into<String>, request: impl Into<String>) -> Self {
        Self {
            field,
            rule: rule.into(),
            request: request.into(),
        }
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.field.name())?;
        match (self.rule.is_empty(), self.request.is_empty()) {
            (true, true) => Ok(()),
            (false, true) => write!(f, ": {}", self.rule),
            (true, false) => write!(f, ": the request has {}", self.request),
            (false, false) => write!(f, ": {}; the request has {}", self.rule, self.request),
        }
    }
}

/// What of a rule does not fit a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The agents that it is about.
    Subject,
    /// The verbs.
    Verb,
    /// The API groups.
    Group,
    /// The resources.
    Resource,
    /// The namespaces.
    Namespace,
    /// The labels of the namespace.
    NamespaceSelector,
    /// The names.
    Name,
    /// The non-resource paths.
    Path,
    /// The commands of an exec.
    Command,
    /// The streams and environment of an exec.
    Streams,
    /// The condition.
    Condition,
    /// Another part of `match`.
    Match,
    /// The hours of a grant.
    Window,
    /// `dryRun` of a grant.
    DryRun,
    /// `proxyPaths` of a grant.
    ProxyPath,
}

impl Field {
    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Verb => "verb",
            Self::Group => "group",
            Self::Resource => "resource",
            Self::Namespace => "namespace",
            Self::NamespaceSelector => "namespaceSelector",
            Self::Name => "name",
            Self::Path => "path",
            Self::Command => "command",
            Self::Streams => "streams",
            Self::Condition => "condition",
            Self::Match => "match",
            Self::Window => "window",
            Self::DryRun => "dryRun",
            Self::ProxyPath => "proxyPath",
        }
    }

    /// Whether a rule that lacks this alone is about something else altogether.
    fn is_of_target(self) -> bool {
        matches!(self, Self::Group | Self::Resource | Self::Path)
    }
}

fn effect_of(action: Action) -> String {
    format!("{action:?}")
}

fn is_about_target(outcome: &TraceOutcome) -> bool {
    let TraceOutcome::Silent(mismatches) = outcome else {
        return true;
    };
    !mismatches.iter().any(|mismatch| mismatch.field.is_of_target())
}

impl PolicySet {
    /// What every built-in, rule and grant rule says of a request.
    #[must_use]
    pub fn trace(&self, principal: &Principal, request: &KubeRequest, inputs: Inputs) -> DecisionTrace {
        let mut unread = None;
        // As the decision has it: of what no grant gives nothing is read.
        let request = match request.is_unread() && !self.gives(principal, request, inputs) {
            true => {
                let unread = unread.insert(request.clone());
                unread.forgo_objects();
                &*unread
            }
            false => request,
        };
        let mut steps = Vec::new();
        let builtins = Builtin::ALL.map(|builtin| self.trace_builtin(builtin, principal, request, inputs));
        let denies =
            |step: &TraceStep| step.outcome == TraceOutcome::Fired && step.effect == effect_of(Action::Deny);
        let stopped = builtins.iter().any(denies);
        steps.extend(builtins);
        let targets: Vec<_> = std::iter::once(MatchInput::new(request))
            .chain(MatchInput::on_object(request))
            .collect();
        let on_namespaces = as_over_all_namespaces(request);
        let listed = on_namespaces.as_ref().or(targets.first());
        let hides = |rule: &CompiledRule| {
            rule.action == Action::Filter
                && can_be_filtered(request)
                && rule.can_hide(inputs.namespaces())
                && listed.is_some_and(|listed| rule.is_about_some_of(listed))
        };
        let own = self.grants_for(principal);
        let given = granted(&own, request, inputs.now);
        let user = given.and_then(|given| given.grant.user_for(principal));
        let facts = Facts::new(principal, request, user.as_deref(), inputs.namespaces());
        let (agent, namespace) = (|| facts.agent(), || facts.namespace_object());
        let (object, old, asked) = (|| facts.object(), || facts.old_object(), || facts.request());
        let roots: [Root<'_>; 5] = [
            ("agent", &agent),
            ("namespaceObject", &namespace),
            ("object", &object),
            ("oldObject", &old),
            ("request", &asked),
        ];
        let creation = facts.as_creation();
        let created = creation.as_ref().unwrap_or(&facts);
        let (agent, namespace) = (|| created.agent(), || created.namespace_object());
        let (object, old, asked) = (|| created.object(), || created.old_object(), || created.request());
        let roots_of_creation: [Root<'_>; 5] = [
            ("agent", &agent),
            ("namespaceObject", &namespace),
            ("object", &object),
            ("oldObject", &old),
            ("request", &asked),
        ];
        let mut activation = Activation::new(&roots);
        let mut activation_of_creation = Activation::new(&roots_of_creation);
        let rules = self.rules.rules.iter();
        let rules: Vec<_> = rules
            .map(|rule| {
                let of_namespaces = match rule.action {
                    Action::Filter => on_namespaces.as_slice(),
                    _ => &[],
                };
                let mut step = self.trace_rule(
                    rule,
                    &facts,
                    (&targets, of_namespaces),
                    (&mut activation, created, &mut activation_of_creation),
                );
                if rule.action == Action::Filter && !hides(rule) {
                    step.effect = effect_of(Action::Deny);
                }
                step
            })
            .collect();
        let denied = rules.iter().any(denies);
        steps.extend(rules);
        let grants = self.trace_grants(principal, request, inputs, &mut steps);
        let refused = if stopped {
            Some(Cause::Builtin)
        } else if denied {
            Some(Cause::Policy)
        } else if grants {
            None
        } else {
            Some(Cause::NoGrant)
        };
        DecisionTrace { steps, refused }
    }

    /// Every rule of the policies, as `policy/rule`, in the order of the files.
    pub fn rule_names(&self) -> impl Iterator<Item = String> {
        self.rules.rules.iter().map(|rule| self.rule_name(rule))
    }

    fn rule_name(&self, rule: &CompiledRule) -> String {
        let (policy, name) = self.rules.name_of(rule);
        format!("{}/{name}", policy.unwrap_or_default())
    }

    fn trace_builtin(
        &self,
        builtin: Builtin,
        principal: &Principal,
        request: &KubeRequest,
        inputs: Inputs,
    ) -> TraceStep {
        let around = self.surroundings(principal);
        let hides = builtin.hides(request, around).is_some();
        let outcome = if !builtin.fires(request, around) {
            TraceOutcome::Silent(vec![Mismatch::new(
                Field::Match,
                builtin.message(),
                request.words(),
            )])
        } else if self.is_excepted(principal, builtin) {
            TraceOutcome::Lifted("an AgentPolicy's exceptions".to_owned())
        } else if self.lifted(principal, builtin, request, inputs.now).is_some() {
            TraceOutcome::Lifted("a grant's proxyPaths".to_owned())
        } else {
            TraceOutcome::Fired
        };
        TraceStep {
            part: TracePart::Builtin,
            name: builtin.name().to_owned(),
            effect: effect_of(if hides { Action::Filter } else { Action::Deny }),
            concerned: !matches!(outcome, TraceOutcome::Silent(_)),
            outcome,
        }
    }

    fn trace_rule<'s>(
        &'s self,
        rule: &'s CompiledRule,
        facts: &Facts<'_>,
        (targets, of_namespaces): (&[MatchInput<'_>], &[MatchInput<'_>]),
        (activation, created, activation_of_creation): (&mut Activation<'s>, &Facts<'_>, &mut Activation<'s>),
    ) -> TraceStep {
        let principal = facts.principal;
        let policy = self.rules.policies.get(rule.policy as usize);
        let mut why = Vec::new();
        if !policy.is_some_and(|policy| policy.is_about(principal)) {
            why.push(Mismatch::new(
                Field::Subject,
                "the policy's subjects",
                principal.name(),
            ));
        }
        let mut all = targets.iter().chain(of_namespaces);
        let fits = all.any(|target| rule.fires(target));
        if !fits {
            why.extend(
                targets
                    .first()
                    .into_iter()
                    .flat_map(|target| rule.mismatches(target)),
            );
        }
        let selected = fits.then(|| rule.selects(facts.request, facts.namespaces));
        if selected == Some(Selected::No) {
            let words = rule.selector().map(selector_in_words).unwrap_or_default();
            let namespace = facts.request.namespace().unwrap_or_default();
            why.push(Mismatch::new(Field::NamespaceSelector, words, namespace));
        } else if fits && let Some(condition) = &rule.condition {
            let mut held = match rule.is_about_unseen(facts.request, targets.get(1..).unwrap_or_default()) {
                true => Condition::holds_unseen(facts),
                false => condition.holds(facts, activation),
            };
            if condition.uses_request() && !std::ptr::eq(created, facts) {
                held = or_as_creation(held, || condition.holds(created, activation_of_creation));
            }
            match held {
                Held::Yes | Held::Failed(_) => {}
                Held::No => why.push(Mismatch::new(Field::Condition, condition.text(), "false")),
                Held::Ignored(failure) => {
                    why.push(Mismatch::new(
                        Field::Condition,
                        condition.text(),
                        failure.explain(facts.request),
                    ));
                }
            }
        }
        let audits = policy.is_some_and(|policy| policy.mode == Mode::Audit) && rule.action != Action::Warn;
        let outcome = match (why.is_empty(), audits) {
            (true, false) => TraceOutcome::Fired,
            (true, true) => TraceOutcome::Audited,
            (false, _) => TraceOutcome::Silent(why),
        };
        TraceStep {
            part: TracePart::Rule,
            name: self.rule_name(rule),
            effect: effect_of(rule.action),
            concerned: is_about_target(&outcome),
            outcome,
        }
    }

    /// Notes what each grant rule says, and tells whether all that the request needs is given.
    fn trace_grants(
        &self,
        principal: &Principal,
        request: &KubeRequest,
        inputs: Inputs,
        steps: &mut Vec<TraceStep>,
    ) -> bool {
        let own = self.grants_for(principal);
        let (verbs, count) = needed(request);
        let mut wanted: Vec<Verb> = verbs[..count].to_vec();
        let any_in_force = own.iter().any(|grant| grant.in_force(inputs.now).is_some());
        for grant in self.grants() {
            let is_own = own.iter().any(|other| Arc::ptr_eq(grant, other));
            for rule in grant.rules() {
                let why = why_not_given(grant, rule, (principal, request), inputs, is_own, &verbs[..count]);
                if why.is_empty() {
                    wanted.retain(|verb| !rule.verbs.has(*verb));
                }
                let outcome = match why.is_empty() {
                    true => TraceOutcome::Fired,
                    false => TraceOutcome::Silent(why),
                };
                steps.push(TraceStep {
                    part: TracePart::Grant,
                    name: format!("{}/{}", grant.name(), rule.label),
                    effect: ALLOW.to_owned(),
                    concerned: is_own && is_about_target(&outcome),
                    outcome,
                });
            }
        }
        let Some(implicit) = implicit_grant(request) else {
            return wanted.is_empty();
        };
        steps.push(TraceStep {
            part: TracePart::Grant,
            name: implicit.to_owned(),
            effect: ALLOW.to_owned(),
            outcome: match any_in_force {
                true => TraceOutcome::Fired,
                false => {
                    TraceOutcome::Silent(vec![Mismatch::new(Field::Window, "needs a grant in force", "")])
                }
            },
            concerned: true,
        });
        wanted.is_empty() || any_in_force
    }
}

/// Why a grant's rule does not give any of these verbs.
fn why_not_given(
    grant: &Grant,
    rule: &GrantRule,
    (principal, request): (&Principal, &KubeRequest),
    inputs: Inputs,
    is_own: bool,
    verbs: &[Verb],
) -> Vec<Mismatch> {
    let mut why = Vec::new();
    let mut note = |field, rule: String, request: &str| why.push(Mismatch::new(field, rule, request));
    if !is_own {
        let person = principal
            .person()
            .map(|person| format!(" for {}", person.username()));
        let who = format!("{}{}", principal.name(), person.unwrap_or_default());
        note(Field::Subject, "the grant's `to` and `upstream`".to_owned(), &who);
    }
    if !verbs.iter().any(|verb| rule.verbs.has(*verb)) {
        let words: Vec<_> = verbs.iter().map(|verb| verb.as_str()).collect();
        note(
            Field::Verb,
            super::trace_words::verbs_in_words(rule.verbs),
            &words.join(", "),
        );
    }
    let before_target = !rule.is_about(request);
    match &request.target {
        Target::NonResource { path } if before_target => {
            let has = if rule.urls.is_empty() {
                "resources".to_owned()
            } else {
                rule.urls.join(", ")
            };
            note(Field::Path, has, path);
        }
        Target::Resource { .. } if !rule.urls.is_empty() => {
            note(Field::Path, rule.urls.join(", "), "a resource");
        }
        Target::Resource {
            group,
            resource,
            subresource,
            name,
            ..
        } if before_target => {
            if !rule.group_matches(group) {
                note(Field::Group, rule.groups.join(", "), group);
            }
            if !rule.resource_matches(resource, subresource.as_deref()) {
                note(
                    Field::Resource,
                    rule.resources.join(", "),
                    &request.resource_words(),
                );
            }
            if !rule.name_matches(name.as_deref()) {
                note(
                    Field::Name,
                    rule.names.join(", "),
                    name.as_deref().unwrap_or("none"),
                );
            }
        }
        _ => {}
    }
    if !grant.holds_in(request.namespace()) {
        let globs = super::trace_words::joined(grant.namespaces());
        note(Field::Namespace, globs, request.namespace().unwrap_or("none"));
    }
    if !before_target && !rule.gives_such(request) {
        let (field, has) = match rule.dry_run_only {
            true => (Field::DryRun, "Only".to_owned()),
            false => (Field::ProxyPath, rule.proxy_paths.join(", ")),
        };
        note(field, has, request.proxy_path.as_deref().unwrap_or_default());
    }
    if grant.in_force(inputs.now).is_none() {
        let window = grant.window().to_string();
        note(
            Field::Window,
            window.trim_start().to_owned(),
            &inputs.now.to_string(),
        );
    }
    why
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
