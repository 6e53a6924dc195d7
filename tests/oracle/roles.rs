//! Roles: those of every cluster and generated ones, and the same role as an AgentGrant.
//!
//! In: rules as RBAC has them. Out: Picket's [`PolicySet`] of the text of a file with a grant of the same rules.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use picket_policy::builtin::Builtin;
use picket_policy::{PolicySet, Principal, PrincipalOrigin, read_documents};

use crate::judge::{Role, RoleRule};
use crate::random::Random;
use crate::vocabulary::{METHODS, NAMES, NAMESPACES, RESOURCES, RULE_PATHS, SUBRESOURCES, Served, VERBS};

/// The two agents of every set: one as agents are, and one that a policy excepts from every built-in deny.
#[derive(Debug)]
pub(crate) struct Agents {
    pub(crate) set: PolicySet,
    pub(crate) usual: Arc<Principal>,
    pub(crate) excepted: Arc<Principal>,
}

impl Agents {
    /// Both with a grant of these rules in these namespaces, from the text of a file.
    pub(crate) fn with_grant(rules: &[RoleRule], namespaces: &[String]) -> Result<Self> {
        let text = file(rules, namespaces)?;
        let refused = |errors: Vec<_>| anyhow!("refused: {errors:#?}");
        let documents = read_documents("role.yaml", &text).map_err(refused)?;
        let set = PolicySet::compile(documents).map_err(refused)?;
        let principal = |name: &str| {
            let mut identities = set.identities().iter();
            let identity = identities.find(|identity| identity.name == name);
            let identity = Arc::clone(identity.context("no such identity")?);
            Principal::new(
                identity,
                PrincipalOrigin::pod("agents", name),
                "pod",
                Timestamp::UNIX_EPOCH,
            )
            .map(Arc::new)
            .map_err(|standing| anyhow!("{standing:?}"))
        };
        Ok(Self {
            usual: principal("usual")?,
            excepted: principal("excepted")?,
            set,
        })
    }
}

/// The file: the two agents, the grant, and the policy of the exceptions.
fn file(rules: &[RoleRule], namespaces: &[String]) -> Result<String> {
    let mut text = String::new();
    for name in ["usual", "excepted"] {
        write!(
            text,
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec:\n  owner: team-a\n  \
             attest: {{pod: {{namespace: agents, serviceAccount: {name}}}}}\n---\n"
        )?;
    }
    let names: Vec<_> = Builtin::ALL.iter().map(|builtin| builtin.name()).collect();
    write!(
        text,
        "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: exceptions}}\nspec:\n  subjects: {{identities: \
         [excepted]}}\n  exceptions: [{}]\n---\n",
        names.join(", ")
    )?;
    write!(
        text,
        "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: role}}\nspec:\n  to: {{identities: [usual, \
         excepted]}}\n  upstream: {{impersonate: {{user: agent}}}}\n"
    )?;
    if !namespaces.is_empty() {
        writeln!(text, "  namespaces: [{}]", namespaces.join(", "))?;
    }
    text.push_str("  rules:\n");
    for rule in rules {
        writeln!(text, "  - {}", serde_json::to_string(rule)?)?;
    }
    Ok(text)
}

/// A role of a few rules, which hold in some namespaces only where `namespaced` says so.
pub(crate) fn generated(random: &mut Random, number: usize, namespaced: bool) -> Role {
    let count = 1 + random.below(4);
    Role {
        name: format!("generated-{number}"),
        rules: (0..count)
            .map(|_| {
                if !namespaced && random.once_in(5) {
                    paths_rule(random)
                } else {
                    resources_rule(random, namespaced)
                }
            })
            .collect(),
    }
}

/// Namespaces that a role is bound in.
pub(crate) fn some_namespaces(random: &mut Random) -> Vec<String> {
    owned(random.some(&NAMESPACES, 3).into_iter().copied())
}

fn paths_rule(random: &mut Random) -> RoleRule {
    RoleRule {
        verbs: verbs(random, &METHODS),
        non_resource_urls: owned(random.some(&RULE_PATHS, 3).into_iter().copied()),
        ..RoleRule::default()
    }
}

fn resources_rule(random: &mut Random, namespaced: bool) -> RoleRule {
    let choices: Vec<Served> = RESOURCES
        .into_iter()
        .filter(|served| served.2 || !namespaced)
        .collect();
    let served = random.some(&choices, 4);
    let mut api_groups = owned(served.iter().map(|served| served.0));
    api_groups.sort();
    api_groups.dedup();
    let mut resources = owned(served.iter().map(|served| served.1));
    if random.once_in(6) {
        api_groups = vec!["*".to_owned()];
    }
    match random.below(8) {
        0 => resources = vec!["*".to_owned()],
        1 => resources.push(format!("*/{}", random.of(&SUBRESOURCES))),
        _ => {}
    }
    let resource_names = if random.once_in(3) {
        // The reader refuses a name that no object of the resource can have.
        let names = random.some(&NAMES, 2).into_iter().copied();
        owned(names.filter(|name| !name.contains(':')))
    } else {
        Vec::new()
    };
    RoleRule {
        verbs: verbs(random, &VERBS),
        api_groups,
        resources,
        resource_names,
        non_resource_urls: Vec::new(),
    }
}

fn verbs(random: &mut Random, all: &[&'static str]) -> Vec<String> {
    if random.once_in(6) {
        return vec!["*".to_owned()];
    }
    let mut verbs = owned(random.some(all, 4).into_iter().copied());
    // Of no request, and in roles of those who impersonate.
    if random.once_in(8) {
        verbs.push(format!("impersonate-on:user-info:{}", random.of(all)));
    }
    verbs
}

fn owned<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    words.map(str::to_owned).collect()
}
