//! Grants, compiled: RBAC's rule matching (pkg/apis/rbac/v1/evaluation_helpers.go), exact and case-sensitive, so that an odd
//! spelling is not granted.
//!
//! In: an [`AgentGrant`], then requests. Out: whether the grant allows a request, and as whom the API server is asked.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::UpstreamUser;
use super::match_input::may_create;
use super::window::{Window, Zones};
use crate::api::v1alpha1::{AgentGrant, AgentGrantSpec, PolicyRule};
use crate::engine::builtin::url_matches;
use crate::glob::Glob;
use crate::request::{KubeRequest, Target, Verb, VerbSet};

/// An AgentGrant that was read and checked.
#[derive(Debug)]
pub struct Grant {
    name: Arc<str>,
    user: Arc<UpstreamUser>,
    identities: Vec<String>,
    groups: Vec<String>,
    namespaces: Box<[Glob]>,
    window: Window,
    rules: Vec<GrantRule>,
    by_resource: HashMap<Box<str>, Vec<u32>>,
    wild: Vec<u32>,
    paths: Vec<u32>,
}

/// One of its rules.
#[derive(Debug)]
pub(super) struct GrantRule {
    label: Arc<str>,
    /// The verbs it gives.
    pub(super) verbs: VerbSet,
    groups: Vec<String>,
    /// On these resources.
    pub(super) resources: Vec<String>,
    /// Of these names, if there are any here.
    pub(super) names: Vec<String>,
    /// Or on these non-resource paths.
    pub(super) urls: Vec<String>,
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
        }
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

    fn name_matches(&self, name: Option<&str>) -> bool {
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
            user: Arc::new(UpstreamUser::of(upstream)),
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

    /// As whom the API server is asked.
    #[must_use]
    pub fn user(&self) -> &UpstreamUser {
        &self.user
    }

    pub(super) fn shared_user(&self) -> Arc<UpstreamUser> {
        self.user.clone()
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

    /// When it holds.
    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Whether it reaches an identity with these groups.
    pub(super) fn reaches(&self, identity: &str, groups: &[String]) -> bool {
        self.identities.iter().any(|name| name == identity)
            || self.groups.iter().any(|group| groups.contains(group))
    }

    fn holds_in(&self, namespace: Option<&str>) -> bool {
        self.namespaces.is_empty()
            || namespace.is_some_and(|namespace| self.namespaces.iter().any(|glob| glob.matches(namespace)))
    }

    /// The rule that gives a verb on what a request is about.
    pub(super) fn rule_for(&self, verb: Verb, request: &KubeRequest) -> Option<Arc<str>> {
        let rule = |number: &u32| {
            self.rules
                .get(*number as usize)
                .filter(|rule| rule.verbs.has(verb))
        };
        match &request.target {
            Target::NonResource { path } => self
                .paths
                .iter()
                .filter_map(rule)
                .find(|rule| self.namespaces.is_empty() && rule.urls.iter().any(|url| url_matches(url, path)))
                .map(|rule| rule.label.clone()),
            Target::Resource {
                group,
                resource,
                subresource,
                namespace,
                name,
                ..
            } => {
                if !self.holds_in(namespace.as_deref()) {
                    return None;
                }
                let sub = subresource.as_deref();
                let exact = match sub {
                    Some(sub) => self.by_resource.get(format!("{resource}/{sub}").as_str()),
                    None => self.by_resource.get(resource.as_str()),
                };
                exact
                    .into_iter()
                    .flatten()
                    .chain(&self.wild)
                    .filter_map(rule)
                    .find(|rule| {
                        rule.group_matches(group)
                            && rule.resource_matches(resource, sub)
                            && rule.name_matches(name.as_deref())
                    })
                    .map(|rule| rule.label.clone())
            }
        }
    }
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
