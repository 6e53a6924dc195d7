//! Attestation by a token: an AgentIdentity's `attest.jwt` names a token's issuer, subject, audience and claims.
//!
//! In: the token of the [`Evidence`], verified or refused, if there is one; the AgentIdentities of the policy set. Out: an
//! [`Attestation`]: the identities that name the token, or why it does not count. Whether a pod's token matters at all is
//! [`PolicySet::reads_token_of_pod`]'s to say: most pods send a token that nobody asks for.
//!
//! A token that its issuer gave to an agent for a person (the claim `act`, RFC 8693) proves both: the agent is then the one that the
//! actor names, and asks for the token's subject ([`ResolvedPrincipal::is_actor`](crate::identity::ResolvedPrincipal::is_actor)).
//!
//! The token was checked before: its signature and keys by identity/jwt, its times, audience and claims by jwt/judge.rs of picket-policy.

use jiff::Timestamp;
use picket_policy::PolicySet;
use picket_policy::jwt::VerifiedToken;

use super::{Attestation, Evidence};
use crate::identity::IdentityError;
use crate::identity::claim::{ENROLLED_AUDIENCE, named};
use crate::identity::jwt::JwtError;
use crate::listener::EnforcedPodIndex;
use crate::workload::Pod;

/// Finds the identities that name the token.
pub fn attest(policies: &PolicySet, evidence: &Evidence<'_>, _: Timestamp) -> Attestation {
    let token = match evidence.token {
        None => return Attestation::NotRequested,
        Some(Err(error)) => return refused(policies, evidence, error),
        Some(Ok(token)) => token,
    };
    let mut identities = policies.identities_of_token(token);
    if identities.is_empty() {
        identities = policies.identities_of_actor(token);
    }
    let Some(pod) = evidence.pod else {
        return Attestation::Authenticated(identities);
    };
    match identities.first() {
        // The token is judged as one that a pod shows without being asked.
        None => Attestation::NotRequested,
        Some(identity) if !is_of_pod(token, pod) => Attestation::Failed(IdentityError::TokenOfAnother {
            caller: evidence.caller(),
            identity: identity.name.clone(),
        }),
        Some(_) => Attestation::Authenticated(identities),
    }
}

/// A token that does not count. A pod whose identity asks for none is not refused for it, but where nobody could look.
fn refused(policies: &PolicySet, evidence: &Evidence<'_>, error: &JwtError) -> Attestation {
    let is_asked = evidence.pod.is_none_or(|pod| {
        let named = policies.identities_of_pod(&pod.namespace, &pod.service_account, &pod.labels);
        named.iter().any(|identity| identity.attest.jwt.is_some())
    });
    if is_asked || error.is_transient() {
        Attestation::Failed(error.clone().into())
    } else {
        Attestation::NotRequested
    }
}

/// The enforced pod whose token a caller of the gateway shows, as `namespace/name`: a pod of this node, or one whose token enrolment
/// gave Picket's audience. A pod's requests come from the pod, where the kernel attests it.
#[must_use]
pub fn enforced_pod_of(token: &VerifiedToken, pods: &dyn EnforcedPodIndex) -> Option<String> {
    // Most tokens at the gateway are of no pod, and this is asked for each request.
    token.claim("kubernetes.io")?.get("pod")?;
    let account = token.service_account()?;
    let bound = account.pod?;
    let is_enrolled = account
        .audiences
        .iter()
        .any(|audience| audience == ENROLLED_AUDIENCE);
    (is_enrolled || pods.has_uid(&bound.uid))
        .then(|| named(&account.namespace, &bound.name).unwrap_or_else(|| "unknown".to_owned()))
}

/// Whether a token names no other pod than this one. A service account's token must be bound to the pod itself, since whoever
/// may ask for the account's tokens gets one that is bound to none.
fn is_of_pod(token: &VerifiedToken, pod: &Pod) -> bool {
    let is_service_account =
        token.claim("kubernetes.io").is_some() || token.subject().starts_with("system:serviceaccount:");
    match token.service_account() {
        Some(account) => {
            account.namespace == pod.namespace
                && account.service_account == pod.service_account
                && account.pod.is_some_and(|bound| bound.uid == pod.uid.0)
        }
        None => !is_service_account,
    }
}

#[cfg(test)]
#[path = "bearer_tests.rs"]
mod tests;
