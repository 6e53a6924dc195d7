//! Who is calling: from the attested pod behind a connection to a principal.
//!
//! In: the current policies, the pod, the time. Out: a [`Principal`], or an [`IdentityError`] that says what to do.

use jiff::Timestamp;
use picket_policy::{PolicySet, Principal, Standing};
use thiserror::Error;

use crate::workload::Pod;

/// Why a caller has no usable identity. The text is for the client and the record alike.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// No AgentIdentity names the pod.
    #[error(
        "pod {pod} (service account {service_account}) is no known agent: no AgentIdentity's attest.pod matches it; ask \
         a cluster operator to add one"
    )]
    None {
        /// `namespace/name`.
        pod: String,
        /// Its service account.
        service_account: String,
    },
    /// More than one AgentIdentity names the pod.
    #[error(
        "pod {pod} matches more than one AgentIdentity ({}), and Picket never chooses: make their selectors exclude each \
         other, or take labels off the pod",
        identities.join(", ")
    )]
    Ambiguous {
        /// `namespace/name`.
        pod: String,
        /// The identities' names.
        identities: Vec<String>,
    },
    /// The identity's state is Suspended.
    #[error("agent {identity} is suspended; its owner {owner} can set its state to Active again")]
    Suspended {
        /// The identity's name.
        identity: String,
        /// Who answers for it.
        owner: String,
    },
    /// The identity's state is Revoked.
    #[error("agent {identity} is revoked; its owner is {owner}")]
    Revoked {
        /// The identity's name.
        identity: String,
        /// Who answers for it.
        owner: String,
    },
    /// The identity's time is over.
    #[error("agent {identity} expired at {at}; its owner {owner} can set a later expiresAt")]
    Expired {
        /// The identity's name.
        identity: String,
        /// Who answers for it.
        owner: String,
        /// When it expired.
        at: Timestamp,
    },
}

impl IdentityError {
    /// A stable, low-cardinality name for metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::None { .. } => "identity_none",
            Self::Ambiguous { .. } => "identity_ambiguous",
            Self::Suspended { .. } => "identity_suspended",
            Self::Revoked { .. } => "identity_revoked",
            Self::Expired { .. } => "identity_expired",
        }
    }

    /// The identity's name, where one was found.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        match self {
            Self::None { .. } | Self::Ambiguous { .. } => None,
            Self::Suspended { identity, .. }
            | Self::Revoked { identity, .. }
            | Self::Expired { identity, .. } => Some(identity),
        }
    }
}

/// Finds the one identity a pod has and checks that it may act at `now`. Cheap enough for every request, so that a
/// suspension holds on connections that are open already.
///
/// # Errors
/// An [`IdentityError`] where there is no identity, more than one, or one that may not act.
pub fn resolve(policies: &PolicySet, pod: &Pod, now: Timestamp) -> Result<Principal, IdentityError> {
    let mut found = policies.identities_of_pod(&pod.namespace, &pod.service_account, &pod.labels);
    if found.len() > 1 {
        return Err(IdentityError::Ambiguous {
            pod: format!("{}/{}", pod.namespace, pod.name),
            identities: found.iter().map(|identity| identity.name.clone()).collect(),
        });
    }
    let Some(identity) = found.pop() else {
        return Err(IdentityError::None {
            pod: format!("{}/{}", pod.namespace, pod.name),
            service_account: pod.service_account.clone(),
        });
    };
    let (name, owner) = (identity.name.clone(), identity.owner.clone());
    Principal::new(identity, &pod.namespace, &pod.name, "pod", now).map_err(|standing| match standing {
        Standing::Revoked => IdentityError::Revoked {
            identity: name,
            owner,
        },
        Standing::Expired(at) => IdentityError::Expired {
            identity: name,
            owner,
            at,
        },
        Standing::Suspended | Standing::Active => IdentityError::Suspended {
            identity: name,
            owner,
        },
    })
}

/// Principals for tests of the stages behind.
#[cfg(test)]
pub(crate) mod testing {
    use jiff::Timestamp;
    use picket_policy::{PolicySet, Principal};

    /// An agent of that name in a pod of that name.
    pub(crate) fn principal(name: &str, namespace: &str, pod: &str) -> Principal {
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, \
             attest: {{pod: {{namespace: {namespace}, serviceAccount: s}}}}}}\n"
        );
        let documents = picket_policy::read_documents("f.yaml", &text).expect("valid");
        let policies = PolicySet::compile(documents).expect("a policy set");
        let identity = std::sync::Arc::clone(&policies.identities()[0]);
        Principal::new(identity, namespace, pod, "pod", Timestamp::UNIX_EPOCH).expect("an active identity")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const OBJECTS: &str = r"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec:
  owner: team-a
  groups: [agents]
  expiresAt: 2027-01-01T00:00:00Z
  attest: {pod: {namespace: ns, serviceAccount: fixer, selector: {matchLabels: {app: fixer}}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: g}
spec:
  to: {groups: [agents]}
  upstream: {impersonate: {user: u}}
  rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]
";

    fn policies(from: &str, to: &str) -> PolicySet {
        let documents = picket_policy::read_documents("f.yaml", &OBJECTS.replace(from, to)).expect("valid");
        PolicySet::compile(documents).expect("a policy set")
    }

    fn pod(service_account: &str, app: &str) -> Pod {
        Pod {
            service_account: service_account.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            ..Pod::for_tests("ns", "p")
        }
    }

    fn at(moment: &str) -> Timestamp {
        moment.parse().expect("a moment")
    }

    #[test]
    fn a_pod_that_matches_is_its_identity() {
        let principal = resolve(
            &policies("", ""),
            &pod("fixer", "fixer"),
            at("2026-12-31T23:59:59Z"),
        )
        .expect("one");
        assert_eq!(policies("", "").grants_of(principal.name()).len(), 1);
        assert_eq!(
            (
                principal.name(),
                principal.groups(),
                principal.namespace(),
                principal.pod()
            ),
            ("fixer", &["agents".to_owned()][..], "ns", "p")
        );
        assert_eq!(principal.attestation(), "pod");
    }

    #[test]
    fn each_refusal_is_its_own_and_says_what_to_do() {
        let before = at("2026-12-31T23:59:59Z");
        for (policies, pod, now, reason, told) in [
            (
                policies("", ""),
                pod("default", "fixer"),
                before,
                "identity_none",
                "pod ns/p (service account default)",
            ),
            (
                policies("", ""),
                pod("fixer", "x"),
                before,
                "identity_none",
                "no AgentIdentity's attest.pod matches it",
            ),
            (
                policies("", ""),
                pod("fixer", "fixer"),
                at("2027-01-01T00:00:00Z"),
                "identity_expired",
                "2027-01-01T00",
            ),
            (
                policies("  owner", "  state: Suspended\n  owner"),
                pod("fixer", "fixer"),
                before,
                "identity_suspended",
                "agent fixer is suspended; its owner team-a",
            ),
            (
                policies("  owner", "  state: Revoked\n  owner"),
                pod("fixer", "fixer"),
                at("2028-01-01T00:00:00Z"),
                "identity_revoked",
                "agent fixer is revoked; its owner is team-a",
            ),
        ] {
            let error = resolve(&policies, &pod, now).expect_err(reason);
            assert_eq!(error.code(), reason);
            assert!(error.to_string().contains(told), "{error}");
        }
    }
}
