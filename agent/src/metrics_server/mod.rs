//! Metrics over TLS: `/metrics` for a scraper that cannot open the admin socket.
//!
//! In: connections from the network. Out: the metrics, for whom the API server lets read them ([`access`]), and a `Status` for anybody
//! else. Each connection has one request, and a time. How many there are at once and a second is bounded, for each address too
//! ([`peers`]): the threads that serve them also keep the node enforced.

mod access;
mod answer;
mod answers;
mod metrics;
mod peers;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::cluster::Connector;
use crate::metrics::MetricsRegistry;
use crate::tls::{self, EndpointTls};

use access::ScrapeAccess;
use answer::answer;
pub(crate) use metrics::ScrapeMetrics;
use metrics::ScrapeOutcome;
use peers::{PeerPermit, Peers};

/// How long a client may take for the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long it may take for the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection may last, with the API server's answers and a client that reads slowly.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// The longest head that is read. A service account's token has 1 to 2 KB.
const HEAD_BYTES: usize = 16 * 1024;

/// Most header fields of a request.
const HEAD_FIELDS: usize = 32;

/// Pause after a failed accept (no descriptors left, most likely), so that it is not tried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the metrics.
pub(crate) struct MetricsServer {
    registry: Arc<MetricsRegistry>,
    access: ScrapeAccess,
    tls: Arc<EndpointTls>,
    metrics: ScrapeMetrics,
    peers: Peers,
}

impl fmt::Debug for MetricsServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MetricsServer").finish_non_exhaustive()
    }
}

impl MetricsServer {
    /// For callers whom the API server knows that the connector leads to.
    #[must_use]
    pub(crate) fn new(
        registry: Arc<MetricsRegistry>,
        connector: Connector,
        tls: Arc<EndpointTls>,
        metrics: ScrapeMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            registry,
            access: ScrapeAccess::new(connector),
            tls,
            metrics,
            peers: Peers::default(),
        })
    }

    /// Serves until cancelled.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, cancel: CancellationToken) {
        loop {
            let accepted = async {
                // Before accepting, so that what has no permit waits in the kernel's queue.
                let permit = self.peers.permit().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                accepted = accepted => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the metrics' port cannot accept a connection; it tries again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(permit) = self.peers.admit(permit, peer.ip()) else {
                self.metrics.count(ScrapeOutcome::Limited);
                continue;
            };
            let server = Arc::clone(&self);
            tokio::spawn(async move { server.connection(stream, peer, permit).await });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, permit: PeerPermit) {
        let serving = Arc::clone(&self).serve(stream);
        match tokio::time::timeout(CONNECTION_LIMIT, serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%peer, error, "a connection for metrics failed"),
            Err(_) => tracing::debug!(%peer, "a connection for metrics lasted too long"),
        }
        drop(permit);
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) -> Result<(), String> {
        let local = stream.local_addr().map_err(|error| error.to_string())?;
        let failed = |error: String| {
            self.metrics.count(ScrapeOutcome::Handshake);
            error
        };
        let config = self.tls.config_for(local.ip());
        let config = config.map_err(|error| failed(error.to_string()))?;
        let session = tls::accept(config, stream, HANDSHAKE_LIMIT).await;
        let session = session.map_err(|error| failed(error.to_string()))?;
        let certificate = session.get_ref().1.peer_certificates();
        let certificate = certificate.and_then(|chain| Some(chain.first()?.clone().into_owned()));
        let server = Arc::clone(&self);
        let service = service_fn(move |request| {
            let (server, certificate) = (Arc::clone(&server), certificate.clone());
            async move { Ok::<_, std::convert::Infallible>(answer(&server, request, certificate).await) }
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
}
