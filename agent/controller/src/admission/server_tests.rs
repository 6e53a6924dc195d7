//! The webhooks' port as an API server sees it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_metrics::MetricsRegistry;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::authority::{Authority, certificates, make_root};
use crate::metrics::ControllerMetrics;

const NAME: &str = "picket-webhook.picket-system.svc";

/// A server, and what its clients trust.
struct Port {
    address: SocketAddr,
    server: Arc<AdmissionServer>,
    anchors: String,
    certificate: ServingCertificate,
}

fn server(certificate: ServingCertificate) -> Arc<AdmissionServer> {
    let metrics = ControllerMetrics::register(&MetricsRegistry::default());
    AdmissionServer::new(certificate, AdmissionCounts::new(metrics.admission_answers())).unwrap()
}

async fn port() -> Port {
    let now = std::time::SystemTime::now();
    let authority = Authority::read(&make_root(now).unwrap()).unwrap();
    let certificate = ServingCertificate::default();
    certificate.renew(&authority, NAME, now).unwrap();
    let server = server(certificate.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Arc::clone(&server).run(listener));
    Port {
        address,
        server,
        anchors: authority.anchors,
        certificate,
    }
}

impl Port {
    fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.anchors, "test").unwrap() {
            roots.add(root).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    async fn dial(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let client = self.client(rustls::DEFAULT_VERSIONS);
        client
            .connect(ServerName::try_from(NAME).unwrap(), stream)
            .await
            .unwrap()
    }

    /// Sends bytes as they are; gives the status and the body.
    async fn send(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut session = self.dial().await;
        // A server that has refused the head may close before it has the body.
        let _ = session.write_all(&[head.as_bytes(), body].concat()).await;
        let mut answer = Vec::new();
        let _ = session.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.unwrap_or_default(), body.to_owned())
    }

    async fn post(&self, path: &str, body: &[u8]) -> (u16, String) {
        let length = body.len();
        let head =
            format!("POST {path}?timeout=5s HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {length}\r\n\r\n");
        self.send(&head, body).await
    }

    fn counts(&self) -> [u64; 5] {
        use AdmissionResult::{Changed, Failed, Invalid, Refused, Unchanged};
        [Changed, Unchanged, Refused, Invalid, Failed].map(|result| self.server.counts.of(result))
    }
}

fn question(resource: (&str, &str), object: Value) -> Vec<u8> {
    let (group, name) = resource;
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "operation": "CREATE", "object": object, "oldObject": null,
        "resource": {"group": group, "version": "v1", "resource": name}, "namespace": "agents", "userInfo": {}}});
    review.to_string().into_bytes()
}

fn pod() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main"}]}})
}

#[tokio::test]
async fn each_path_answers_reviews_of_its_kind() {
    let port = port().await;
    let (status, body) = port.post(PODS, &question(("", "pods"), pod())).await;
    assert_eq!(status, 200, "{body}");
    let review: Value = serde_json::from_str(&body).unwrap();
    let patch = STANDARD
        .decode(review["response"]["patch"].as_str().unwrap())
        .unwrap();
    let patch: Value = serde_json::from_slice(&patch).unwrap();
    assert_eq!(patch.as_array().unwrap().len(), 3, "{patch}");

    let deployment = json!({"metadata": {}, "spec": {"template": {"metadata": {}, "spec": {}}}});
    let (status, body) = port
        .post(WORKLOADS, &question(("apps", "deployments"), deployment))
        .await;
    assert!(status == 200 && body.contains("JSONPatch"), "{status}: {body}");

    let (status, body) = port.post(WORKLOADS, &question(("", "pods"), pod())).await;
    assert!(
        status == 200 && body.contains(r#""allowed":false"#),
        "{status}: {body}"
    );
    assert_eq!(port.counts(), [2, 0, 1, 0, 0]);
}

#[tokio::test]
async fn what_is_no_question_has_no_answer() {
    let port = port().await;
    let cases: [(&str, &[u8], u16); 5] = [
        (
            "POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
            b"{}",
            404,
        ),
        ("GET /mutate/pods HTTP/1.1\r\nHost: x\r\n\r\n", b"", 405),
        (
            "POST /mutate/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
            b"{}",
            400,
        ),
        (
            "POST /mutate/pods HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"2\r\n{}\r\n0\r\n\r\n",
            411,
        ),
        (
            "POST /mutate/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 8388609\r\n\r\n",
            b"",
            413,
        ),
    ];
    for (head, body, wanted) in cases {
        let (status, said) = port.send(head, body).await;
        assert_eq!(status, wanted, "{head}: {said}");
    }
    assert_eq!(port.counts(), [0, 0, 0, 5, 0]);
    let long = format!(
        "POST /mutate/pods HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n",
        "a".repeat(HEAD_BYTES)
    );
    let (status, _) = port.send(&long, b"").await;
    assert!(status != 200, "a head of any length");
}

#[tokio::test]
async fn the_longest_body_is_read() {
    let port = port().await;
    let mut pod = pod();
    let rest = BODY_LIMIT - question(("", "pods"), pod.clone()).len();
    pod["metadata"]["annotations"] = json!({"a": "a".repeat(rest - 100)});
    let body = question(("", "pods"), pod);
    assert!(body.len() > BODY_LIMIT - 200 && body.len() <= BODY_LIMIT);
    assert_eq!(port.post(PODS, &body).await.0, 200);
    // Twice as much as the room of an address: it is given back.
    for _ in 0..2 {
        assert_eq!(port.post(PODS, &body).await.0, 200);
    }
}

#[tokio::test]
async fn who_sends_no_body_or_one_of_countless_values_costs_little() {
    let port = port().await;
    let mut pod = pod();
    pod["many"] = json!(vec![json!({}); VALUES_LIMIT / 2]);
    let (status, why) = port.post(PODS, &question(("", "pods"), pod)).await;
    assert_eq!((status, why.as_str()), (413, "the body has too many values\n"));
    let head = format!("POST {PODS} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {BODY_LIMIT}\r\n\r\n");
    let began = std::time::Instant::now();
    let (status, _) = port.send(&head, b"{").await;
    assert_eq!(status, 408);
    assert!(began.elapsed() < CONNECTION_LIMIT);
}

#[tokio::test]
async fn both_versions_of_tls_serve_and_nothing_else_does() {
    let port = port().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let stream = TcpStream::connect(port.address).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let session = port.client(&[version]).connect(name, stream).await.unwrap();
        let (_, connection) = session.get_ref();
        assert_eq!(connection.protocol_version(), Some(version.version));
        assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    let mut plain = TcpStream::connect(port.address).await.unwrap();
    plain
        .write_all(b"POST /mutate/pods HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn without_a_certificate_no_handshake_succeeds_and_a_new_one_counts_at_once() {
    let port = port().await;
    let other = port.certificate.clone();
    let other_root = Authority::read(&make_root(std::time::SystemTime::now()).unwrap()).unwrap();
    other
        .renew(&other_root, NAME, std::time::SystemTime::now())
        .unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let dial = || async {
        let stream = TcpStream::connect(port.address).await.unwrap();
        port.client(rustls::DEFAULT_VERSIONS)
            .connect(name.clone(), stream)
            .await
    };
    assert!(dial().await.is_err(), "the root of before");
    let empty = server(ServingCertificate::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    tokio::spawn(empty.run(listener));
    assert!(
        port.client(rustls::DEFAULT_VERSIONS)
            .connect(name.clone(), stream)
            .await
            .is_err()
    );
}

// With real sockets a paused clock would run ahead of them.
#[tokio::test]
async fn a_silent_client_is_cut_off() {
    let port = port().await;
    // Neither a handshake nor a head comes.
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    let ended = timeout(2 * HANDSHAKE_LIMIT, silent.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(Ok(0))), "{ended:?}");
    let mut session = port.dial().await;
    session
        .write_all(b"POST /mutate/pods HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let ended = timeout(2 * HEAD_LIMIT, session.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "a head that never ends");
    // A body that never ends.
    let mut session = port.dial().await;
    let head = "POST /mutate/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
    session.write_all(head.as_bytes()).await.unwrap();
    let ended = timeout(2 * CONNECTION_LIMIT, session.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "a body that never ends");
}
