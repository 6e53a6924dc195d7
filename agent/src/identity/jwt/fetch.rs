//! A GET of one of an issuer's documents, bounded in time and size.
//!
//! In: an `https://` URL. Out: the body of a 200, or a [`FetchError`]. The issuer's certificate is checked against its
//! `certificateAuthority`, or where it has none against the host's CAs. Redirects are not followed, and no proxy is used.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use picket_policy::jwt::JwtIssuer;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::file::AuthenticationError;
use crate::pki::{Authorities, pem};

/// The longest that one document may take, from the name's resolution to the last byte.
pub(super) const FETCH_LIMIT: Duration = Duration::from_secs(4);

/// The largest document. Discovery documents and key sets have some KB.
pub(super) const MAX_DOCUMENT: usize = 1024 * 1024;

/// The longest head of a response.
const MAX_HEAD: usize = 64 * 1024;

/// The types of both documents. The API server has its key set as the second (RFC 7517, 8.5.2) only, and answers 406 to others.
const ACCEPTED: &str = "application/json, application/jwk-set+json";

/// Why a document was not got.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    #[error("{0} is no https:// URL")]
    Url(String),
    #[error("{host}: cannot connect: {source}")]
    Connect { host: String, source: std::io::Error },
    #[error("{url}: {source}")]
    Http { url: String, source: hyper::Error },
    #[error("{url}: answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url}: the answer cannot be read, or is larger than {MAX_DOCUMENT} bytes")]
    Body { url: String },
    #[error("{url}: no answer within {} s", FETCH_LIMIT.as_secs())]
    Late { url: String },
}

/// Makes connections to one issuer.
#[derive(Debug)]
pub(super) struct IssuerClient {
    config: Arc<ClientConfig>,
    /// The issuer's own CAs; none where the host's count.
    authorities: Authorities,
}

impl IssuerClient {
    /// A client that trusts the CAs of the issuer; `file` is the one that names them.
    pub(super) fn new(issuer: &JwtIssuer, file: &Path) -> Result<Self, AuthenticationError> {
        let mut roots = RootCertStore::empty();
        let mut authorities = Authorities::default();
        if let Some(authority) = &issuer.certificate_authority {
            let wrong = |reason: String| AuthenticationError::CertificateAuthority {
                file: file.to_owned(),
                line: authority.at.line,
                column: authority.at.column,
                reason,
            };
            let certificates = pem::certificates(file, authority.value.as_bytes());
            let certificates =
                certificates.map_err(|_| wrong("it holds no readable certificate".to_owned()))?;
            // The file's line is the field's: nobody knows how the text is folded there.
            let line = usize::try_from(authority.at.line).unwrap_or_default();
            let certificates: Vec<_> = certificates.into_iter().map(|(_, found)| (line, found)).collect();
            authorities = Authorities::inspect(file, &certificates, SystemTime::now());
            for (_, certificate) in certificates {
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
        } else {
            let found = rustls_native_certs::load_native_certs();
            let (usable, _) = roots.add_parsable_certificates(found.certs);
            if usable == 0 {
                tracing::warn!(
                    issuer = issuer.url,
                    "the host has no CA certificates, so no issuer without certificateAuthority can be asked for its keys"
                );
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(AuthenticationError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            config: Arc::new(config),
            authorities,
        })
    }

    /// The issuer's own CAs.
    pub(super) fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// Gets a document.
    pub(super) async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        match timeout(FETCH_LIMIT, self.get_unbounded(url)).await {
            Ok(got) => got,
            Err(_) => Err(FetchError::Late { url: url.to_owned() }),
        }
    }

    async fn get_unbounded(&self, url: &str) -> Result<Bytes, FetchError> {
        let wrong = || FetchError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong());
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| wrong())?;
        let connect = |source| FetchError::Connect {
            host: authority.to_string(),
            source,
        };
        let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(443)));
        let stream = stream.await.map_err(connect)?;
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        let stream = stream.await.map_err(connect)?;

        let http = |source| FetchError::Http {
            url: url.to_owned(),
            source,
        };
        let handshake = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(http)?;
        let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, authority.as_str())
            .header(header::ACCEPT, ACCEPTED)
            .header(header::USER_AGENT, "picket")
            .body(Empty::new())
            .map_err(|_| wrong())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(http)?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status {
                    url: url.to_owned(),
                    status: response.status(),
                });
            }
            let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
            let body = body.map_err(|_| FetchError::Body { url: url.to_owned() })?;
            Ok(body.to_bytes())
        };
        // The connection is driven for as long as the exchange takes, and closed with it.
        let driven = async {
            let _closed = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            got = exchange => got,
            () = driven => Err(FetchError::Body { url: url.to_owned() }),
        }
    }
}
