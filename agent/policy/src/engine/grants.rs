//! Grants, compiled: RBAC's rule matching (pkg/apis/rbac/v1/evaluation_helpers.go), exact and case-sensitive, so that an odd
//! spelling is not granted.
//!
//! In: an [`AgentGrant`], then requests. Out: whether the grant allows a request, and as whom the API server is asked.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::match_input::may_create;
use super::people::People;
use super::window::{Window, Zones};
use crate::api::v1alpha1::{AgentGrant, AgentGrantSpec, PolicyRule, STORED_SUBRESOURCES};
use crate::engine::builtin::url_matches;
use crate::glob::Glob;
use crate::identity::{Identity, Principal};
use crate::person::Person;
use crate::request::{KubeRequest, Target, Verb, VerbSet};
use crate::upstream_user::UpstreamUser;

/// An AgentGrant that was read and checked.
#[derive(Debug)]
pub struct Grant {
    name: Arc<str>,
    acts_as: ActsAs,
    identities: Vec<String>,
    groups: Vec<String>,
    namespaces: Box<[Glob]>,
    window: Window,
    rules: Vec<GrantRule>,
    by_resource: HashMap<Box<str>, Vec<u32>>,
    wild: Vec<u32>,
    paths: Vec<u32>,
}

/// As whom the API server is asked by a grant.
#[derive(Debug)]
enum ActsAs {
    /// This user.
    User(Arc<UpstreamUser>),
    /// The person whose token the request shows, if it is one of these.
    People(People),
}

/// Whether a grant holds at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantState {
    /// It does.
    Active,
    /// It does not, and will.
    Waiting,
    /// It never will again.
    Expired,
}

/// When a grant holds, as people read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantHours {
    /// Whether it holds now.
    pub state: GrantState,
    /// The moment at which that changes, if it ever does.
    pub until: Option<Timestamp>,
    /// Its hours in words; none where it always holds.
    pub window: Option<String>,
}

/// One of its rules.
#[derive(Debug)]
pub(super) struct GrantRule {
    /// Its name in the grant.
    pub(super) label: Arc<str>,
    /// The verbs it gives.
    pub(super) verbs: VerbSet,
    /// In these API groups.
    pub(super) groups: Vec<String>,
    /// On these resources.
    pub(super) resources: Vec<String>,
    /// Of these names, if there are any here.
    pub(super) names: Vec<String>,
    /// Or on these non-resource paths.
    pub(super) urls: Vec<String>,
    /// Only in dry runs.
    pub(super) dry_run_only: bool,
    /// Only on these paths behind a proxy, if there are any here.
    pub(super) proxy_paths: Vec<String>,
}

impl GrantRule {
    fn new(index: usize, rule: &PolicyRule) -> Self {
        let verbs = rule
            .verbs
            .iter()
            .fold(VerbSet::default(), |set, verb| match verb.as_str() {
                "*" => VerbSet::ALL,
                name => Verb::parse(name).map_or(set, |verb| set.with(verb)),
            });
        Self {
            label: format!("rules[{index}]").into(),
            verbs,
            groups: rule.api_groups.clone(),
            resources: rule.resources.clone(),
            names: rule.resource_names.clone(),
            urls: rule.non_resource_urls.clone(),
            dry_run_only: rule.dry_run.is_some(),
            proxy_paths: rule.proxy_paths.clone(),
        }
    }

    /// Whether it is about a request's target.
    pub(super) fn is_about(&self, request: &KubeRequest) -> bool {
        match &request.target {
            Target::NonResource { path } => self.urls.iter().any(|url| url_matches(url, path)),
            Target::Resource {
                group,
                resource,
                subresource,
                name,
                ..
            } => {
                self.group_matches(group)
                    && self.resource_matches(resource, subresource.as_deref())
                    && self.name_matches(name.as_deref())
            }
        }
    }

    /// Whether it gives requests of its verbs that are like this one, or only others.
    pub(super) fn gives_such(&self, request: &KubeRequest) -> bool {
        (!self.dry_run_only || is_dry_run(request))
            && (self.proxy_paths.is_empty() || self.gives_proxied(request))
    }

    /// Whether it names the path behind a proxy that a request reads.
    fn gives_proxied(&self, request: &KubeRequest) -> bool {
        // A scheme or port in the name may lead to another server of the node.
        let plain = |name: &str| !name.contains(':') || !self.names.is_empty();
        request.verb == Verb::Get
            && !request.upgrade
            && request.name().is_some_and(plain)
            && request
                .proxy_path
                .as_deref()
                .is_some_and(|path| self.proxy_paths.iter().any(|rule| url_matches(rule, path)))
    }

    /// Whether it is about an API group.
    pub(super) fn group_matches(&self, group: &str) -> bool {
        self.groups.iter().any(|rule| rule == "*" || rule == group)
    }

    /// Whether it is about a resource.
    pub(super) fn resource_matches(&self, resource: &str, subresource: Option<&str>) -> bool {
        self.resources
            .iter()
            .any(|rule| match (rule.split_once('/'), subresource) {
                (None, _) if rule == "*" => true,
                (None, None) => rule == resource,
                (Some((of, sub)), Some(wanted)) => sub == wanted && (of == "*" || of == resource),
                _ => false,
            })
    }

    /// Whether it is about an object of that name.
    pub(super) fn name_matches(&self, name: Option<&str>) -> bool {
        self.names.is_empty() || name.is_some_and(|name| self.names.iter().any(|rule| rule == name))
    }
}

impl Grant {
    pub(super) fn new(grant: &AgentGrant, zones: &mut Zones) -> Self {
        let AgentGrantSpec {
            to,
            upstream,
            namespaces,
            rules,
            expires_at,
            window,
        } = &grant.spec;
        let rules: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(index, rule)| GrantRule::new(index, rule))
            .collect();
        let mut compiled = Self {
            name: grant.metadata.name.as_str().into(),
            acts_as: match &upstream.on_behalf_of {
                None => ActsAs::User(Arc::new(UpstreamUser::of(upstream))),
                Some(people) => ActsAs::People(People::of(people)),
            },
            identities: to.identities.clone(),
            groups: to.groups.clone(),
            // A namespace glob that fails here all the same must grant nothing.
            namespaces: namespaces
                .iter()
                .map(|text| Glob::name(text).unwrap_or(Glob::Exact("".into())))
                .collect(),
            window: Window::new(*expires_at, window.as_ref(), zones),
            rules: Vec::new(),
            by_resource: HashMap::new(),
            wild: Vec::new(),
            paths: Vec::new(),
        };
        for (number, rule) in (0u32..).zip(&rules) {
            if !rule.urls.is_empty() {
                compiled.paths.push(number);
            } else if rule.resources.iter().any(|resource| resource.starts_with('*')) {
                compiled.wild.push(number);
            } else {
                for resource in &rule.resources {
                    compiled
                        .by_resource
                        .entry(resource.as_str().into())
                        .or_default()
                        .push(number);
                }
            }
        }
        compiled.rules = rules;
        compiled
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As whom the API server is asked; `None` where that is the person for whom the agent asks.
    #[must_use]
    pub fn user(&self) -> Option<&UpstreamUser> {
        match &self.acts_as {
            ActsAs::User(user) => Some(user),
            ActsAs::People(_) => None,
        }
    }

    /// On behalf of whom the grant is, where it is not the agent's own.
    #[must_use]
    pub fn on_behalf_of(&self) -> Option<&People> {
        match &self.acts_as {
            ActsAs::User(_) => None,
            ActsAs::People(people) => Some(people),
        }
    }

    /// Whether the grant is on behalf of this person.
    pub(super) fn is_for(&self, person: &Person) -> bool {
        self.on_behalf_of().is_some_and(|people| people.has(person))
    }

    /// The namespaces that it is bound to by name, without globs.
    pub fn named_namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.iter().filter_map(|glob| match glob {
            Glob::Exact(name) => Some(&**name),
            _ => None,
        })
    }

    /// Whether it holds in namespaces alone that it names without globs.
    #[must_use]
    pub fn is_bound_by_name(&self) -> bool {
        let is_name = |glob: &Glob| matches!(glob, Glob::Exact(_));
        !self.namespaces.is_empty() && self.namespaces.iter().all(is_name)
    }

    /// Its rules on resources, in RBAC's words. Verbs that no request for a resource has are left out.
    pub fn rules_on_resources(&self) -> impl Iterator<Item = PolicyRule> {
        let rules = self.rules.iter().filter(|rule| rule.urls.is_empty());
        rules.map(|rule| {
            let verbs = Verb::of_resources().filter(|verb| rule.verbs.has(*verb));
            PolicyRule {
                verbs: verbs.map(|verb| verb.as_str().to_owned()).collect(),
                api_groups: rule.groups.clone(),
                resources: rule.resources.clone(),
                resource_names: rule.names.clone(),
                ..PolicyRule::default()
            }
        })
    }

    /// As whom the API server is asked for a principal; `None` where the grant gives the principal nothing.
    pub(super) fn user_for(&self, principal: &Principal) -> Option<Arc<UpstreamUser>> {
        match (&self.acts_as, principal.person()) {
            (ActsAs::User(user), None) => Some(user.clone()),
            (ActsAs::People(people), Some(person)) if people.has(person) => Some(person.user().clone()),
            _ => None,
        }
    }

    pub(super) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// Its rules.
    pub(super) fn rules(&self) -> &[GrantRule] {
        &self.rules
    }

    /// The namespaces it is bound to; none for no bound.
    pub(super) fn namespaces(&self) -> &[Glob] {
        &self.namespaces
    }

    /// Until when it gives what it says; `None` where it gives nothing now, and no moment where no end is in sight.
    pub(super) fn in_force(&self, now: Timestamp) -> Option<Option<Timestamp>> {
        let phase = self.window.phase(now);
        phase.open.then_some(phase.until)
    }

    /// Whether it holds at a moment, for lists that people read.
    #[must_use]
    pub fn hours(&self, now: Timestamp) -> GrantHours {
        let phase = self.window.phase(now);
        let words = self.window.to_string();
        GrantHours {
            state: match (phase.open, self.window.next_opening(now)) {
                (true, _) => GrantState::Active,
                (false, Some(_)) => GrantState::Waiting,
                (false, None) => GrantState::Expired,
            },
            until: match phase.open {
                true => phase.until,
                false => self.window.next_opening(now),
            },
            window: (!words.is_empty()).then(|| words.trim_start().to_owned()),
        }
    }

    /// When it holds.
    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Whether it gives a request by a path behind a proxy.
    pub(super) fn gives_proxied(&self, request: &KubeRequest) -> bool {
        request.proxy_path.is_some()
            && self
                .rules_for(request.verb, request)
                .any(|rule| !rule.proxy_paths.is_empty())
    }

    /// Whether it holds for requests about this namespace.
    pub(super) fn holds_in(&self, namespace: Option<&str>) -> bool {
        self.namespaces.is_empty()
            || namespace.is_some_and(|namespace| self.namespaces.iter().any(|glob| glob.matches(namespace)))
    }

    /// The rule that gives a verb on what a request is about.
    pub(super) fn rule_for(&self, verb: Verb, request: &KubeRequest) -> Option<Arc<str>> {
        self.rules_for(verb, request)
            .next()
            .map(|rule| rule.label.clone())
    }

    /// The first rule that gives a verb on what a request is about, and its place.
    pub(super) fn first_rule(&self, verb: Verb, request: &KubeRequest) -> Option<(usize, &GrantRule)> {
        self.rules.iter().enumerate().find(|(_, rule)| {
            self.rules_for(verb, request)
                .any(|giving| std::ptr::eq(giving, *rule))
        })
    }

    /// Every rule that gives a verb on what a request is about.
    fn rules_for<'g>(&'g self, verb: Verb, request: &'g KubeRequest) -> impl Iterator<Item = &'g GrantRule> {
        let (exact, others) = self.candidates(request);
        let rules = exact.iter().chain(others);
        rules
            .filter_map(|number| self.rules.get(*number as usize))
            .filter(move |rule| rule.verbs.has(verb) && rule.is_about(request) && rule.gives_such(request))
    }

    /// The numbers of the rules that can be about a request.
    fn candidates(&self, request: &KubeRequest) -> (&[u32], &[u32]) {
        match &request.target {
            Target::NonResource { .. } if self.namespaces.is_empty() => (&self.paths, &[]),
            Target::NonResource { .. } => (&[], &[]),
            Target::Resource { namespace, .. } if !self.holds_in(namespace.as_deref()) => (&[], &[]),
            Target::Resource {
                resource,
                subresource,
                ..
            } => {
                let exact = match subresource {
                    Some(sub) => self.by_resource.get(format!("{resource}/{sub}").as_str()),
                    None => self.by_resource.get(resource.as_str()),
                };
                (exact.map_or(&[], Vec::as_slice), &self.wild)
            }
        }
    }
}

/// Grants, shared by the identities that they all reach.
pub(super) type GrantList = Arc<[Arc<Grant>]>;

/// The grants that name each identity or one of its groups, in the order of `grants`. Identities that are reached by their groups
/// alone, and have the same, share one list.
pub(super) fn by_identity(identities: &[Arc<Identity>], grants: &[Arc<Grant>]) -> HashMap<String, GrantList> {
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut by_group: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, grant) in grants.iter().enumerate() {
        for name in &grant.identities {
            by_name.entry(name).or_default().push(place);
        }
        for group in &grant.groups {
            by_group.entry(group).or_default().push(place);
        }
    }
    let mut of_groups: HashMap<Vec<&str>, GrantList> = HashMap::new();
    let list = |own: &[usize], groups: &[&str]| -> GrantList {
        let of_groups = groups.iter().filter_map(|group| by_group.get(group));
        let mut places: Vec<_> = of_groups.flatten().chain(own).copied().collect();
        places.sort_unstable();
        places.dedup();
        places.iter().map(|place| Arc::clone(&grants[*place])).collect()
    };
    let reaching = identities.iter().map(|identity| {
        let mut groups: Vec<_> = identity.groups.iter().map(String::as_str).collect();
        groups.sort_unstable();
        let grants = match by_name.get(identity.name.as_str()) {
            Some(own) => list(own, &groups),
            None => match of_groups.get(&groups) {
                Some(shared) => Arc::clone(shared),
                None => {
                    let shared = list(&[], &groups);
                    Arc::clone(of_groups.entry(groups).or_insert(shared))
                }
            },
        };
        (identity.name.clone(), grants)
    });
    reaching.collect()
}

/// Whether the API server carries a write out and stores nothing. Only of what it stores: a review is answered and a token
/// issued in a dry run as well.
pub(super) fn is_dry_run(request: &KubeRequest) -> bool {
    const ANSWERED: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];
    let stored = match &request.target {
        Target::Resource {
            group, subresource, ..
        } => {
            !ANSWERED.contains(&group.as_str())
                && subresource
                    .as_deref()
                    .is_none_or(|sub| STORED_SUBRESOURCES.contains(&sub))
        }
        Target::NonResource { .. } => false,
    };
    stored && request.dry_run && matches!(request.verb, Verb::Create | Verb::Update | Verb::Patch)
}

/// The request as a dry run, where rules can give that alone.
pub(super) fn as_dry_run(request: &KubeRequest) -> Option<KubeRequest> {
    if request.dry_run || request.exec.is_some() {
        return None;
    }
    let dry = KubeRequest {
        dry_run: true,
        ..request.clone()
    };
    is_dry_run(&dry).then_some(dry)
}

/// The verbs a request needs granted. A session needs `create` by whichever method it is asked for, so that read rights
/// never open one; a server-side apply can create, and so can an update of some resources: these need both, as the API
/// server asks its own authorizer for both when it comes to creating.
pub(super) fn needed(request: &KubeRequest) -> ([Verb; 2], usize) {
    if request.is_session() {
        ([Verb::Create; 2], 1)
    } else if may_create(request) {
        ([request.verb, Verb::Create], 2)
    } else {
        ([request.verb; 2], 1)
    }
}
