//! The principal of one connection, kept between its requests.
//!
//! In: the policies in force, the evidence, the time. Out: the principal. It is resolved again when the policies, the pod's facts or
//! the certificate's verification were replaced, or when the identity has expired. So a change holds on connections that are open already.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use picket_policy::jwt::VerifiedToken;
use picket_policy::{PolicySet, Standing};

use super::attest::Evidence;
use super::attest::x509::Svid;
use super::{IdentityError, ResolvedPrincipal, resolve};
use crate::workload::Pod;

/// A connection's principal.
#[derive(Debug, Default)]
pub struct PrincipalCache(Mutex<Option<Known>>);

fn is_same<T>(known: Option<&Arc<T>>, now: Option<&Arc<T>>) -> bool {
    match (known, now) {
        (Some(known), Some(now)) => Arc::ptr_eq(known, now),
        (None, None) => true,
        _ => false,
    }
}

/// A principal and what it was found by.
#[derive(Debug)]
struct Known {
    policies: Arc<PolicySet>,
    pod: Option<Arc<Pod>>,
    token: Option<Arc<VerifiedToken>>,
    certificate: Option<Arc<Svid>>,
    reads_token: bool,
    principal: Arc<ResolvedPrincipal>,
}

fn reads_token(policies: &PolicySet, pod: Option<&Arc<Pod>>) -> bool {
    pod.is_none_or(|pod| policies.reads_token_of_pod(&pod.namespace, &pod.service_account, &pod.labels))
}

impl PrincipalCache {
    /// Whether it matters which token a request shows: always where there is no pod.
    #[must_use]
    pub fn reads_token(&self, policies: &Arc<PolicySet>, pod: Option<&Arc<Pod>>) -> bool {
        match &*self.0.lock() {
            Some(known) if Arc::ptr_eq(&known.policies, policies) && is_same(known.pod.as_ref(), pod) => {
                known.reads_token
            }
            _ => reads_token(policies, pod),
        }
    }

    /// The agent behind the connection, as the policy set has it now.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn principal(
        &self,
        policies: &Arc<PolicySet>,
        evidence: &Evidence<'_>,
        now: Timestamp,
    ) -> Result<Arc<ResolvedPrincipal>, IdentityError> {
        // A connection may outlive its certificate, or the trust in it.
        let certificate = match evidence.certificate {
            Some(certificate) => Some(certificate.check(now)?),
            None => None,
        };
        // One that is refused is never one that is known.
        let token = match evidence.token {
            Some(Ok(token)) => Some(token),
            Some(Err(_)) | None => None,
        };
        let mut known = self.0.lock();
        if let Some(known) = &*known
            && Arc::ptr_eq(&known.policies, policies)
            && is_same(known.pod.as_ref(), evidence.pod)
            && !matches!(evidence.token, Some(Err(_)))
            && is_same(known.token.as_ref(), token)
            && is_same(known.certificate.as_ref(), certificate.as_ref())
            && known.principal.principal.identity().standing(now) == Standing::Active
        {
            return Ok(Arc::clone(&known.principal));
        }
        *known = None;
        let until = certificate.as_ref().map(|certificate| certificate.until);
        let principal = resolve(policies, evidence, now)?;
        let principal = Arc::new(ResolvedPrincipal::new(principal, until, token.cloned()));
        *known = Some(Known {
            policies: Arc::clone(policies),
            pod: evidence.pod.cloned(),
            token: token.cloned(),
            certificate,
            reads_token: reads_token(policies, evidence.pod),
            principal: Arc::clone(&principal),
        });
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::resolve::testing::{at, evidence, pod, policies};

    #[test]
    fn whether_a_token_matters_is_remembered_for_as_long_as_the_policies_and_the_pod_stay() {
        let cache = PrincipalCache::default();
        let asks = "attest: {jwt: {issuer: 'https://issuer.test', subject: s}, pod";
        let (without, with) = (
            Arc::new(policies("", "")),
            Arc::new(policies("attest: {pod", asks)),
        );
        let (fixer, before) = (pod("fixer", "fixer"), at("2026-12-31T23:59:59Z"));
        assert!(!cache.reads_token(&without, Some(&fixer)));
        cache.principal(&without, &evidence(&fixer), before).expect("one");
        assert!(!cache.reads_token(&without, Some(&fixer)));
        assert!(cache.reads_token(&with, Some(&fixer)), "other policies");
        assert!(cache.reads_token(&without, None), "no pod");
        // Of a pod that nobody knows the token may say who it is.
        let unknown = pod("unknown", "fixer");
        assert!(cache.reads_token(&with, Some(&unknown)), "another pod");
    }

    #[test]
    fn a_principal_is_found_once_and_again_after_each_change() {
        let (cache, active) = (PrincipalCache::default(), Arc::new(policies("", "")));
        let (before, after) = (at("2026-12-31T23:59:59Z"), at("2027-01-01T00:00:00Z"));
        let fixer = pod("fixer", "fixer");
        let first = cache.principal(&active, &evidence(&fixer), before).expect("one");
        let second = cache.principal(&active, &evidence(&fixer), before).expect("one");
        assert!(Arc::ptr_eq(&first, &second), "nothing changed");

        let suspended = Arc::new(policies("  owner", "  state: Suspended\n  owner"));
        assert!(cache.principal(&suspended, &evidence(&fixer), before).is_err());
        assert!(cache.principal(&active, &evidence(&fixer), before).is_ok());
        let quarantined = pod("fixer", "quarantined");
        assert!(cache.principal(&active, &evidence(&quarantined), before).is_err());
        assert!(cache.principal(&active, &evidence(&fixer), before).is_ok());
        assert!(
            cache.principal(&active, &evidence(&fixer), after).is_err(),
            "it expired"
        );
    }
}
