//! The port as a scraper sees it, before an API server that the tests make.

use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::cluster::testing::{Folder, answering};
use crate::pki::CaFiles;
use crate::tls::Certificates;

/// An API server.
type Answering = fn(&http::Request<bytes::Bytes>) -> (u16, Value);

/// The user of each token, and what each may.
fn api_server(request: &http::Request<bytes::Bytes>) -> (u16, Value) {
    let mut review: Value = serde_json::from_slice(request.body()).unwrap();
    match request.uri().path() {
        "/apis/authentication.k8s.io/v1/tokenreviews" => {
            assert_eq!(
                review["spec"]["audiences"],
                Value::Null,
                "the API server's own audience"
            );
            let token = review["spec"]["token"].as_str().unwrap().to_owned();
            review["status"] = match token.as_str() {
                "scraper" | "pod-without-the-right" | "allowed-and-denied" => {
                    json!({"authenticated": true, "user": {
                        "username": format!("system:serviceaccount:n:{token}"), "uid": "u-1",
                        "groups": ["system:serviceaccounts", "system:authenticated"], "extra": {"key": ["value"]},
                    }})
                }
                "nameless" => json!({"authenticated": true, "user": {"username": ""}}),
                // A user that nobody vouches for.
                "unvouched" => {
                    json!({"authenticated": false, "user": {"username": "system:serviceaccount:n:scraper"}})
                }
                "silent" => Value::Null,
                // As kube-apiserver says of a token with Picket's audience.
                _ => {
                    json!({"error": "[invalid bearer token, token audiences [\"picket.dev\"] is invalid for the target audiences]"})
                }
            };
        }
        "/apis/authorization.k8s.io/v1/subjectaccessreviews" => {
            let spec = &review["spec"];
            assert_eq!(
                spec["nonResourceAttributes"],
                json!({"path": "/metrics", "verb": "get"})
            );
            assert!(
                spec["groups"]
                    .as_array()
                    .unwrap()
                    .contains(&json!("system:authenticated"))
            );
            let user = spec["user"].as_str().unwrap();
            if user.starts_with("system:serviceaccount:") {
                assert_eq!(
                    (&spec["uid"], &spec["extra"]),
                    (&json!("u-1"), &json!({"key": ["value"]}))
                );
            }
            let of_certificate = user == "prometheus" && spec["groups"][0] == "monitoring";
            let allowed = user == "system:serviceaccount:n:scraper" || of_certificate;
            review["status"] = match user {
                // One authorizer says yes, and one no.
                "system:serviceaccount:n:allowed-and-denied" => json!({"allowed": true, "denied": true}),
                _ => json!({"allowed": allowed}),
            };
        }
        other => panic!("{other}"),
    }
    (201, review)
}

/// The server, and what its clients need.
struct World {
    address: SocketAddr,
    ca: String,
    /// The CA of client certificates.
    clients: (KeyPair, CertificateParams),
    registry: Arc<MetricsRegistry>,
    tls: Arc<EndpointTls>,
    files: tempfile::TempDir,
    cancel: CancellationToken,
    _folder: Folder,
}

fn client_ca() -> (KeyPair, CertificateParams) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "clients");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (KeyPair::generate().unwrap(), params)
}

async fn world(
    answer: impl Fn(&http::Request<bytes::Bytes>) -> (u16, Value) + Send + Sync + 'static,
) -> World {
    let url = answering(answer).await;
    let (folder, connector) = Connector::for_tests(&url);
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let made = crate::pki::ca::create("node").unwrap();
    let ca = CaFiles {
        certificate: path("ca.crt"),
        key: path("ca.key"),
    };
    std::fs::write(&ca.certificate, &made.certificate_pem).unwrap();
    std::fs::write(&ca.key, made.key_pem).unwrap();
    let clients = client_ca();
    let pem = clients.1.self_signed(&clients.0).unwrap().pem();
    std::fs::write(path("clients.crt"), pem).unwrap();
    let certificates = Certificates::open(ca, &[], Arc::default()).unwrap();
    let tls = EndpointTls::with_node_ca(certificates, &[], Some(path("clients.crt"))).unwrap();
    let tls = Arc::new(tls);
    let registry = Arc::new(MetricsRegistry::default());
    let metrics = ScrapeMetrics::register(&registry);
    let server = MetricsServer::new(Arc::clone(&registry), connector, Arc::clone(&tls), metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    tokio::spawn(server.run(listener, cancel.clone()));
    World {
        address,
        ca: made.certificate_pem,
        clients,
        registry,
        tls,
        files,
        cancel,
        _folder: folder,
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl World {
    /// A client certificate of this name, that a CA signed.
    fn certificate(&self, (key, ca): &(KeyPair, CertificateParams), name: &str) -> Identity {
        let own = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "monitoring");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = Issuer::from_params(ca, key);
        let certificate = params.signed_by(&own, &issuer).unwrap();
        let own = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
        (vec![certificate.der().clone()], own)
    }

    async fn send(&self, request: &str, identity: Option<Identity>) -> std::io::Result<String> {
        use rustls::pki_types::pem::PemObject as _;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let mut session = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        session.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        session.read_to_end(&mut text).await?;
        Ok(String::from_utf8(text).unwrap())
    }

    /// The answer to a request line with these headers.
    async fn ask(&self, line: &str, headers: &str) -> (u16, String) {
        let request = format!("{line} HTTP/1.1\r\nHost: node\r\n{headers}\r\n");
        let text = self.send(&request, None).await.unwrap();
        split(&text)
    }

    async fn with_token(&self, token: &str) -> (u16, String) {
        self.ask("GET /metrics", &format!("Authorization: Bearer {token}\r\n"))
            .await
    }

    fn count(&self, outcome: &str) -> u64 {
        let text = self.registry.encode().unwrap();
        let line = format!("picket_scrapes_total{{outcome=\"{outcome}\"}} ");
        let value = text.lines().find_map(|have| have.strip_prefix(&line));
        value.unwrap().parse().unwrap()
    }
}

fn split(text: &str) -> (u16, String) {
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    (code, text.to_owned())
}

/// The `Status` that an answer has.
fn status(text: &str) -> Value {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.to_ascii_lowercase()
            .contains("content-type: application/json"),
        "{head}"
    );
    let status: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&status["kind"], &status["apiVersion"]),
        (&json!("Status"), &json!("v1"))
    );
    status
}

#[tokio::test]
async fn whoever_has_the_right_reads_the_metrics_and_nothing_else() {
    let world = world(api_server).await;
    let (code, text) = world.with_token("scraper").await;
    assert_eq!(code, 200, "{text}");
    assert!(
        text.contains("application/openmetrics-text") && text.contains("picket_build_info{"),
        "{text}"
    );
    for line in [
        "GET /",
        "GET /metrics/",
        "GET /healthz",
        "GET /v1/sessions",
        "POST /v1/sessions/kill",
        "GET /debug",
    ] {
        let (code, text) = world.ask(line, "Authorization: Bearer scraper\r\n").await;
        assert_eq!(
            (code, &status(&text)["reason"]),
            (404, &json!("NotFound")),
            "{line}"
        );
    }
    for line in ["POST /metrics", "DELETE /metrics", "HEAD /metrics"] {
        let (code, text) = world.ask(line, "Authorization: Bearer scraper\r\n").await;
        assert!(
            code == 405 && !text.contains("picket_build_info"),
            "{line}: {text}"
        );
    }
    assert_eq!((world.count("served"), world.count("not_found")), (1, 9));
}

#[tokio::test]
async fn nobody_reads_them_without_a_token_that_the_api_server_takes() {
    let world = world(api_server).await;
    for headers in [
        "",
        "Authorization: Basic c2NyYXBlcjo=\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer scr aper\r\n",
        "Authorization: scraper\r\n",
        // One of two tokens is not chosen.
        "Authorization: Bearer scraper\r\nAuthorization: Bearer scraper\r\n",
        // The token of an enrolled pod: its audience is picket.dev.
        "Authorization: Bearer of-an-enrolled-pod\r\n",
        "Authorization: Bearer unvouched\r\n",
        "Authorization: Bearer nameless\r\n",
    ] {
        let (code, text) = world.ask("GET /metrics", headers).await;
        assert_eq!(
            (code, &status(&text)["reason"]),
            (401, &json!("Unauthorized")),
            "{headers}"
        );
        assert!(
            text.to_ascii_lowercase().contains("www-authenticate: bearer"),
            "{text}"
        );
        assert!(!text.contains("picket_build_info"));
    }
    assert_eq!(world.count("unauthenticated"), 9);
}

#[tokio::test]
async fn a_pod_without_the_right_is_forbidden() {
    let world = world(api_server).await;
    for token in ["pod-without-the-right", "allowed-and-denied"] {
        let (code, text) = world.with_token(token).await;
        let status = status(&text);
        assert_eq!(
            (code, &status["reason"], &status["code"]),
            (403, &json!("Forbidden"), &json!(403)),
            "{token}"
        );
        let message = status["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("system:serviceaccount:n:{token}"))
                && message.contains("picket-metrics-reader")
        );
    }
    assert_eq!(world.count("forbidden"), 2);
}

#[tokio::test]
async fn while_nobody_says_who_asks_nobody_is_served() {
    let faults: [Answering; 4] = [
        |_| {
            (
                500,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "message": "no"}),
            )
        },
        |_| {
            (
                403,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "message": "no"}),
            )
        },
        // The review of the token has no status.
        |request| (201, serde_json::from_slice(request.body()).unwrap()),
        // That of the right has none.
        |request| match request.uri().path().ends_with("tokenreviews") {
            true => api_server(request),
            false => (201, serde_json::from_slice(request.body()).unwrap()),
        },
    ];
    for fault in faults {
        let world = world(fault).await;
        let (code, text) = world.with_token("scraper").await;
        assert_eq!(
            (code, &status(&text)["reason"]),
            (503, &json!("ServiceUnavailable")),
            "{text}"
        );
        assert_eq!(status(&text)["details"]["retryAfterSeconds"], 5);
        assert!(!text.contains("picket_build_info"));
        assert_eq!(world.count("unavailable"), 1);
    }
}

#[tokio::test]
async fn the_api_server_is_asked_once_about_a_token_that_comes_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let world = world(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        api_server(request)
    })
    .await;
    for _ in 0..3 {
        assert_eq!(world.with_token("scraper").await.0, 200);
        assert_eq!(world.with_token("unknown").await.0, 401);
    }
    assert_eq!(
        asked.load(Ordering::Relaxed),
        3,
        "two reviews of the one, and one of the other"
    );
}

#[tokio::test]
async fn a_client_certificate_counts_by_its_ca_and_its_users_right() {
    let world = world(api_server).await;
    let request = "GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";
    let known = world.certificate(&world.clients, "prometheus");
    let text = world.send(request, Some(known)).await.unwrap();
    assert_eq!(split(&text).0, 200, "{text}");
    // The user of this one has no right, whatever token comes with it.
    let request_with_token = "GET /metrics HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer scraper\r\n\r\n";
    let other = world.certificate(&world.clients, "somebody");
    let text = world.send(request_with_token, Some(other)).await.unwrap();
    assert_eq!(split(&text).0, 403, "{text}");
    // Another CA signed this one: there is no session.
    let foreign = world.certificate(&client_ca(), "prometheus");
    let refused = world.send(request, Some(foreign)).await;
    assert!(refused.is_err(), "{refused:?}");
    // The CA is replaced while the agent runs.
    let (key, params) = client_ca();
    let pem = params.self_signed(&key).unwrap().pem();
    std::fs::write(world.files.path().join("clients.crt"), pem).unwrap();
    world.tls.renew(std::time::SystemTime::now());
    let old = world.certificate(&world.clients, "prometheus");
    assert!(world.send(request, Some(old)).await.is_err(), "of the CA before");
    let new = world.certificate(&(key, params), "prometheus");
    assert_eq!(split(&world.send(request, Some(new)).await.unwrap()).0, 200);
}

#[tokio::test]
async fn a_head_that_is_too_long_or_comes_too_slowly_is_given_up() {
    let world = world(api_server).await;
    let long = format!("Authorization: Bearer {}\r\n", "a".repeat(2 * HEAD_BYTES));
    let (code, _) = world.ask("GET /metrics", &long).await;
    assert_eq!(code, 431);
    let many: String = (0..=HEAD_FIELDS)
        .map(|number| format!("X-{number}: a\r\n"))
        .collect();
    assert_eq!(world.ask("GET /metrics", &many).await.0, 431);
    // The rest never comes.
    let begun = std::time::Instant::now();
    let answer = world.send("GET /metrics HTTP/1.1\r\nHost:", None).await;
    let took = begun.elapsed();
    assert!(!answer.is_ok_and(|text| text.contains("200 OK")));
    assert!(took < HEAD_LIMIT + Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn a_connection_has_one_request_and_many_silent_ones_leave_room_for_others() {
    let world = world(api_server).await;
    let one = "GET /metrics HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer scraper\r\n\r\n";
    let text = world.send(&format!("{one}{one}"), None).await.unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 1, "{text}");
    assert!(text.to_ascii_lowercase().contains("connection: close"));
    let mut silent = Vec::new();
    for _ in 0..peers::CONNECTIONS_PER_ADDRESS {
        silent.push(TcpStream::connect(world.address).await.unwrap());
    }
    // The server takes them in their order.
    assert!(
        world.send(one, None).await.is_err(),
        "this address has all that it may have"
    );
    assert!(world.count("limited") >= 1);
    silent.clear();
    // The server sees their ends one by one.
    let answered = async {
        loop {
            match world.send(one, None).await {
                Ok(text) => break split(&text).0,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), answered).await;
    assert_eq!(status.unwrap(), 200);
    world.cancel.cancel();
}
