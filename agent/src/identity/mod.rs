//! Who is calling: from the evidence of a connection to a principal that may act now.
//!
//! In: the current policies, what is known of the caller ([`attest::Evidence`]), the time. Out: a [`ResolvedPrincipal`], or
//! an [`IdentityError`] that says what to do.
//!
//! | file | holds |
//! |---|---|
//! | `attest` | the schemes by which a caller is proven to be an agent, one file each |
//! | `resolve` | what the schemes said, put together; every reason why a caller is no agent |
//! | `claim` | what a client says of itself: refused where that is somebody else than its pod |
//! | `claim_fields` | the header fields by which a client says who it is |
//! | `exclusive` | an exclusive identity that several workloads claim is nobody's |
//! | `cache` | the principal of a connection, found again only when something changed |
//! | `jwt` | tokens of configured issuers, verified |
//! | `person` | the person for whom an agent asks, by a token that the pod sends |
//! | `principal` | a principal with what is derived from it once |

pub mod attest;
mod cache;
mod claim;
mod claim_fields;
mod exclusive;
pub mod jwt;
mod person;
mod principal;
pub(crate) mod resolve;

pub use cache::PrincipalCache;
pub use claim::{ClaimError, ForeignCredential, OwnToken, check_claims};
pub(crate) use claim_fields::{bearer_of, normalized};
pub use exclusive::check_exclusive;
pub use person::{carries_person_token, on_behalf_of};
pub use principal::ResolvedPrincipal;
pub use resolve::{IdentityError, resolve};

/// Principals for tests of the stages behind.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use jiff::Timestamp;
    use picket_policy::{PolicySet, Principal, PrincipalOrigin};

    /// A token of these claims, with a signature that nobody checks.
    pub(crate) fn token(claims: &serde_json::Value) -> String {
        let parts = [&b"{}"[..], claims.to_string().as_bytes(), b"sig"]
            .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        parts.join(".")
    }

    /// An agent of that name in a pod of that name.
    pub(crate) fn principal(name: &str, namespace: &str, pod: &str) -> Principal {
        principal_of(name, PrincipalOrigin::pod(namespace, pod))
    }

    /// An agent of that name that comes from there.
    pub(crate) fn principal_of(name: &str, origin: PrincipalOrigin) -> Principal {
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, \
             attest: {{pod: {{namespace: n, serviceAccount: s}}}}}}\n"
        );
        let documents = picket_policy::read_documents("f.yaml", &text).expect("valid");
        let policies = PolicySet::compile(documents).expect("a policy set");
        let identity = Arc::clone(&policies.identities()[0]);
        Principal::new(identity, origin, "pod", Timestamp::UNIX_EPOCH).expect("an active identity")
    }
}
