//! What documents must not say together.
//!
//! In: all documents of a policy set. Out: a [`Diagnostic`] for each name that is taken twice, each reference to nothing, and
//! each pair of identities that one caller could have.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::overlap::could_both_match;
use super::{Impersonate, UpstreamUser, tokens};
use crate::api::v1alpha1::{AgentGrant, AgentIdentity, Attest};
use crate::api::{AnyObject, Document, name_path};
use crate::yaml::{Diagnostic, FieldPath};

/// An object and the document it is from.
type From<'d, T> = (&'d Document, &'d T);

/// What is wrong with documents together.
#[derive(Debug, Default)]
pub(super) struct CrossErrors {
    /// What can be no part of a set: names that are taken, and grants by which one identity would be two users.
    pub(super) blocking: Vec<Diagnostic>,
    /// Identities that one pod could have: the error at the later one, and what there is to say at the earlier.
    pub(super) conflicts: Vec<(Diagnostic, Diagnostic)>,
    /// References to nothing.
    pub(super) dangling: Vec<Diagnostic>,
}

/// Finds everything wrong, in the order of the files.
pub(super) fn check(documents: &[Document]) -> Vec<Diagnostic> {
    let CrossErrors {
        blocking,
        conflicts,
        dangling,
    } = cross_errors(documents);
    let conflicts = conflicts.into_iter().map(|(later, _)| later);
    let mut errors: Vec<_> = blocking.into_iter().chain(conflicts).chain(dangling).collect();
    errors.sort();
    errors
}

/// Likewise, by what must follow.
pub(super) fn cross_errors(documents: &[Document]) -> CrossErrors {
    let mut errors = CrossErrors::default();
    names(documents, &mut errors.blocking);
    let identities: Vec<From<'_, AgentIdentity>> = documents
        .iter()
        .filter_map(|document| match &document.object {
            AnyObject::Identity(identity) => Some((document, identity)),
            _ => None,
        })
        .collect();
    let grants: Vec<From<'_, AgentGrant>> = documents
        .iter()
        .filter_map(|document| match &document.object {
            AnyObject::Grant(grant) => Some((document, grant)),
            _ => None,
        })
        .collect();
    workloads(&identities, &mut errors.conflicts);
    references(documents, &identities, &mut errors.dangling);
    upstreams(&identities, &grants, &mut errors.blocking);
    errors
}

fn spec(field: &str) -> FieldPath {
    FieldPath::new("spec").field(field)
}

fn where_is(document: &Document, path: &FieldPath) -> String {
    let location = document.location(path);
    format!("{}:{}", location.file, location.line)
}

fn names(documents: &[Document], errors: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<(&str, &str), &Document> = BTreeMap::new();
    for document in documents {
        let (kind, name) = (document.kind(), document.name());
        if let Some(first) = seen.get(&(kind, name)) {
            let reason = format!("{kind} {name:?} is already at {}", where_is(first, &name_path()));
            errors.push(document.error_at(&name_path(), reason));
        } else {
            seen.insert((kind, name), document);
        }
    }
}

/// What an identity is told apart by, in words.
type KeyOf = fn(&Attest) -> Option<String>;

/// Two identities that one caller could have.
fn workloads(identities: &[From<'_, AgentIdentity>], errors: &mut Vec<(Diagnostic, Diagnostic)>) {
    let pod = |attest: &Attest| {
        let pod = attest.pod.as_ref()?;
        Some(format!(
            "pod of service account {}/{}",
            pod.namespace, pod.service_account
        ))
    };
    let spiffe = |attest: &Attest| Some(format!("certificate of {:?}", attest.spiffe.as_ref()?.id));
    let jwt = |attest: &Attest| {
        let jwt = attest.jwt.as_ref()?;
        Some(format!(
            "token of issuer {} and subject {:?}",
            jwt.issuer, jwt.subject
        ))
    };
    for key in [pod as KeyOf, jwt as KeyOf, spiffe as KeyOf] {
        let mut by_key: HashMap<String, Vec<From<'_, AgentIdentity>>> = HashMap::new();
        for (document, identity) in identities {
            let attest = &identity.spec.attest;
            let Some(key) = key(attest) else { continue };
            let others = by_key.entry(key.clone()).or_default();
            if let Some((other, _)) = others
                .iter()
                .find(|(_, other)| could_both_hold(&other.spec.attest, attest))
            {
                let said = |one: &Document, other: &Document| {
                    let reason = format!(
                        "AgentIdentity {:?} and {:?} ({}) could match one {key}: make their selectors exclude each other by one label, or their claims by one value",
                        one.name(),
                        other.name(),
                        where_is(other, &name_path()),
                    );
                    one.error_at(&name_path(), reason)
                };
                errors.push((said(document, other), said(other, document)));
            }
            others.push((document, identity));
        }
    }
}

/// Whether one caller could satisfy both, as far as both ask for the same.
fn could_both_hold(one: &Attest, other: &Attest) -> bool {
    let pods = one.pod.as_ref().zip(other.pod.as_ref());
    let certificates = one.spiffe.as_ref().zip(other.spiffe.as_ref());
    let jwts = one.jwt.as_ref().zip(other.jwt.as_ref());
    pods.is_none_or(|(one, other)| could_both_match(one, other))
        && jwts.is_none_or(|(one, other)| tokens::could_both_match(one, other))
        && certificates.is_none_or(|(one, other)| one.id == other.id)
}

/// Names of identities and groups that are nowhere: a grant would give nothing, a deny would stop nobody.
fn references(documents: &[Document], identities: &[From<'_, AgentIdentity>], errors: &mut Vec<Diagnostic>) {
    let known: BTreeSet<&str> = identities.iter().map(|(document, _)| document.name()).collect();
    let groups: BTreeSet<&str> = identities
        .iter()
        .flat_map(|(_, identity)| identity.spec.groups.iter().map(String::as_str))
        .collect();
    for document in documents {
        let (path, named, named_groups) = match &document.object {
            AnyObject::Identity(_) => continue,
            AnyObject::Grant(grant) => (
                spec("to"),
                grant.spec.to.identities.as_slice(),
                grant.spec.to.groups.as_slice(),
            ),
            AnyObject::Policy(policy) => match &policy.spec.subjects {
                Some(subjects) => (
                    spec("subjects"),
                    subjects.identities.as_slice(),
                    subjects.groups.as_slice(),
                ),
                None => continue,
            },
        };
        let mut unknown = |field: &str, names: &[String], known: &BTreeSet<&str>, what: &str| {
            for (index, name) in names.iter().enumerate() {
                if !name.contains(['*', '?']) && !known.contains(name.as_str()) {
                    let path = path.field(field).index(index);
                    errors.push(document.error_at(&path, format!("no AgentIdentity is {what} {name:?}")));
                }
            }
        };
        unknown("identities", named, &known, "named");
        unknown("groups", named_groups, &groups, "in a group");
    }
}

/// One identity acts as one upstream user: which grant allowed a request must not decide whom the API server sees.
fn upstreams(
    identities: &[From<'_, AgentIdentity>],
    grants: &[From<'_, AgentGrant>],
    errors: &mut Vec<Diagnostic>,
) {
    let path = spec("upstream");
    for (_, identity) in identities {
        let name = &identity.metadata.name;
        let reaching = grants.iter().filter(|(_, grant)| {
            let to = &grant.spec.to;
            to.identities.contains(name) || to.groups.iter().any(|group| identity.spec.groups.contains(group))
        });
        let mut first: Option<&From<'_, AgentGrant>> = None;
        for grant in reaching {
            let Some(before) = first else {
                first = Some(grant);
                continue;
            };
            if as_whom(before) != as_whom(grant) {
                let reason = format!(
                    "identity {name:?} would act as {} by this grant and as {} by grant {:?} ({}): all grants of one \
                     identity must name the same upstream user and groups",
                    in_words(grant),
                    in_words(before),
                    before.0.name(),
                    where_is(before.0, &path)
                );
                errors.push(grant.0.error_at(&path, reason));
            }
        }
    }
}

/// Whom a grant names, however its groups are ordered.
fn as_whom(grant: &From<'_, AgentGrant>) -> (UpstreamUser, BTreeSet<String>) {
    match UpstreamUser::of(&grant.1.spec.upstream) {
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

fn in_words(grant: &From<'_, AgentGrant>) -> String {
    match UpstreamUser::of(&grant.1.spec.upstream) {
        UpstreamUser::Impersonated(impersonate) => format!("user {:?}", impersonate.user),
        UpstreamUser::ServiceAccount(account) => {
            format!(
                "service account {:?}",
                format!("{}/{}", account.namespace(), account.name())
            )
        }
    }
}
