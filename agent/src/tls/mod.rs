//! The TLS side that pods see.
//!
//! In: the node CA's files and a connection from the listener. Out: a TLS session that a client with Picket's bundle accepts as
//! the API server. Leaf certificates live in memory, one for each address that clients dial, and are replaced before they
//! expire and when the CA's files do; a broken CA file is reported and the last good one kept.

mod metrics;
mod publish;

use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use metrics::CertificateMetrics;
pub use publish::{CertificateReload, Certificates};

/// The longest a client may take for the handshake. It runs on the pod's loopback, so seconds are plenty; the limit
/// keeps silent connections from piling up.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Why a client got no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took longer than [`HANDSHAKE_LIMIT`].
    #[error("the TLS handshake took longer than {} s", HANDSHAKE_LIMIT.as_secs())]
    Timeout,
    /// It failed; often a client that does not trust Picket's bundle.
    #[error("the TLS handshake failed: {0}")]
    Failed(#[from] std::io::Error),
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

/// Shakes hands with a client.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    stream: S,
) -> Result<TlsStream<S>, HandshakeError> {
    match tokio::time::timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(session) => Ok(session?),
        Err(_) => Err(HandshakeError::Timeout),
    }
}
