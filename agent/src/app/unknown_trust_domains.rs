//! AgentIdentities that nobody can be on this node: their `attest.spiffe` is of a trust domain without a trust bundle here.
//!
//! In: the objects, and the configured trust bundles. Out: a warning for each such identity. Its callers would read that their
//! certificate does not count, and nothing would tell the operator why.

use std::collections::BTreeSet;
use std::sync::Arc;

use picket_policy::{PolicySet, SpiffeId};

use crate::pki::TrustBundles;
use crate::store::Store;

/// Names of an identity and of its trust domain.
type WithoutBundle = BTreeSet<(String, String)>;

/// Warns of each identity once, for as long as it is polled.
pub(super) async fn warn(store: Arc<Store>, bundles: Arc<TrustBundles>) {
    let mut changes = store.changes();
    let mut told = WithoutBundle::new();
    loop {
        changes.mark_unchanged();
        let found = without_bundle(&store.current(), |domain| bundles.has(domain));
        for (identity, domain) in found.difference(&told) {
            tracing::warn!(
                identity,
                trust_domain = domain,
                "no certificate can attest the identity on this node: tls.trustBundles has no bundle of its trust domain"
            );
        }
        told = found;
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The identities of `policies` whose `attest.spiffe` is of a trust domain that has no trust bundle.
pub fn without_bundle(policies: &PolicySet, has: impl Fn(&str) -> bool) -> BTreeSet<(String, String)> {
    let identities = policies.identities().iter();
    let named = identities.filter_map(|identity| {
        let id = SpiffeId::parse(&identity.attest.spiffe.as_ref()?.id).ok()?;
        let domain = id.trust_domain().to_owned();
        (!has(&domain)).then(|| (identity.name.clone(), domain))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_of_a_trust_domain_without_a_bundle_are_named() {
        let identity = |name: &str, attest: &str| {
            format!(
                "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, attest: \
                 {{{attest}}}}}\n---\n"
            )
        };
        let text = [
            identity("known", "spiffe: {id: 'spiffe://one.test/ci'}"),
            identity("unknown", "spiffe: {id: 'spiffe://two.test/ci'}"),
            identity("pod", "pod: {namespace: a, serviceAccount: b}"),
        ]
        .concat();
        let documents = picket_policy::read_documents("f.yaml", &text).unwrap();
        let policies = PolicySet::compile(documents).unwrap();
        let found = without_bundle(&policies, |domain| domain == "one.test");
        assert_eq!(
            Vec::from_iter(found),
            [("unknown".to_owned(), "two.test".to_owned())]
        );
    }
}
