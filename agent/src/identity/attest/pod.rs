//! Attestation by the kernel: the connection was attributed to a pod, and an AgentIdentity's `attest.pod` names that pod.
//!
//! In: the pod of the [`Evidence`], if there is one, and the AgentIdentities of the policy set. Out: an [`Attestation`]: the agent, that no
//! AgentIdentity is about the pod, or why the pod is refused.

use picket_policy::PolicySet;

use super::{Attestation, Evidence};
use crate::identity::IdentityError;

/// Finds the one identity whose `attest.pod` the pod satisfies.
pub fn attest(policies: &PolicySet, evidence: &Evidence<'_>) -> Attestation {
    let Some(pod) = evidence.pod else {
        return Attestation::NotRequested;
    };
    let mut found = policies.identities_of_pod(&pod.namespace, &pod.service_account, &pod.labels);
    if found.len() > 1 {
        return Attestation::Failed(IdentityError::Ambiguous {
            caller: evidence.caller(),
            identities: found.iter().map(|identity| identity.name.clone()).collect(),
        });
    }
    match found.pop() {
        Some(identity) => Attestation::Authenticated(identity),
        None => Attestation::NotRequested,
    }
}
