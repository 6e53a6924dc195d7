//! The rights that recorded requests took, within bounds.
//!
//! In: an [`AuditEvent`] at a time. Out: [`Rights`], of which [`Rights::suggest`] makes grants.
//!
//! A right is a verb on a resource or path, in a scope: everywhere, or a namespace. What is kept grows with different rights, not with
//! requests: names and namespaces beyond [`MAX_NAMED`] are left out, and rights beyond [`MAX_RIGHTS`] are not taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::event::{AuditEvent, RecordedUser, ReplayOutcome, Untold};
use crate::api::read_documents;
use crate::engine::builtin::implicit_grant;
use crate::engine::{Grant, PolicySet, uses};
use crate::kubernetes::resources::name_error;
use crate::request::{KubeRequest, Target, Verb};

/// Most names, namespaces, paths and people of one right that a rule lists: as many as a person reads. More are left out, and the rule
/// says so.
pub const MAX_NAMED: usize = 16;

/// Most rights that are kept: a hundred times what a person reads, in about 100 MB.
pub const MAX_RIGHTS: usize = 100_000;

/// Grants that give everything, to ask the engine what a request needs.
const PROBES: &str = "apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: probe}
spec: {owner: probe, attest: {pod: {namespace: probe, serviceAccount: probe}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: everything}
spec:
  to: {identities: [probe]}
  upstream: {impersonate: {user: probe}}
  rules:
  - {verbs: ['*'], apiGroups: ['*'], resources: ['*']}
  - {verbs: ['*'], nonResourceURLs: ['*']}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: dry-runs}
spec:
  to: {identities: [probe]}
  upstream: {impersonate: {user: probe}}
  rules: [{verbs: [create, update, patch], apiGroups: ['*'], resources: ['*'], dryRun: Only}]
";

/// How often something was seen, and when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Requests.
    pub count: u64,
    /// The first one.
    pub first: Option<Timestamp>,
    /// The last one.
    pub last: Option<Timestamp>,
}

impl Seen {
    fn add(&mut self, at: Option<Timestamp>) {
        self.merge(Self {
            count: 1,
            first: at,
            last: at,
        });
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
    }
}

/// Why a grant cannot be suggested for an allowed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Uncovered {
    /// The record does not tell enough of the request.
    Record(Untold),
    /// The record does not name the user upstream.
    NoUser,
    /// A namespace, name, path, resource or person that no rule can name.
    Unnameable,
    /// More than [`MAX_NAMED`] paths: a pattern for them would give more than was seen.
    Paths,
    /// More than [`MAX_RIGHTS`] different rights.
    Rights,
}

impl Uncovered {
    /// In JSON and in tests.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Record(untold) => untold.word(),
            Self::NoUser => "no_user",
            Self::Unnameable => "unnameable",
            Self::Paths => "paths",
            Self::Rights => "rights",
        }
    }

    /// For people.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::Record(untold) => untold.explain(),
            Self::NoUser => "the record does not name the user that the API server was asked as",
            Self::Unnameable => "no rule can name the namespace, name, path, resource or person",
            Self::Paths => {
                "more paths than a rule should list; write a pattern with a * at its end if you mean it"
            }
            Self::Rights => "more different rights than are kept",
        }
    }
}

/// Whose rights: an agent's own, or those that it uses for people of an issuer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) identity: String,
    pub(super) issuer: Option<String>,
}

/// As whom the API server was asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Upstream {
    Impersonate { user: String, groups: Vec<String> },
    ServiceAccount { namespace: String, name: String },
    Person { user: String },
}

/// What a rule of a grant can tell apart, but for scope and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    Resource {
        group: String,
        resource: String,
        verb: Verb,
        /// Behind a proxy, of a read without an upgrade, and not the root.
        proxy_path: Option<String>,
        /// Dry runs, which store nothing. Whatever gives the others gives these too.
        dry: bool,
    },
    Path {
        path: String,
        verb: Verb,
    },
}

/// The objects of a right in one scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Objects {
    pub(super) names: BTreeSet<String>,
    /// A request had no name, as a list has none.
    pub(super) nameless: bool,
    /// Names were left out, since there were more than [`MAX_NAMED`].
    pub(super) many: bool,
    /// Some may have needed no such right: patches that may have been applies.
    pub(super) unsure: bool,
    pub(super) seen: Seen,
}

impl Objects {
    fn add(&mut self, name: Option<&str>, unsure: bool, at: Option<Timestamp>) {
        match name {
            None => self.nameless = true,
            Some(_) if self.many => {}
            Some(name) => {
                self.names.insert(name.to_owned());
            }
        }
        self.bound();
        self.unsure |= unsure;
        self.seen.add(at);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.names.extend(other.names);
        self.nameless |= other.nameless;
        self.many |= other.many;
        self.unsure |= other.unsure;
        self.seen.merge(other.seen);
        self.bound();
    }

    fn bound(&mut self) {
        if self.names.len() > MAX_NAMED {
            self.many = true;
        }
        if self.many {
            self.names.clear();
        }
    }
}

/// A right, by where it was used.
#[derive(Debug, Clone, Default)]
pub(super) struct Scopes {
    /// Without a namespace, or in more than [`MAX_NAMED`] of them.
    pub(super) everywhere: Option<Objects>,
    pub(super) namespaces: BTreeMap<String, Objects>,
    /// There were more namespaces than are listed.
    pub(super) many: bool,
}

impl Scopes {
    fn objects(&mut self, namespace: Option<&str>) -> &mut Objects {
        let is_new = namespace.is_some_and(|name| !self.namespaces.contains_key(name));
        if is_new && self.namespaces.len() >= MAX_NAMED {
            self.many = true;
        }
        if self.many {
            let everywhere = self.everywhere.get_or_insert_default();
            for (_, objects) in std::mem::take(&mut self.namespaces) {
                everywhere.merge(objects);
            }
        }
        match namespace {
            Some(name) if !self.many => self.namespaces.entry(name.to_owned()).or_default(),
            _ => self.everywhere.get_or_insert_default(),
        }
    }
}

/// What was seen of one subject.
#[derive(Debug, Clone, Default)]
pub(super) struct Used {
    /// With the last moment of each.
    pub(super) upstreams: BTreeMap<Upstream, Option<Timestamp>>,
    pub(super) rights: BTreeMap<Right, Scopes>,
    /// What comes with any grant.
    pub(super) implied: BTreeMap<Right, Scopes>,
    /// More people than are listed.
    pub(super) many_people: bool,
    pub(super) seen: Seen,
}

/// The rights that allowed requests took.
#[derive(Debug)]
pub struct Rights {
    pub(super) subjects: BTreeMap<Subject, Used>,
    pub(super) uncovered: BTreeMap<Uncovered, u64>,
    /// Requests that the API server refused: whoever tries what Kubernetes does not give has not used it.
    pub(super) refused: u64,
    pub(super) seen: Seen,
    pub(super) kept: usize,
    pub(super) probes: Vec<Arc<Grant>>,
}

impl Default for Rights {
    fn default() -> Self {
        // Without probes nothing would be known to be needed: each request would be told as uncovered.
        let probes = read_documents("probes", PROBES).and_then(PolicySet::compile);
        Self {
            subjects: BTreeMap::new(),
            uncovered: BTreeMap::new(),
            refused: 0,
            seen: Seen::default(),
            kept: 0,
            probes: probes.map(|set| set.grants().to_vec()).unwrap_or_default(),
        }
    }
}

impl Rights {
    /// Notes what an allowed request took. Records of other requests are left alone.
    pub fn add(&mut self, event: &AuditEvent) {
        if event.recorded().map(|recorded| recorded.outcome) != Ok(ReplayOutcome::Allowed) {
            return;
        }
        if event.was_forbidden() {
            self.refused += 1;
            return;
        }
        self.seen.add(event.at());
        if let Err(uncovered) = self.take(event) {
            *self.uncovered.entry(uncovered).or_default() += 1;
        }
    }

    fn take(&mut self, event: &AuditEvent) -> Result<(), Uncovered> {
        let identity = event
            .identity()
            .ok_or(Uncovered::Record(Untold::NoIdentity))?
            .to_owned();
        let upstream = upstream(event)?;
        let unread = |_| Uncovered::Record(Untold::RequestLine);
        let requests = event.requests().map_err(unread)?;
        let mut needed: BTreeMap<Right, (KubeRequest, bool)> = BTreeMap::new();
        for (planned, differs) in requests {
            let canonical = planned.canonical().map_err(unread)?;
            let canonical = canonical.map_err(|_| Uncovered::Record(Untold::RequestLine))?;
            for right in self.needed(canonical.kube())? {
                // Only the alternative needs it.
                needed
                    .entry(right)
                    .or_insert_with(|| (canonical.kube().as_ref().clone(), differs.is_some()));
            }
        }
        let subject = Subject {
            identity,
            issuer: event.person().map(|person| person.issuer.clone()),
        };
        let kept = &mut self.kept;
        let used = self.subjects.entry(subject).or_default();
        used.seen.add(event.at());
        used.add_upstream(upstream, event.at());
        for (right, (request, unsure)) in needed {
            let implied = implicit_grant(&request).is_some();
            let rights = if implied {
                &mut used.implied
            } else {
                &mut used.rights
            };
            if !rights.contains_key(&right) {
                if *kept >= MAX_RIGHTS {
                    return Err(Uncovered::Rights);
                }
                *kept += 1;
            }
            let scopes = rights.entry(right).or_default();
            let objects = scopes.objects(request.namespace());
            objects.add(request.name(), unsure, event.at());
        }
        Ok(())
    }

    /// The rights that a request needs.
    fn needed(&self, request: &KubeRequest) -> Result<Vec<Right>, Uncovered> {
        let of = |name: &str| self.probes.iter().position(|grant| grant.name() == name);
        let verbs = |place: Option<usize>| {
            let grants = place.and_then(|place| self.probes.get(place..=place));
            uses(grants.unwrap_or_default(), None, request)
        };
        let dry: Vec<_> = verbs(of("dry-runs")).iter().map(|used| used.verb).collect();
        let mut needed = Vec::new();
        for verb in verbs(of("everything")).iter().map(|used| used.verb) {
            let right = match &request.target {
                Target::NonResource { path } if is_glob(path) => {
                    return Err(Uncovered::Unnameable);
                }
                Target::NonResource { path } => Right::Path {
                    path: path.clone(),
                    verb,
                },
                Target::Resource { group, namespace, .. } => {
                    if namespace.as_deref().is_some_and(|name| !is_namespace(name)) {
                        return Err(Uncovered::Unnameable);
                    }
                    // A request has `*` as a word that means nothing. A rule with it would give everything.
                    let resource = request.resource_words();
                    if [group, &resource].into_iter().any(|word| is_glob(word)) {
                        return Err(Uncovered::Unnameable);
                    }
                    // Without its names a rule gives every name: one that cannot be written must not do that.
                    if request.name().is_some_and(|name| !is_name(&resource, name)) {
                        return Err(Uncovered::Unnameable);
                    }
                    let reads = verb == Verb::Get && !request.upgrade;
                    // No rule can name the root, which everything is behind.
                    let is_named = |path: &String| reads && !path.trim_matches('/').is_empty();
                    let proxy_path = request.proxy_path.clone().filter(is_named);
                    // As a pattern the path would give more than was seen.
                    if proxy_path.as_deref().is_some_and(is_glob) {
                        return Err(Uncovered::Unnameable);
                    }
                    Right::Resource {
                        group: group.clone(),
                        resource,
                        verb,
                        proxy_path,
                        dry: dry.contains(&verb),
                    }
                }
            };
            needed.push(right);
        }
        match needed.is_empty() {
            true => Err(Uncovered::Unnameable),
            false => Ok(needed),
        }
    }
}

impl Used {
    fn add_upstream(&mut self, upstream: Upstream, at: Option<Timestamp>) {
        if let Some(last) = self.upstreams.get_mut(&upstream) {
            *last = (*last).max(at);
        } else if self.upstreams.len() < MAX_NAMED {
            self.upstreams.insert(upstream, at);
        } else {
            self.many_people = true;
        }
    }
}

fn is_glob(word: &str) -> bool {
    word.contains(['*', '?'])
}

/// Whether a rule can name an object of the resource so.
fn is_name(resource: &str, name: &str) -> bool {
    !name.is_empty() && !is_glob(name) && name_error([resource], name).is_none()
}

fn is_namespace(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.bytes().all(fits)
}

/// As whom the API server was asked, as a grant writes it.
fn upstream(event: &AuditEvent) -> Result<Upstream, Uncovered> {
    if let Some(person) = event.person() {
        // In a grant a glob is more people than that one.
        if is_glob(&person.username) {
            return Err(Uncovered::Unnameable);
        }
        return Ok(Upstream::Person {
            user: person.username.clone(),
        });
    }
    let RecordedUser { username, groups } = event.upstream().ok_or(Uncovered::NoUser)?;
    let account = username.strip_prefix("system:serviceaccount:");
    if let Some((namespace, name)) = account.and_then(|account| account.split_once(':'))
        && event.carried_token()
    {
        return Ok(Upstream::ServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
    }
    // The record has the groups that the API server adds by itself too. A grant names none of them.
    let groups = groups.iter().filter(|group| !group.starts_with("system:"));
    Ok(Upstream::Impersonate {
        user: username.clone(),
        groups: groups.cloned().collect(),
    })
}
