//! The policy engine: every identity, grant and policy, checked against each other and laid out for quick decisions.
//!
//! In: the documents of all files. Out: a [`PolicySet`] that says what each request needs to be judged ([`needs`]) and
//! how it is judged ([`evaluate`]); [`crate::decision`] turns that into the permit, the ask or the denial.

mod agent_namespaces;
pub mod builtin;
mod cautions;
mod check;
mod command;
mod condition;
mod each;
mod evaluate;
mod exclusive;
mod explain;
mod grants;
mod index;
mod instead;
mod item_filter;
mod limits;
mod match_input;
mod namespaces;
mod needs;
mod one_user;
mod one_workload;
mod overlap;
mod people;
mod review;
mod rules;
mod shown_namespaces;
mod tokens;
mod trace;
mod trace_words;
mod verdict;
mod window;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use self::agent_namespaces::AgentNamespaces;
use self::builtin::{Builtin, OWN_NAMESPACE};
use crate::api::v1alpha1::{AgentPolicy, Attest};
use crate::api::{AnyObject, Document};
use crate::identity::{Identity, Principal};
use crate::jwt::VerifiedToken;
use crate::person::Person;
use crate::yaml::Diagnostic;

pub use cautions::{Caution, CautionCause};
pub use each::{ClusterObject, ObjectVerdict};
pub use exclusive::{Claims, PodClaim};
pub use grants::{Grant, GrantHours, GrantState};
pub use item_filter::ItemFilter;
pub use limits::{EffectiveLimits, Limit, LimitSet, Rate};
pub use namespaces::{NamespaceFacts, NamespaceUse, Namespaces, UnknownNamespace};
pub use needs::{Inputs, Needs, ObjectSource, OldObjectUse};
pub use people::People;
pub use review::{GrantUse, narrow, uses};
pub use trace::{DecisionTrace, Field, Mismatch, TraceOutcome, TracePart, TraceStep};
pub(crate) use verdict::{Allowance, Evaluation, Refusal};
pub use verdict::{Cause, FiredRule};

/// The rule by which an AgentPolicy that is not valid denies requests for resources.
pub const INVALID_POLICY: &str = "invalid-policy";

/// Likewise those for other paths.
pub const INVALID_POLICY_PATHS: &str = "invalid-policy-paths";

/// How much a policy set holds, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyCounts {
    /// Identities.
    pub identities: usize,
    /// Grants.
    pub grants: usize,
    /// Policies.
    pub policies: usize,
    /// Rules of all policies.
    pub rules: usize,
}

/// The built-ins that do not hold for a policy's subjects.
#[derive(Debug)]
struct Exceptions {
    policy: u32,
    builtins: BTreeSet<Builtin>,
}

/// Every identity, grant and policy in force, compiled. The default one is empty and so refuses everyone.
#[derive(Debug)]
pub struct PolicySet {
    identities: Vec<Arc<Identity>>,
    /// By namespace, then by service account.
    by_workload: HashMap<String, HashMap<String, Vec<usize>>>,
    by_subject: HashMap<(String, String), Vec<usize>>,
    by_spiffe_id: HashMap<String, Vec<usize>>,
    grants: Vec<Arc<Grant>>,
    grants_by_identity: HashMap<String, grants::GrantList>,
    /// The grants by whom they are used, where some are on behalf of people; else each is an agent's own.
    by_actor: Option<GrantsByActor>,
    rules: rules::RuleSet,
    exceptions: Vec<Exceptions>,
    limits: limits::LimitIndex,
    own_namespace: String,
    /// The namespaces whose pods are agents.
    agent_namespaces: AgentNamespaces,
    /// Why there is no set, where this one only stands in for one.
    absent: Option<Absence>,
}

/// The grants of each identity, apart: a request that shows a person's token is judged by those on behalf of that person alone, so
/// that nothing of the agent's own is done in a person's name, and nothing of a person's by the agent on its own.
#[derive(Debug)]
struct GrantsByActor {
    own: HashMap<String, grants::GrantList>,
    for_people: HashMap<String, grants::GrantList>,
    /// The users of the agents' own grants.
    agents_users: HashSet<Box<str>>,
}

impl GrantsByActor {
    fn of(identities: &[Arc<Identity>], grants: &[Arc<Grant>]) -> Option<Self> {
        let (for_people, own): (Vec<_>, Vec<_>) = grants
            .iter()
            .cloned()
            .partition(|grant| grant.on_behalf_of().is_some());
        (!for_people.is_empty()).then(|| Self {
            agents_users: own
                .iter()
                .filter_map(|grant| grant.user())
                .map(|user| user.username().into())
                .collect(),
            own: grants::by_identity(identities, &own),
            for_people: grants::by_identity(identities, &for_people),
        })
    }
}

/// Why a node has no set, so that nobody is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// Objects are not valid, or cannot be read. The place of the fault, or what cannot be read.
    Invalid(String),
    /// The API server has not listed the objects yet. Which of them.
    Unlisted(String),
}

impl Absence {
    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        let (Self::Invalid(reason) | Self::Unlisted(reason)) = self;
        reason
    }
}

impl Default for PolicySet {
    fn default() -> Self {
        Self::build(Vec::new(), OWN_NAMESPACE)
    }
}

impl PolicySet {
    /// The set of a node without a valid one: it knows nobody, refuses everyone and says why.
    #[must_use]
    pub fn deny_all(absent: Absence) -> Self {
        Self {
            absent: Some(absent),
            ..Self::default()
        }
    }

    /// Why there is no valid set, where this is one of [`PolicySet::deny_all`].
    #[must_use]
    pub fn absent(&self) -> Option<&Absence> {
        self.absent.as_ref()
    }

    /// Checks documents against each other and compiles them, with [`OWN_NAMESPACE`] as Picket's own.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files.
    pub fn compile(documents: Vec<Document>) -> Result<Self, Vec<Diagnostic>> {
        Self::compile_in(&documents, OWN_NAMESPACE)
    }

    /// Likewise, for a Picket that runs in another namespace.
    ///
    /// # Errors
    /// As [`PolicySet::compile`].
    pub fn compile_in(documents: &[Document], own_namespace: &str) -> Result<Self, Vec<Diagnostic>> {
        let errors = check::check(documents);
        if errors.is_empty() {
            Ok(Self::build(documents, own_namespace))
        } else {
            Err(errors)
        }
    }

    fn build<'d>(documents: impl IntoIterator<Item = &'d Document>, own_namespace: &str) -> Self {
        let mut set = Self {
            identities: Vec::new(),
            by_workload: HashMap::new(),
            by_subject: HashMap::new(),
            by_spiffe_id: HashMap::new(),
            grants: Vec::new(),
            grants_by_identity: HashMap::new(),
            by_actor: None,
            rules: rules::RuleSet::default(),
            exceptions: Vec::new(),
            limits: limits::LimitIndex::default(),
            own_namespace: own_namespace.to_owned(),
            agent_namespaces: AgentNamespaces::default(),
            absent: None,
        };
        let mut zones = window::Zones::default();
        for document in documents {
            match &document.object {
                AnyObject::Identity(object) => {
                    let identity = Identity::from(object.clone());
                    set.add_identity(Arc::new(identity));
                }
                AnyObject::Grant(object) => set.grants.push(Arc::new(Grant::new(object, &mut zones))),
                AnyObject::Policy(object) => set.add_policy(object),
            }
        }
        set.grants_by_identity = grants::by_identity(&set.identities, &set.grants);
        set.by_actor = GrantsByActor::of(&set.identities, &set.grants);
        set
    }

    fn add_identity(&mut self, identity: Arc<Identity>) {
        let place = self.identities.len();
        self.agent_namespaces.add(&identity);
        if let Some(pod) = &identity.attest.pod {
            let accounts = self.by_workload.entry(pod.namespace.clone()).or_default();
            accounts
                .entry(pod.service_account.clone())
                .or_default()
                .push(place);
        }
        if let Some(jwt) = &identity.attest.jwt {
            let subject = (jwt.issuer.clone(), jwt.subject.clone());
            self.by_subject.entry(subject).or_default().push(place);
        }
        if let Some(spiffe) = &identity.attest.spiffe {
            let places = self.by_spiffe_id.entry(spiffe.id.clone()).or_default();
            places.push(place);
        }
        self.identities.push(identity);
    }

    fn add_policy(&mut self, policy: &AgentPolicy) {
        let place = u32::try_from(self.rules.policies.len()).unwrap_or(u32::MAX);
        self.rules.add(policy);
        self.limits.add(place, policy);
        let builtins: BTreeSet<_> = policy
            .spec
            .exceptions
            .iter()
            .filter_map(|name| Builtin::parse(name))
            .collect();
        if !builtins.is_empty() {
            self.exceptions.push(Exceptions {
                policy: place,
                builtins,
            });
        }
    }

    /// The identities.
    #[must_use]
    pub fn identities(&self) -> &[Arc<Identity>] {
        &self.identities
    }

    /// The grants.
    #[must_use]
    pub fn grants(&self) -> &[Arc<Grant>] {
        &self.grants
    }

    /// How much there is.
    #[must_use]
    pub fn summary(&self) -> PolicyCounts {
        PolicyCounts {
            identities: self.identities.len(),
            grants: self.grants.len(),
            policies: self.rules.policies.len(),
            rules: self.rules.rules.len(),
        }
    }

    /// Which parts of namespaces the rules look at. Whoever decides hands these in with [`Inputs`].
    #[must_use]
    pub fn namespace_use(&self) -> NamespaceUse {
        self.rules.namespace_use()
    }

    /// The identities whose `attest.jwt` names this token, whatever else they ask for.
    #[must_use]
    pub fn identities_of_token(&self, token: &VerifiedToken) -> Vec<Arc<Identity>> {
        let subject = (token.issuer().to_owned(), token.subject().to_owned());
        let places = self.by_subject.get(&subject).into_iter().flatten();
        let identities = places.filter_map(|place| self.identities.get(*place));
        let names = |identity: &&Arc<Identity>| {
            let jwt = identity.attest.jwt.as_ref();
            jwt.is_some_and(|jwt| tokens::satisfies(token, jwt))
        };
        identities.filter(names).cloned().collect()
    }

    /// The identities to which this token was given for somebody else, as its claim `act` says, and that ask for people by a grant. A token
    /// that names an identity by its subject is that agent's own, whoever else stands in it.
    #[must_use]
    pub fn identities_of_actor(&self, token: &VerifiedToken) -> Vec<Arc<Identity>> {
        let Some(actor) = tokens::actor(token) else {
            return Vec::new();
        };
        let places = self
            .by_subject
            .get(&(token.issuer().to_owned(), actor.to_owned()));
        let identities = places.into_iter().flatten();
        let identities = identities.filter_map(|place| self.identities.get(*place));
        let acts = |identity: &&Arc<Identity>| {
            let jwt = identity.attest.jwt.as_ref();
            jwt.is_some_and(|jwt| tokens::satisfies_as_actor(token, jwt))
                && self.acts_for_people(&identity.name)
        };
        identities.filter(acts).cloned().collect()
    }

    /// Whether a pod's token matters: the pod's identity asks for one, or the pod has no identity but by its token.
    #[must_use]
    pub fn reads_token_of_pod(
        &self,
        namespace: &str,
        service_account: &str,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        if self.by_subject.is_empty() {
            return false;
        }
        // Asked for each request: nothing is allocated.
        let mut found = self.of_pod(namespace, service_account, labels).peekable();
        found.peek().is_none() || found.any(|identity| identity.attest.jwt.is_some())
    }

    /// The identities whose `attest.spiffe` names this ID, whatever else they ask for.
    pub fn identities_of_spiffe_id(&self, id: &str) -> impl Iterator<Item = &Arc<Identity>> {
        let places = self.by_spiffe_id.get(id).into_iter().flatten();
        places.filter_map(|place| self.identities.get(*place))
    }

    /// The identity that a pod is by itself; nothing where another could be meant, or the pod alone does not prove it.
    #[must_use]
    pub fn sole_identity_of_pod(
        &self,
        namespace: &str,
        service_account: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<Arc<Identity>> {
        let mut identities = self.identities_of_pod(namespace, service_account, labels);
        let only = identities.pop().filter(|_| identities.is_empty());
        only.filter(|identity| {
            let pod_alone = Attest {
                pod: identity.attest.pod.clone(),
                ..Attest::default()
            };
            identity.attest == pod_alone
        })
    }

    /// The identities whose `attest.pod` a pod satisfies, whatever else they ask for.
    #[must_use]
    pub fn identities_of_pod(
        &self,
        namespace: &str,
        service_account: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<Identity>> {
        self.of_pod(namespace, service_account, labels).cloned().collect()
    }

    fn of_pod<'s>(
        &'s self,
        namespace: &str,
        service_account: &str,
        labels: &'s BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'s Arc<Identity>> {
        let accounts = self.by_workload.get(namespace);
        let places = accounts.and_then(|accounts| accounts.get(service_account));
        let identities = places.into_iter().flatten();
        identities
            .filter_map(|place| self.identities.get(*place))
            .filter(|identity| {
                let pod = identity.attest.pod.as_ref();
                pod.is_some_and(|pod| overlap::matches(pod.selector.as_ref(), labels))
            })
    }

    /// The policies that are about an identity, whose pods run in this namespace.
    pub fn policies_of(&self, identity: &Identity, namespace: Option<&str>) -> impl Iterator<Item = &str> {
        let about =
            move |policy: &&rules::CompiledPolicy| policy.names(&identity.name, &identity.groups, namespace);
        self.rules
            .policies
            .iter()
            .filter(about)
            .map(|policy| &*policy.name)
    }

    /// The grants that a request of this principal is judged by: the agent's own, or those on behalf of the person for whom it asks.
    fn grants_for(&self, principal: &Principal) -> Cow<'_, [Arc<Grant>]> {
        let of = |grants| lookup(grants, principal.name());
        match (principal.person(), &self.by_actor) {
            (None, None) => Cow::Borrowed(self.grants_of(principal.name())),
            (None, Some(by_actor)) => Cow::Borrowed(of(&by_actor.own)),
            (Some(_), None) => Cow::Borrowed(&[]),
            (Some(person), Some(by_actor)) => {
                let grants = of(&by_actor.for_people).iter();
                Cow::Owned(grants.filter(|grant| grant.is_for(person)).cloned().collect())
            }
        }
    }

    /// Whether an identity has a grant on behalf of somebody, now or at another time.
    #[must_use]
    pub fn acts_for_people(&self, identity: &str) -> bool {
        let by_actor = self.by_actor.as_ref();
        by_actor.is_some_and(|by_actor| !lookup(&by_actor.for_people, identity).is_empty())
    }

    /// Whether grants give a user to agents. No person is such a user: an issuer's mapping that makes the name, by mistake or by a claim
    /// that its users choose, would give one agent the rights of another.
    #[must_use]
    pub fn is_agents_user(&self, username: &str) -> bool {
        let by_actor = self.by_actor.as_ref();
        by_actor.is_some_and(|by_actor| by_actor.agents_users.contains(username))
    }

    /// Whether an identity has a grant on behalf of this person, now or at another time.
    #[must_use]
    pub fn acts_for(&self, identity: &str, person: &Person) -> bool {
        let by_actor = self.by_actor.as_ref();
        let grants = by_actor.map_or(&[][..], |by_actor| lookup(&by_actor.for_people, identity));
        grants.iter().any(|grant| grant.is_for(person))
    }

    /// The grants that name an identity or one of its groups, on behalf of people or not.
    #[must_use]
    pub fn grants_of(&self, identity: &str) -> &[Arc<Grant>] {
        lookup(&self.grants_by_identity, identity)
    }
}

fn lookup<'g>(grants: &'g HashMap<String, grants::GrantList>, identity: &str) -> &'g [Arc<Grant>] {
    grants.get(identity).map_or(&[], |grants| grants)
}

#[cfg(test)]
mod tests;
