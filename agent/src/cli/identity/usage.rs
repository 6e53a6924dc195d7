//! What was used of grants, from audit logs, and what would be left of each grant.
//!
//! In: the grants in force, audit logs, and since when. Out: a [`GrantUsage`] for each grant: when it was used last, by how many
//! requests, and a [`Proposal`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use picket_policy::api::v1alpha1::{AgentGrant, AgentGrantSpec, PolicyRule};
use picket_policy::{Grant, KubeRequest, PolicySet, Target, Verb, narrow, uses};

use crate::cli::audit::history::{self, Reach};

/// Most different rights that are kept of one grant: 100 times what a person reads. With more, nothing is proposed.
const MOST_RIGHTS: usize = 10_000;

/// What was used of one grant.
#[derive(Debug, Default)]
struct Used {
    last: Option<Timestamp>,
    requests: u64,
    /// One request for each right, by what a grant can tell apart.
    rights: BTreeMap<String, (Verb, KubeRequest)>,
    /// There were more than [`MOST_RIGHTS`].
    too_many: bool,
}

/// What there is to do with a grant.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Proposal {
    /// Nothing: all of it was used, or too much to tell.
    Keep,
    /// To take it back: nothing of it was used.
    Delete,
    /// To have less in it.
    Narrow(Box<AgentGrantSpec>),
}

impl Proposal {
    /// The word in tables and in JSON.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Delete => "delete",
            Self::Narrow(_) => "narrow",
        }
    }
}

/// A grant, and what was used of it.
#[derive(Debug)]
pub(super) struct GrantUsage {
    pub(super) grant: AgentGrant,
    pub(super) last: Option<Timestamp>,
    pub(super) requests: u64,
    pub(super) proposal: Proposal,
}

/// What the logs say of all grants.
#[derive(Debug)]
pub(super) struct Usage {
    /// In the order of the grants.
    pub(super) grants: Vec<GrantUsage>,
    pub(super) reach: Reach,
    /// Records of permitted requests that do not hold enough to tell what they took.
    pub(super) unread: u64,
}

/// Reads the logs since a moment, for these grants.
///
/// # Errors
/// Where a log cannot be read.
pub(super) fn of(
    grants: Vec<AgentGrant>,
    set: &PolicySet,
    logs: &[PathBuf],
    since: Timestamp,
) -> anyhow::Result<Usage> {
    let mut used: HashMap<String, Used> = HashMap::new();
    // Names matter where a rule has names: kept elsewhere too, they would be as many as the objects of a cluster.
    let named: BTreeSet<_> = grants
        .iter()
        .filter(|grant| {
            grant
                .spec
                .rules
                .iter()
                .any(|rule| !rule.resource_names.is_empty())
        })
        .map(|grant| grant.metadata.name.as_str())
        .collect();
    let mut unread = 0;
    let reach = history::read(logs, Some(since), |act, _| {
        let of_identity: &[Arc<Grant>] = act.identity().map_or(&[], |identity| set.grants_of(identity));
        if of_identity.is_empty() || !act.may_be_sent() {
            return ControlFlow::Continue(());
        }
        let Some(past) = act.request() else {
            unread += u64::from(act.was_sent());
            return ControlFlow::Continue(());
        };
        let request = past.as_apply.unwrap_or(past.request);
        for right in uses(of_identity, act.decision.policy.as_deref(), &request) {
            let used = used.entry(right.grant.to_string()).or_default();
            used.add(act.at(), right.verb, &request, named.contains(&*right.grant));
        }
        ControlFlow::Continue(())
    })?;
    let grants = grants.into_iter().map(|grant| {
        let used = used.remove(&grant.metadata.name).unwrap_or_default();
        GrantUsage {
            proposal: used.proposal(&grant),
            last: used.last,
            requests: used.requests,
            grant,
        }
    });
    Ok(Usage {
        grants: grants.collect(),
        reach,
        unread,
    })
}

impl Used {
    fn add(&mut self, at: Option<Timestamp>, verb: Verb, request: &KubeRequest, named: bool) {
        self.last = self.last.max(at);
        self.requests += 1;
        let key = right(verb, request, named);
        if self.rights.len() >= MOST_RIGHTS && !self.rights.contains_key(&key) {
            self.too_many = true;
        } else {
            self.rights.entry(key).or_insert_with(|| (verb, request.clone()));
        }
    }

    fn proposal(&self, grant: &AgentGrant) -> Proposal {
        if self.too_many {
            return Proposal::Keep;
        }
        let rights = self.rights.values().map(|(verb, request)| (*verb, request));
        match narrow(grant, rights) {
            None => Proposal::Delete,
            Some(spec) if gives_all(&spec, &grant.spec) => Proposal::Keep,
            Some(spec) => Proposal::Narrow(Box::new(spec)),
        }
    }
}

/// What a grant can tell apart of a request.
fn right(verb: Verb, request: &KubeRequest, named: bool) -> String {
    match &request.target {
        Target::NonResource { path } => format!("{verb} {path}"),
        Target::Resource { group, name, .. } => format!(
            "{verb} {group} {} {:?} {:?} {:?} {}",
            request.resource_words(),
            request.namespace(),
            name.as_ref().filter(|_| named),
            request.proxy_path,
            request.dry_run
        ),
    }
}

/// Whether a narrowed grant gives all that the grant gives. It gives nothing else.
fn gives_all(narrowed: &AgentGrantSpec, grant: &AgentGrantSpec) -> bool {
    let namespaces = |spec: &AgentGrantSpec| BTreeSet::from_iter(spec.namespaces.clone());
    let given: Vec<_> = narrowed.rules.iter().map(words).collect();
    let mut rules = grant.rules.iter().map(words);
    namespaces(narrowed) == namespaces(grant) && rules.all(|rule| covers(&given, &rule))
}

/// The lists of a rule, each as the words by which a right of the rule is told from another; a list without words gives any.
type RuleWords<'r> = [BTreeSet<Option<&'r str>>; 7];

fn words(rule: &PolicyRule) -> RuleWords<'_> {
    fn words(list: &[String]) -> BTreeSet<Option<&str>> {
        match list {
            [] => BTreeSet::from([None]),
            list => list.iter().map(|word| Some(word.as_str())).collect(),
        }
    }
    [
        words(&rule.verbs),
        words(&rule.api_groups),
        words(&rule.resources),
        words(&rule.resource_names),
        words(&rule.non_resource_urls),
        words(&rule.proxy_paths),
        BTreeSet::from([rule.dry_run.is_some().then_some("dryRun")]),
    ]
}

/// Whether `rules` together give each combination of a rule's words. Words that the same rules have are looked at once: the
/// combinations themselves may be millions.
fn covers(rules: &[RuleWords<'_>], rule: &RuleWords<'_>) -> bool {
    fn from_list(at: usize, rules: &[&RuleWords<'_>], rule: &RuleWords<'_>) -> bool {
        let is_whole =
            |given: &&RuleWords<'_>| (at..rule.len()).all(|list| rule[list].is_subset(&given[list]));
        if rules.iter().any(is_whole) {
            return true;
        }
        let Some(list) = rule.get(at).filter(|_| !rules.is_empty()) else {
            return false;
        };
        let having = |word| {
            let having = rules
                .iter()
                .enumerate()
                .filter(|(_, given)| given[at].contains(word));
            having.map(|(place, _)| place).collect::<Vec<_>>()
        };
        let alike: BTreeSet<_> = list.iter().map(having).collect();
        alike.into_iter().all(|places| {
            let having: Vec<_> = places.into_iter().map(|place| rules[place]).collect();
            from_list(at + 1, &having, rule)
        })
    }
    from_list(0, &rules.iter().collect::<Vec<_>>(), rule)
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
