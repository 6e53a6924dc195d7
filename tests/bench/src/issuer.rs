//! What the check of a bearer token costs: the agent's own code, with the keys of an issuer that answers on loopback.
//!
//! In: nothing. Out: the time of one check, for a token that is known (`jwt-cached`) and for one that is seen for the first time
//! (`jwt-uncached`), by algorithm. No request is sent while the time runs: the issuer is asked for its keys once, before.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use jiff::Timestamp;
use picket::identity::jwt::{Issuers, JwtMetrics};
use picket::metrics::MetricsRegistry;
use picket_tests::pki::Authority;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::plan::PERCENTILES;
use crate::report::Row;
use crate::tls;

/// An RSA key of 2048 bits for tests alone (PKCS#8); ring makes none.
const RSA_KEY: &str = include_str!("../../../agent/src/identity/jwt/testing_rsa_key.txt");

/// The algorithms of most issuers: the API server and oidc-provider sign with RS256, many others with ES256.
const ALGORITHMS: [&str; 2] = ["RS256", "ES256"];

/// Checks of one token, and tokens that are checked once each.
const CACHED: usize = 200_000;
const UNCACHED: usize = 2_000;
const QUICK_CACHED: usize = 20_000;
const QUICK_UNCACHED: usize = 300;

/// Every case by its whole name.
pub(crate) fn cases() -> Vec<String> {
    let of_algorithm = |algorithm: &str| {
        let cases = ["jwt-cached", "jwt-uncached"];
        cases.map(|case| format!("{case}-{}", algorithm.to_lowercase()))
    };
    ALGORITHMS.into_iter().flat_map(of_algorithm).collect()
}

/// Measures it all on this thread.
pub(crate) fn measure(quick: bool, only: &str) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut rows = runtime.block_on(checks(quick))?;
    rows.retain(|row| row.case.contains(only));
    Ok(rows)
}

async fn checks(quick: bool) -> Result<Vec<Row>> {
    let (cached, uncached) = if quick {
        (QUICK_CACHED, QUICK_UNCACHED)
    } else {
        (CACHED, UNCACHED)
    };
    let keys = Keys::new()?;
    let folder = tempfile::tempdir()?;
    let (url, ca) = serve(folder.path(), keys.published()).await?;
    let file = folder.path().join("authentication.yaml");
    fs::write(&file, configuration(&url, &ca))?;
    let metrics = JwtMetrics::register(&MetricsRegistry::default());
    let issuers = Issuers::open(Some(file), metrics);
    tokio::spawn(issuers.clone().run());

    let mut rows = Vec::new();
    for algorithm in ALGORITHMS {
        // The first one waits for the keys.
        let first = keys.header(algorithm, &claims(&url, 0))?;
        check(&issuers, &first).await?;
        let mut samples = Vec::with_capacity(cached);
        for _ in 0..cached {
            samples.push(check(&issuers, &first).await?);
        }
        rows.extend(report("jwt-cached", algorithm, samples));
        let tokens = (1..=uncached).map(|number| keys.header(algorithm, &claims(&url, number)));
        let tokens = tokens.collect::<Result<Vec<_>>>()?;
        let mut samples = Vec::with_capacity(uncached);
        for token in &tokens {
            samples.push(check(&issuers, token).await?);
        }
        rows.extend(report("jwt-uncached", algorithm, samples));
    }
    Ok(rows)
}

/// Checks a token as a request's is checked. Returns the microseconds.
async fn check(issuers: &Issuers, header: &HeaderValue) -> Result<f64> {
    let began = Instant::now();
    let verified = issuers.verify(header, Timestamp::now()).await;
    let took = began.elapsed();
    verified.context("no bearer token")??;
    Ok(took.as_secs_f64() * 1e6)
}

fn report(case: &str, algorithm: &str, mut samples: Vec<f64>) -> Vec<Row> {
    samples.sort_by(f64::total_cmp);
    let rows = PERCENTILES.map(|(name, share)| {
        let at = (samples.len() as f64 * share) as usize;
        let value = samples.get(at.min(samples.len().saturating_sub(1)));
        Row {
            case: format!("token/{case}-{}-{name}", algorithm.to_lowercase()),
            protocol: String::new(),
            unit: "us".to_owned(),
            direct: None,
            picket: value.map(|value| (value * 100.0).round() / 100.0),
            nginx: None,
        }
    });
    rows.into()
}

/// What the API server says of a service account in a token of its own: some 1 KB.
fn claims(url: &str, number: usize) -> Value {
    let uid = format!("7d1f3c52-0f5e-4b7c-9a53-{number:012}");
    json!({
        "iss": url, "aud": ["picket.dev"], "sub": "system:serviceaccount:agents:worker", "jti": uid,
        "iat": Timestamp::now().as_second(), "nbf": Timestamp::now().as_second(), "exp": Timestamp::now().as_second() + 3600,
        "kubernetes.io": {
            "namespace": "agents",
            "node": {"name": "node-1", "uid": uid}, "pod": {"name": "worker-5d8f9c7b4-x2x7k", "uid": uid},
            "serviceaccount": {"name": "worker", "uid": uid}, "warnafter": Timestamp::now().as_second() + 3000,
        },
    })
}

fn configuration(url: &str, ca: &str) -> String {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": url, "audiences": ["picket.dev"], "certificateAuthority": ca},
            "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
        }],
    })
    .to_string()
}

/// A key for each algorithm.
struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    random: SystemRandom,
}

impl Keys {
    fn new() -> Result<Self> {
        let random = SystemRandom::new();
        let rsa: String = RSA_KEY.split_whitespace().collect();
        let rsa = RsaKeyPair::from_pkcs8(&BASE64_STANDARD.decode(rsa)?);
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(algorithm, &random).ok();
        let ec = ec.and_then(|ec| EcdsaKeyPair::from_pkcs8(algorithm, ec.as_ref(), &random).ok());
        Ok(Self {
            rsa: rsa.ok().context("no RSA key")?,
            ec: ec.context("no key for ES256")?,
            random,
        })
    }

    fn published(&self) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let rsa = PublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        // After the byte that says that both halves follow.
        let point = &self.ec.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({"keys": [
            {"kid": "RS256", "kty": "RSA", "use": "sig", "n": text(&rsa.n), "e": text(&rsa.e)},
            {"kid": "ES256", "kty": "EC", "use": "sig", "crv": "P-256", "x": text(x), "y": text(y)},
        ]})
    }

    /// The header of a request with a token of these claims.
    fn header(&self, algorithm: &str, claims: &Value) -> Result<HeaderValue> {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let head = json!({"alg": algorithm, "kid": algorithm});
        let message = format!("{}.{}", part(&head), part(claims));
        let mut signature = vec![0; self.rsa.public().modulus_len()];
        if algorithm == "RS256" {
            let signed = self.rsa.sign(
                &RSA_PKCS1_SHA256,
                &self.random,
                message.as_bytes(),
                &mut signature,
            );
            ensure!(signed.is_ok(), "no signature");
        } else {
            let signed = self.ec.sign(&self.random, message.as_bytes());
            signature = signed.ok().context("no signature")?.as_ref().to_vec();
        }
        let token = format!("Bearer {message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        Ok(HeaderValue::try_from(token)?)
    }
}

/// Serves the issuer's documents on loopback. Returns its URL and its CA.
async fn serve(folder: &Path, keys: Value) -> Result<(String, String)> {
    let authority = Authority::create(folder)?;
    let certificate = authority.server("issuer", &["127.0.0.1"])?;
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(&certificate.cert, &certificate.key)?));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
    let documents = Arc::new((discovery.to_string(), keys.to_string()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, documents) = (acceptor.clone(), Arc::clone(&documents));
            tokio::spawn(async move {
                let Ok(session) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request: Request<Incoming>| {
                    let (discovery, keys) = &*documents;
                    let wants_keys = request.uri().path() == "/keys";
                    let text = if wants_keys { keys } else { discovery }.clone();
                    async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
                });
                // A connection that broke shows at the agent's side.
                let _ = Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(session), service)
                    .await;
            });
        }
    });
    Ok((url, fs::read_to_string(authority.pair().cert)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_token_is_checked_by_each_algorithm() {
        let rows = super::measure(true, "jwt-uncached-es256").unwrap();
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.picket.is_some_and(|value| value > 0.0)));
        assert!(
            rows.iter()
                .all(|row| super::cases().iter().any(|case| row.case.contains(case)))
        );
    }
}
