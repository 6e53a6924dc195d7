//! The webhooks' HTTPS server: one path for each, POST alone.
//!
//! In: connections of the API servers, and of whoever else reaches the port. Out: answers to AdmissionReviews. Whoever asks learns what
//! enrolment would change in the object that was sent, and nothing else, so that nobody has to say who they are. Each connection has one
//! request, and a time: the API server never sends a request on a connection that the server is about to close.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::body_capacity::BodyCapacity;
use super::certificate::ServingCertificate;
use super::counts::{AdmissionCounts, AdmissionResult};
use super::patch::PatchOperation;
use super::review::{AdmissionRequest, ReviewFault, ReviewOutcome, answer};
use super::{pods, workloads};
use crate::connections::ConnectionCapacity;

/// The paths of the webhooks.
const PODS: &str = "/mutate/pods";
const WORKLOADS: &str = "/mutate/workloads";

/// The longest body. The API server takes requests of 3 MiB, a question has the object before and after, and defaults make both longer.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// The most values in a body, as its separators tell. Each takes up to some 600 bytes when it is read, whatever it has in the text. The
/// largest objects of etcd (1.5 MiB) have fewer, before and after a change.
const VALUES_LIMIT: usize = 512 * 1024;

/// Connections at once. The API servers are few, and a burst of pods comes from one of them.
const CONNECTIONS: usize = 256;

/// How long a body may take, which the API server sends at once.
const BODY_TIME_LIMIT: Duration = Duration::from_secs(3);

/// How long a client may take for the TLS handshake, and for the head of its request.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
const HEAD_LIMIT: Duration = Duration::from_secs(3);

/// How long a connection may last. The API server waits for 5 s.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// The longest head that is read, and the most fields of it.
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_FIELDS: usize = 32;

/// Pause after a failed accept (no descriptors left, most likely), so that it is not tried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a webhook does with a request.
type Webhook = fn(&AdmissionRequest) -> Result<Vec<PatchOperation>, ReviewFault>;

/// Answers the API servers.
pub(super) struct AdmissionServer {
    tls: TlsAcceptor,
    capacity: ConnectionCapacity,
    bodies: BodyCapacity,
    pub(super) counts: AdmissionCounts,
}

impl AdmissionServer {
    pub(super) fn new(
        certificate: ServingCertificate,
        counts: AdmissionCounts,
    ) -> Result<Arc<Self>, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // TLS 1.2 and 1.3.
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificate));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(Self {
            tls: TlsAcceptor::from(Arc::new(config)),
            capacity: ConnectionCapacity::new(CONNECTIONS),
            bodies: BodyCapacity::default(),
            counts,
        }))
    }

    /// Serves until it is dropped.
    pub(super) async fn run(self: Arc<Self>, listener: TcpListener) {
        loop {
            // Before accepting, so that what has no permit waits in the kernel's queue.
            let permit = self.capacity.open().await;
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the webhooks' port cannot accept a connection; it tries again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(held) = self.capacity.admit(permit, peer.ip()) else {
                self.counts.count(AdmissionResult::Failed);
                continue;
            };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                server.connection(stream, peer).await;
                drop(held);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let served = timeout(CONNECTION_LIMIT, Arc::clone(&self).serve(stream, peer.ip())).await;
        let error = match served {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => "it lasted too long".to_owned(),
        };
        self.counts.count(AdmissionResult::Failed);
        tracing::debug!(%peer, error, "a connection to the webhooks failed");
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: IpAddr) -> Result<(), String> {
        let session = timeout(HANDSHAKE_LIMIT, self.tls.accept(stream)).await;
        let session = session.map_err(|_| "the TLS handshake took too long".to_owned())?;
        let session = session.map_err(|error| error.to_string())?;
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.respond(request, peer).await) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEAD_FIELDS)
            .keep_alive(false)
            .serve_connection(TokioIo::new(session), service)
            .await
            .map_err(|error| error.to_string())
    }

    async fn respond(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Full<Bytes>> {
        let (result, response) = match self.review(request, peer).await {
            Ok((outcome, body)) => {
                let result = match outcome {
                    ReviewOutcome::Changed => AdmissionResult::Changed,
                    ReviewOutcome::Unchanged => AdmissionResult::Unchanged,
                    ReviewOutcome::Refused => AdmissionResult::Refused,
                };
                let mut response = Response::new(Full::new(Bytes::from(body)));
                let json = hyper::header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                (result, response)
            }
            Err((status, why)) => {
                let mut response = Response::new(Full::new(Bytes::from_static(why.as_bytes())));
                *response.status_mut() = status;
                (AdmissionResult::Invalid, response)
            }
        };
        self.counts.count(result);
        response
    }

    /// The answer, or why there is none.
    async fn review(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Result<(ReviewOutcome, String), (StatusCode, &'static str)> {
        let webhook: Webhook = match request.uri().path() {
            PODS => pods::patch,
            WORKLOADS => workloads::patch,
            _ => return Err((StatusCode::NOT_FOUND, "not found\n")),
        };
        if request.method() != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "POST alone\n"));
        }
        let length = length(request.headers())?;
        let _held = self.bodies.take(peer, length).await;
        let body = Limited::new(request.into_body(), BODY_LIMIT).collect();
        let body = timeout(BODY_TIME_LIMIT, body).await;
        let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the body took too long\n"))?;
        let body = body.map_err(|_| (StatusCode::BAD_REQUEST, "the body cannot be read\n"))?;
        let body = body.to_bytes();
        if values(&body) > VALUES_LIMIT {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body has too many values\n"));
        }
        let answered = answer(&body, webhook);
        let (outcome, review) = answered.ok_or((StatusCode::BAD_REQUEST, "no AdmissionReview v1\n"))?;
        if outcome == ReviewOutcome::Refused {
            let why = &review["response"]["status"]["message"];
            tracing::warn!(%why, "a webhook refused an object");
        }
        Ok((outcome, review.to_string()))
    }
}

/// How many values a text of JSON has at most. Separators within strings count too.
fn values(text: &[u8]) -> usize {
    let is_before_a_value = |byte: &&u8| matches!(byte, b'{' | b'[' | b',');
    text.iter().filter(is_before_a_value).count()
}

/// The length of the body, which the API server tells of each.
fn length(headers: &HeaderMap) -> Result<u32, (StatusCode, &'static str)> {
    let told = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let told: Option<u64> = told.and_then(|text| text.parse().ok());
    let told = told.ok_or((StatusCode::LENGTH_REQUIRED, "Content-Length is needed\n"))?;
    match u32::try_from(told) {
        Ok(length) if told <= BODY_LIMIT as u64 => Ok(length),
        _ => Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too long\n")),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
