//! A narrower grant, from what was used of it.
//!
//! In: the grants of an identity and requests that were permitted, then one grant. Out: which rights of which grant each request
//! took ([`uses`]), and the grant with those rights alone ([`narrow`]). A narrowed grant gives every right that was used, and
//! none that the grant does not give.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::grants::{Grant, GrantRule, needed};
use super::window::Zones;
use crate::api::field::FieldErrors;
use crate::api::v1alpha1::{AgentGrant, AgentGrantSpec, PolicyRule, Spec};
use crate::kubernetes::verbs::Verb;
use crate::request::{KubeRequest, Target};
use crate::yaml::FieldPath;

/// Most namespaces and paths that a narrowed grant names: as many as a person reads.
const MOST_NAMED: usize = 16;

/// A right that a request took of a grant.
#[derive(Debug, Clone)]
pub struct GrantUse {
    /// The grant's name.
    pub grant: Arc<str>,
    /// The verb.
    pub verb: Verb,
}

/// The rights that a permitted request took, each of the grant that gives it: of `named` where that does, else of the first.
/// Whatever no grant gives any more, or comes with any grant, is left out.
#[must_use]
pub fn uses(grants: &[Arc<Grant>], named: Option<&str>, request: &KubeRequest) -> Vec<GrantUse> {
    let (verbs, count) = needed(request);
    let mut uses: Vec<GrantUse> = Vec::new();
    for verb in verbs[..count].iter().copied() {
        let first = grants.iter().filter(|grant| Some(grant.name()) == named);
        let mut candidates = first.chain(grants);
        let giving = candidates.find(|grant| grant.rule_for(verb, request).is_some());
        let is_known = uses.iter().any(|known| known.verb == verb);
        if let Some(grant) = giving.filter(|_| !is_known) {
            uses.push(GrantUse {
                grant: grant.shared_name(),
                verb,
            });
        }
    }
    uses
}

/// What of a rule was used.
#[derive(Debug, Default)]
struct RuleUse {
    /// By group and resource: verbs and names.
    resources: BTreeMap<(String, String), (BTreeSet<Verb>, BTreeSet<String>)>,
    /// By path of the rule: verbs, and the paths that were asked for.
    paths: BTreeMap<String, (BTreeSet<Verb>, BTreeSet<String>)>,
    /// Paths behind a proxy.
    proxied: BTreeSet<String>,
}

/// A grant with the rights that were used alone; nothing where none was.
#[must_use]
pub fn narrow<'r>(
    grant: &AgentGrant,
    used: impl IntoIterator<Item = (Verb, &'r KubeRequest)>,
) -> Option<AgentGrantSpec> {
    let compiled = Grant::new(grant, &mut Zones::default());
    let mut of_rules: BTreeMap<usize, RuleUse> = BTreeMap::new();
    let mut namespaces = BTreeSet::new();
    for (verb, request) in used {
        let Some((index, rule)) = compiled.first_rule(verb, request) else {
            continue;
        };
        namespaces.insert(request.namespace().map(str::to_owned));
        of_rules.entry(index).or_default().add(rule, verb, request);
    }
    if of_rules.is_empty() {
        return None;
    }
    let rules = grant.spec.rules.iter().enumerate();
    let rules = rules.filter_map(|(index, rule)| Some((rule, of_rules.get(&index)?)));
    let namespaced = !grant.spec.namespaces.is_empty();
    let rules: Vec<_> = rules
        .flat_map(|(rule, used)| used.narrowed(rule, namespaced))
        .collect();
    let whole = AgentGrantSpec {
        rules: merged(rules),
        ..grant.spec.clone()
    };
    Some(in_namespaces(whole, &namespaces))
}

impl RuleUse {
    fn add(&mut self, rule: &GrantRule, verb: Verb, request: &KubeRequest) {
        match &request.target {
            Target::NonResource { path } => {
                let of = rule
                    .urls
                    .iter()
                    .find(|url| super::builtin::url_matches(url, path));
                let (verbs, paths) = self.paths.entry(of.cloned().unwrap_or_default()).or_default();
                verbs.insert(verb);
                paths.insert(path.clone());
            }
            Target::Resource { group, name, .. } => {
                let key = (group.clone(), request.resource_words());
                let (verbs, names) = self.resources.entry(key).or_default();
                verbs.insert(verb);
                names.extend(name.clone().filter(|_| !rule.names.is_empty()));
                self.proxied.extend(
                    request
                        .proxy_path
                        .clone()
                        .filter(|_| !rule.proxy_paths.is_empty()),
                );
            }
        }
    }

    /// The rules in place of this one: each resource with the verbs that were used on it. A rule that cannot be written so, as of
    /// a resource that no server has, stays as it is.
    fn narrowed(&self, rule: &PolicyRule, namespaced: bool) -> Vec<PolicyRule> {
        let proxy_paths = self.behind_proxies(rule);
        let resources = self
            .resources
            .iter()
            .map(|((group, resource), (verbs, names))| PolicyRule {
                verbs: words(verbs),
                api_groups: vec![group.clone()],
                resources: vec![resource.clone()],
                resource_names: names.iter().cloned().collect(),
                non_resource_urls: Vec::new(),
                dry_run: rule.dry_run,
                proxy_paths: proxy_paths.clone(),
            });
        let paths = self.paths.iter().map(|(of, (verbs, paths))| PolicyRule {
            verbs: words(verbs),
            non_resource_urls: named_or(of, paths),
            ..PolicyRule::default()
        });
        let narrowed: Vec<_> = resources.chain(paths).collect();
        if narrowed.iter().all(|rule| is_valid(rule, namespaced)) {
            narrowed
        } else {
            vec![rule.clone()]
        }
    }

    fn behind_proxies(&self, rule: &PolicyRule) -> Vec<String> {
        let is_used = |path: &&String| {
            let mut proxied = self.proxied.iter();
            proxied.any(|used| super::builtin::url_matches(path, used))
        };
        rule.proxy_paths.iter().filter(is_used).cloned().collect()
    }
}

/// The paths themselves where they are few and can stand in a rule, else the rule's own.
fn named_or(of: &str, paths: &BTreeSet<String>) -> Vec<String> {
    let plain = |path: &String| !path.contains(['*', '?']);
    if paths.len() <= MOST_NAMED && paths.iter().all(plain) {
        paths.iter().cloned().collect()
    } else {
        vec![of.to_owned()]
    }
}

fn words(verbs: &BTreeSet<Verb>) -> Vec<String> {
    verbs.iter().map(|verb| verb.as_str().to_owned()).collect()
}

fn is_valid(rule: &PolicyRule, namespaced: bool) -> bool {
    let mut errors = FieldErrors::default();
    rule.validate(&FieldPath::new("rule"), namespaced, &mut errors);
    errors.into_vec().is_empty()
}

/// Rules that differ in one list alone, as one: resources of one group with the same verbs.
fn merged(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut all: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let same = |known: &&mut PolicyRule| {
            known.resources.iter().all(|resource| !resource.contains('*'))
                && PolicyRule {
                    resources: rule.resources.clone(),
                    ..(**known).clone()
                } == rule
        };
        match all.iter_mut().find(same) {
            Some(known) => {
                known.resources.extend(rule.resources);
                known.resources.sort();
                known.resources.dedup();
            }
            None => all.push(rule),
        }
    }
    all
}

/// The grant bound to the namespaces that were used, where all that was used is in one, and they are few.
fn in_namespaces(spec: AgentGrantSpec, used: &BTreeSet<Option<String>>) -> AgentGrantSpec {
    let names: Option<Vec<String>> = used.iter().cloned().collect();
    // A name with a wildcard, which a request may ask for, would be a glob.
    let plain = |names: &Vec<String>| names.iter().all(|name| !name.contains(['*', '?']));
    let Some(names) = names.filter(|names| names.len() <= MOST_NAMED && plain(names)) else {
        return spec;
    };
    let bound = AgentGrantSpec {
        namespaces: names,
        ..spec.clone()
    };
    let mut errors = FieldErrors::default();
    bound.validate(&FieldPath::new("spec"), &mut errors);
    if errors.into_vec().is_empty() { bound } else { spec }
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
