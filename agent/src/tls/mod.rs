//! The TLS side that pods see.
//!
//! In: the node CA's files and a connection from the listener. Out: a TLS session that a client with Picket's bundle accepts as
//! the API server. Leaf certificates live in memory, one for each address that clients dial, and are replaced before they
//! expire and when the CA's files do; a broken CA file is reported and the last good one kept. Other ports of the agent have
//! certificates of their own ([`EndpointTls`]).

pub(crate) mod client_certificate;
mod endpoint_tls;
mod metrics;
mod own_certificate;
mod publish;
#[cfg(test)]
mod rotation_tests;

use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use endpoint_tls::EndpointTls;
pub use metrics::CertificateMetrics;
pub use own_certificate::OwnCertificate;
pub use publish::{CertificateReload, Certificates, LeafError};

/// The longest a pod's client may take for the handshake. It runs on the pod's loopback, so seconds are plenty; the limit
/// keeps silent connections from piling up.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How long a client may take for the answer that it gets instead of a session. It fits into the socket's buffer.
const TELL_LIMIT: Duration = Duration::from_secs(1);

/// The answer to a client without TLS, in kube-apiserver's words (net/http, `tlsRecordHeaderLooksLikeHTTP`).
const PLAIN_HTTP_ANSWER: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// The client speaks HTTP without TLS. A stream fails its first read so, before TLS answers by an alert that such a client cannot
/// read.
#[derive(Debug, thiserror::Error)]
#[error("the client speaks HTTP without TLS")]
pub struct PlainHttp;

impl PlainHttp {
    /// Whether a client that begins with this byte speaks HTTP without TLS: its methods are capital letters, and a record of
    /// TLS begins with 22 or 128.
    #[must_use]
    pub fn begins(byte: u8) -> bool {
        byte.is_ascii_uppercase()
    }
}

/// Why a client got no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took longer than this.
    #[error("the TLS handshake took longer than {} s", .0.as_secs())]
    Timeout(Duration),
    /// It failed; often a client that does not trust Picket's bundle.
    #[error("the TLS handshake failed: {0}")]
    Failed(std::io::Error),
}

impl HandshakeError {
    /// Whether the client said that it does not accept the certificate.
    #[must_use]
    pub fn is_distrust(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        let told = error.get_ref().and_then(|inner| inner.downcast_ref());
        matches!(
            told,
            Some(rustls::Error::AlertReceived(
                AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
            ))
        )
    }
}

/// Shakes hands with a client, which may take so long.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    stream: S,
    limit: Duration,
) -> Result<TlsStream<S>, HandshakeError> {
    let accepting = TlsAcceptor::from(config).accept(stream).into_fallible();
    match tokio::time::timeout(limit, accepting).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err((error, mut stream))) => {
            if error.get_ref().is_some_and(|inner| inner.is::<PlainHttp>()) {
                let telling = async {
                    stream.write_all(PLAIN_HTTP_ANSWER).await?;
                    stream.shutdown().await
                };
                // The handshake has failed in any case.
                let _ = tokio::time::timeout(TELL_LIMIT, telling).await;
            }
            Err(HandshakeError::Failed(error))
        }
        Err(_) => Err(HandshakeError::Timeout(limit)),
    }
}
