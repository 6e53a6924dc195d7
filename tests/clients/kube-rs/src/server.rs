//! The API server as a pod finds it.
//!
//! In: the pod's environment and mounted files. Out: connections by either version of HTTP, without a client library's own
//! retries.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where it is, and how a pod shows itself.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) authority: String,
    pub(crate) token: String,
    address: (String, u16),
    roots: RootCertStore,
}

impl Server {
    pub(crate) fn from_pod() -> Result<Self> {
        let host = std::env::var("KUBERNETES_SERVICE_HOST").context("not in a pod")?;
        let port: u16 = std::env::var("KUBERNETES_SERVICE_PORT")
            .context("not in a pod")?
            .parse()?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(format!("{ACCOUNT}/ca.crt"))? {
            roots.add(certificate?)?;
        }
        Ok(Self {
            authority: format!("{host}:{port}"),
            address: (host, port),
            token: std::fs::read_to_string(format!("{ACCOUNT}/token"))?
                .trim()
                .to_owned(),
            roots,
        })
    }

    async fn connect(&self, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let mut tls = ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect((self.address.0.as_str(), self.address.1)).await?;
        let name = ServerName::try_from(self.address.0.clone())?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        let spoken = stream.get_ref().1.alpn_protocol();
        ensure!(spoken == Some(protocol), "the server speaks {spoken:?}");
        Ok(stream)
    }

    pub(crate) async fn http2<B>(&self) -> Result<http2::SendRequest<B>>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TokioIo::new(self.connect(b"h2").await?);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(stream)
            .await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    pub(crate) async fn http1<B>(&self) -> Result<http1::SendRequest<B>>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TokioIo::new(self.connect(b"http/1.1").await?);
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
