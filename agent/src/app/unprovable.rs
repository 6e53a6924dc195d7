//! AgentIdentities that no caller can prove on this node: it has no issuer of the URL that their `attest.jwt` names, or no trust bundle of
//! the trust domain of their `attest.spiffe`.
//!
//! In: the identities, the issuers and the trust bundles, after each change. Out: a warning for each such identity, once. Its callers
//! read that their credential does not count, and nothing else would tell the operator why.

use std::collections::BTreeSet;
use std::sync::Arc;

use picket_policy::{PolicySet, SpiffeId};

use crate::identity::jwt::Issuers;
use crate::pki::TrustBundles;
use crate::store::Store;

/// Names of identities, each with the issuer or the trust domain that is not there.
type Missing = BTreeSet<(String, String)>;

/// Warns for as long as it is polled.
pub(super) async fn warn(store: Arc<Store>, issuers: Issuers, bundles: Arc<TrustBundles>) {
    let (mut policies, mut configured) = (store.changes(), issuers.changes());
    let (mut no_issuer, mut no_bundle) = (Missing::new(), Missing::new());
    loop {
        policies.mark_unchanged();
        configured.mark_unchanged();
        let set = store.current();
        let found = without_issuer(&set, |url| issuers.has(url));
        for (identity, issuer) in found.difference(&no_issuer) {
            tracing::warn!(
                identity,
                issuer,
                "the AgentIdentity's attest.jwt names an issuer that authentication.configFile does not have: its tokens are \
                 refused on this node"
            );
        }
        no_issuer = found;
        let found = without_bundle(&set, |domain| bundles.has(domain));
        for (identity, domain) in found.difference(&no_bundle) {
            tracing::warn!(
                identity,
                trust_domain = domain,
                "no certificate can attest the identity on this node: tls.trustBundles has no bundle of its trust domain"
            );
        }
        no_bundle = found;
        drop(set);
        let changed = tokio::select! {
            changed = policies.changed() => changed,
            changed = configured.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The identities whose issuer is not known.
fn without_issuer(policies: &PolicySet, is_known: impl Fn(&str) -> bool) -> Missing {
    let named = policies.identities().iter().filter_map(|identity| {
        let issuer = &identity.attest.jwt.as_ref()?.issuer;
        (!is_known(issuer)).then(|| (identity.name.clone(), issuer.clone()))
    });
    named.collect()
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
    fn identities_of_unknown_issuers_and_trust_domains_are_named() {
        let identity = |name: &str, attest: &str| {
            format!(
                "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, attest: \
                 {{{attest}}}}}\n---\n"
            )
        };
        let text = [
            identity("known", "jwt: {issuer: 'https://a.test', subject: s}"),
            identity("unknown", "jwt: {issuer: 'https://b.test', subject: s}"),
            identity("svid", "spiffe: {id: 'spiffe://one.test/ci'}"),
            identity("foreign", "spiffe: {id: 'spiffe://two.test/ci'}"),
            identity("pod", "pod: {namespace: n, serviceAccount: s}"),
        ]
        .concat();
        let documents = picket_policy::read_documents("f.yaml", &text).expect("valid");
        let policies = PolicySet::compile(documents).expect("a policy set");
        let one = |identity: &str, missing: &str| Missing::from([(identity.to_owned(), missing.to_owned())]);
        let found = without_issuer(&policies, |url| url == "https://a.test");
        assert_eq!(found, one("unknown", "https://b.test"));
        let found = without_bundle(&policies, |domain| domain == "one.test");
        assert_eq!(found, one("foreign", "two.test"));
    }
}
