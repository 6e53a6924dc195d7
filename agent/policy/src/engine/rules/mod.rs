//! Rules, compiled, and the policies they are of.
//!
//! In: AgentPolicies. Out: the rules that are about a request, each with its policy's mode.

mod rule;

use std::collections::HashMap;
use std::sync::Arc;

use super::condition::Condition;
use super::index::Index;
use super::match_input::MatchInput;
use super::namespaces::NamespaceUse;
use crate::api::v1alpha1::{AgentPolicy, Mode, Subjects, composition};
use crate::glob::Glob;
use crate::identity::Principal;

pub(in crate::engine) use rule::CompiledRule;

/// A list of globs; `None` matches anything.
type Globs = Option<Box<[Glob]>>;

/// A compiled policy without its rules.
#[derive(Debug)]
pub(in crate::engine) struct CompiledPolicy {
    /// Its name.
    pub(in crate::engine) name: Arc<str>,
    /// Whether it refuses.
    pub(in crate::engine) mode: Mode,
    subjects: Option<CompiledSubjects>,
}

#[derive(Debug)]
struct CompiledSubjects {
    identities: Box<[Glob]>,
    groups: Box<[Glob]>,
    namespaces: Box<[Glob]>,
}

/// Compiles a list of a rule's match that reading has checked; a glob that fails here all the same matches anything, so that a fault
/// in the checks can only refuse more.
fn globs(list: &[String], compile: fn(&str) -> Result<Glob, crate::glob::GlobError>) -> Box<[Glob]> {
    globs_or(&Glob::Any, list, compile)
}

/// Likewise; a glob that fails becomes `otherwise`.
fn globs_or(
    otherwise: &Glob,
    list: &[String],
    compile: fn(&str) -> Result<Glob, crate::glob::GlobError>,
) -> Box<[Glob]> {
    list.iter()
        .map(|text| compile(text).unwrap_or_else(|_| otherwise.clone()))
        .collect()
}

impl CompiledPolicy {
    pub(in crate::engine) fn new(policy: &AgentPolicy) -> Self {
        // Likewise: rules hold for everybody then, and exceptions for nobody.
        let otherwise = match policy.spec.exceptions.is_empty() {
            true => Glob::Any,
            false => Glob::Exact("".into()),
        };
        let subjects = policy.spec.subjects.as_ref().map(|subjects| CompiledSubjects {
            identities: globs_or(&otherwise, &subjects.identities, Glob::name),
            groups: globs_or(&otherwise, &subjects.groups, Glob::name),
            namespaces: globs_or(&otherwise, &subjects.namespaces, Glob::name),
        });
        Self {
            name: policy.metadata.name.as_str().into(),
            mode: policy.spec.mode,
            subjects,
        }
    }

    /// Whether an agent is one of those the policy is about.
    pub(in crate::engine) fn is_about(&self, principal: &Principal) -> bool {
        self.names(principal.name(), principal.groups(), principal.namespace())
    }

    /// Likewise, by what an agent has.
    pub(in crate::engine) fn names(
        &self,
        identity: &str,
        groups: &[String],
        namespace: Option<&str>,
    ) -> bool {
        let Some(subjects) = &self.subjects else {
            return true;
        };
        let is_of_group = |glob: &Glob| groups.iter().any(|group| glob.matches(group));
        let is_there = |glob: &Glob| namespace.is_some_and(|namespace| glob.matches(namespace));
        subjects.identities.iter().any(|glob| glob.matches(identity))
            || subjects.groups.iter().any(is_of_group)
            || subjects.namespaces.iter().any(is_there)
    }
}

/// The identities a policy is about, if it names nothing but identities and each plainly.
pub(in crate::engine) fn only_identities(subjects: Option<&Subjects>) -> Option<Vec<&str>> {
    let subjects = subjects?;
    let plain = subjects.identities.iter().all(|name| !name.contains(['*', '?']));
    let mut names: Vec<_> = subjects.identities.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    (plain && subjects.groups.is_empty() && subjects.namespaces.is_empty()).then_some(names)
}

/// Every policy and rule.
#[derive(Debug, Default)]
pub(in crate::engine) struct RuleSet {
    /// The policies.
    pub(in crate::engine) policies: Vec<CompiledPolicy>,
    /// Their rules.
    pub(in crate::engine) rules: Vec<CompiledRule>,
    /// Whether any rule looks into objects or at their names, so that most sets are done with one look.
    objects: bool,
    namespaces: NamespaceUse,
    by_identity: HashMap<Box<str>, Index>,
    shared: Index,
}

impl RuleSet {
    /// Adds a policy's rules.
    pub(in crate::engine) fn add(&mut self, policy: &AgentPolicy) {
        let place = u32::try_from(self.policies.len()).unwrap_or(u32::MAX);
        self.policies.push(CompiledPolicy::new(policy));
        let identities = only_identities(policy.spec.subjects.as_ref());
        // Reading has checked them; where one fails all the same, so does each expression that uses it, and its rule fires.
        let composition = composition(policy.spec.params.as_ref(), &policy.spec.variables);
        let variables = Arc::new(composition.unwrap_or_default());
        for rule in &policy.spec.rules {
            let condition = Condition::of(rule, &variables, policy.spec.failure_policy);
            let number = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
            let rule = CompiledRule::new((place, &policy.metadata.name), rule, condition);
            let (entry, about) = (rule.entry(number), rule.about());
            match &identities {
                Some(identities) => {
                    for identity in identities {
                        self.by_identity
                            .entry((*identity).into())
                            .or_default()
                            .add(entry, &about);
                    }
                }
                None => self.shared.add(entry, &about),
            }
            self.objects |= rule.uses_object() || rule.uses_old_object() || rule.is_about_names();
            self.namespaces = self.namespaces.max(rule.namespace_use());
            self.rules.push(rule);
        }
    }

    /// Whether any rule looks into objects, or at their names.
    pub(in crate::engine) fn uses_objects(&self) -> bool {
        self.objects
    }

    /// Which parts of namespaces the rules look at.
    pub(in crate::engine) fn namespace_use(&self) -> NamespaceUse {
        self.namespaces
    }

    /// Policy and name, by which rules are told in order.
    pub(in crate::engine) fn name_of<'a>(&'a self, rule: &'a CompiledRule) -> (Option<&'a str>, &'a str) {
        let policy = self.policies.get(rule.policy as usize);
        (policy.map(|policy| &*policy.name), &*rule.name)
    }

    /// The rules that are about a request, each with its policy's mode. A condition is not looked at.
    pub(in crate::engine) fn firing<'s, 'q>(
        &'s self,
        principal: &'q Principal,
        input: &'q MatchInput<'q>,
    ) -> impl Iterator<Item = (&'s CompiledRule, Mode)> + use<'s, 'q> {
        let own = self.by_identity.get(principal.name());
        own.into_iter()
            .chain(std::iter::once(&self.shared))
            .flat_map(|index| index.candidates(input))
            .filter_map(|number| {
                let rule = self.rules.get(number as usize)?;
                let policy = self.policies.get(rule.policy as usize)?;
                (rule.fires(input) && policy.is_about(principal)).then_some((rule, policy.mode))
            })
    }
}
