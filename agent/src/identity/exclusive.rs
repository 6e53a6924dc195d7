//! Exclusive identities: a pod is the agent only while no other workload claims to be it.
//!
//! In: an agent that was resolved, its pod, and the [`Claims`] on this node. Out: nothing, or an [`IdentityError`] with the other
//! workload.

use picket_policy::{Claims, Identity};

use super::IdentityError;
use crate::workload::Pod;

/// How many other workloads a refusal names.
const NAMED: usize = 3;

/// Checks that no other workload claims the identity, where it is exclusive.
///
/// # Errors
/// [`IdentityError::Contested`] where one does. It is every claimant's error: nothing tells which of them is meant.
pub fn check_exclusive(identity: &Identity, pod: Option<&Pod>, claims: &Claims) -> Result<(), IdentityError> {
    if !identity.exclusive {
        return Ok(());
    }
    // A client of the gateway is no exclusive identity: those ask for a pod.
    let own = pod.map_or("", |pod| pod.workload.0.as_str());
    let mut others = claims.beside(&identity.name, own).peekable();
    if others.peek().is_none() {
        return Ok(());
    }
    Err(IdentityError::Contested {
        identity: identity.name.clone(),
        owner: identity.owner.clone(),
        workload: own.to_owned(),
        others: others.take(NAMED).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use picket_policy::PodClaim;

    use super::*;
    use crate::identity::resolve::testing::{pod, policies};
    use crate::workload::WorkloadName;

    #[test]
    fn a_pod_is_refused_beside_another_workload_and_told_which() {
        let made_by = |workload: &str| {
            let mut pod = Arc::unwrap_or_clone(pod("fixer", "fixer"));
            pod.workload = WorkloadName(workload.to_owned());
            pod
        };
        let pods = [made_by("Deployment/a"), made_by("Job/b")];
        let check = |exclusive: &str, there: &[Pod]| {
            let policies = policies("  owner", &format!("  exclusive: {exclusive}\n  owner"));
            let claims = policies.claims(there.iter().map(|pod| PodClaim {
                namespace: &pod.namespace,
                service_account: &pod.service_account,
                labels: &pod.labels,
                workload: &pod.workload.0,
            }));
            check_exclusive(&policies.identities()[0], Some(&pods[0]), &claims)
        };
        assert_eq!(check("true", &pods[..1]), Ok(()));
        // Nobody has told of the pod itself yet.
        assert!(check("true", &pods[1..]).is_err());
        assert_eq!(check("false", &pods), Ok(()));
        let error = check("true", &pods).expect_err("two");
        assert_eq!(
            (error.code(), error.identity()),
            ("identity_contested", Some("fixer"))
        );
        let said = error.to_string();
        assert!(
            said.contains("Deployment/a and Job/b of this node claim it at once") && said.contains("team-a"),
            "{said}"
        );
    }
}
