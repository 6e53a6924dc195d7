//! What documents must not say together.

use std::collections::{BTreeMap, BTreeSet};

use super::overlap::could_both_match;
use crate::api::Document;
use crate::api::v1alpha1::{AgentGrant, AgentIdentity};
use crate::yaml::{Diagnostic, Spanned};

/// Finds everything wrong, in the order of the files.
pub(super) fn check(documents: &[Document]) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    names(documents, &mut errors);
    let identities: Vec<&AgentIdentity> = documents
        .iter()
        .filter_map(|d| {
            if let Document::Identity(i) = d {
                Some(i)
            } else {
                None
            }
        })
        .collect();
    let grants: Vec<&AgentGrant> = documents
        .iter()
        .filter_map(|d| if let Document::Grant(g) = d { Some(g) } else { None })
        .collect();
    workloads(&identities, &mut errors);
    references(documents, &identities, &mut errors);
    upstreams(&identities, &grants, &mut errors);
    errors.sort();
    errors
}

fn where_is<T>(located: &Spanned<T>) -> String {
    format!("{}:{}", located.at.file, located.at.line)
}

fn names(documents: &[Document], errors: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<(&str, &str), &Spanned<String>> = BTreeMap::new();
    for document in documents {
        let name = document.name();
        if let Some(first) = seen.get(&(document.kind(), name.value.as_str())) {
            let reason = format!(
                "{} {:?} is already at {}",
                document.kind(),
                name.value,
                where_is(first)
            );
            errors.push(Diagnostic::at(&name.at, reason));
        } else {
            seen.insert((document.kind(), &name.value), name);
        }
    }
}

/// Two identities that one pod could have.
fn workloads(identities: &[&AgentIdentity], errors: &mut Vec<Diagnostic>) {
    let mut by_workload: BTreeMap<(&str, &str), Vec<&AgentIdentity>> = BTreeMap::new();
    for identity in identities {
        let key = (
            identity.pod.namespace.as_str(),
            identity.pod.service_account.as_str(),
        );
        let others = by_workload.entry(key).or_default();
        if let Some(other) = others
            .iter()
            .find(|other| could_both_match(&other.pod, &identity.pod))
        {
            let reason = format!(
                "AgentIdentity {:?} and {:?} ({}) could match one pod of service account {}/{}: make their selectors \
                 exclude each other by one label",
                identity.name.value,
                other.name.value,
                where_is(&other.name),
                key.0,
                key.1
            );
            errors.push(Diagnostic::at(&identity.name.at, reason));
        }
        others.push(identity);
    }
}

/// Names of identities that are nowhere: a grant would give nothing, a deny would stop nobody.
fn references(documents: &[Document], identities: &[&AgentIdentity], errors: &mut Vec<Diagnostic>) {
    let known: BTreeSet<&str> = identities
        .iter()
        .map(|identity| identity.name.value.as_str())
        .collect();
    let groups: BTreeSet<&str> = identities
        .iter()
        .flat_map(|i| i.groups.iter().map(String::as_str))
        .collect();
    for document in documents {
        let named = match document {
            Document::Identity(_) => continue,
            Document::Grant(grant) => grant.identities.as_slice(),
            Document::Policy(policy) => policy
                .subjects
                .as_ref()
                .map_or(&[][..], |s| s.identities.as_slice()),
        };
        for name in named.iter().filter(|name| !name.value.contains(['*', '?'])) {
            if !known.contains(name.value.as_str()) {
                let reason = format!("no AgentIdentity is named {:?}", name.value);
                errors.push(Diagnostic::at(&name.at, reason));
            }
        }
        if let Document::Policy(policy) = document {
            let subjects = policy.subjects.iter().flat_map(|subjects| &subjects.groups);
            for group in subjects.filter(|group| !group.value.contains(['*', '?'])) {
                if !groups.contains(group.value.as_str()) {
                    let reason = format!("no AgentIdentity is in a group {:?}", group.value);
                    errors.push(Diagnostic::at(&group.at, reason));
                }
            }
        }
    }
}

/// One identity acts as one upstream user: which grant allowed a request must not decide whom the API server sees.
fn upstreams(identities: &[&AgentIdentity], grants: &[&AgentGrant], errors: &mut Vec<Diagnostic>) {
    for identity in identities {
        let mut first: Option<&AgentGrant> = None;
        for grant in grants {
            let reaches = grant
                .identities
                .iter()
                .any(|name| name.value == identity.name.value)
                || grant.groups.iter().any(|group| identity.groups.contains(group));
            if !reaches {
                continue;
            }
            let Some(before) = first else {
                first = Some(grant);
                continue;
            };
            let set = |grant: &AgentGrant| -> BTreeSet<String> {
                grant.impersonate.value.groups.iter().cloned().collect()
            };
            if before.impersonate.value.user != grant.impersonate.value.user || set(before) != set(grant) {
                let reason = format!(
                    "identity {:?} would act as user {:?} by this grant and as {:?} by grant {:?} ({}): all grants of \
                     one identity must name the same upstream user and groups",
                    identity.name.value,
                    grant.impersonate.value.user,
                    before.impersonate.value.user,
                    before.name.value,
                    where_is(&before.impersonate)
                );
                errors.push(Diagnostic::at(&grant.impersonate.at, reason));
            }
        }
    }
}
