//! A pipeline with all that is around it, in one process: a client in a "pod", an API server, an audit log.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::Action;
use picket_policy::{BODY_LIMIT, PolicySet};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::heads::http1::Http1Heads;
use super::super::heads::{HeadBudget, target as whole_target};
use super::super::{IdentitySources, Pipeline};
use super::issuer::{Issuer, any_client};
use super::stored::{self, StoredMap};
use crate::audit::spool::segment::stored_text;
use crate::audit::{AuditConfig, AuditLog};
use crate::identity::jwt::Issuers;
use crate::limits::{LimitMetrics, RequestLimits};
use crate::listener::{Accepted, CONNECTIONS_PER_POD, PodShare, Process};
use crate::metrics::MetricsRegistry;
use crate::notify::{EventQueue, KubeEvent, NotifyMetrics};
use crate::pki::{self, CaFiles, TrustBundles};
use crate::runtime::drain::Drain;
use crate::session::{Registry, SessionMetrics};
use crate::store::Store;
use crate::tls::Certificates;
use crate::upstream::{NodeCredential, Upstream, UpstreamConfig};
use crate::workload::Pod;

/// The agent, what it may do, and one rule of each kind. The rule `ask` wants an approval.
const OBJECTS: &str = "
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec: {owner: team-a, groups: [agents], attest: {pod: {namespace: ns, serviceAccount: fixer}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: g}
spec:
  to: {identities: [fixer]}
  upstream: {impersonate: {user: 'agent:fixer', groups: [readers, 'picket:agents']}}
  rules: [{verbs: ['*'], apiGroups: [''], resources: [pods, secrets, configmaps, services, 'pods/log', 'pods/exec']}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: guard}
spec:
  rules:
  - {name: keep, action: Deny, message: Ask SRE., match: {verbs: [delete]}}
  - {name: ask, action: Deny, message: A person looks., match: {resources: [secrets]}}
  - {name: hint, action: Warn, message: Mind the quota., match: {verbs: [create]}}
";

/// A request as the API server got it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether it came over a connection with a client certificate.
    pub(super) certificate: bool,
}

/// A fresh folder, gone with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }
}

/// An answer with its body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// The length of an answer to a target with `bulk` in its query, and of each frame that it is made of.
pub(super) const BULK: usize = 4 << 20;
pub(super) const BULK_FRAME: usize = 4 * 1024;

/// How long the API server takes over a target with `slow` in its query, after it was carried out.
const SLOW: Duration = Duration::from_millis(200);

/// Everything.
pub(super) struct World {
    folder: Folder,
    ca_pem: String,
    pub(super) pipeline: Arc<Pipeline>,
    audit: AuditLog,
    pub(super) store: Arc<Store>,
    pub(super) sessions: Registry,
    pub(super) drain: Drain,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// The ConfigMap that the API server really has.
    pub(super) stored: Arc<StoredMap>,
    /// Bytes of bulky answers that the API server has sent or holds ready to be sent.
    bulk: Arc<AtomicUsize>,
    pod: Arc<ArcSwap<Pod>>,
    pub(super) upstream: Upstream,
    pub(super) share: Arc<PodShare>,
    /// The places of the pod's connections.
    pub(super) connections: Arc<tokio::sync::Semaphore>,
    pub(super) released: CancellationToken,
    api: JoinHandle<()>,
    broken_off: CancellationToken,
    kube_events: Mutex<mpsc::Receiver<KubeEvent>>,
    /// Whoever holds it keeps the API server from accepting a TLS session.
    handshakes: Arc<tokio::sync::Mutex<()>>,
    /// Who issues tokens of service accounts.
    pub(super) issuer: Arc<Issuer>,
}

impl World {
    /// Everything, with an API server that listens.
    pub(super) async fn new() -> World {
        let folder = Folder::new();
        let token = folder.write("token", "node-token");
        let clients = Arc::default();
        World::with(folder, NodeCredential::TokenFile(token), Issuers::none(), clients).await
    }

    /// Likewise, with issuers of tokens.
    pub(super) async fn with_issuers(issuers: Issuers) -> World {
        let folder = Folder::new();
        let token = folder.write("token", "node-token");
        World::with(folder, NodeCredential::TokenFile(token), issuers, Arc::default()).await
    }

    /// Likewise, with certificates of clients.
    pub(super) async fn with_clients(issuers: Issuers, clients: Arc<TrustBundles>) -> World {
        let folder = Folder::new();
        let token = folder.write("token", "node-token");
        World::with(folder, NodeCredential::TokenFile(token), issuers, clients).await
    }

    /// Name and UID of the pod of the next connection.
    pub(super) fn pod_of_next(&self) -> (String, String) {
        let pod = self.pod.load();
        (pod.name.clone(), pod.uid.0.clone())
    }

    /// Likewise, where the node shows a certificate, which is given back as the record names it.
    pub(super) async fn with_certificate() -> (World, String) {
        let folder = Folder::new();
        let id = write_certificate(&folder);
        let credential = NodeCredential::ClientCertificate {
            certificate: folder.0.path().join("client.crt"),
            key: folder.0.path().join("client.key"),
        };
        let world = World::with(folder, credential, Issuers::none(), Arc::default());
        (world.await, id)
    }

    /// Replaces the node's certificate on disk, and names the new one.
    pub(super) fn rotate_certificate(&self) -> String {
        write_certificate(&self.folder)
    }

    async fn with(
        folder: Folder,
        credential: NodeCredential,
        issuers: Issuers,
        clients: Arc<TrustBundles>,
    ) -> World {
        let ca = pki::ca::create("test").expect("a CA");
        let files = CaFiles {
            certificate: folder.write("ca.crt", &ca.certificate_pem),
            key: folder.write("ca.key", &ca.key_pem),
        };
        let ca_file = files.certificate.clone();
        let certificates =
            Certificates::open(files, &["127.0.0.1".to_owned()], clients).expect("certificates");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let broken_off = CancellationToken::new();
        let handshakes = Arc::default();
        let bulk = Arc::default();
        let issuer = Arc::<Issuer>::default();
        let stored = Arc::<StoredMap>::default();
        let api = Api {
            seen: Arc::clone(&seen),
            stored: Arc::clone(&stored),
            issuer: Arc::clone(&issuer),
            bulk: Arc::clone(&bulk),
            broken_off: broken_off.clone(),
            handshakes: Arc::clone(&handshakes),
        };
        let (server, api) = serve_api(&certificates, api).await;
        let audit = AuditLog::open(
            &AuditConfig {
                directory: folder.0.path().join("audit"),
                ..AuditConfig::default()
            },
            None,
        );
        let audit = audit.expect("an audit log");
        let upstream = UpstreamConfig {
            server: format!("https://{server}").parse().expect("a URL"),
            server_name: None,
            ca: ca_file,
            credential,
        };
        let upstream = Upstream::open(upstream, NonZeroUsize::MIN).expect("an upstream");
        let (kube_events, reported) =
            EventQueue::channel(NotifyMetrics::register(&MetricsRegistry::default()));
        let store = Arc::new(Store::for_tests(policies("", "")));
        let sessions = Registry::new(SessionMetrics::default(), store.epoch().clone());
        let drain = Drain::default();
        let pipeline = Pipeline::new(
            &certificates,
            IdentitySources {
                store: Arc::clone(&store),
                issuers,
                limits: RequestLimits::new(LimitMetrics::register(&MetricsRegistry::default())),
            },
            upstream.clone(),
            audit.clone(),
            drain.clone(),
            sessions.clone(),
            kube_events,
        );
        let pod = Pod {
            service_account: "fixer".to_owned(),
            ..Pod::for_tests("ns", "p")
        };
        World {
            ca_pem: ca.certificate_pem,
            pipeline: pipeline.expect("a pipeline"),
            folder,
            audit,
            store,
            sessions,
            drain,
            seen,
            stored,
            bulk,
            pod: Arc::new(ArcSwap::from_pointee(pod)),
            upstream,
            share: Arc::default(),
            connections: Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_PER_POD)),
            released: CancellationToken::new(),
            api,
            broken_off,
            kube_events: Mutex::new(reported),
            handshakes,
            issuer,
        }
    }

    /// The Events that were reported so far: reason and detail.
    pub(super) fn kube_events(&self) -> Vec<(&'static str, String)> {
        let mut reported = self.kube_events.lock();
        let next = std::iter::from_fn(|| reported.try_recv().ok());
        next.map(|event| (event.reason.as_str(), event.detail)).collect()
    }

    /// The API server accepts no TLS session while this is held.
    pub(super) async fn hold_server(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.handshakes).lock_owned().await
    }

    /// The API server goes away.
    pub(super) async fn lose_server(&mut self) {
        self.api.abort();
        let _aborted = (&mut self.api).await;
    }

    /// The API server's open connections break.
    pub(super) fn break_off_server(&self) {
        self.broken_off.cancel();
    }

    /// The token that is mounted in the pod.
    pub(super) fn token(&self) -> String {
        let pod = self.pod.load();
        crate::identity::testing::token(&serde_json::json!({
            "aud": ["picket.dev"], "iss": "https://kubernetes.default.svc",
            "kubernetes.io": {"namespace": pod.namespace, "pod": {"name": pod.name, "uid": pod.uid.0},
                "serviceaccount": {"name": pod.service_account}},
        }))
    }

    /// What the pod of the next connection is like.
    pub(super) fn set_pod(&self, change: impl FnOnce(&mut Pod)) {
        let mut pod = Pod::clone(&self.pod.load());
        change(&mut pod);
        self.pod.store(Arc::new(pod));
    }

    /// Waits until the API server has got so many requests whole.
    pub(super) async fn seen_are(&self, count: usize) {
        while self.seen.lock().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits for the last records of so many requests.
    pub(super) async fn ended(&self, count: usize) -> Vec<Value> {
        loop {
            let mut records = self.records().await;
            records.retain(|record| record["stage"] == "ResponseComplete");
            if records.len() >= count {
                return records;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Bytes of bulky answers that the API server has sent, or holds ready: up to two of [`BULK_FRAME`] for each.
    pub(super) fn bulk(&self) -> usize {
        self.bulk.load(Ordering::Relaxed)
    }

    /// What the API server got so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// The audit records so far.
    pub(super) async fn records(&self) -> Vec<Value> {
        self.audit.flush().await.expect("flushed");
        stored_text(&self.folder.0.path().join("audit"))
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
            .filter(|line| line["auditID"].is_string())
            .collect()
    }

    /// A connection of the pod's, through TLS.
    pub(super) async fn connect(&self) -> http1::SendRequest<Full<Bytes>> {
        let stream = self.stream().await;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// Likewise, for whoever writes HTTP by hand.
    pub(super) async fn stream(&self) -> TlsStream<TcpStream> {
        self.stream_of(b"http/1.1").await
    }

    /// A connection that the listener accepted, and its client's end.
    pub(super) async fn accepted(&self) -> (TcpStream, Accepted) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, peer) = accepted.expect("accepted");
        let permit = Arc::clone(&self.connections);
        let accepted = Accepted {
            stream: stream.into_std().expect("a socket"),
            origin: "127.0.0.1:443".parse().expect("an address"),
            peer,
            source: "10.1.0.7".parse().ok(),
            workload: Some(Arc::clone(&self.pod)),
            process: Some(Process::for_tests()),
            of_enforced_pod: false,
            gateway: None,
            permit: Some(permit.try_acquire_owned().expect("a permit")),
            share: Arc::clone(&self.share),
            released: self.released.clone(),
        };
        (client.expect("connected"), accepted)
    }

    /// Serves a connection until it ends or the world does.
    pub(super) fn serve(&self, accepted: Accepted) {
        let pipeline = Arc::clone(&self.pipeline);
        self.drain.serve(async move {
            pipeline.serve(Box::new(accepted), ()).await;
        });
    }

    /// A connection of the pod's, through TLS, in the version of HTTP that this names.
    pub(super) async fn stream_of(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let (client, accepted) = self.accepted().await;
        self.serve(accepted);
        self.handshake(client, protocol).await
    }

    /// The client's side of TLS, over a connection that somebody serves.
    pub(super) async fn handshake(&self, client: TcpStream, protocol: &[u8]) -> TlsStream<TcpStream> {
        let session = self.handshake_with(client, protocol, "127.0.0.1").await;
        session.expect("a TLS session")
    }

    /// A TLS session with a server of this name, where there is one.
    pub(super) async fn handshake_with(
        &self,
        client: TcpStream,
        protocol: &[u8],
        server: &'static str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.trusting().with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(server).expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, client)
            .await
    }

    /// The client's side of TLS, which trusts the world's server, before it is said what the client shows.
    pub(super) fn trusting(
        &self,
    ) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = rustls::RootCertStore::empty();
        let file = self.folder.write("trust.crt", &self.ca_pem);
        for (_, der) in pki::pem::certificates(&file, self.ca_pem.as_bytes()).expect("PEM") {
            roots.add(der).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
    }

    /// One request over a connection of its own.
    pub(super) async fn ask(&self, request: http::request::Builder, body: &'static str) -> Answer {
        let mut sender = self.connect().await;
        ask_over(&mut sender, request, body).await
    }
}

/// One request over an open connection.
pub(super) async fn ask_over(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: http::request::Builder,
    body: &'static str,
) -> Answer {
    let request = request
        .header(header::HOST, "kubernetes.default.svc")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .expect("a request");
    let (head, body) = sender
        .send_request(request)
        .await
        .expect("an answer")
        .into_parts();
    Answer {
        status: head.status,
        headers: head.headers,
        body: body.collect().await.expect("a body").to_bytes(),
    }
}

/// Makes a client certificate, and names it as a record does.
fn write_certificate(folder: &Folder) -> String {
    let made = pki::ca::create("node").expect("a certificate");
    let file = folder.write("client.crt", &made.certificate_pem);
    folder.write("client.key", &made.key_pem);
    let der = pki::pem::certificates(&file, made.certificate_pem.as_bytes()).expect("PEM");
    let digest = ring::digest::digest(&ring::digest::SHA256, &der[0].1);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("X509SHA256={hex}")
}

/// The objects, with one text in place of another.
pub(super) fn policies(from: &str, to: &str) -> PolicySet {
    let objects = OBJECTS.replacen(from, to, 1);
    let mut documents = picket_policy::read_documents("f.yaml", &objects).expect("valid");
    for document in &mut documents {
        if let AnyObject::Policy(policy) = &mut document.object {
            // No file can say so yet.
            for rule in policy.spec.rules.iter_mut().filter(|rule| rule.name == "ask") {
                rule.action = Action::RequireApproval;
            }
        }
    }
    PolicySet::compile(documents).expect("a policy set")
}

/// What an API server works with.
#[derive(Clone)]
struct Api {
    seen: Arc<Mutex<Vec<Seen>>>,
    stored: Arc<StoredMap>,
    bulk: Arc<AtomicUsize>,
    broken_off: CancellationToken,
    handshakes: Arc<tokio::sync::Mutex<()>>,
    issuer: Arc<Issuer>,
}

/// An API server that says `done` to everything and keeps what it got. It speaks both versions of HTTP.
async fn serve_api(certificates: &Arc<Certificates>, api: Api) -> (SocketAddr, JoinHandle<()>) {
    let config = any_client(&certificates.server_config().expect("a configuration"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (config, api) = (Arc::clone(&config), api.clone());
            tokio::spawn(async move {
                drop(api.handshakes.lock().await);
                let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await;
                let stream = stream.expect("a TLS session");
                let http1 = stream.get_ref().1.alpn_protocol() != Some(b"h2");
                let certificate = stream.get_ref().1.peer_certificates().is_some();
                // hyper alone would not take all that kube-apiserver does.
                let io = Http1Heads::new(stream, HeadBudget::new().of_pod(&Arc::default()));
                let exchange = io.exchange();
                let noting = api.clone();
                let service = service_fn(move |request| {
                    let request = if http1 { exchange.restore(request) } else { request };
                    note(request, noting.clone(), certificate)
                });
                let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                builder
                    .http2()
                    .max_header_list_size(2 << 20)
                    .max_concurrent_streams(None)
                    .max_send_buf_size(BULK_FRAME);
                // The pool goes with its test, in the middle of whatever it does.
                let serving = async {
                    match http1 {
                        true => {
                            builder
                                .serve_connection_with_upgrades(TokioIo::new(io), service)
                                .await
                        }
                        false => {
                            builder
                                .http2_only()
                                .serve_connection_with_upgrades(TokioIo::new(io.into_inner()), service)
                                .await
                        }
                    }
                };
                let _ended = api.broken_off.run_until_cancelled(serving).await;
            });
        }
    });
    (address, serving)
}

async fn note(
    request: Request<Incoming>,
    api: Api,
    certificate: bool,
) -> Result<Response<BoxBody<Bytes, std::convert::Infallible>>, std::convert::Infallible> {
    let seen = &api.seen;
    let target = whole_target(&request).to_owned();
    if target.contains("bulk=") {
        return Ok(Response::new(bulky(Arc::clone(&api.bulk))));
    }
    if target.contains("long=")
        || target.contains("watch=true")
        || target.contains("follow=true")
        || target.contains("/exec")
    {
        seen.lock().push(Seen {
            method: request.method().clone(),
            target,
            headers: request.headers().clone(),
            body: Bytes::new(),
            certificate,
        });
        return Ok(super::sessions::begin(request).await);
    }
    let items = target.split_once("items=").map(|(_, kind)| kind.to_owned());
    let (head, body) = request.into_parts();
    // Half a request takes no effect.
    let Ok(body) = body.collect().await else {
        return Ok(Response::new(Full::new(Bytes::new()).boxed()));
    };
    let slow = target.contains("slow");
    let of_stored = (head.method.clone(), target.clone(), head.headers.clone());
    let probe = (head.method == Method::PATCH && target.contains("dryRun=All")).then(|| target.clone());
    let issued = target.contains("/serviceaccounts/") && target.ends_with("/token");
    let refused = api.issuer.refuses(&head.headers);
    let body = body.to_bytes();
    seen.lock().push(Seen {
        method: head.method,
        target,
        headers: head.headers,
        body: body.clone(),
        certificate,
    });
    if let Some(request) = stored::StoredRequest::of(&of_stored, &body) {
        return Ok(api.stored.answer(request).await);
    }
    if let Some(target) = probe {
        return Ok(made(&target, &body));
    }
    if let Some(kind) = items {
        if slow {
            tokio::time::sleep(SLOW).await;
        }
        return Ok(listed(kind.split('&').next().unwrap_or_default()));
    }
    if issued {
        return Ok(api.issuer.issue().await.map(|body| Full::new(body).boxed()));
    }
    if refused {
        let mut response = Response::new(Full::new(Bytes::from_static(b"Unauthorized")).boxed());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(response);
    }
    if slow {
        tokio::time::sleep(SLOW).await;
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"done")).boxed()))
}

/// The answer to a patch as a dry run: the patch itself for an object, in version 7; or that there is none of this name.
fn made(target: &str, patch: &[u8]) -> Response<BoxBody<Bytes, std::convert::Infallible>> {
    if target.contains("/nowhere") {
        let status = serde_json::json!({"kind": "Status", "reason": "NotFound", "message": "configmaps \"nowhere\" not found"});
        let mut response = Response::new(Full::new(Bytes::from(status.to_string())).boxed());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    if target.contains("/garbled") || target.contains("/huge") {
        let length = if target.contains("/huge") {
            BODY_LIMIT + 1
        } else {
            10
        };
        return Response::new(Full::new(Bytes::from(vec![b'x'; length])).boxed());
    }
    let mut object: Value = serde_json::from_slice(patch).expect("a merge patch");
    object["metadata"]["resourceVersion"] = "7".into();
    Response::new(Full::new(Bytes::from(object.to_string())).boxed())
}

/// A list of pods, in the shape that this names. What is in namespace `pay` says `hush`.
fn listed(kind: &str) -> Response<BoxBody<Bytes, std::convert::Infallible>> {
    let shown = r#"{"metadata":{"name":"a","namespace":"shop"}}"#;
    let hidden = r#"{"metadata":{"name":"b","namespace":"pay"},"spec":"hush"}"#;
    let list = |items: &str| {
        format!(
            r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"9"}},"items":[{items}]}}"#
        )
    };
    let whole = list(&format!("{shown},{hidden}"));
    if kind == "without-end" {
        // A list of nothing that goes on and on, and then says nothing for ever.
        let begun = format!("{{{}", r#""items":[],"#.repeat(10_000));
        let begun = futures::stream::iter([Ok(Frame::data(Bytes::from(begun)))]);
        let body = StreamBody::new(futures::StreamExt::chain(begun, futures::stream::pending()));
        let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
        return response.body(body.boxed()).expect("a response");
    }
    let (body, media_type) = match kind {
        "text" | "busy" => (whole, "text/plain"),
        "status" => (
            r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Conflict","code":409}"#
                .to_owned(),
            "application/json",
        ),
        "cut" => (whole[..whole.len() - 2].to_owned(), "application/json"),
        "begun" => (whole[..whole.len() / 2].to_owned(), "application/json"),
        "nameless" => (
            list(r#"{"metadata":{"namespace":"pay"},"spec":"hush"}"#),
            "application/json",
        ),
        "other" => (hidden.to_owned(), "application/json"),
        "large" => {
            let data = "x".repeat(100 << 10);
            (
                list(&format!(
                    r#"{{"metadata":{{"name":"a","namespace":"shop"}},"data":"{data}"}}"#
                )),
                "application/json",
            )
        }
        _ => (whole, "application/json"),
    };
    let response = Response::builder().header(header::CONTENT_TYPE, media_type);
    let response = match kind {
        "zipped" => response.header(header::CONTENT_ENCODING, "gzip"),
        "tagged" => response.header(header::ETAG, "\"of-all\""),
        "status" => response.status(StatusCode::CONFLICT),
        "busy" => response
            .status(StatusCode::TOO_MANY_REQUESTS)
            .header(header::RETRY_AFTER, "7"),
        _ => response,
    };
    let body = Full::new(Bytes::from(body)).boxed();
    response.body(body).expect("a response")
}

/// A bulky answer: [`BULK`] bytes, counted when they are to be sent.
fn bulky(count: Arc<AtomicUsize>) -> BoxBody<Bytes, std::convert::Infallible> {
    static FRAME: [u8; BULK_FRAME] = [b'x'; BULK_FRAME];
    let frames = (0..BULK / BULK_FRAME).map(move |_| {
        count.fetch_add(BULK_FRAME, Ordering::Relaxed);
        Ok(Frame::data(Bytes::from_static(&FRAME)))
    });
    StreamBody::new(futures::stream::iter(frames)).boxed()
}

/// A request target.
pub(super) fn target(path: &'static str) -> Uri {
    Uri::from_static(path)
}
