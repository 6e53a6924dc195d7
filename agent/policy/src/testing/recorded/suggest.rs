//! The narrowest AgentGrants for the rights that were used.
//!
//! In: [`Rights`]. Out: a [`Suggestion`]: grants whose rules give each right that was used, and no other but where one has more names or
//! namespaces than a rule should list. No rule is there whose rights other rules give.
//!
//! A grant holds in some namespaces or everywhere, so rights are laid out by namespace first. Namespaces with the same rules share a
//! grant. What is used without a namespace is in a grant of its own, which gives it in each namespace too.

use std::collections::{BTreeMap, BTreeSet};

use super::rights::{MAX_NAMED, Objects, Right, Rights, Scopes, Seen, Subject, Uncovered, Upstream, Used};
use crate::api::FieldErrors;
use crate::api::v1alpha1::{
    DryRun, GrantUpstream, ImpersonatedUser, OnBehalfOf, PolicyRule, UpstreamServiceAccount,
};
use crate::request::Verb;
use crate::yaml::FieldPath;

/// Grants for what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The grants.
    pub grants: Vec<SuggestedGrant>,
    /// Allowed requests that no grant is suggested for, by why.
    pub uncovered: BTreeMap<Uncovered, u64>,
    /// Requests that Picket allowed and the API server refused. No grant is suggested for them.
    pub refused: u64,
    /// All other allowed requests.
    pub seen: Seen,
}

/// A grant for an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuggestedGrant {
    /// Its name.
    pub name: String,
    /// The agent.
    pub identity: String,
    /// As whom the API server was asked.
    pub upstream: GrantUpstream,
    /// The namespaces; none where the rules hold everywhere.
    pub namespaces: Vec<String>,
    /// The rules.
    pub rules: Vec<SuggestedRule>,
    /// What a person should know of it.
    pub notes: Vec<String>,
}

/// A rule, and why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuggestedRule {
    /// The rule.
    pub rule: PolicyRule,
    /// The requests that took it.
    pub seen: Seen,
    /// What a person should know of it.
    pub notes: BTreeSet<&'static str>,
}

/// Where rules hold: everywhere, or in a namespace.
type Scope = Option<String>;

const MANY_NAMES: &str = "more names than are listed were seen: it gives every name";
const MANY_NAMESPACES: &str = "seen in more namespaces than are listed: it holds in every namespace";
const WHOLE_PROXY: &str =
    "it gives every path behind the proxy: proxyPaths is of GET alone, and cannot name the root";
const UNSURE: &str =
    "create may not be needed: the record does not tell a server-side apply from another patch";

impl Rights {
    /// Makes grants of them.
    #[must_use]
    pub fn suggest(&self) -> Suggestion {
        let mut suggestion = Suggestion {
            grants: Vec::new(),
            uncovered: self.uncovered.clone(),
            refused: self.refused,
            seen: self.seen,
        };
        let mut names = BTreeSet::new();
        for (subject, used) in &self.subjects {
            let rights = match used.rights.is_empty() {
                // What comes with any grant needs one.
                true => &used.implied,
                false => &used.rights,
            };
            let mut scopes = laid_out(rights);
            drop_paths(&mut scopes, &mut suggestion.uncovered);
            let mut by_rules: Vec<(Vec<SuggestedRule>, Vec<String>)> = Vec::new();
            let mut everywhere = Vec::new();
            for (scope, rights) in scopes {
                let rules = rules(rights, scope.is_some(), &mut suggestion.uncovered);
                match scope {
                    _ if rules.is_empty() => {}
                    None => everywhere = rules,
                    Some(namespace) => add_namespace(&mut by_rules, rules, namespace),
                }
            }
            let everywhere = (!everywhere.is_empty()).then_some((everywhere, Vec::new()));
            for (rules, namespaces) in everywhere.into_iter().chain(by_rules) {
                suggestion.grants.push(SuggestedGrant {
                    name: free_name(subject, &namespaces, &mut names),
                    identity: subject.identity.clone(),
                    upstream: used.upstream(subject),
                    namespaces,
                    rules,
                    notes: used.notes(),
                });
            }
        }
        suggestion
    }
}

/// A name that no other suggested grant has.
fn free_name(subject: &Subject, namespaces: &[String], taken: &mut BTreeSet<String>) -> String {
    let people = subject.issuer.as_ref().map_or("", |_| "-people");
    let within = match namespaces {
        [] => String::new(),
        [one] => format!("-{one}"),
        [first, ..] => format!("-{first}-and-more"),
    };
    let base = format!("{}{people}{within}", subject.identity);
    // A name has 253 characters at most.
    let base = base[..base.floor_char_boundary(200)].trim_end_matches(['-', '.']);
    let numbered = (2..).map(|number: u32| format!("{base}-{number}"));
    let mut free = std::iter::once(base.to_owned())
        .chain(numbered)
        .filter(|name| !taken.contains(name));
    let name = free.next().unwrap_or_default();
    taken.insert(name.clone());
    name
}

impl Used {
    fn upstream(&self, subject: &Subject) -> GrantUpstream {
        if let Some(issuer) = &subject.issuer {
            let users = self.upstreams.keys().filter_map(|upstream| match upstream {
                Upstream::Person { user } => Some(user.clone()),
                _ => None,
            });
            return GrantUpstream {
                on_behalf_of: Some(OnBehalfOf {
                    issuers: vec![issuer.clone()],
                    users: match self.many_people {
                        true => vec!["*".to_owned()],
                        false => users.collect(),
                    },
                    groups: Vec::new(),
                }),
                ..GrantUpstream::default()
            };
        }
        // All grants of an agent name one user: the last one is the one that holds.
        let last = self.upstreams.iter().max_by_key(|(_, at)| **at);
        match last.map(|(upstream, _)| upstream) {
            Some(Upstream::ServiceAccount { namespace, name }) => GrantUpstream {
                service_account: Some(UpstreamServiceAccount {
                    namespace: namespace.clone(),
                    name: name.clone(),
                }),
                ..GrantUpstream::default()
            },
            Some(Upstream::Impersonate { user, groups }) => GrantUpstream {
                impersonate: Some(ImpersonatedUser {
                    user: user.clone(),
                    groups: groups.clone(),
                }),
                ..GrantUpstream::default()
            },
            Some(Upstream::Person { .. }) | None => GrantUpstream::default(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let is_person = |upstream: &Upstream| matches!(upstream, Upstream::Person { .. });
        let people = self.upstreams.keys().any(is_person);
        let mut notes = Vec::new();
        if people && self.many_people {
            notes.push(format!(
                "More than {MAX_NAMED} people were seen: users gives everyone of the issuer."
            ));
        } else if people && self.upstreams.len() > 1 {
            notes.push("Each rule is for all of these people, whoever of them used it.".to_owned());
        } else if self.upstreams.len() > 1 {
            notes.push(format!(
                "{} users or sets of groups were seen upstream: this is the one of the last request.",
                self.upstreams.len()
            ));
        }
        notes
    }
}

/// What a right is used on, in one scope.
struct Use {
    objects: Objects,
    many_namespaces: bool,
}

/// Rights by scope. What a broader right gives is not there again.
fn laid_out(rights: &BTreeMap<Right, Scopes>) -> BTreeMap<Scope, BTreeMap<Right, Use>> {
    let mut laid_out: BTreeMap<Scope, BTreeMap<Right, Use>> = BTreeMap::new();
    for (right, scopes) in rights {
        let namespaces = scopes.namespaces.iter();
        let namespaces = namespaces.map(|(name, objects)| (Some(name.clone()), objects, false));
        let everywhere = scopes
            .everywhere
            .iter()
            .map(|objects| (None, objects, scopes.many));
        for (scope, objects, many_namespaces) in everywhere.chain(namespaces) {
            let use_of = Use {
                objects: objects.clone(),
                many_namespaces,
            };
            laid_out.entry(scope).or_default().insert(right.clone(), use_of);
        }
    }
    // Each right goes behind those that can give it, so that requests are counted with a rule that stays.
    let mut places: Vec<_> = laid_out
        .iter()
        .flat_map(|(scope, rights)| rights.keys().map(|right| (scope.clone(), right.clone())))
        .collect();
    places.sort_by_key(|(scope, right)| (right.is_dry(), scope.is_some()));
    for (scope, right) in places {
        drop_given(&mut laid_out, &scope, &right);
    }
    laid_out.retain(|_, rights| !rights.is_empty());
    laid_out
}

/// Takes from a right what the same one gives everywhere, and from dry runs what the right without them gives.
fn drop_given(laid_out: &mut BTreeMap<Scope, BTreeMap<Right, Use>>, scope: &Scope, right: &Right) {
    let Some(mut left) = laid_out.get_mut(scope).and_then(|rights| rights.remove(right)) else {
        return;
    };
    let mut broader = Vec::new();
    for wider in std::iter::once(scope).chain(scope.is_some().then_some(&None)) {
        for of in std::iter::once(right.clone()).chain(right.not_dry()) {
            broader.push((wider, of));
        }
    }
    for (wider, of) in broader {
        let Some(giving) = laid_out.get_mut(wider).and_then(|rights| rights.get_mut(&of)) else {
            continue;
        };
        let all = gives_all_names(&giving.objects);
        left.objects
            .names
            .retain(|name| !all && !giving.objects.names.contains(name));
        if all || (left.objects.names.is_empty() && !gives_all_names(&left.objects)) {
            giving.objects.seen.merge(left.objects.seen);
            return;
        }
    }
    laid_out
        .entry(scope.clone())
        .or_default()
        .insert(right.clone(), left);
}

impl Right {
    fn is_dry(&self) -> bool {
        matches!(self, Self::Resource { dry: true, .. })
    }

    /// The same right without dry runs, where it is of dry runs.
    fn not_dry(&self) -> Option<Self> {
        let mut right = self.clone();
        let Self::Resource { dry, .. } = &mut right else {
            return None;
        };
        std::mem::take(dry).then_some(right)
    }
}

fn gives_all_names(objects: &Objects) -> bool {
    objects.nameless || objects.many
}

/// Leaves out the paths of a verb, or behind the proxy of a resource, where there are more than are listed.
fn drop_paths(scopes: &mut BTreeMap<Scope, BTreeMap<Right, Use>>, uncovered: &mut BTreeMap<Uncovered, u64>) {
    for rights in scopes.values_mut() {
        let mut paths: BTreeMap<(Verb, String), usize> = BTreeMap::new();
        for right in rights.keys() {
            if let Some(of) = path_of(right) {
                *paths.entry(of).or_default() += 1;
            }
        }
        rights.retain(|right, used| {
            let many =
                path_of(right).is_some_and(|of| paths.get(&of).is_some_and(|paths| *paths > MAX_NAMED));
            if many {
                *uncovered.entry(Uncovered::Paths).or_default() += used.objects.seen.count;
            }
            !many
        });
    }
}

/// What has a path, without it.
fn path_of(right: &Right) -> Option<(Verb, String)> {
    match right {
        Right::Path { verb, .. } => Some((*verb, String::new())),
        Right::Resource {
            verb,
            group,
            resource,
            proxy_path: Some(_),
            ..
        } => Some((*verb, format!("{group}/{resource}"))),
        Right::Resource { .. } => None,
    }
}

/// The rules of one scope.
fn rules(
    rights: BTreeMap<Right, Use>,
    namespaced: bool,
    uncovered: &mut BTreeMap<Uncovered, u64>,
) -> Vec<SuggestedRule> {
    let mut rules: Vec<SuggestedRule> = Vec::new();
    for (right, used) in rights {
        let count = used.objects.seen.count;
        match rule(right, used, namespaced) {
            Some(rule) => rules.push(rule),
            None => *uncovered.entry(Uncovered::Unnameable).or_default() += count,
        }
    }
    // Rules that differ in one list alone are one rule, which gives as much.
    let rules = merged(rules, |rule| &mut rule.verbs);
    let rules = merged(rules, |rule| &mut rule.proxy_paths);
    let rules = merged(rules, |rule| &mut rule.non_resource_urls);
    merged(rules, |rule| &mut rule.resources)
}

/// The rule for one right, as narrow as it can be written.
fn rule(right: Right, used: Use, namespaced: bool) -> Option<SuggestedRule> {
    let Objects {
        names,
        nameless,
        many,
        unsure,
        seen,
    } = used.objects;
    let mut notes = BTreeSet::new();
    notes.extend(used.many_namespaces.then_some(MANY_NAMESPACES));
    notes.extend(unsure.then_some(UNSURE));
    let rule = match right {
        Right::Path { path, verb } => PolicyRule {
            verbs: vec![verb.as_str().to_owned()],
            non_resource_urls: vec![path],
            ..PolicyRule::default()
        },
        Right::Resource {
            group,
            resource,
            verb,
            proxy_path,
            dry,
        } => {
            notes.extend((many && !nameless).then_some(MANY_NAMES));
            PolicyRule {
                verbs: vec![verb.as_str().to_owned()],
                api_groups: vec![group],
                resources: vec![resource],
                resource_names: match nameless || many {
                    true => Vec::new(),
                    false => names.into_iter().collect(),
                },
                dry_run: dry.then_some(DryRun::Only),
                proxy_paths: proxy_path.into_iter().collect(),
                ..PolicyRule::default()
            }
        }
    };
    let is_proxy = rule.resources.iter().any(|resource| resource.ends_with("/proxy"));
    notes.extend((is_proxy && rule.proxy_paths.is_empty()).then_some(WHOLE_PROXY));
    is_valid(&rule, namespaced).then_some(SuggestedRule { rule, seen, notes })
}

fn is_valid(rule: &PolicyRule, namespaced: bool) -> bool {
    let mut errors = FieldErrors::default();
    rule.validate(&FieldPath::new("rule"), namespaced, &mut errors);
    errors.into_vec().is_empty()
}

/// Rules that differ in this list alone, as one.
fn merged(rules: Vec<SuggestedRule>, list: fn(&mut PolicyRule) -> &mut Vec<String>) -> Vec<SuggestedRule> {
    let mut merged: Vec<(PolicyRule, SuggestedRule)> = Vec::new();
    for mut suggested in rules {
        let mut key = suggested.rule.clone();
        let words = std::mem::take(list(&mut key));
        // A list without words gives everything, or is of rules of another kind.
        let known = merged
            .iter_mut()
            .find(|(known, into)| *known == key && into.rule != key && !words.is_empty());
        match known {
            Some((_, into)) => {
                list(&mut into.rule).extend(words);
                into.seen.merge(suggested.seen);
                into.notes.append(&mut suggested.notes);
            }
            None => merged.push((key, suggested)),
        }
    }
    merged.into_iter().map(|(_, rule)| rule).collect()
}

/// Notes a namespace with its rules, beside the others that have the same.
fn add_namespace(
    by_rules: &mut Vec<(Vec<SuggestedRule>, Vec<String>)>,
    rules: Vec<SuggestedRule>,
    namespace: String,
) {
    let same = |known: &[SuggestedRule]| {
        let (mut one, mut other) = (known.iter(), rules.iter());
        known.len() == rules.len()
            && one.all(|known| other.next().is_some_and(|rule| rule.rule == known.rule))
    };
    match by_rules
        .iter_mut()
        .find(|(known, namespaces)| namespaces.len() < MAX_NAMED && same(known))
    {
        Some((known, namespaces)) => {
            for (known, rule) in known.iter_mut().zip(rules) {
                known.seen.merge(rule.seen);
                known.notes.extend(rule.notes);
            }
            namespaces.push(namespace);
        }
        None => by_rules.push((rules, vec![namespace])),
    }
}
