//! Exclusive identities: which workloads claim each of them.
//!
//! In: a set's identities, and the pods that can send now with the workload of each. Out: [`Claims`].
//!
//! A pod claims an identity by being there, whether it sends anything or not, so that the verdict is the same for all of its pods.

use std::collections::{BTreeMap, BTreeSet};

use super::PolicySet;

/// A pod that can send, and what identities tell it apart by.
#[derive(Debug, Clone, Copy)]
pub struct PodClaim<'p> {
    /// Its namespace.
    pub namespace: &'p str,
    /// The service account it runs as.
    pub service_account: &'p str,
    /// Its labels.
    pub labels: &'p BTreeMap<String, String>,
    /// What made it, such as `Deployment/fixer`. Names are of its namespace, and so are those of all pods of one identity.
    pub workload: &'p str,
}

/// The workloads that claim each exclusive identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims(BTreeMap<String, BTreeSet<String>>);

impl Claims {
    /// The workloads that claim an identity; none of one that is not exclusive.
    pub fn workloads(&self, identity: &str) -> impl Iterator<Item = &str> {
        self.0.get(identity).into_iter().flatten().map(String::as_str)
    }

    /// Those beside this one.
    pub fn beside(&self, identity: &str, workload: &str) -> impl Iterator<Item = &str> {
        self.workloads(identity).filter(move |other| *other != workload)
    }

    /// The identities that more than one workload claims.
    pub fn contested(&self) -> impl Iterator<Item = &str> {
        let contested = self.0.iter().filter(|(_, workloads)| workloads.len() > 1);
        contested.map(|(identity, _)| identity.as_str())
    }
}

impl PolicySet {
    /// Whether an identity of the set is exclusive.
    #[must_use]
    pub fn has_exclusive(&self) -> bool {
        self.identities.iter().any(|identity| identity.exclusive)
    }

    /// Which workloads claim the exclusive identities. A pod claims each one whose `attest.pod` it satisfies, whatever else the
    /// identity asks for.
    #[must_use]
    pub fn claims<'p>(&self, pods: impl IntoIterator<Item = PodClaim<'p>>) -> Claims {
        let mut claims: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for pod in pods {
            let named = self.of_pod(pod.namespace, pod.service_account, pod.labels);
            for identity in named.filter(|identity| identity.exclusive) {
                let workloads = claims.entry(identity.name.clone()).or_default();
                workloads.insert(pod.workload.to_owned());
            }
        }
        Claims(claims)
    }
}
