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
//! | `cache` | the principal of a connection, found again only when something changed |
//! | `principal` | a principal with what is derived from it once |

pub mod attest;
mod cache;
mod claim;
mod principal;
pub(crate) mod resolve;

pub use cache::PrincipalCache;
pub use claim::{ClaimError, ForeignCredential, OwnToken, check_claims};
pub use principal::ResolvedPrincipal;
pub use resolve::{IdentityError, resolve};

/// Principals for tests of the stages behind.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use jiff::Timestamp;
    use picket_policy::{PolicySet, Principal};

    /// A token of these claims, with a signature that nobody checks.
    pub(crate) fn token(claims: &serde_json::Value) -> String {
        let parts = [&b"{}"[..], claims.to_string().as_bytes(), b"sig"].map(base64url);
        parts.join(".")
    }

    /// Base64url without padding.
    pub(crate) fn base64url(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
            let bits = bits << (8 * (3 - group.len()));
            for place in 0..=group.len() {
                let value = bits >> (18 - 6 * place) & 63;
                text.push(char::from(ALPHABET[value as usize]));
            }
        }
        text
    }

    /// An agent of that name in a pod of that name.
    pub(crate) fn principal(name: &str, namespace: &str, pod: &str) -> Principal {
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, \
             attest: {{pod: {{namespace: {namespace}, serviceAccount: s}}}}}}\n"
        );
        let documents = picket_policy::read_documents("f.yaml", &text).expect("valid");
        let policies = PolicySet::compile(documents).expect("a policy set");
        let identity = Arc::clone(&policies.identities()[0]);
        Principal::new(identity, namespace, pod, "pod", Timestamp::UNIX_EPOCH).expect("an active identity")
    }
}
