//! What the node's credentials must be let do at the API server.
//!
//! In: the users that the grants name, and the rights that a credential lacks. Out: a [`Need`] for each user, and for each resource
//! that the agent follows; and a [`Verdict`] on them.
//!
//! The API server has two modes of impersonation and takes one for a whole request: the constrained mode of Kubernetes 1.36, and
//! the plain verb of all releases. It tries the constrained mode first, and the plain verb where that fails. So rights of two modes
//! do not add up to one, and a plain right undoes what the constrained mode limits.

use std::collections::BTreeSet;

use picket_policy::api::GROUP;
use picket_policy::api::v1alpha1::{
    AgentGrantSpec, AgentIdentitySpec, AgentPolicySpec, PICKET_NODE_PLURAL, Spec,
};
use picket_policy::{ServiceAccount, service_account};

use crate::cluster::rights::{MAX_RIGHTS, Right, RuleVerbs};

/// The verb of constrained impersonation, and of releases before it and of service accounts.
pub(in crate::cli) const CONSTRAINED: &str = "impersonate:user-info";
pub(in crate::cli) const PLAIN: &str = "impersonate";

/// What constrained impersonation takes besides, for each request: this with the request's verb, on its resource.
pub(in crate::cli) const CONSTRAINED_ON: &str = "impersonate-on:user-info:";

/// The verbs of requests for objects, as deploy/rbac.yaml lists them.
const VERBS: [&str; 8] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];

/// The API group of impersonated users and groups.
pub(in crate::cli) const AUTHENTICATION: &str = "authentication.k8s.io";

/// What the agent creates to learn who asks for metrics, and what the caller may: API group and resource.
pub(super) const REVIEWS: [(&str, &str); 2] = [
    (AUTHENTICATION, "tokenreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// What the agent adds to each impersonated user.
pub(in crate::cli) const EXTRAS: [&str; 3] = ["picket.dev/identity", "picket.dev/pod", "picket.dev/session"];

/// A right, with what it is for people.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) what: String,
    pub(super) right: Right,
}

/// Rights that are enough together.
#[derive(Debug, Clone)]
pub(super) struct Way(pub(super) Vec<Step>);

impl Way {
    fn lacked<'w>(&'w self, lacks: &BTreeSet<&Right>) -> impl Iterator<Item = &'w Step> {
        self.0.iter().filter(move |step| lacks.contains(&step.right))
    }

    fn is_met(&self, lacks: &BTreeSet<&Right>) -> bool {
        self.lacked(lacks).next().is_none()
    }

    /// Whether the credential has some of it.
    fn is_begun(&self, lacks: &BTreeSet<&Right>) -> bool {
        self.lacked(lacks).count() < self.0.len()
    }
}

/// Something that the credential must be let do.
#[derive(Debug, Clone)]
pub(super) enum Need {
    /// All of these rights.
    Rights(Way),
    /// To act as a user, in one of the two modes.
    User {
        /// Its name.
        user: String,
        /// By the constrained mode, which takes [`CONSTRAINED_ON`] besides.
        constrained: Way,
        /// By the plain verb.
        plain: Way,
    },
}

/// Whether the credential has any right of [`CONSTRAINED_ON`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnRights {
    /// It has.
    Some,
    /// It has none for all namespaces.
    None,
    /// The API server does not list all rights, and it has none of those that were asked about.
    Unknown,
}

/// What is to be told of a credential.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// What it may not do.
    pub(super) missing: Vec<String>,
    /// Users for whom it has rights of both modes.
    pub(super) mixed: Vec<String>,
    /// What the API server does not say.
    pub(super) unknown: Vec<String>,
}

impl Need {
    pub(super) fn ways(&self) -> impl Iterator<Item = &Way> {
        let (first, other) = match self {
            Self::Rights(way) => (way, None),
            Self::User {
                constrained, plain, ..
            } => (constrained, Some(plain)),
        };
        std::iter::once(first).chain(other)
    }

    pub(super) fn rights(&self) -> impl Iterator<Item = &Right> {
        self.ways().flat_map(|way| &way.0).map(|step| &step.right)
    }

    /// The rights that it is met by, as far as the API server was asked about them.
    pub(super) fn used(&self, lacks: &BTreeSet<&Right>) -> impl Iterator<Item = &Right> {
        self.nearest(lacks).0.iter().map(|step| &step.right)
    }

    /// The user that the credential may act as by the constrained mode alone.
    pub(super) fn constrained_user(&self, lacks: &BTreeSet<&Right>) -> Option<&str> {
        match self {
            Self::Rights(_) => None,
            Self::User {
                user,
                constrained,
                plain,
            } => (constrained.is_met(lacks) && !plain.is_met(lacks)).then_some(user),
        }
    }

    /// The way of which least is lacking, and the first of such.
    fn nearest(&self, lacks: &BTreeSet<&Right>) -> &Way {
        match self {
            Self::Rights(way) => way,
            Self::User {
                constrained, plain, ..
            } => match plain.lacked(lacks).count() < constrained.lacked(lacks).count() {
                true => plain,
                false => constrained,
            },
        }
    }

    /// What is lacking of the nearest way. The verb is named where the credential has the same by another.
    fn lacks(&self, lacks: &BTreeSet<&Right>) -> Vec<String> {
        let has = |what: &str| {
            let mut steps = self.ways().flat_map(|way| &way.0);
            steps.any(|step| step.what == what && !lacks.contains(&step.right))
        };
        let say = |step: &Step| match has(&step.what) {
            true => format!("may not {} by the verb {}", step.what, step.right.verb),
            false => format!("may not {}", step.what),
        };
        self.nearest(lacks).lacked(lacks).map(say).collect()
    }
}

/// What there is to tell of a credential that lacks these rights.
pub(super) fn judge(needs: &[Need], lacks: &BTreeSet<&Right>, on: OnRights) -> Verdict {
    // A service account as user takes the plain verb, and its groups do.
    let accounts: BTreeSet<_> = needs
        .iter()
        .filter(|need| matches!(need, Need::Rights(_)))
        .flat_map(Need::rights)
        .collect();
    let mut verdict = Verdict::default();
    for need in needs {
        match need {
            Need::Rights(_) => verdict.missing.extend(need.lacks(lacks)),
            Need::User {
                user,
                constrained,
                plain,
            } => {
                let by_constrained = constrained.is_met(lacks);
                if !by_constrained && !plain.is_met(lacks) {
                    verdict.missing.extend(need.lacks(lacks));
                    if constrained.is_begun(lacks) && on == OnRights::None {
                        verdict.missing.push(no_on_right(user));
                    }
                } else {
                    let left = leftover(plain, lacks, &accounts);
                    verdict.of_user(user, need, lacks, on, &left);
                }
            }
        }
    }
    for said in [&mut verdict.missing, &mut verdict.mixed, &mut verdict.unknown] {
        let mut seen = BTreeSet::new();
        said.retain(|text| seen.insert(text.clone()));
    }
    verdict
}

impl Verdict {
    /// For a user of whom one mode's rights are complete.
    fn of_user(&mut self, user: &str, need: &Need, lacks: &BTreeSet<&Right>, on: OnRights, left: &[&Step]) {
        let Need::User {
            constrained, plain, ..
        } = need
        else {
            return;
        };
        let voided = |left: &&Step| {
            format!(
                "may {} by the plain verb {PLAIN} too, which voids the limits of {CONSTRAINED}",
                left.what
            )
        };
        match (constrained.is_met(lacks), on) {
            (true, OnRights::None) if plain.is_met(lacks) => self.mixed.push(format!(
                "acts as user {user} by the plain verb {PLAIN} alone: it has {CONSTRAINED}, and no right {CONSTRAINED_ON}VERB"
            )),
            (true, OnRights::None) => self.missing.push(no_on_right(user)),
            (true, OnRights::Unknown) if left.is_empty() => self.unknown.push(format!(
                "unknown: whether it has rights {CONSTRAINED_ON}VERB for the requests of user {user}; the API server does not list \
                 all of its rights"
            )),
            (true, _) => self.mixed.extend(left.iter().map(voided)),
            (false, _) if on == OnRights::Some || constrained.is_begun(lacks) => {
                let lacked: Vec<_> = constrained.lacked(lacks).map(|step| step.what.as_str()).collect();
                self.mixed.push(format!(
                    "acts as user {user} by the plain verb {PLAIN} alone: by {CONSTRAINED} it may not {}",
                    lacked.join(", nor ")
                ));
            }
            // A credential of the plain mode throughout, as releases before 1.36 want it.
            (false, _) => {}
        }
    }
}

fn no_on_right(user: &str) -> String {
    format!("may not send requests as user {user}: it has no right {CONSTRAINED_ON}VERB on any resource")
}

/// The plain rights on a user and its groups that no service account's grant takes. Extras alone let nobody act as anybody.
fn leftover<'n>(plain: &'n Way, lacks: &BTreeSet<&Right>, accounts: &BTreeSet<&Right>) -> Vec<&'n Step> {
    let held = |step: &&Step| {
        let right = &step.right;
        right.resource != "userextras" && !lacks.contains(right) && !accounts.contains(right)
    };
    plain.0.iter().filter(held).collect()
}

/// As many of the needs as there are questions for, and the first in any case.
pub(super) fn first(needs: &[Need]) -> &[Need] {
    let mut rights = BTreeSet::new();
    let mut count = 0;
    for need in needs {
        rights.extend(need.rights());
        if count > 0 && rights.len() > MAX_RIGHTS {
            break;
        }
        count += 1;
    }
    &needs[..count]
}

/// The verbs of requests that these rules let be sent in the constrained mode; all where a rule has every verb.
pub(super) fn on_verbs(rules: &RuleVerbs) -> BTreeSet<&str> {
    match rules.verbs.contains("*") {
        true => VERBS.into(),
        false => {
            let verbs = rules.verbs.iter();
            verbs
                .filter_map(|verb| verb.strip_prefix(CONSTRAINED_ON))
                .collect()
        }
    }
}

/// What a narrow role lets be sent, for people; nothing where it has every verb.
pub(super) fn narrowed(verbs: &BTreeSet<&str>) -> Option<String> {
    let given: Vec<_> = VERBS.into_iter().filter(|verb| verbs.contains(verb)).collect();
    let narrow = !given.is_empty() && given.len() < VERBS.len();
    narrow.then(|| format!("narrow: {CONSTRAINED_ON}VERB for {} alone", given.join(", ")))
}

/// Rights of [`CONSTRAINED_ON`] that stand for the others where the API server does not list them: a role may be narrowed to
/// some resources.
pub(super) fn on_samples() -> [Right; 6] {
    let on =
        |verb: &'static str, group: &'static str, resource: &'static str| Right::on(verb, group, resource);
    [
        on("impersonate-on:user-info:get", "", "pods"),
        on("impersonate-on:user-info:list", "", "pods"),
        on("impersonate-on:user-info:get", "", "configmaps"),
        on("impersonate-on:user-info:get", "", "nodes"),
        on("impersonate-on:user-info:get", "apps", "deployments"),
        on("impersonate-on:user-info:create", "", "pods"),
    ]
}

/// What the agent follows.
pub(super) fn followed() -> Vec<Need> {
    let resources = [
        ("", "pods"),
        ("", "services"),
        ("", "nodes"),
        ("discovery.k8s.io", "endpointslices"),
    ];
    let follow = |(group, resource)| {
        ["list", "watch"].map(|verb| {
            only(Step {
                what: format!("{verb} {resource}"),
                right: Right::on(verb, group, resource),
            })
        })
    };
    resources.into_iter().flat_map(follow).collect()
}

/// What it takes besides, where the agent follows the objects that the cluster keeps.
pub(super) fn kept_objects() -> Vec<Need> {
    let right = |verb: &'static str, plural: &'static str| Right::on(verb, GROUP, plural);
    let needs = |plural: &'static str| {
        let status = right("patch", plural).of("status");
        [
            (format!("list {plural}"), right("list", plural)),
            (format!("watch {plural}"), right("watch", plural)),
            (format!("patch {plural}/status"), status),
        ]
    };
    let plurals = [
        AgentIdentitySpec::PLURAL,
        AgentGrantSpec::PLURAL,
        AgentPolicySpec::PLURAL,
    ];
    let all = plurals.into_iter().flat_map(needs);
    all.map(|(what, right)| only(Step { what, right })).collect()
}

/// What it takes to say how the node is. The agent works without.
pub(super) fn node_status() -> Vec<Need> {
    let right = |verb: &'static str| Right::on(verb, GROUP, PICKET_NODE_PLURAL);
    let need = |what: &str, right: Right| {
        only(Step {
            what: what.to_owned(),
            right,
        })
    };
    vec![
        need("create picketnodes", right("create")),
        need("patch picketnodes", right("patch")),
        need("patch picketnodes/status", right("patch").of("status")),
    ]
}

/// What it takes besides, while rules or enrolment look at namespaces. `looks` says which does.
pub(super) fn namespaces(looks: &str) -> Vec<Need> {
    let need = |verb: &'static str| {
        only(Step {
            what: format!("{verb} namespaces, whose labels {looks}"),
            right: Right::on(verb, "", "namespaces"),
        })
    };
    ["list", "watch"].map(need).into()
}

/// What it takes besides, where metrics are served over TLS.
pub(super) fn reviews() -> Vec<Need> {
    REVIEWS
        .map(|(group, resource)| {
            only(Step {
                what: format!("create {resource}, to know who asks for metrics"),
                right: Right::on("create", group, resource),
            })
        })
        .into()
}

/// What it takes besides, where Picket's controller signs the node CA.
pub(super) fn node_ca() -> Vec<Need> {
    let need = |verb: &'static str| {
        only(Step {
            what: format!("{verb} certificatesigningrequests, by which the controller signs the node CA"),
            right: Right::on(verb, "certificates.k8s.io", "certificatesigningrequests"),
        })
    };
    ["create", "get"].map(need).into()
}

/// A need of one right.
fn only(step: Step) -> Need {
    Need::Rights(Way(vec![step]))
}

/// What is asked where no grant needs anything: nobody can act yet, and the credential is tried all the same.
pub(super) fn at_least() -> Vec<Need> {
    vec![only(Step {
        what: "ask for its own rights".to_owned(),
        right: Right::on("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
    })]
}

/// What it takes to act as these users with their groups.
pub(super) fn impersonated(users: &BTreeSet<(String, Vec<String>)>) -> Vec<Need> {
    let need = |(user, groups): &(String, Vec<String>)| match service_account(user) {
        // The API server lets nobody act as one by the constrained verb for users.
        Some(_) => Need::Rights(acting(PLAIN, user, groups)),
        None => Need::User {
            user: user.clone(),
            constrained: acting(CONSTRAINED, user, groups),
            plain: acting(PLAIN, user, groups),
        },
    };
    users.iter().map(need).collect()
}

/// What it takes to get tokens of these service accounts.
pub(super) fn tokens<'g>(accounts: impl IntoIterator<Item = &'g ServiceAccount>) -> Vec<Need> {
    let names: BTreeSet<_> = accounts
        .into_iter()
        .map(|account| (account.namespace(), account.name()))
        .collect();
    let need = |(namespace, name): (&str, &str)| {
        only(Step {
            what: format!("create serviceaccounts/token of service account {namespace}/{name}"),
            right: Right::on("create", "", "serviceaccounts")
                .of("token")
                .within(namespace)
                .named(name),
        })
    };
    names.into_iter().map(need).collect()
}

/// The rights that a request as this user takes, where the API server lets it by this verb.
fn acting(verb: &'static str, user: &str, groups: &[String]) -> Way {
    let step = |what: String, right: Right| Step {
        what: format!("impersonate {what}"),
        right,
    };
    let mut steps: Vec<_> = groups
        .iter()
        .map(|group| {
            let right = Right::on(verb, group_of(verb), "groups").named(group);
            step(format!("group {group}"), right)
        })
        .collect();
    steps.sort_by(|one, other| one.what.cmp(&other.what));
    steps.push(match service_account(user) {
        Some((namespace, name)) => {
            let right = Right::on(verb, "", "serviceaccounts")
                .within(namespace)
                .named(name);
            step(format!("service account {namespace}/{name}"), right)
        }
        None => {
            let right = Right::on(verb, group_of(verb), "users").named(user);
            step(format!("user {user}"), right)
        }
    });
    steps.extend(EXTRAS.map(|extra| {
        let right = Right::on(verb, AUTHENTICATION, "userextras").of(extra);
        step(format!("userextras/{extra}"), right)
    }));
    Way(steps)
}

/// The API group that users and groups have for a verb.
fn group_of(verb: &str) -> &'static str {
    if verb == CONSTRAINED { AUTHENTICATION } else { "" }
}
