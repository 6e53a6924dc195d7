//! Whether the upstream credential may do more than the grants need.
//!
//! In: the users, groups and service accounts that the grants name, and the rules that the API server lists for the credential.
//! Out: a check that names each rule that is too wide.
//!
//! The credential's rights bound what a stolen credential is worth. Impersonation without names is worth the whole cluster.
//! Rules are listed in the namespaces `default` and `kube-system` and in those of the grants' service accounts. A Role of another
//! namespace is not seen. Where an authorizer does not list what it allows, the API server is asked about each right without a
//! name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::authorization::v1::ResourceRule;
use kube::Client;
use picket_policy::api::GROUP;
use picket_policy::{DEFAULT_NAMESPACE, PolicySet, service_account};

use super::needs::{AUTHENTICATION, CONSTRAINED, EXTRAS, PLAIN, REVIEWS};
use crate::cluster::rights::{ReviewError, Right, lacking, rules_in};
use crate::kernel::doctor::{Check, CheckStatus};

/// The name of the check.
const NAME: &str = "upstream rights";

/// The namespaces whose rules are listed whatever the grants name: one that has none of its own as a rule, and the one whose
/// accounts are worth most.
const NAMESPACES: [&str; 2] = [DEFAULT_NAMESPACE, "kube-system"];

/// Most namespaces that rules are listed in, a request each.
const MAX_NAMESPACES: usize = 16;

/// Most rules that are named; the first show what is wrong.
const MAX_RULES: usize = 12;

/// The group that RBAC does not bound.
const MASTERS: &str = "system:masters";

/// What people do about it.
const ADVICE: &str = "remove these rules from the roles of the credential, or list under resourceNames what the AgentGrants name; \
                      deploy/rbac.yaml has the rules that Picket needs. `kubectl get clusterrolebindings,rolebindings -A -o wide` \
                      shows the roles that are bound to the credential's user and groups";

/// Likewise where the chart runs the agent.
const ADVICE_OF_CHART: &str = "take the names that no AgentGrant has out of impersonate.users and impersonate.groups of the chart's values, \
                               and run helm upgrade; print and apply `kubectl picket grant rbac` again where its output is in use. `kubectl \
                               get clusterrolebindings,rolebindings -A -o wide` shows what else is bound to the agents' service account";

/// The group that the chart's flow control and deploy/flow-control.yaml select: to be kept in the lists, whether a grant names it or not.
const FLOW_GROUP: &str = "picket:agents";

/// Rights that the agent needs, and those that every credential has: API group, resources, verbs.
const NEEDED: [(&str, &[&str], &[&str]); 12] = [
    (
        "",
        &["pods", "services", "nodes", "namespaces"],
        &["list", "watch"],
    ),
    ("discovery.k8s.io", &["endpointslices"], &["list", "watch"]),
    ("events.k8s.io", &["events"], &["create", "patch"]),
    (
        GROUP,
        &["agentidentities", "agentgrants", "agentpolicies"],
        &["list", "watch"],
    ),
    (
        GROUP,
        &[
            "agentidentities/status",
            "agentgrants/status",
            "agentpolicies/status",
        ],
        &["patch"],
    ),
    (GROUP, &["picketnodes"], &["create", "patch"]),
    (GROUP, &["picketnodes/status"], &["patch"]),
    (
        "authorization.k8s.io",
        &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        &["create"],
    ),
    (AUTHENTICATION, &["selfsubjectreviews"], &["create"]),
    (
        "certificates.k8s.io",
        &["clustertrustbundles"],
        &["get", "list", "watch"],
    ),
    // The node CA, where the controller signs it. A request gives nothing before somebody approves it.
    (
        "certificates.k8s.io",
        &["certificatesigningrequests"],
        &["create", "get"],
    ),
    // Reads of the Service whose address is the API server's.
    ("", &["services"], &["get"]),
];

/// What the grants take of the credential.
#[derive(Debug, Clone, Default)]
pub(super) struct Granted {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
    /// Service accounts that are impersonated, by name. A rule of a ClusterRole holds for the name in every namespace.
    accounts: BTreeSet<String>,
    /// Service accounts whose tokens are requested, likewise.
    tokens: BTreeSet<String>,
    /// The namespaces of both.
    namespaces: BTreeSet<String>,
    /// Whether the agent asks who its own callers are: for metrics over TLS.
    pub(super) reviews: bool,
    /// Whether there are no other grants. A name that none of them has is too much only then.
    is_complete: bool,
    /// Whether people are among the users, or in the groups, whom no grant names one by one.
    others: Others,
}

/// Whether grants need names that they do not say.
#[derive(Debug, Clone, Copy, Default)]
struct Others {
    users: bool,
    groups: bool,
}

impl Granted {
    /// Of these objects; there may be more.
    pub(super) fn of(policies: Option<Arc<PolicySet>>, more: bool) -> Self {
        let Some(policies) = policies else {
            return Self::default();
        };
        let mut granted = Self {
            is_complete: !more,
            ..Self::default()
        };
        for grant in policies.grants() {
            if let Some(people) = grant.on_behalf_of() {
                granted.users.extend(people.named_users().map(str::to_owned));
                granted.groups.extend(people.named_groups().map(str::to_owned));
                // A person has groups besides those by which a grant names people.
                granted.others.groups = true;
                granted.others.users |= !people.are_named();
            }
            let Some(user) = grant.user() else { continue };
            if let Some(acting) = user.impersonate() {
                match service_account(&acting.user) {
                    Some((namespace, name)) => {
                        granted.namespaces.insert(namespace.to_owned());
                        granted.accounts.insert(name.to_owned());
                    }
                    None => _ = granted.users.insert(acting.user.clone()),
                }
                granted.groups.extend(acting.groups.iter().cloned());
            }
            if let Some(account) = user.service_account() {
                granted.namespaces.insert(account.namespace().to_owned());
                granted.tokens.insert(account.name().to_owned());
            }
        }
        granted
    }

    /// The names of a rule that no grant has, where all that grants need is known, but for `others`.
    fn unneeded<'n>(&self, needed: &BTreeSet<String>, others: bool, names: &'n [String]) -> Vec<&'n str> {
        let names = names.iter().map(String::as_str);
        let all_known = self.is_complete && !others;
        names
            .filter(|name| *name == MASTERS || (all_known && !needed.contains(*name)))
            .collect()
    }
}

/// A kind of what can be impersonated: its resource, what one of it is called, and what all are.
const KINDS: [(&str, &str, &str); 5] = [
    ("users", "user", "every user"),
    ("groups", "group", "every group"),
    ("serviceaccounts", "service account", "every service account"),
    ("uids", "UID", "every UID"),
    ("userextras", "userextra", "every userextra"),
];

/// The check of a credential. Must be called within a tokio runtime.
pub(super) async fn check(client: &Client, granted: &Granted) -> Check {
    match found(client, granted).await {
        // As the kubelet tells a container.
        Ok(found) => match std::env::var_os("KUBERNETES_SERVICE_HOST") {
            Some(_) => told(&found, ADVICE_OF_CHART),
            None => told(&found, ADVICE),
        },
        Err(error) => Check::bad(
            NAME,
            CheckStatus::Degraded,
            format!("not tested: {error}"),
            "see the check of the upstream credential",
        ),
    }
}

/// What the rules of a credential give.
struct Found {
    /// What is too wide, a line each.
    lines: Vec<String>,
    /// Whether all rules are listed.
    complete: bool,
    /// Whether a rule lets it send anything while it impersonates, which the rights of the impersonated user bound.
    sends_anything: bool,
}

fn told(found: &Found, advice: &str) -> Check {
    let lines = &found.lines;
    if lines.is_empty() {
        let listed = match found.complete {
            true => "no users, groups, service accounts and tokens beyond what the AgentGrants need",
            false => {
                "none too wide among those that the API server lists; an authorizer does not list its own"
            }
        };
        let on = match found.sends_anything {
            true => {
                "; as those users it may send any request that RBAC gives them: `picket grant rbac` prints rules of the grants' verbs and \
                 resources alone"
            }
            false => "",
        };
        return Check::ok(NAME, format!("{listed}{on}"));
    }
    let (count, mut lines) = (
        lines.len(),
        lines.iter().take(MAX_RULES).cloned().collect::<Vec<_>>(),
    );
    if count > MAX_RULES {
        lines.push(format!("and {} more", count - MAX_RULES));
    }
    Check::bad(NAME, CheckStatus::Degraded, lines.join("\n"), advice)
}

async fn found(client: &Client, granted: &Granted) -> Result<Found, ReviewError> {
    let of_grants = granted.namespaces.iter().map(String::as_str);
    let namespaces: Vec<&str> = NAMESPACES.into_iter().chain(of_grants).collect();
    let namespaces = &namespaces[..namespaces.len().min(MAX_NAMESPACES)];
    let mut places: BTreeMap<String, (ResourceRule, BTreeSet<&str>)> = BTreeMap::new();
    let mut complete = true;
    for namespace in namespaces {
        let listed = rules_in(client, namespace).await?;
        complete &= listed.complete;
        for rule in listed.rules {
            let place = places
                .entry(text(&rule))
                .or_insert_with(|| (rule, BTreeSet::new()));
            place.1.insert(namespace);
        }
    }
    let all: BTreeSet<&str> = namespaces.iter().copied().collect();
    let mut lines = Vec::new();
    for (text, (rule, seen)) in &places {
        let much = of_rule(rule, granted);
        if !much.is_empty() {
            let place = match *seen == all {
                true => "of a ClusterRole".to_owned(),
                false => format!(
                    "of a Role in {}",
                    seen.iter().copied().collect::<Vec<_>>().join(", ")
                ),
            };
            lines.push(format!("may {}, by the rule {text} {place}", much.join(", and ")));
        }
    }
    let probes = probes();
    let lacks = lacking(client, probes.iter().map(|(_, right)| right)).await?;
    let is_listed = |right| places.values().any(|(rule, _)| allows(rule, right));
    for (what, right) in &probes {
        if !lacks.contains(right) && !is_listed(right) {
            lines.push(format!(
                "may {what} by the verb {}, by an authorizer that does not list the rule",
                right.verb
            ));
        }
    }
    Ok(Found {
        lines,
        complete,
        sends_anything: places.values().any(|(rule, _)| sends_anything(rule)),
    })
}

/// Whether a rule gives a right, as RBAC compares them.
pub(super) fn allows(rule: &ResourceRule, right: &Right) -> bool {
    let resources = rule.resources.as_deref().unwrap_or_default();
    let of_any = right.subresource.as_ref().map(|sub| format!("*/{sub}"));
    let names = rule.resource_names.as_deref().unwrap_or_default();
    has(&rule.verbs, &right.verb)
        && has(rule.api_groups.as_deref().unwrap_or_default(), &right.group)
        && (has(resources, &right.resource_words()) || of_any.is_some_and(|any| resources.contains(&any)))
        && (names.is_empty() || right.name.as_ref().is_some_and(|name| names.contains(name)))
}

/// Rights without a name, which no grant needs.
fn probes() -> Vec<(String, Right)> {
    let mut probes = Vec::new();
    for (verb, group) in [(PLAIN, ""), (CONSTRAINED, AUTHENTICATION)] {
        for (resource, _, all) in KINDS {
            let right = match resource {
                // One that the agent does not send stands for all.
                "userextras" => Right::on(verb, AUTHENTICATION, resource).of("picket.dev/doctor"),
                "uids" => Right::on(verb, AUTHENTICATION, resource),
                _ => Right::on(verb, group, resource),
            };
            probes.push((format!("impersonate {all}"), right));
        }
    }
    let masters = Right::on(PLAIN, "", "groups").named(MASTERS);
    probes.push((format!("impersonate group {MASTERS}"), masters));
    let token = Right::on("create", "", "serviceaccounts").of("token");
    probes.push((EVERY_TOKEN.to_owned(), token));
    probes.push(("get secrets".to_owned(), Right::on("get", "", "secrets")));
    probes
}

/// What the right to request tokens without names is for people.
const EVERY_TOKEN: &str = "request tokens of every service account";

/// What a rule gives beyond what the grants need.
fn of_rule(rule: &ResourceRule, granted: &Granted) -> Vec<String> {
    let has = |list: &Option<Vec<String>>, word: &str| has(list.as_deref().unwrap_or_default(), word);
    if has(&rule.resources, "*") && rule.verbs.iter().any(|verb| verb == "*") && has(&rule.api_groups, "*") {
        return vec!["do everything".to_owned()];
    }
    let mut much = impersonation(rule, granted);
    let names = rule.resource_names.as_deref().unwrap_or_default();
    let gives_tokens = has(&rule.resources, "serviceaccounts/token")
        && has(&rule.api_groups, "")
        && self::has(&rule.verbs, "create");
    if gives_tokens {
        match granted.unneeded(&granted.tokens, false, names)[..] {
            _ if names.is_empty() => much.push(EVERY_TOKEN.to_owned()),
            [] => {}
            ref names => much.push(format!(
                "request tokens of service account {}, which no AgentGrant names",
                names.join(", ")
            )),
        }
    }
    much.extend(unneeded_verbs(rule, granted.reviews));
    much
}

/// Whether a rule lets the credential send requests for every resource while it impersonates.
fn sends_anything(rule: &ResourceRule) -> bool {
    let has_all = |list: &Option<Vec<String>>| {
        list.as_ref()
            .is_some_and(|list| list.iter().any(|word| word == "*"))
    };
    has_all(&rule.resources)
        && has_all(&rule.api_groups)
        && rule.verbs.iter().any(|verb| verb.starts_with("impersonate-on:"))
}

/// Whom a rule lets the credential impersonate, beyond whom the grants name.
fn impersonation(rule: &ResourceRule, granted: &Granted) -> Vec<String> {
    let groups = rule.api_groups.as_deref().unwrap_or_default();
    let resources = rule.resources.as_deref().unwrap_or_default();
    let names = rule.resource_names.as_deref().unwrap_or_default();
    let mut much = Vec::new();
    if !has(groups, "") && !has(groups, AUTHENTICATION) {
        return much;
    }
    let other = |verb: &&String| verb.starts_with("impersonate:") && *verb != CONSTRAINED;
    if let Some(verb) = rule.verbs.iter().find(other) {
        much.push(format!(
            "impersonate by the verb {verb}, which Picket does not use"
        ));
    }
    if !has(&rule.verbs, PLAIN) && !has(&rule.verbs, CONSTRAINED) {
        return much;
    }
    for (kind, one, all) in KINDS {
        let is_of_kind = |resource: &&String| match kind {
            "userextras" => {
                let own = resource.strip_prefix("userextras/");
                *resource == "*" || *resource == kind || own.is_some_and(|key| !EXTRAS.contains(&key))
            }
            _ => *resource == "*" || *resource == kind,
        };
        if !resources.iter().any(|resource| is_of_kind(&resource)) {
            continue;
        }
        if names.is_empty() {
            much.push(format!("impersonate {all}"));
            continue;
        }
        let (needed, others) = match kind {
            "users" => (&granted.users, granted.others.users),
            "groups" => (&granted.groups, granted.others.groups),
            "serviceaccounts" => (&granted.accounts, false),
            // Picket sends neither UIDs nor other extras.
            _ => (&BTreeSet::new(), false),
        };
        let mut unneeded = granted.unneeded(needed, others, names);
        unneeded.retain(|name| kind != "groups" || *name != FLOW_GROUP);
        if !unneeded.is_empty() {
            let names = unneeded.join(", ");
            much.push(format!("impersonate {one} {names}, which no AgentGrant names"));
        }
    }
    much
}

/// What a rule allows besides, that neither the agent nor every credential needs.
fn unneeded_verbs(rule: &ResourceRule, reviews: bool) -> Option<String> {
    let resources = rule.resources.as_deref().unwrap_or_default();
    let mut extra: (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
    for group in rule.api_groups.as_deref().unwrap_or_default() {
        for resource in resources
            .iter()
            .filter(|resource| *resource != "serviceaccounts/token")
        {
            for verb in rule.verbs.iter().filter(|verb| !verb.starts_with("impersonate")) {
                let is_needed = NEEDED.iter().any(|(of, resources, verbs)| {
                    group == of && resources.contains(&resource.as_str()) && verbs.contains(&verb.as_str())
                });
                let is_review = reviews && verb == "create" && REVIEWS.contains(&(group, resource));
                if !is_needed && !is_review {
                    extra.0.insert(verb);
                    extra.1.insert(resource);
                }
            }
        }
    }
    let list = |words: BTreeSet<&str>| words.into_iter().collect::<Vec<_>>().join(", ");
    (!extra.0.is_empty()).then(|| format!("{} {}", list(extra.0), list(extra.1)))
}

/// Whether a list has a word or the one that stands for all.
fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|one| one == word || one == "*")
}

/// A rule as it stands in a role.
fn text(rule: &ResourceRule) -> String {
    serde_json::to_string(rule).unwrap_or_default()
}

#[cfg(test)]
#[path = "excess_tests.rs"]
mod tests;
