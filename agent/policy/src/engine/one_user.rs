//! One upstream user for one identity: which grant allowed a request must not decide whom the API server sees.
//!
//! In: identities and grants, and how firmly each stands. Out: for each identity that would be two users, the objects that cannot
//! stand for that reason.
//!
//! A grant on behalf of people names no user, and gives nothing to a request that shows no person's token; nor do the others to one
//! that does. So it never makes an identity two users.
//!
//! The user of the firmest grant stays. Of the identity and the other grants the newer is refused: where the identity joined a
//! group whose grants were there before, it is the identity; else it is each of those grants.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::check::{From, spec, where_is};
use crate::api::v1alpha1::{AgentGrant, AgentIdentity};
use crate::api::{Document, name_path};
use crate::upstream_user::{Impersonate, UpstreamUser};
use crate::yaml::Diagnostic;

/// How firmly a document stands beside others: the lowest stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Firmness {
    /// First what cannot be refused, then what was in force before, then what is new.
    pub(super) class: u8,
    /// The place among all documents, the older first.
    pub(super) place: usize,
}

/// An object that would make one identity two users.
#[derive(Debug)]
pub(super) struct TwoUsers {
    /// What is wrong with it.
    pub(super) refused: Diagnostic,
    /// What there is to say at the others.
    pub(super) told: Vec<Diagnostic>,
}

/// Whom a grant names, however its groups are ordered.
type Whom = (UpstreamUser, BTreeSet<String>);

/// The grants to one name or group that name the same user.
#[derive(Debug)]
struct Alike {
    user: usize,
    firmest: usize,
    grants: Vec<usize>,
}

/// The grants by whom they are for. A group that thousands of grants name costs its identities as much as its users are.
#[derive(Debug, Default)]
struct Reach<'d> {
    by_name: HashMap<&'d str, Vec<Alike>>,
    by_group: HashMap<&'d str, Vec<Alike>>,
}

impl<'d> Reach<'d> {
    fn of(grants: &[From<'d, AgentGrant>]) -> Self {
        let mut users: HashMap<Whom, usize> = HashMap::new();
        let mut reach = Self::default();
        let named = grants.iter().enumerate();
        for (place, grant) in named.filter(|(_, grant)| grant.object.spec.upstream.on_behalf_of.is_none()) {
            let next = users.len();
            let user = *users.entry(as_whom(grant.object)).or_insert(next);
            let to = &grant.object.spec.to;
            for name in &to.identities {
                add(reach.by_name.entry(name).or_default(), grants, user, place);
            }
            for group in &to.groups {
                add(reach.by_group.entry(group).or_default(), grants, user, place);
            }
        }
        reach
    }

    /// All that reaches an identity.
    fn to<'s>(&'s self, identity: &'s AgentIdentity) -> impl Iterator<Item = &'s Alike> + Clone {
        let by_name = self.by_name.get(identity.metadata.name.as_str());
        let groups = identity.spec.groups.iter();
        let by_group = groups.filter_map(|group| self.by_group.get(group.as_str()));
        by_name.into_iter().chain(by_group).flatten()
    }
}

fn add(lists: &mut Vec<Alike>, grants: &[From<'_, AgentGrant>], user: usize, place: usize) {
    match lists.iter_mut().find(|alike| alike.user == user) {
        Some(alike) => {
            if grants[place].rank < grants[alike.firmest].rank {
                alike.firmest = place;
            }
            if alike.grants.last() != Some(&place) {
                alike.grants.push(place);
            }
        }
        None => lists.push(Alike {
            user,
            firmest: place,
            grants: vec![place],
        }),
    }
}

/// Finds each object that would make one identity two users, once.
pub(super) fn two_users(
    identities: &[From<'_, AgentIdentity>],
    grants: &[From<'_, AgentGrant>],
) -> Vec<TwoUsers> {
    let reach = Reach::of(grants);
    let (mut refused, mut looked_at) = (HashSet::new(), HashSet::new());
    let mut found = Vec::new();
    for identity in identities {
        let by_rank = |alike: &&Alike| grants[alike.firmest].rank;
        let reaching = reach.to(identity.object);
        let Some(kept) = reaching.clone().min_by_key(by_rank) else {
            continue;
        };
        let others = reaching.filter(|alike| alike.user != kept.user);
        let Some(second) = others.clone().min_by_key(by_rank) else {
            continue;
        };
        let kept = &grants[kept.firmest];
        if identity.rank > grants[second.firmest].rank {
            found.push(identity_refused(identity, kept, &grants[second.firmest]));
            continue;
        }
        for alike in others {
            // Lists of a group are the same for all identities of the group.
            if !looked_at.insert(std::ptr::from_ref(alike)) {
                continue;
            }
            let new = alike.grants.iter().filter(|&&place| refused.insert(place));
            found.extend(new.map(|&place| grant_refused(identity, kept, &grants[place])));
        }
    }
    found
}

const MUST: &str = "all grants of one identity must name the same upstream user and groups";

fn named(grant: &From<'_, AgentGrant>) -> String {
    let document = grant.document;
    format!(
        "grant {:?} ({})",
        document.name(),
        where_is(document, &spec("upstream"))
    )
}

fn at_name(document: &Document, reason: String) -> Diagnostic {
    document.error_at(&name_path(), reason)
}

fn identity_refused(
    identity: &From<'_, AgentIdentity>,
    kept: &From<'_, AgentGrant>,
    second: &From<'_, AgentGrant>,
) -> TwoUsers {
    let name = identity.document.name();
    let reason = format!(
        "identity {name:?} would act as {} by {} and as {} by {}: {MUST}",
        in_words(kept, second),
        named(kept),
        in_words(second, kept),
        named(second),
    );
    let told = |grant: &From<'_, AgentGrant>, other: &From<'_, AgentGrant>| {
        let reason = format!(
            "identity {name:?} is refused: it would act as {} by this grant and as {} by {}",
            in_words(grant, other),
            in_words(other, grant),
            named(other)
        );
        at_name(grant.document, reason)
    };
    TwoUsers {
        refused: at_name(identity.document, reason),
        told: vec![told(kept, second), told(second, kept)],
    }
}

fn grant_refused(
    identity: &From<'_, AgentIdentity>,
    kept: &From<'_, AgentGrant>,
    refused: &From<'_, AgentGrant>,
) -> TwoUsers {
    let name = identity.document.name();
    let reason = format!(
        "identity {name:?} would act as {} by this grant and as {} by {}: {MUST}",
        in_words(refused, kept),
        in_words(kept, refused),
        named(kept),
    );
    let told = format!(
        "{} is refused: identity {name:?} would act as {} by it and as {} by {}",
        named(refused),
        in_words(refused, kept),
        in_words(kept, refused),
        named(kept)
    );
    TwoUsers {
        refused: refused.document.error_at(&spec("upstream"), reason),
        told: vec![
            at_name(kept.document, told.clone()),
            at_name(identity.document, told),
        ],
    }
}

fn as_whom(grant: &AgentGrant) -> Whom {
    match UpstreamUser::of(&grant.spec.upstream) {
        UpstreamUser::Impersonated(Impersonate { user, groups }) => {
            let groups = groups.into_iter().collect();
            let bare = Impersonate {
                user,
                groups: Vec::new(),
            };
            (UpstreamUser::Impersonated(bare), groups)
        }
        account @ UpstreamUser::ServiceAccount(_) => (account, BTreeSet::new()),
    }
}

/// As whom a grant asks, beside another one: of one user the groups differ.
fn in_words(grant: &From<'_, AgentGrant>, other: &From<'_, AgentGrant>) -> String {
    let user = match UpstreamUser::of(&grant.object.spec.upstream) {
        UpstreamUser::Impersonated(impersonate) => format!("user {:?}", impersonate.user),
        UpstreamUser::ServiceAccount(account) => {
            format!(
                "service account {:?}",
                format!("{}/{}", account.namespace(), account.name())
            )
        }
    };
    let ((one, own), (two, others)) = (as_whom(grant.object), as_whom(other.object));
    if one != two {
        return user;
    }
    let differ = |these: &BTreeSet<String>, those: &BTreeSet<String>| {
        let names: Vec<_> = these.difference(those).map(|name| format!("{name:?}")).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    match (differ(&own, &others), differ(&others, &own)) {
        (Some(with), _) => format!("{user} with group {with}"),
        (None, Some(without)) => format!("{user} without group {without}"),
        (None, None) => user,
    }
}
