//! What a service account token says of itself, unverified.
//!
//! In: the bytes of a bearer token, from anybody. Out: [`TokenClaims`], or nothing where the bytes are no such token. The
//! signature and the times are not looked at: the kernel proves which pod calls, and a token only shows whether its sender
//! means that pod. Sources: k8s.io/kubernetes pkg/serviceaccount/claims.go and legacy.go.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The longest token that is read. Real ones have 1 to 2 KB.
pub const TOKEN_LIMIT: usize = 16 * 1024;

/// Whom a service account token is for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClaims {
    /// `iss`; empty where there is none.
    pub issuer: String,
    /// `aud`; empty in tokens from Secrets.
    pub audiences: Vec<String>,
    /// The service account's namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod that the token is bound to.
    pub pod: Option<BoundPod>,
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BoundPod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    aud: Audiences,
    #[serde(rename = "kubernetes.io")]
    bound: Option<Bound>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    legacy_namespace: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    legacy_service_account: Option<String>,
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Account,
    pod: Option<BoundPod>,
}

#[derive(Deserialize)]
struct Account {
    name: String,
}

/// `aud` is one text or several (RFC 7519 section 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl TokenClaims {
    /// Reads a token: three parts of base64url between dots, of which the second holds the claims.
    #[must_use]
    pub fn read(token: &[u8]) -> Option<Self> {
        if token.len() > TOKEN_LIMIT {
            return None;
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || header.is_empty() || signature.is_empty() {
            return None;
        }
        let payload = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        Self::from_payload(payload)
    }

    /// Whom the token of these claims is for, where it is one of a service account.
    #[must_use]
    pub fn of(claims: &Map<String, Value>) -> Option<Self> {
        Self::from_payload(Payload::deserialize(claims).ok()?)
    }

    fn from_payload(payload: Payload) -> Option<Self> {
        let (namespace, service_account, pod) = match payload.bound {
            Some(bound) => (bound.namespace, bound.serviceaccount.name, bound.pod),
            None => (payload.legacy_namespace?, payload.legacy_service_account?, None),
        };
        Some(Self {
            issuer: payload.iss,
            audiences: match payload.aud {
                Audiences::One(audience) => vec![audience],
                Audiences::Several(audiences) => audiences,
            },
            namespace,
            service_account,
            pod,
        })
    }

    /// Reads a token that is encoded once more, as WebSocket subprotocols carry it.
    #[must_use]
    pub fn read_encoded(encoded: &[u8]) -> Option<Self> {
        if encoded.len() > (TOKEN_LIMIT * 4).div_ceil(3) {
            return None;
        }
        Self::read(&BASE64_URL_SAFE_NO_PAD.decode(encoded).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!(
            "{}.{}.c2ln",
            BASE64_URL_SAFE_NO_PAD.encode(b"{\"alg\":\"RS256\"}"),
            BASE64_URL_SAFE_NO_PAD.encode(payload.as_bytes())
        )
    }

    const PROJECTED: &str = r#"{"aud":["picket.dev"],"exp":1,"iss":"https://kubernetes.default.svc","kubernetes.io":{
        "namespace":"agents","node":{"name":"n","uid":"nu"},"pod":{"name":"worker","uid":"pu"},
        "serviceaccount":{"name":"sa","uid":"su"},"warnafter":2},"sub":"system:serviceaccount:agents:sa"}"#;

    #[test]
    fn a_projected_token_names_its_pod() {
        let claims = TokenClaims::read(token(PROJECTED).as_bytes()).expect("a token");
        assert_eq!(claims.audiences, ["picket.dev"]);
        assert_eq!(claims.issuer, "https://kubernetes.default.svc");
        assert_eq!(
            (claims.namespace.as_str(), claims.service_account.as_str()),
            ("agents", "sa")
        );
        let pod = claims.pod.clone().expect("bound to a pod");
        assert_eq!((pod.name.as_str(), pod.uid.as_str()), ("worker", "pu"));
        let encoded = BASE64_URL_SAFE_NO_PAD.encode(token(PROJECTED).as_bytes());
        assert_eq!(TokenClaims::read_encoded(encoded.as_bytes()), Some(claims));
    }

    #[test]
    fn other_forms_of_service_account_tokens_are_read() {
        let unbound = r#"{"aud":"a","kubernetes.io":{"namespace":"n","serviceaccount":{"name":"s"}}}"#;
        let claims = TokenClaims::read(token(unbound).as_bytes()).expect("a token");
        assert_eq!(
            (claims.audiences.as_slice(), &claims.pod),
            (&["a".to_owned()][..], &None)
        );
        let legacy = r#"{"iss":"kubernetes/serviceaccount","kubernetes.io/serviceaccount/namespace":"n",
            "kubernetes.io/serviceaccount/secret.name":"t","kubernetes.io/serviceaccount/service-account.name":"s"}"#;
        let claims = TokenClaims::read(token(legacy).as_bytes()).expect("a token");
        assert_eq!(
            (claims.namespace.as_str(), claims.service_account.as_str()),
            ("n", "s")
        );
        assert!(claims.audiences.is_empty() && claims.pod.is_none());
    }

    #[test]
    fn the_longest_token_is_read_in_either_form_and_a_longer_one_in_none() {
        let padded = |length: usize| {
            // Of the signature alone nothing is read, so that any length can be made.
            let token = token(PROJECTED);
            let signature = "s".repeat(length + "c2ln".len() - token.len());
            token.replace("c2ln", &signature)
        };
        for (length, is_read) in [
            (TOKEN_LIMIT - 1, true),
            (TOKEN_LIMIT, true),
            (TOKEN_LIMIT + 1, false),
        ] {
            let token = padded(length);
            assert_eq!(token.len(), length);
            let encoded = BASE64_URL_SAFE_NO_PAD.encode(token.as_bytes());
            let read = TokenClaims::read(token.as_bytes());
            assert_eq!(read.is_some(), is_read, "{length}");
            assert_eq!(TokenClaims::read_encoded(encoded.as_bytes()), read, "{length}");
        }
    }

    #[test]
    fn what_is_no_service_account_token_is_none() {
        let good = token(PROJECTED);
        for bad in [
            String::new(),
            "abc".to_owned(),
            "..".to_owned(),
            format!("{good}."),
            format!("{good}.x"),
            good.rsplit_once('.').expect("a signature").0.to_owned(),
            good.replace('.', " . "),
            token("{}"),
            token("[]"),
            token("{\"kubernetes.io\":{}}"),
            token("{\"kubernetes.io\":{\"namespace\":\"n\",\"serviceaccount\":{\"name\":1}}}"),
            // Two readings.
            token(&PROJECTED.replacen("{\"aud\"", "{\"kubernetes.io\":null,\"aud\"", 1)),
            token(&"[".repeat(5_000)),
            token(&PROJECTED.replace("warnafter\":2", &format!("w\":\"{}\"", "x".repeat(TOKEN_LIMIT)))),
        ] {
            assert_eq!(TokenClaims::read(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(TokenClaims::read_encoded(good.as_bytes()), None);
        assert_eq!(TokenClaims::read_encoded(&vec![b'A'; 4 * TOKEN_LIMIT]), None);
    }
}
