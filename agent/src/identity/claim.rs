//! Whether a client says that it is somebody else than its pod.
//!
//! In: a request's headers and the pod that the kernel attributed the request to. Out: nothing, or a [`ClaimError`]. A second
//! identity is refused: were it dropped, a person with fewer rights than the agent would silently get the agent's.
//!
//! Which token is the pod's own is read from the token's claims, unverified. The pod is proven by the kernel and never by a
//! token, so a forged claim gains nothing: the request then runs as the agent that it comes from. Own is
//!
//! * a token that is bound to the pod, whether it expired or not, since clients keep tokens;
//! * a token of the pod's service account that is bound to no pod, such as one from a Secret: nobody else is meant by it;
//!
//! both for Picket's audience or the API server's. A token of another pod is not, even of the same service account: labels may
//! make that pod another agent.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};
use picket_policy::TokenClaims;
use thiserror::Error;

use super::claim_fields::{ClientClaim, client_claims};
use crate::workload::Pod;

/// The audience that enrolment gives to pods' tokens (deploy/enrolment.yaml).
pub(super) const ENROLLED_AUDIENCE: &str = "picket.dev";

/// How the API server's own audience begins on kubeadm, kind and EKS. On others it is the issuer.
const API_SERVER_AUDIENCE: &str = "https://kubernetes.default.svc";

/// Why what a client says of itself is refused. The text is for the client and the record alike.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// It wants to act as somebody else.
    #[error(
        "header {header} asks to act as another user; a pod acts as itself only. Allowed instead: the same request without \
         Impersonate-* headers (kubectl: no --as, --as-group or --as-uid). It then runs as agent {agent}"
    )]
    Impersonation {
        /// The field.
        header: &'static str,
        /// The agent that it is.
        agent: String,
    },
    /// It shows the gateway a token beside the credential that it is known by.
    #[error(
        "the request carries {credential} beside the credential that agent {agent} is known by. Allowed instead: the same \
         request without it (kubectl: no --token and no --username)"
    )]
    AtGateway {
        /// What it shows.
        credential: ForeignCredential,
        /// The agent that it is.
        agent: String,
    },
    /// It shows a credential that is not its pod's.
    #[error(
        "the request carries {credential}; a pod acts as itself, or for a person by a grant's onBehalfOf. Allowed instead: the same \
         request with the pod's own token or none (kubectl: no --token, --username or kubeconfig user). It then runs as agent \
         {agent}"
    )]
    Credential {
        /// What it shows.
        credential: ForeignCredential,
        /// The agent that it is.
        agent: String,
    },
}

/// A credential that is not the pod's own. Names are those that the token claims, unverified.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ForeignCredential {
    /// `Authorization` without a bearer token.
    #[error("an Authorization of another scheme than Bearer")]
    Scheme,
    /// Not a token of a service account, or not one that can be read.
    #[error("a bearer token that is no token of this pod")]
    Token,
    /// A bearer token where none counts.
    #[error("a bearer token")]
    AnyToken,
    /// A token of another service account.
    #[error("a token of service account {0}")]
    ServiceAccount(String),
    /// A token that is bound to another pod, or to an earlier one of the same name.
    #[error("a token of another pod, {0}")]
    Pod(String),
    /// A token of the pod for somebody else than Picket and the API server.
    #[error("a token of this pod for another audience than the API server")]
    Audience,
}

impl ClaimError {
    /// A stable name of low cardinality, for metrics and records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Impersonation { .. } => "client_impersonation",
            Self::AtGateway { .. } | Self::Credential { .. } => "client_credential",
        }
    }
}

/// The `Authorization` that a connection last showed and that was its pod's, so that it is read once.
#[derive(Debug, Default)]
pub struct OwnToken(
    /// A hash with a key that nobody outside knows, since a token per connection would be much to hold; 0 for none.
    AtomicU64,
);

impl OwnToken {
    fn is(&self, authorization: &[u8]) -> bool {
        self.0.load(Ordering::Relaxed) == hash(authorization)
    }

    fn keep(&self, authorization: &[u8]) {
        self.0.store(hash(authorization), Ordering::Relaxed);
    }
}

fn hash(bytes: &[u8]) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(bytes).max(1)
}

/// Checks that a request names nobody but its pod. Without a pod every credential is somebody else's. `proof` is the
/// `Authorization` whose token proved the caller's identity: it names that identity.
///
/// # Errors
/// A [`ClaimError`] for the first field that does.
pub fn check_claims(
    headers: &HeaderMap,
    pod: Option<&Pod>,
    agent: &str,
    own: &OwnToken,
    proof: Option<&HeaderValue>,
) -> Result<(), ClaimError> {
    for claim in client_claims(headers) {
        let judged = match claim {
            ClientClaim::Impersonation(name) => {
                return Err(ClaimError::Impersonation {
                    header: family(name),
                    agent: agent.to_owned(),
                });
            }
            ClientClaim::Authorization(value)
                if proof.is_some_and(|proof| proof.as_bytes().trim_ascii() == value) =>
            {
                Ok(())
            }
            ClientClaim::Authorization(value) if own.is(value) => Ok(()),
            ClientClaim::Authorization(value) => {
                judge_authorization(value, pod).inspect(|()| own.keep(value))
            }
            ClientClaim::Subprotocol(encoded) => judge_token(TokenClaims::read_encoded(encoded), pod),
        };
        judged.map_err(|credential| {
            let agent = agent.to_owned();
            match pod {
                Some(_) => ClaimError::Credential { credential, agent },
                None => ClaimError::AtGateway { credential, agent },
            }
        })?;
    }
    Ok(())
}

/// Whether an `Authorization` may be a person's: its bearer token is of no service account. Tokens of service accounts are no people's,
/// whatever a grant says. Without a pod, which is at the gateway, no token is the client's own.
pub(super) fn may_be_person_token(value: &[u8], pod: Option<&Pod>, own: &OwnToken) -> bool {
    let value = value.trim_ascii();
    match pod {
        Some(_) => !own.is(value) && judge_authorization(value, pod) == Err(ForeignCredential::Token),
        None => matches!(bearer_token(value), Ok(Some(token)) if TokenClaims::read(token).is_none()),
    }
}

/// The field as people know it. Only names that are known are said, as a client can make up others of any length.
fn family(name: &HeaderName) -> &'static str {
    let name = name.as_str();
    match name.get("impersonate-".len()..).unwrap_or_default() {
        "user" => "Impersonate-User",
        "group" => "Impersonate-Group",
        "uid" => "Impersonate-Uid",
        rest if rest.starts_with("extra") => "Impersonate-Extra",
        _ => "Impersonate-*",
    }
}

fn judge_authorization(value: &[u8], pod: Option<&Pod>) -> Result<(), ForeignCredential> {
    match bearer_token(value)? {
        Some(token) => judge_token(TokenClaims::read(token), pod),
        // Nobody is named: the API server takes it for a request without a token.
        None => Ok(()),
    }
}

/// The bearer token of an `Authorization`, where there is one.
fn bearer_token(value: &[u8]) -> Result<Option<&[u8]>, ForeignCredential> {
    let end = value
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(value.len());
    let (scheme, token) = value.split_at(end);
    let token = token.trim_ascii();
    match scheme {
        b"" => Ok(None),
        _ if !scheme.eq_ignore_ascii_case(b"bearer") => Err(ForeignCredential::Scheme),
        _ => Ok(Some(token).filter(|token| !token.is_empty())),
    }
}

fn judge_token(claims: Option<TokenClaims>, pod: Option<&Pod>) -> Result<(), ForeignCredential> {
    let Some(pod) = pod else {
        return Err(ForeignCredential::AnyToken);
    };
    let Some(claims) = claims else {
        return Err(ForeignCredential::Token);
    };
    if (&claims.namespace, &claims.service_account) != (&pod.namespace, &pod.service_account) {
        let named = named(&claims.namespace, &claims.service_account);
        return Err(named.map_or(ForeignCredential::Token, ForeignCredential::ServiceAccount));
    }
    if let Some(bound) = &claims.pod
        && (&bound.name, &bound.uid) != (&pod.name, &pod.uid.0)
    {
        let named = named(&claims.namespace, &bound.name);
        return Err(named.map_or(ForeignCredential::Token, ForeignCredential::Pod));
    }
    let audiences = &claims.audiences;
    let is_own = |audience: &String| {
        audience == ENROLLED_AUDIENCE
            || *audience == claims.issuer
            || audience.starts_with(API_SERVER_AUDIENCE)
    };
    if audiences.is_empty() || audiences.iter().any(is_own) {
        Ok(())
    } else {
        Err(ForeignCredential::Audience)
    }
}

/// The longest name of an object (k8s.io/apimachinery pkg/util/validation, DNS1123SubdomainMaxLength).
const NAME_LIMIT: usize = 253;

/// Names as they may stand in a message: what cannot be a name is not repeated.
pub(super) fn named(namespace: &str, name: &str) -> Option<String> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text.len() <= NAME_LIMIT
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    };
    (is_name(namespace) && is_name(name)).then(|| format!("{namespace}/{name}"))
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
