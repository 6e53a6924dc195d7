//! Serving HTTP to one connection: the TLS handshake, the limits of each protocol, and the end of the connection.
//!
//! In: a connection that the listener accepted. Out: each of its requests handed to the stages, and its answer sent.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::Either;
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode, Version};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::Pipeline;
use super::client::{ClientStream, IsTunnel};
use super::connection::{Client, Connection};
use super::frames::CountedFrames;
use super::heads::http1::Http1Heads;
use super::heads::http2::Http2Heads;
use super::heads::{self, PodHeads};
use super::newcomer::Newcomer;
use crate::identity::attest::x509::ClientCertificate;
use crate::listener::{Accepted, STRANGER_HANDSHAKE_LIMIT};
use crate::notify::{KubeEvent, Reason};
use crate::runtime::drain::Parts;
use crate::runtime::on_wake::OnWake;
use crate::tls::{self, HandshakeError};
use crate::workload::Pod;

/// Requests at once on one HTTP/2 connection of a client: what Go's server offers by default, and more than
/// kube-apiserver's 100, as kube-rs and others have one connection only. Clients of Go open further connections.
const CLIENT_STREAMS: u32 = 250;

/// Likewise, on an HTTP/2 connection beyond those that may have as many. Together a pod has at most 16,064 requests at once.
const NARROW_STREAMS: u32 = 4;

/// What hyper buffers of a connection of HTTP/1.1, either way. Heads that are longer are read elsewhere ([`heads`]).
const BUFFER: usize = 64 * 1024;

/// How long an HTTP/1.1 client may be silent between requests or within a head. Longer than the 90 s after which Go
/// clients close idle connections (k8s.io/apimachinery pkg/util/net/http.go), so that no request meets the close.
const HEAD_LIMIT: Duration = Duration::from_secs(120);

/// What a client may send on one stream, and in all, before the API server has taken it.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Likewise on one stream at the gateway: so much of a body a stranger may send before it is known who asks.
const GATEWAY_STREAM_WINDOW: u32 = 64 * 1024;

/// What is buffered per stream towards a client; beyond it the API server is made to wait.
const SEND_BUFFER: usize = 64 * 1024;

/// How long an HTTP/1.1 connection without a request is kept when the drain begins: it may be new, and its first request on
/// its way. What comes within this time is answered, and told that the connection closes.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// The Event's text about a pod whose clients do not trust Picket.
const DISTRUST: &str = "A client in this pod rejects Picket's certificate, so it does not reach the API server. Check that the \
     namespace has the label picket.dev/enrolled=true and that the pod was created after the label. A client with a CA \
     bundle of its own needs Picket's CA in that bundle";

/// The Event's text about a pod whose client was closed for its frames.
const FLOOD: &str = "A client in this pod sends HTTP/2 control frames without end, so Picket closed its connection. Find the program \
     that does so; no common client of Kubernetes does";

/// Failed handshakes are logged no more often than that.
const LOG_HANDSHAKES_EVERY: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// By itself, or for any other reason.
    Ended,
    /// It was closed, since its client sent control frames without end.
    Flooded,
}

impl Pipeline {
    /// Serves one connection to its end. When the drain begins, or the pod is released, requests under way end first:
    /// HTTP/2 clients learn of it by GOAWAY, HTTP/1.1 connections close after the response. Dropping the future closes the
    /// connection at once. `counted` is held until the connection and its tunnel have ended.
    pub async fn serve(
        self: Arc<Self>,
        accepted: Box<Accepted>,
        counted: impl Send + Sync + 'static,
    ) -> ConnectionEnd {
        let pod = accepted.workload.as_ref().map(|pod| pod.load_full());
        let client = ClientName::new(pod.as_deref(), accepted.peer);
        let config = self.tls_config(&accepted);
        // From here on this thread's runtime polls it.
        let stream = match TcpStream::from_std(accepted.stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!(%error, %client, "a connection cannot be served");
                return ConnectionEnd::Ended;
            }
        };
        let stream = ClientStream::new(stream);
        let tunnel = stream.tunnel();
        let limit = match accepted.gateway {
            Some(_) => STRANGER_HANDSHAKE_LIMIT,
            None => tls::HANDSHAKE_LIMIT,
        };
        // Boxed, both: the connection would keep room for the handshake, and each future that takes the session for that.
        let session = match Box::pin(tls::accept(config, stream, limit)).await {
            Ok(session) => Box::new(session),
            Err(error) => {
                self.report_handshake(&error, pod.as_deref(), &client);
                return ConnectionEnd::Ended;
            }
        };
        let chain = session.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = ClientCertificate::of(chain, self.certificates.trust_bundles());
        let origin = Client {
            pod: accepted.workload,
            process: accepted.process,
            peer: accepted.peer.ip(),
            source: accepted.source,
            of_enforced_pod: accepted.of_enforced_pod,
        };
        let connection = Connection::new(origin, certificate, accepted.released);
        let http2 = session.get_ref().1.alpn_protocol() == Some(b"h2");
        // Over HTTP/1.1 a connection has one request at once and needs no such place.
        let wide = http2.then(|| accepted.share.wide()).flatten();
        let streams = match wide {
            Some(_) => CLIENT_STREAMS,
            None => NARROW_STREAMS,
        };
        let connection = Arc::new(
            connection
                .counted(accepted.share, (accepted.permit, wide, counted))
                .at_gateway(accepted.gateway),
        );
        let heads = match connection.newcomer() {
            Some(newcomer) => newcomer.heads(self.strangers_heads.of_pod(connection.share())),
            None => self.heads.of_pod(connection.share()),
        };
        let at_gateway = connection.newcomer().map(|_| Arc::clone(&connection));
        let pipeline = Arc::clone(&self);
        // Boxed, each: together they would take the larger one's room, twice where they are moved, for as long as the connection lasts.
        let mut serving = match http2 {
            true => Either::Left(Box::pin(
                pipeline.serve_http2(session, connection, heads, streams),
            )),
            false => Either::Right(Box::pin(pipeline.serve_http1(session, tunnel, connection, heads))),
        };
        let served = match at_gateway.as_deref().and_then(Connection::newcomer) {
            None => serving.await,
            Some(newcomer) => {
                // Boxed: a pod's connection has no room for it.
                let overdue = Box::pin(newcomer.overdue());
                tokio::select! {
                    served = &mut serving => served,
                    () = overdue => return ConnectionEnd::Ended,
                }
            }
        };
        let (ended, error) = match served {
            Ok(()) => return ConnectionEnd::Ended,
            Err((ended, error)) => (ended, error),
        };
        tracing::debug!(%error, %client, "a client connection ended");
        if let (ConnectionEnd::Flooded, Some(pod)) = (ended, &pod) {
            self.report_share(pod, "flood", FLOOD);
        }
        ended
    }

    /// What the client is shown: a certificate for what it dialled, or the gateway's own.
    fn tls_config(&self, accepted: &Accepted) -> Arc<ServerConfig> {
        if let (Some(_), Some(own)) = (&accepted.gateway, &self.gateway_tls) {
            return Arc::clone(own);
        }
        let dialled = accepted.origin.ip();
        self.certificates
            .config_for(&self.tls, dialled)
            .unwrap_or_else(|error| {
                // The shared one may do: a client may have dialled a name.
                if self.handshakes.may_log() {
                    tracing::error!(%error, %dialled, "no certificate for the address that was dialled");
                }
                Arc::clone(&self.tls)
            })
    }

    /// Fires when the connection is to end after what it carries.
    fn finishing(&self, connection: &Arc<Connection>) -> impl Future<Output = ()> + use<> {
        let (drain, ending) = (self.drain.finishing(), Arc::clone(connection));
        OnWake::new(async move {
            let released = ending.released();
            match ending.newcomer().map(Newcomer::refused) {
                None => either(&drain, &released).await,
                Some(refused) => {
                    // Boxed: a pod's connection has no room for it.
                    Box::pin(async move {
                        tokio::select! {
                            () = either(&drain, &released) => {}
                            () = refused.cancelled() => {}
                        }
                    })
                    .await;
                }
            }
            ending.finish();
        })
    }

    async fn serve_http1(
        self: Arc<Self>,
        session: Box<TlsStream<ClientStream>>,
        tunnel: IsTunnel,
        connection: Arc<Connection>,
        heads: PodHeads,
    ) -> Result<(), (ConnectionEnd, hyper::Error)> {
        let finishing = self.finishing(&connection);
        let io = Http1Heads::new(session, heads);
        let whole = io.exchange();
        // One count for both, which no other connection shares.
        let served = Arc::new((self, connection, tunnel));
        let service = service_fn(move |request| {
            let request = whole.restore(request);
            let (served, whole) = (Arc::clone(&served), Arc::clone(&whole));
            // Boxed: hyper holds room for it in each connection, also while no request is under way.
            Box::pin(async move {
                let (pipeline, connection, tunnel) = &*served;
                let mut response = pipeline.answer(connection, request).await;
                connection.answered();
                // Not the API server's: hyper tells clients of HTTP/1.0 that their connection stays for this version alone.
                *response.version_mut() = Version::HTTP_11;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    tunnel.set();
                } else if connection.is_finishing() || whole.closes() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            })
        });
        let mut serving = pin!(
            http1_builder()
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades()
        );
        let lingered = async {
            finishing.await;
            tokio::time::sleep(LAST_REQUEST_WAIT).await;
        };
        let outcome = tokio::select! {
            outcome = serving.as_mut() => outcome,
            () = lingered => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        outcome.map_err(|error| (ConnectionEnd::Ended, error))
    }

    async fn serve_http2(
        self: Arc<Self>,
        session: Box<TlsStream<ClientStream>>,
        connection: Arc<Connection>,
        heads: PodHeads,
        streams: u32,
    ) -> Result<(), (ConnectionEnd, hyper::Error)> {
        let parts = self.drain.parts();
        let finishing = self.finishing(&connection);
        let restoring = heads.clone();
        let gate = connection.newcomer().map(Newcomer::gate);
        let window = match gate {
            Some(_) => GATEWAY_STREAM_WINDOW,
            None => STREAM_WINDOW,
        };
        // One count for both, which no other connection shares.
        let served = Arc::new((self, connection));
        let service = service_fn(move |request| {
            let request = heads::http2::restore(request, &restoring);
            let served = Arc::clone(&served);
            async move {
                let (pipeline, connection) = &*served;
                let response = pipeline.answer(connection, request).await;
                connection.answered();
                Ok::<_, Infallible>(response)
            }
        });
        let frames = CountedFrames::new(session);
        let report = frames.report();
        let io = TokioIo::new(Http2Heads::new(frames, heads, gate));
        let mut serving = pin!(http2_builder(parts, (streams, window)).serve_connection(io, service));
        let finishing = async {
            finishing.await;
            // One that does not begin to speak is not waited for.
            if !report.has_begun() {
                tokio::time::sleep(LAST_REQUEST_WAIT).await;
            }
        };
        let outcome = tokio::select! {
            outcome = serving.as_mut() => outcome,
            () = finishing => {
                if !report.has_begun() {
                    return Ok(());
                }
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        outcome.map_err(|error| match report.was_flooded() {
            true => (ConnectionEnd::Flooded, error),
            false => (ConnectionEnd::Ended, error),
        })
    }

    /// Says that a pod wants more than its share; `detail` tells the shares apart.
    pub(super) fn report_share(&self, pod: &Pod, detail: &str, note: &str) {
        self.kube_events.report(KubeEvent {
            about: pod.about(),
            reason: Reason::ShareExceeded,
            detail: detail.to_owned(),
            note: note.to_owned(),
        });
    }

    /// Says that a client got no TLS session. Most often the client does not trust Picket's bundle, which the pod's owner
    /// has to hear of.
    fn report_handshake(&self, error: &HandshakeError, pod: Option<&Pod>, client: &ClientName) {
        if self.handshakes.may_log() {
            tracing::warn!(%error, %client, "the TLS handshake with a client failed");
        }
        if let Some(pod) = pod
            && error.is_distrust()
        {
            self.kube_events.report(KubeEvent {
                about: pod.about(),
                reason: Reason::CertificateRejected,
                detail: String::new(),
                note: DISTRUST.to_owned(),
            });
        }
    }
}

/// A client in the agent's own log.
struct ClientName(String);

impl ClientName {
    fn new(pod: Option<&Pod>, peer: SocketAddr) -> Self {
        Self(match pod {
            Some(pod) => format!("{}/{}", pod.namespace, pod.name),
            None => peer.to_string(),
        })
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

async fn either(one: &CancellationToken, other: &CancellationToken) {
    tokio::select! {
        () = one.cancelled() => {}
        () = other.cancelled() => {}
    }
}

/// Failed handshakes are logged once in a while only, since a pod can bring them about without end.
#[derive(Debug)]
pub(super) struct FailedHandshakes {
    began: Instant,
    /// Milliseconds since `began` at which one was last logged; 0 for never.
    logged: AtomicU64,
}

impl FailedHandshakes {
    pub(super) fn new() -> FailedHandshakes {
        FailedHandshakes {
            began: Instant::now(),
            logged: AtomicU64::new(0),
        }
    }

    fn may_log(&self) -> bool {
        let now = self.began.elapsed().as_millis() as u64;
        let last = self.logged.load(Ordering::Relaxed);
        (last == 0 || now.saturating_sub(last) >= LOG_HANDSHAKES_EVERY.as_millis() as u64)
            && self
                .logged
                .compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        // As Go writes the names, for clients that compare them with their case.
        .title_case_headers(true)
        .max_buf_size(BUFFER);
    builder
}

fn http2_builder(parts: Parts, (streams, window): (u32, u32)) -> http2::Builder<Parts> {
    let mut builder = http2::Builder::new(parts);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(heads::http2::LIST_BYTES)
        .initial_stream_window_size(window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    builder
}
