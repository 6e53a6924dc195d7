//! Whether the upstream credential may send what grants give in single namespaces.
//!
//! In: the grants, the rules that the API server lists for the credential, and a client. Out: a line for each namespace in which a right is
//! missing.
//!
//! `picket grant rbac` prints a Role for each namespace that a grant names, so that such a Role may be missing alone. A right that no
//! listed rule gives is asked about by itself: an authorizer may allow what it does not list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::Client;
use picket_policy::api::v1alpha1::PolicyRule;
use picket_policy::{Grant, UpstreamUser, service_account};

use super::excess::allows;
use super::needs::CONSTRAINED_ON;
use crate::cli::grant::rights::on_requests;
use crate::cluster::rights::{ReviewError, Right, Rules, lacking};

/// Most namespaces that are asked about, each by a list of its rules.
const MAX_NAMESPACES: usize = 64;

/// Most rights of one namespace that are asked about one by one, and named. So all of them are no more than
/// [`MAX_RIGHTS`](crate::cluster::rights::MAX_RIGHTS).
const MAX_ASKED: usize = 8;

/// What one grant takes in the namespaces that it names.
#[derive(Debug)]
struct BoundGrant {
    /// The user; `None` of a grant on behalf of people.
    user: Option<String>,
    namespaces: Vec<String>,
    rules: Vec<PolicyRule>,
}

/// What grants take in single namespaces.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// The namespaces that are asked about.
    pub(super) namespaces: Vec<String>,
    /// How many grants name.
    pub(super) named: usize,
    grants: Vec<BoundGrant>,
}

impl Bound {
    /// Of these grants.
    pub(super) fn of(grants: &[Arc<Grant>]) -> Self {
        let named: BTreeSet<_> = grants.iter().flat_map(|grant| grant.named_namespaces()).collect();
        let bound = grants.iter().filter(|grant| grant.is_bound_by_name());
        let bound = bound.filter_map(|grant| {
            let user = grant.user();
            let acting = user.and_then(UpstreamUser::impersonate);
            // The token of a service account takes no right in the namespaces of the grant, and neither does one as user.
            let takes = match (user, acting) {
                (None, _) => true,
                (Some(_), acting) => acting.is_some_and(|acting| service_account(&acting.user).is_none()),
            };
            takes.then(|| BoundGrant {
                user: acting.map(|acting| acting.user.clone()),
                namespaces: grant.named_namespaces().map(str::to_owned).collect(),
                rules: grant.rules_on_resources().collect(),
            })
        });
        Self {
            named: named.len(),
            grants: bound.collect(),
            namespaces: named
                .into_iter()
                .take(MAX_NAMESPACES)
                .map(str::to_owned)
                .collect(),
        }
    }

    /// A line for each namespace in which the credential lacks a right that these users take, by the constrained mode.
    ///
    /// # Errors
    /// [`ReviewError`] where the API server does not say.
    pub(super) async fn lacked(
        &self,
        client: &Client,
        users: &BTreeSet<&str>,
        listed: &BTreeMap<String, Rules>,
    ) -> Result<Vec<String>, ReviewError> {
        let mut unlisted: BTreeMap<&str, BTreeSet<Right>> = BTreeMap::new();
        let acts = |grant: &&BoundGrant| match &grant.user {
            Some(user) => users.contains(user.as_str()),
            None => !users.is_empty(),
        };
        for grant in self.grants.iter().filter(acts) {
            for namespace in &grant.namespaces {
                let Some(Rules { rules, .. }) = listed.get(namespace) else {
                    continue;
                };
                let taken = grant.rules.iter().flat_map(on_requests);
                let missing = taken.filter(|right| !rules.iter().any(|rule| allows(rule, right)));
                let of_namespace = unlisted.entry(namespace).or_default();
                for right in missing {
                    // One more than is named, to tell that there is more.
                    if of_namespace.len() > MAX_ASKED {
                        break;
                    }
                    of_namespace.insert(right.within(namespace));
                }
            }
        }
        let asked = unlisted.values().flat_map(|rights| rights.iter().take(MAX_ASKED));
        let lacks = lacking(client, asked).await?;
        let line = |(namespace, rights): (&&str, &BTreeSet<Right>)| {
            let named: Vec<_> = rights
                .iter()
                .filter(|right| lacks.contains(right))
                .map(words)
                .collect();
            let more = if rights.len() > MAX_ASKED {
                ", and perhaps more"
            } else {
                ""
            };
            (!named.is_empty()).then(|| {
                format!(
                    "may not send in namespace {namespace}, as the grants' users: {}{more}; no right {CONSTRAINED_ON}VERB there",
                    named.join(", ")
                )
            })
        };
        Ok(unlisted.iter().filter_map(line).collect())
    }
}

/// A right on requests, as people name the request.
fn words(right: &Right) -> String {
    let verb = right.verb.strip_prefix(CONSTRAINED_ON).unwrap_or(&right.verb);
    let mut words = format!("{verb} {}", right.resource_words());
    if !right.group.is_empty() {
        words.push('.');
        words.push_str(&right.group);
    }
    if let Some(name) = &right.name {
        words.push(' ');
        words.push_str(name);
    }
    words
}

#[cfg(test)]
#[path = "namespaced_tests.rs"]
mod tests;
