//! An API server's tokens of service accounts, and a TLS server that asks for client certificates as the API server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use parking_lot::Mutex;
use rustls::ServerConfig;

use crate::tls::client_certificate::ProofOfKey;

/// Issues the tokens `...1...`, `...2...` and so on, each good for so long.
#[derive(Debug)]
pub(super) struct Issuer {
    issued: AtomicUsize,
    pub(super) status: AtomicU16,
    pub(super) lifetime: AtomicU64,
    /// Tokens that the server does not take any more, as `Authorization`.
    pub(super) refused: Mutex<Vec<String>>,
}

impl Default for Issuer {
    fn default() -> Issuer {
        Issuer {
            issued: AtomicUsize::new(0),
            status: AtomicU16::new(201),
            lifetime: AtomicU64::new(600),
            refused: Mutex::default(),
        }
    }
}

impl Issuer {
    /// The answer to a TokenRequest, after a moment in which others may come.
    pub(super) async fn issue(&self) -> Response<Bytes> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let status = self.status.load(Ordering::Relaxed);
        let body = match status {
            201 => {
                let number = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
                let lifetime = self.lifetime.load(Ordering::Relaxed);
                let token = token(number, lifetime);
                serde_json::json!({"kind": "TokenRequest", "spec": {"expirationSeconds": lifetime},
                    "status": {"token": token, "expirationTimestamp": "2026-01-01T00:00:00Z"}})
            }
            _ => serde_json::json!({"kind": "Status", "message": "User \"picket:node\" cannot do that"}),
        };
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        response
    }

    /// Whether a request has a token that is not taken any more.
    pub(super) fn refuses(&self, headers: &HeaderMap) -> bool {
        let authorization = headers.get(header::AUTHORIZATION);
        authorization.is_some_and(|value| {
            self.refused
                .lock()
                .iter()
                .any(|refused| value == refused.as_str())
        })
    }
}

/// The token of this number.
pub(super) fn token(number: usize, lifetime: u64) -> String {
    crate::identity::testing::token(&serde_json::json!({
        "iat": 1000, "exp": 1000 + lifetime, "jti": format!("token-{number}"),
    }))
}

/// The same server, which asks for a client certificate and takes any.
pub(super) fn any_client(config: &ServerConfig) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut any = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(ProofOfKey::new())
        .with_cert_resolver(Arc::clone(&config.cert_resolver));
    any.alpn_protocols.clone_from(&config.alpn_protocols);
    Arc::new(any)
}
