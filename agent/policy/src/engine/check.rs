//! What documents must not say together.
//!
//! In: all documents of a policy set. Out: a [`Diagnostic`] for each name that is taken twice, each reference to nothing, and
//! each pair of identities that one caller could have, and each identity that would be two users at the API server.

use std::collections::{BTreeMap, BTreeSet};

use super::one_user::{Firmness, TwoUsers, two_users};
use super::one_workload::one_workload;
use crate::api::v1alpha1::AgentIdentity;
use crate::api::{AnyObject, Document, name_path};
use crate::yaml::{Diagnostic, FieldPath};

/// An object, the document that it is from, and how firmly that stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'d, T> {
    pub(super) document: &'d Document,
    pub(super) object: &'d T,
    pub(super) rank: Firmness,
}

/// What is wrong with documents together.
#[derive(Debug, Default)]
pub(super) struct CrossErrors {
    /// What can be no part of a set: names that are taken.
    pub(super) blocking: Vec<Diagnostic>,
    /// Grants by which one identity would be two users, or the identity itself. Such an object can be no part of a set either.
    pub(super) two_users: Vec<TwoUsers>,
    /// Identities that one pod could have: the error at the later one, and what there is to say at the earlier.
    pub(super) conflicts: Vec<(Diagnostic, Diagnostic)>,
    /// References to nothing.
    pub(super) dangling: Vec<Diagnostic>,
}

/// Finds everything wrong, in the order of the files.
pub(super) fn check(documents: &[Document]) -> Vec<Diagnostic> {
    let documents: Vec<_> = documents.iter().collect();
    // All are read at once, so none is newer. The grant is what a person corrects.
    let rank = |place: usize| Firmness {
        class: u8::from(matches!(documents[place].object, AnyObject::Grant(_))),
        place,
    };
    let CrossErrors {
        blocking,
        two_users,
        conflicts,
        dangling,
    } = cross_errors(&documents, rank);
    let conflicts = conflicts.into_iter().map(|(later, _)| later);
    let two_users = two_users.into_iter().map(|found| found.refused);
    let all = blocking.into_iter().chain(two_users).chain(conflicts);
    let mut errors: Vec<_> = all.chain(dangling).collect();
    errors.sort();
    errors
}

/// Likewise, by what must follow. `rank` says how firmly the document of a place stands.
pub(super) fn cross_errors(documents: &[&Document], rank: impl Fn(usize) -> Firmness) -> CrossErrors {
    let mut errors = CrossErrors::default();
    names(documents, &mut errors.blocking);
    let (mut identities, mut grants) = (Vec::new(), Vec::new());
    for (place, &document) in documents.iter().enumerate() {
        let rank = rank(place);
        match &document.object {
            AnyObject::Identity(object) => identities.push(From {
                document,
                object,
                rank,
            }),
            AnyObject::Grant(object) => grants.push(From {
                document,
                object,
                rank,
            }),
            AnyObject::Policy(_) => {}
        }
    }
    errors.conflicts = one_workload(&identities);
    references(documents, &identities, &mut errors.dangling);
    errors.two_users = two_users(&identities, &grants);
    errors
}

pub(super) fn spec(field: &str) -> FieldPath {
    FieldPath::new("spec").field(field)
}

pub(super) fn where_is(document: &Document, path: &FieldPath) -> String {
    let location = document.location(path);
    format!("{}:{}", location.file, location.line)
}

fn names(documents: &[&Document], errors: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<(&str, &str), &Document> = BTreeMap::new();
    for &document in documents {
        let (kind, name) = (document.kind(), document.name());
        if let Some(first) = seen.get(&(kind, name)) {
            let reason = format!("{kind} {name:?} is already at {}", where_is(first, &name_path()));
            errors.push(document.error_at(&name_path(), reason));
        } else {
            seen.insert((kind, name), document);
        }
    }
}

/// Names of identities and groups that are nowhere: a grant would give nothing, a deny would stop nobody.
fn references(documents: &[&Document], identities: &[From<'_, AgentIdentity>], errors: &mut Vec<Diagnostic>) {
    let known: BTreeSet<&str> = identities.iter().map(|from| from.document.name()).collect();
    let groups: BTreeSet<&str> = identities
        .iter()
        .flat_map(|from| from.object.spec.groups.iter().map(String::as_str))
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
