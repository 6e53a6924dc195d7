//! What the node's credential must be let do at the API server for the grants, as RBAC objects that give no more.
//!
//! In: the grants that somebody can use. Out: a ClusterRole, and a Role for each namespace to which a right can be bound; each
//! with its binding.
//!
//! Constrained impersonation (KEP-5284, Kubernetes 1.36) asks for three things: the user with its groups and extras, and the
//! request's own verb on its own resource. The last two are not tied to each other: the node may send what any grant gives as any
//! of the users. A service account as user has extras, which only the plain verb gives.

use std::collections::{BTreeMap, BTreeSet};

use picket_policy::api::v1alpha1::{AgentGrantSpec, OnBehalfOf, PolicyRule};
use picket_policy::builtin::{DISCOVERY, SELF_REVIEWS};
use picket_policy::{Impersonate, Verb, service_account};
use serde_json::{Value, json};

use crate::cli::doctor::needs::{AUTHENTICATION, CONSTRAINED, CONSTRAINED_ON, EXTRAS, PLAIN};
use crate::cluster::rights::Right;

const RBAC: &str = "rbac.authorization.k8s.io";
const RBAC_VERSION: &str = "rbac.authorization.k8s.io/v1";

/// Finds the objects, for `kubectl apply --prune`.
pub(super) const LABEL: (&str, &str) = ("picket.dev/generated-by", "grant-rbac");

/// What is asked of the API server by GET too, where a grant gives `create`: WebSocket clients open sessions so.
const SESSIONS: [&str; 3] = ["pods/attach", "pods/exec", "pods/portforward"];

/// Which form the rights have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Constrained impersonation.
    Constrained,
    /// The verb `impersonate` alone, for releases before 1.36.
    Plain,
}

/// What one rule of a role is about; two of the same share a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct About {
    /// Rules that say as whom stand before those that say what.
    order: u8,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    urls: Vec<String>,
}

/// The rules of one role.
#[derive(Debug, Default)]
struct Rules(BTreeMap<About, BTreeSet<String>>);

impl Rules {
    fn add(&mut self, about: About, verbs: impl IntoIterator<Item = String>) {
        self.0.entry(about).or_default().extend(verbs);
    }

    /// A rule about resources of one API group and these names; no rule without names, as it would be about every name.
    fn named(&mut self, verb: &str, group: &str, resource: &str, names: &BTreeSet<String>) {
        if !names.is_empty() {
            let about = About {
                order: 0,
                groups: vec![group.to_owned()],
                resources: vec![resource.to_owned()],
                names: names.iter().cloned().collect(),
                urls: Vec::new(),
            };
            self.add(about, [verb.to_owned()]);
        }
    }

    /// The extras of each impersonated user. Pods and sessions come and go, so that no names stand here.
    fn extras(&mut self, verb: &str) {
        let about = About {
            order: 1,
            groups: vec![AUTHENTICATION.to_owned()],
            resources: EXTRAS.map(|extra| format!("userextras/{extra}")).to_vec(),
            names: Vec::new(),
            urls: Vec::new(),
        };
        self.add(about, [verb.to_owned()]);
    }

    /// What every grant gives besides: discovery, and reviews of one's own rights.
    fn implicit(&mut self) {
        let about = |groups: &[&str], resources: &[&str], urls: &[&str]| About {
            order: 3,
            groups: groups.iter().map(ToString::to_string).collect(),
            resources: resources.iter().map(ToString::to_string).collect(),
            names: Vec::new(),
            urls: urls.iter().map(ToString::to_string).collect(),
        };
        for (group, resource) in SELF_REVIEWS {
            self.add(about(&[group], &[resource], &[]), [on(Verb::Create)]);
        }
        self.add(about(&[], &[], &DISCOVERY), [on(Verb::Get)]);
    }

    fn values(&self) -> Vec<Value> {
        let rule = |(about, verbs): (&About, &BTreeSet<String>)| {
            let mut rule = json!({"verbs": verbs});
            if about.urls.is_empty() {
                rule["apiGroups"] = json!(about.groups);
                rule["resources"] = json!(about.resources);
            } else {
                rule["nonResourceURLs"] = json!(about.urls);
            }
            if !about.names.is_empty() {
                rule["resourceNames"] = json!(about.names);
            }
            rule
        };
        self.0.iter().map(rule).collect()
    }
}

/// What grants take, gathered.
#[derive(Debug)]
pub(super) struct Rights {
    mode: Mode,
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
    /// Whether some grant is on behalf of people, whose names need not be here.
    has_people: bool,
    /// Groups beside service accounts as users.
    account_groups: BTreeSet<String>,
    /// Service accounts as users, by namespace.
    accounts: BTreeMap<String, BTreeSet<String>>,
    /// Service accounts whose tokens are requested, by namespace.
    tokens: BTreeMap<String, BTreeSet<String>>,
    /// What is asked for while acting as a user: in the whole cluster, and by namespace.
    everywhere: Rules,
    within: BTreeMap<String, Rules>,
    /// What RBAC cannot say as narrowly as a grant, for people.
    wider: Vec<String>,
}

impl Rights {
    /// None yet.
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            users: BTreeSet::new(),
            groups: BTreeSet::new(),
            has_people: false,
            account_groups: BTreeSet::new(),
            accounts: BTreeMap::new(),
            tokens: BTreeMap::new(),
            everywhere: Rules::default(),
            within: BTreeMap::new(),
            wider: Vec::new(),
        }
    }

    /// Adds what a grant takes.
    pub(super) fn add(&mut self, name: &str, grant: &AgentGrantSpec) {
        if let Some(account) = &grant.upstream.service_account {
            let names = self.tokens.entry(account.namespace.clone()).or_default();
            names.insert(account.name.clone());
        }
        if let Some(people) = &grant.upstream.on_behalf_of {
            self.add_people(name, grant, people);
        }
        let Some(user) = &grant.upstream.impersonate else {
            return;
        };
        let sent = Impersonate::new(&user.user, &user.groups);
        if let Some((namespace, account)) = service_account(&sent.user) {
            let names = self.accounts.entry(namespace.to_owned()).or_default();
            names.insert(account.to_owned());
            self.account_groups.extend(sent.groups);
            return;
        }
        self.users.insert(sent.user);
        self.groups.extend(sent.groups);
        if self.mode == Mode::Constrained {
            self.add_rules(name, grant);
        }
    }

    /// Adds what a grant on behalf of people takes: by name whom it names without globs. Further names are for a person to add.
    fn add_people(&mut self, name: &str, grant: &AgentGrantSpec, people: &OnBehalfOf) {
        let named = |names: &[String]| -> Vec<String> {
            let named = names.iter().filter(|name| !name.contains(['*', '?']));
            named.cloned().collect()
        };
        self.users.extend(named(&people.users));
        self.groups.extend(named(&people.groups));
        self.has_people = true;
        self.wider.push(format!(
            "AgentGrant {name} is on behalf of {}: only users and groups without globs are named here. The node needs the same right for \
             each other user and each further group of these people, by a role of your own",
            people.in_words()
        ));
        if self.mode == Mode::Constrained {
            self.add_rules(name, grant);
        }
    }

    fn add_rules(&mut self, name: &str, grant: &AgentGrantSpec) {
        let is_glob = |namespace: &&String| namespace.contains(['*', '?']);
        let globs: Vec<_> = grant.namespaces.iter().filter(is_glob).cloned().collect();
        if !globs.is_empty() {
            self.wider.push(format!(
                "AgentGrant {name} holds in namespaces {}: RBAC has no globs, so its rules are in the ClusterRole",
                globs.join(", ")
            ));
        }
        let rules: Vec<_> = grant.rules.iter().flat_map(on_rules).collect();
        let give = |to: &mut Rules| {
            for (about, verbs) in &rules {
                to.add(about.clone(), verbs.iter().cloned());
            }
        };
        if grant.namespaces.is_empty() || !globs.is_empty() {
            give(&mut self.everywhere);
        } else {
            for namespace in &grant.namespaces {
                give(self.within.entry(namespace.clone()).or_default());
            }
        }
    }

    /// What RBAC cannot say as narrowly as a grant, for people.
    pub(super) fn wider(&self) -> &[String] {
        &self.wider
    }

    /// The objects: roles of this name, bound to this subject.
    pub(super) fn objects(mut self, name: &str, subject: &Value) -> Vec<Value> {
        let mut cluster = std::mem::take(&mut self.everywhere);
        let (verb, group) = match self.mode {
            Mode::Constrained => (CONSTRAINED, AUTHENTICATION),
            Mode::Plain => (PLAIN, ""),
        };
        cluster.named(verb, group, "users", &self.users);
        cluster.named(verb, group, "groups", &self.groups);
        if !self.users.is_empty() || self.has_people {
            cluster.extras(verb);
            if self.mode == Mode::Constrained {
                cluster.implicit();
            }
        }
        cluster.named(PLAIN, "", "groups", &self.account_groups);
        if !self.accounts.is_empty() {
            cluster.extras(PLAIN);
        }
        let mut within = std::mem::take(&mut self.within);
        for (namespace, names) in &self.accounts {
            let rules = within.entry(namespace.clone()).or_default();
            rules.named(PLAIN, "", "serviceaccounts", names);
        }
        for (namespace, names) in &self.tokens {
            let rules = within.entry(namespace.clone()).or_default();
            rules.named("create", "", "serviceaccounts/token", names);
        }
        // The ClusterRole is there without rules too, so that to apply it takes back what it gave before.
        let mut objects = role("ClusterRole", name, None, &cluster, subject);
        for (namespace, rules) in &within {
            objects.extend(role("Role", name, Some(namespace), rules, subject));
        }
        objects
    }
}

/// A role and its binding.
fn role(kind: &str, name: &str, namespace: Option<&str>, rules: &Rules, subject: &Value) -> Vec<Value> {
    let mut metadata = json!({"name": name, "labels": {LABEL.0: LABEL.1}});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    vec![
        json!({"apiVersion": RBAC_VERSION, "kind": kind, "metadata": metadata, "rules": rules.values()}),
        json!({"apiVersion": RBAC_VERSION, "kind": format!("{kind}Binding"), "metadata": metadata,
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name}, "subjects": [subject]}),
    ]
}

/// The verb that constrained impersonation takes for a request's verb.
fn on(verb: Verb) -> String {
    format!("{CONSTRAINED_ON}{verb}")
}

/// What the API server is asked for by a rule of a grant, while the node acts as the user.
fn on_rules(rule: &PolicyRule) -> Vec<(About, Vec<String>)> {
    let sorted = |words: &[String]| {
        let words: BTreeSet<_> = words.iter().cloned().collect();
        words.into_iter().collect::<Vec<_>>()
    };
    let about = About {
        order: 2,
        groups: sorted(&rule.api_groups),
        resources: sorted(&rule.resources),
        names: sorted(&rule.resource_names),
        urls: sorted(&rule.non_resource_urls),
    };
    let known: Vec<_> = match rule.non_resource_urls.is_empty() {
        true => Verb::of_resources().collect(),
        false => Verb::of_paths().collect(),
    };
    // Verbs of roles that no request has grant nothing: the API server checks them for the impersonated user.
    let given = |verb: &Verb| {
        rule.verbs
            .iter()
            .any(|given| given == "*" || given == verb.as_str())
    };
    let verbs: Vec<_> = known.into_iter().filter(given).collect();
    if verbs.is_empty() {
        return Vec::new();
    }
    let mut rules = Vec::new();
    let sessions: Vec<_> = SESSIONS
        .into_iter()
        .filter(|session| is_about(rule, session))
        .collect();
    if verbs.contains(&Verb::Create) && !verbs.contains(&Verb::Get) && !sessions.is_empty() {
        let about = About {
            groups: vec![String::new()],
            resources: sessions.into_iter().map(str::to_owned).collect(),
            ..about.clone()
        };
        rules.push((about, vec![on(Verb::Get)]));
    }
    rules.push((about, verbs.into_iter().map(on).collect()));
    rules
}

/// What the node must be let do for requests that a rule of a grant gives, in the constrained mode: a right for each verb on each
/// resource, as the rules of the roles have them.
pub(in crate::cli) fn on_requests(rule: &PolicyRule) -> Vec<Right> {
    let mut rights = Vec::new();
    for (about, verbs) in on_rules(rule) {
        let names: Vec<_> = match about.names.is_empty() {
            true => vec![None],
            false => about.names.iter().map(Some).collect(),
        };
        for (group, resource) in about
            .groups
            .iter()
            .flat_map(|group| about.resources.iter().map(move |resource| (group, resource)))
        {
            for (verb, name) in verbs
                .iter()
                .flat_map(|verb| names.iter().map(move |name| (verb, name)))
            {
                let (of, sub) = match resource.split_once('/') {
                    Some((of, sub)) => (of, Some(sub)),
                    None => (resource.as_str(), None),
                };
                let mut right = Right::on(verb.clone(), group.clone(), of.to_owned());
                right.subresource = sub.map(|sub| sub.to_owned().into());
                right.name = name.cloned();
                rights.push(right);
            }
        }
    }
    rights
}

/// Whether a rule is about a subresource of pods.
fn is_about(rule: &PolicyRule, of_pods: &str) -> bool {
    let core = rule
        .api_groups
        .iter()
        .any(|group| group.is_empty() || group == "*");
    let any = of_pods.replacen("pods", "*", 1);
    core && rule
        .resources
        .iter()
        .any(|resource| resource == "*" || resource == of_pods || *resource == any)
}

#[cfg(test)]
#[path = "rights_tests.rs"]
mod tests;
