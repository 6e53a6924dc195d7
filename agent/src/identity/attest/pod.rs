//! Attestation by the kernel: the connection was attributed to a pod, and an AgentIdentity's `attest.pod` names that pod.
//!
//! In: the pod of the [`Evidence`], if there is one, and the AgentIdentities of the policy set. Out: an [`Attestation`] with the
//! identities that name the pod.

use jiff::Timestamp;
use picket_policy::PolicySet;

use super::{Attestation, Evidence};

/// Finds the identities whose `attest.pod` the pod satisfies.
pub fn attest(policies: &PolicySet, evidence: &Evidence<'_>, _now: Timestamp) -> Attestation {
    let Some(pod) = evidence.pod else {
        return Attestation::NotRequested;
    };
    Attestation::Authenticated(policies.identities_of_pod(&pod.namespace, &pod.service_account, &pod.labels))
}
