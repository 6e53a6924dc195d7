//! A fast stand-in for an API server: TLS, HTTP/1.1 and HTTP/2, a 1 KB answer and a list of 10 MB from memory, watches, commands
//! in containers, and as much of the API as an agent reads to learn its pods and protected endpoints.
//!
//! Every path without a meaning of its own gets the 1 KB answer, so that the path is the agent's business alone.

mod exec;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;

use crate::agent::NAMESPACE;
use crate::clock;
use crate::plan::Paths;
use crate::tls;

/// As many as kube-apiserver serves on one connection.
const STREAMS: u32 = 100;
/// Ticks a slow watch may be behind before it misses some.
const BACKLOG: usize = 4_096;
/// Connections that wait to be accepted: with fewer, a crowd of dials has some wait a second for their second try.
const QUEUE: u32 = 4_096;
/// What the 1 KB answer weighs.
const ANSWER_BYTES: usize = 1_024;
/// What the long list weighs at least, and the text that each of its pods has.
const LIST_BYTES: usize = 10_000_000;
const POD_BYTES: usize = 2_000;

/// Where to listen and what to answer.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct UpstreamArgs {
    /// Addresses to listen on; all answer alike
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// The certificate (PEM)
    #[arg(long)]
    cert: PathBuf,
    /// Its key (PEM)
    #[arg(long)]
    key: PathBuf,
    /// A JSON array of pods, answered to those who list pods; read anew each time
    #[arg(long)]
    pods: PathBuf,
    /// The address and port that the service `kubernetes` claims to have
    #[arg(long)]
    service: SocketAddr,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

struct Upstream {
    args: UpstreamArgs,
    answer: Bytes,
    list: Bytes,
    list_path: String,
    refused_path: String,
    ticks: broadcast::Sender<Bytes>,
}

/// Serves until it is killed. Prints `ready` when it listens.
pub(crate) fn run(args: UpstreamArgs) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(serve(args))
}

async fn serve(args: UpstreamArgs) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(&args.cert, &args.key)?));
    let mut listeners = Vec::new();
    for address in &args.listen {
        listeners.push(listen(*address).with_context(|| format!("cannot listen on {address}"))?);
    }
    let upstream = Arc::new(Upstream {
        answer: answer(),
        list: long_list(),
        list_path: list_path(NAMESPACE),
        refused_path: Paths::of(NAMESPACE).refused,
        ticks: broadcast::channel(BACKLOG).0,
        args,
    });
    println!("ready");
    let accepting = listeners
        .into_iter()
        .map(|listener| tokio::spawn(accept(listener, acceptor.clone(), Arc::clone(&upstream))));
    futures::future::join_all(accepting).await;
    Ok(())
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.bind(address)?;
    socket.listen(QUEUE)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, upstream: Arc<Upstream>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely; they come back when connections end.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let (acceptor, upstream) = (acceptor.clone(), Arc::clone(&upstream));
        tokio::spawn(async move {
            // A failed handshake or a broken connection shows at the client, who counts it.
            let _ = stream.set_nodelay(true);
            let Ok(session) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |request| {
                let upstream = Arc::clone(&upstream);
                async move { Ok::<_, Infallible>(upstream.respond(request).await) }
            });
            let mut builder = Builder::new(TokioExecutor::new());
            builder.http2().max_concurrent_streams(STREAMS);
            let _ = builder
                .serve_connection_with_upgrades(TokioIo::new(session), service)
                .await;
        });
    }
}

impl Upstream {
    async fn respond(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if exec::is_exec(&request) {
            return exec::start(request);
        }
        if request.method() == Method::POST {
            return self.create(request).await;
        }
        let query = request.uri().query().unwrap_or_default();
        let watch = query
            .split('&')
            .any(|pair| matches!(pair, "watch=true" | "watch=1"));
        let path = request.uri().path();
        match path {
            "/bench/tick" => {
                let sent = self
                    .ticks
                    .send(Bytes::from(format!("{{\"tick\":{}}}\n", clock::monotonic_ns())))
                    .unwrap_or(0);
                whole(Bytes::from(sent.to_string()))
            }
            "/api/v1/pods" | "/api/v1/services" | "/api/v1/nodes" if watch => quiet(),
            _ if path.starts_with("/apis/discovery.k8s.io/") && watch => quiet(),
            "/api/v1/pods" => whole(self.pods()),
            "/api/v1/services" => whole(self.services()),
            "/api/v1/nodes" => whole(list("v1", "NodeList", json!([]))),
            _ if path.starts_with("/apis/discovery.k8s.io/") => whole(self.endpoints()),
            _ if watch => self.events(),
            _ if path == self.list_path => whole(self.list.clone()),
            _ if path == self.refused_path => refused(),
            _ => whole(self.answer.clone()),
        }
    }

    /// Reads the object to its end and answers as if it had been created.
    async fn create(&self, request: Request<Incoming>) -> Response<Body> {
        let read = request.into_body().collect().await;
        let mut response = whole(self.answer.clone());
        *response.status_mut() = match read {
            Ok(_) => StatusCode::CREATED,
            Err(_) => StatusCode::BAD_REQUEST,
        };
        response
    }

    /// A watch: one event at once, then one per tick.
    fn events(&self) -> Response<Body> {
        let first = Bytes::from_static(b"{\"type\":\"ADDED\"}\n");
        let ticks = self.ticks.subscribe();
        let stream = futures::stream::unfold((Some(first), ticks), |(first, mut ticks)| async move {
            if let Some(first) = first {
                return Some((Ok(Frame::data(first)), (None, ticks)));
            }
            loop {
                match ticks.recv().await {
                    Ok(tick) => return Some((Ok(Frame::data(tick)), (None, ticks))),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        typed(StreamBody::new(stream).boxed_unsync())
    }

    fn pods(&self) -> Bytes {
        let items = std::fs::read(&self.args.pods)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        list("v1", "PodList", items.unwrap_or_else(|| json!([])))
    }

    fn services(&self) -> Bytes {
        let service = &self.args.service;
        list(
            "v1",
            "ServiceList",
            json!([{
                "metadata": {"name": "kubernetes", "namespace": "default", "uid": "service", "resourceVersion": "1"},
                "spec": {"type": "ClusterIP", "clusterIP": service.ip(), "clusterIPs": [service.ip()],
                         "ports": [{"name": "https", "port": service.port(), "protocol": "TCP"}]},
            }]),
        )
    }

    /// The first address that it listens on is the API server's; the others are ways past the agent.
    fn endpoints(&self) -> Bytes {
        let address = &self.args.listen[0];
        list(
            "discovery.k8s.io/v1",
            "EndpointSliceList",
            json!([{
                "metadata": {"name": "kubernetes", "namespace": "default", "uid": "slice", "resourceVersion": "1",
                             "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
                "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
            }]),
        )
    }
}

fn list(version: &str, kind: &str, items: Value) -> Bytes {
    let list =
        json!({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items});
    Bytes::from(list.to_string())
}

/// A ConfigMap of 1 KB.
fn answer() -> Bytes {
    let head = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"small\",\"namespace\":\"bench\"},\"data\":{\"text\":\"";
    let tail = "\"}}";
    let filler = "x".repeat(ANSWER_BYTES - head.len() - tail.len());
    Bytes::from(format!("{head}{filler}{tail}"))
}

/// Where the long list is.
pub(crate) fn list_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// A list of at least 10 MB, of pods of 2 KB.
fn long_list() -> Bytes {
    let filler = "x".repeat(POD_BYTES);
    let mut text = String::from(
        "{\"apiVersion\":\"v1\",\"kind\":\"PodList\",\"metadata\":{\"resourceVersion\":\"1\"},\"items\":[",
    );
    let mut number = 0;
    while text.len() < LIST_BYTES {
        let comma = if number == 0 { "" } else { "," };
        text.push_str(&format!(
            "{comma}{{\"metadata\":{{\"name\":\"pod-{number}\",\"annotations\":{{\"text\":\"{filler}\"}}}}}}"
        ));
        number += 1;
    }
    text.push_str("]}");
    Bytes::from(text)
}

/// As policy refuses it, so that the ways without a policy have the same to carry.
fn refused() -> Response<Body> {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403,
        "message": "secrets \"refused\" is forbidden: Agents read no secrets."});
    let mut response = whole(Bytes::from(status.to_string()));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

fn whole(bytes: Bytes) -> Response<Body> {
    typed(Full::new(bytes).boxed_unsync())
}

/// A watch that never has anything to tell.
fn quiet() -> Response<Body> {
    typed(StreamBody::new(futures::stream::pending()).boxed_unsync())
}

fn typed(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_answer_is_json_of_its_size() {
        let answer = super::answer();
        assert_eq!(answer.len(), super::ANSWER_BYTES);
        assert!(serde_json::from_slice::<serde_json::Value>(&answer).is_ok());
    }

    #[test]
    fn the_long_list_is_json_of_its_size() {
        let list = super::long_list();
        assert!((super::LIST_BYTES..super::LIST_BYTES + 10_000).contains(&list.len()));
        let json: serde_json::Value = serde_json::from_slice(&list).unwrap();
        assert!(json["items"].as_array().unwrap().len() > 4_000);
    }
}
