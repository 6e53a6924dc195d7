//! Warnings of identities that nobody can prove: the node has no issuer of the URL that their `attest.jwt` names.
//!
//! In: the policies and the issuers in force, after each change of either. Out: a line in the log for each such identity, once.

use std::collections::BTreeSet;
use std::sync::Arc;

use picket_policy::PolicySet;

use crate::identity::jwt::Issuers;
use crate::store::Store;

/// Warns as long as it is polled.
pub(super) async fn warn(store: Arc<Store>, issuers: Issuers) {
    let (mut policies, mut configured) = (store.changes(), issuers.changes());
    let mut told = BTreeSet::new();
    loop {
        let unknown = unknown(&store.current(), |url| issuers.has(url));
        for (identity, issuer) in unknown.difference(&told) {
            tracing::warn!(
                identity,
                issuer,
                "the AgentIdentity's attest.jwt names an issuer that authentication.configFile does not have: its tokens are \
                 refused on this node"
            );
        }
        told = unknown;
        let changed = tokio::select! {
            changed = policies.changed() => changed,
            changed = configured.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// The identities whose issuer is not known, with that issuer.
fn unknown(policies: &PolicySet, is_known: impl Fn(&str) -> bool) -> BTreeSet<(String, String)> {
    let named = policies.identities().iter().filter_map(|identity| {
        let issuer = &identity.attest.jwt.as_ref()?.issuer;
        Some((identity.name.clone(), issuer.clone()))
    });
    named.filter(|(_, issuer)| !is_known(issuer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_of_issuers_that_are_not_configured_are_named() {
        let identity = |name: &str, attest: &str| {
            format!(
                "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, attest: {{{attest}}}}}\n---\n"
            )
        };
        let objects = [
            identity("known", "jwt: {issuer: 'https://a.test', subject: s}"),
            identity("unknown", "jwt: {issuer: 'https://b.test', subject: s}"),
            identity("pod", "pod: {namespace: n, serviceAccount: s}"),
        ];
        let documents = picket_policy::read_documents("f.yaml", &objects.concat()).expect("valid");
        let policies = PolicySet::compile(documents).expect("a policy set");
        let found = unknown(&policies, |url| url == "https://a.test");
        assert_eq!(
            found,
            BTreeSet::from([("unknown".to_owned(), "https://b.test".to_owned())])
        );
    }
}
