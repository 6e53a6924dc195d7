//! An issuer for tests: real keys and signatures, documents over TLS on the loopback, and every way to fail.
//!
//! In: what the issuer shall do. Out: its URL, its CA, tokens, and how often it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Issuers, JwtMetrics};
use crate::metrics::MetricsRegistry;

/// An RSA key of 2048 bits for tests alone (PKCS#8); ring makes none.
const RSA_KEY: &str = include_str!("testing_rsa_key.txt");

/// A key that signs tokens.
pub(crate) enum TestKey {
    /// P-256.
    Es256(EcdsaKeyPair),
    /// P-384.
    Es384(EcdsaKeyPair),
    /// Ed25519.
    EdDsa(Ed25519KeyPair),
    /// RSA with PKCS#1.
    Rs256(RsaKeyPair),
    /// RSA with PSS.
    Ps512(RsaKeyPair),
}

impl TestKey {
    /// A new key of an algorithm; the RSA key is always the same.
    pub(crate) fn new(algorithm: &str) -> Self {
        let random = SystemRandom::new();
        let ec = |of| {
            let document = EcdsaKeyPair::generate_pkcs8(of, &random).expect("a key");
            EcdsaKeyPair::from_pkcs8(of, document.as_ref(), &random).expect("a key")
        };
        let rsa = || {
            let key: String = RSA_KEY.split_whitespace().collect();
            RsaKeyPair::from_pkcs8(&BASE64_STANDARD.decode(key).expect("base64")).expect("a key")
        };
        match algorithm {
            "ES256" => Self::Es256(ec(&ECDSA_P256_SHA256_FIXED_SIGNING)),
            "ES384" => Self::Es384(ec(&ECDSA_P384_SHA384_FIXED_SIGNING)),
            "EdDSA" => {
                let document = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
                Self::EdDsa(Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key"))
            }
            "RS256" => Self::Rs256(rsa()),
            "PS512" => Self::Ps512(rsa()),
            other => panic!("{other}"),
        }
    }

    /// Its algorithm's name.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Es384(_) => "ES384",
            Self::EdDsa(_) => "EdDSA",
            Self::Rs256(_) => "RS256",
            Self::Ps512(_) => "PS512",
        }
    }

    /// The public key as a JWKS has it.
    pub(crate) fn published(&self, key_id: &str) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let ec = |key: &EcdsaKeyPair, curve: &str| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
        };
        let mut key = match self {
            Self::Es256(key) => ec(key, "P-256"),
            Self::Es384(key) => ec(key, "P-384"),
            Self::EdDsa(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())}),
            Self::Rs256(key) | Self::Ps512(key) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "n": text(&public.n), "e": text(&public.e)})
            }
        };
        key["kid"] = key_id.into();
        key["use"] = "sig".into();
        key
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |key: &RsaKeyPair, padding: &'static dyn ring::signature::RsaEncoding| {
            let mut signature = vec![0; key.public().modulus_len()];
            key.sign(padding, &random, message, &mut signature)
                .expect("a signature");
            signature
        };
        match self {
            Self::Es256(key) | Self::Es384(key) => {
                key.sign(&random, message).expect("a signature").as_ref().to_vec()
            }
            Self::EdDsa(key) => key.sign(message).as_ref().to_vec(),
            Self::Rs256(key) => rsa(key, &RSA_PKCS1_SHA256),
            Self::Ps512(key) => rsa(key, &RSA_PSS_SHA512),
        }
    }

    /// A token with this header and these claims.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A token of these claims.
    pub(crate) fn token(&self, key_id: &str, claims: &Value) -> String {
        self.token_with(
            &json!({"alg": self.algorithm(), "kid": key_id, "typ": "JWT"}),
            claims,
        )
    }
}

/// What the issuer does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IssuerBehaviour {
    /// Answers with its documents.
    Good,
    /// Accepts and says nothing.
    Silent,
    /// Answers with 503.
    Failing,
    /// Sends a key set without end.
    Endless,
    /// Sends a head without end.
    EndlessHead,
    /// Names another issuer.
    Other,
}

/// A running issuer.
pub(crate) struct TestIssuer {
    address: SocketAddr,
    ca: String,
    shared: Arc<Shared>,
}

struct Shared {
    keys: Mutex<Vec<Value>>,
    behaviour: Mutex<IssuerBehaviour>,
    asked: AtomicUsize,
    sent: AtomicUsize,
}

impl TestIssuer {
    /// Starts an issuer that publishes these keys.
    pub(crate) async fn start(keys: Vec<Value>) -> Self {
        let certified =
            rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .expect("a key pair");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let issuer = Self {
            address: listener.local_addr().expect("an address"),
            ca: certified.cert.pem(),
            shared: Arc::new(Shared {
                keys: Mutex::new(keys),
                behaviour: Mutex::new(IssuerBehaviour::Good),
                asked: AtomicUsize::new(0),
                sent: AtomicUsize::new(0),
            }),
        };
        let (acceptor, shared, url) = (
            TlsAcceptor::from(Arc::new(config)),
            Arc::clone(&issuer.shared),
            issuer.url(),
        );
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(acceptor.clone(), stream, Arc::clone(&shared), url.clone()));
            }
        });
        issuer
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Publishes other keys.
    pub(crate) fn publish(&self, keys: Vec<Value>) {
        *self.shared.keys.lock() = keys;
    }

    /// Does something else from now on.
    pub(crate) fn behave(&self, behaviour: IssuerBehaviour) {
        *self.shared.behaviour.lock() = behaviour;
    }

    /// How many requests for its keys came.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// How many bytes of an endless answer were sent.
    pub(crate) fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// An AuthenticationConfiguration with this issuer.
    pub(crate) fn configuration(&self) -> String {
        let ca = self.ca.replace('\n', "\n      ");
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {}\n    audiences: \
             [picket]\n    certificateAuthority: |\n      {ca}\n  claimMappings: {{username: {{claim: sub, prefix: ''}}}}\n",
            self.url()
        )
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, shared: Arc<Shared>, url: String) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        request.push(byte);
    }
    let wants_keys = request.starts_with(b"GET /keys ");
    let behaviour = *shared.behaviour.lock();
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    if wants_keys || behaviour != IssuerBehaviour::Good {
        shared.asked.fetch_add(1, Ordering::Relaxed);
    }
    let (status, body) = match behaviour {
        IssuerBehaviour::Silent => return std::future::pending().await,
        IssuerBehaviour::Failing => ("503 Service Unavailable", json!({})),
        IssuerBehaviour::Endless if wants_keys => {
            let head = "content-type: application/json\r\ncontent-length: 104857600\r\n\r\n{\"keys\": [";
            return send_without_end(stream, &shared, head, " ").await;
        }
        IssuerBehaviour::EndlessHead => return send_without_end(stream, &shared, "", "x-more: 1\r\n").await,
        // As the API server does.
        _ if wants_keys && !head.contains("application/jwk-set+json") => ("406 Not Acceptable", json!({})),
        _ if wants_keys => ("200 OK", json!({"keys": *shared.keys.lock()})),
        IssuerBehaviour::Other => (
            "200 OK",
            json!({"issuer": "https://other.example", "jwks_uri": format!("{url}/keys")}),
        ),
        _ => (
            "200 OK",
            json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
        ),
    };
    let body = body.to_string();
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(response.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn send_without_end(
    mut stream: tokio_rustls::server::TlsStream<TcpStream>,
    shared: &Shared,
    head: &str,
    more: &str,
) {
    let _ = stream
        .write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes())
        .await;
    let chunk = more.repeat(64 * 1024 / more.len());
    while stream.write_all(chunk.as_bytes()).await.is_ok() {
        shared.sent.fetch_add(chunk.len(), Ordering::Relaxed);
    }
}

/// The issuers of a file with one of them, whose keys are fetched.
pub(crate) struct TestIssuers {
    /// They.
    pub(crate) issuers: Issuers,
    registry: MetricsRegistry,
    folder: tempfile::TempDir,
    _running: tokio_util::task::AbortOnDropHandle<()>,
}

impl TestIssuers {
    /// Those with this one.
    pub(crate) fn of(issuer: &TestIssuer) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("auth.yaml");
        std::fs::write(&file, issuer.configuration()).expect("written");
        Self::in_folder(folder)
    }

    fn in_folder(folder: tempfile::TempDir) -> Self {
        let file = folder.path().join("auth.yaml");
        let registry = MetricsRegistry::default();
        let metrics = JwtMetrics::register(&registry);
        let issuers = Issuers::open(Some(file), metrics);
        let running = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(issuers.clone().run()));
        Self {
            issuers,
            registry,
            folder,
            _running: running,
        }
    }

    /// The same file, read by issuers of their own.
    pub(crate) fn again(self) -> Self {
        let Self { folder, .. } = self;
        Self::in_folder(folder)
    }

    /// Changes the configuration's file.
    pub(crate) fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let file = self.folder.path().join("auth.yaml");
        let text = std::fs::read_to_string(&file).expect("a file");
        std::fs::write(&file, change(text)).expect("written");
    }

    /// How many callers did not prove who they are for this reason.
    pub(crate) fn failures(&self, reason: &str) -> u64 {
        let text = self.registry.encode().expect("text");
        let label = format!("attestation_failures_total{{reason=\"{reason}\"}} ");
        let count = text.lines().find_map(|line| line.split_once(&label));
        count.map_or(0, |(_, count)| count.parse().expect("a number"))
    }
}
