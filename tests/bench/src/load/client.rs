//! One client connection, HTTP/1.1 or HTTP/2 over TLS, and GETs on it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::plan::{Protocol, Target};
use crate::tls;

/// Makes connections to one target with one protocol.
#[derive(Clone)]
pub(crate) struct Dialer {
    target: Arc<Target>,
    protocol: Protocol,
    config: Arc<ClientConfig>,
}

/// A connection that serves one request at a time (HTTP/1.1) or many (HTTP/2).
pub(crate) struct Connection {
    sender: Sender,
    dialer: Dialer,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Dialer {
    pub(crate) fn new(target: &Target, protocol: Protocol) -> Result<Self> {
        let config = Arc::new(tls::client(&target.ca, protocol)?);
        Ok(Self {
            target: Arc::new(target.clone()),
            protocol,
            config,
        })
    }

    pub(crate) async fn dial(&self) -> Result<Connection> {
        self.try_dial()
            .await
            .with_context(|| format!("dialling {} at {}", self.target.name, self.target.address))
    }

    async fn try_dial(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        let name = match &self.target.server_name {
            Some(name) => ServerName::try_from(name.clone())?,
            None => ServerName::from(self.target.address.ip()),
        };
        let io = TokioIo::new(
            TlsConnector::from(Arc::clone(&self.config))
                .connect(name, stream)
                .await?,
        );
        // A connection that ends early shows as an error of the requests on it.
        let sender = match self.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Connection {
            sender,
            dialer: self.clone(),
        })
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>> {
        let authority = self.target.address;
        let mut request = match self.protocol {
            Protocol::Http1 => Request::get(path).header(HOST, authority.to_string()),
            Protocol::Http2 => Request::get(format!("https://{authority}{path}")),
        };
        if let Some(token) = &self.target.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(request.body(Empty::new())?)
    }
}

impl Connection {
    /// Another handle on the same connection, where the protocol has such a thing.
    pub(crate) fn share(&self) -> Option<Connection> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Connection {
                sender: Sender::Http2(sender.clone()),
                dialer: self.dialer.clone(),
            }),
        }
    }

    /// Sends a GET and returns when the response's head is there.
    pub(crate) async fn start(&mut self, path: &str) -> Result<Response<Incoming>> {
        let request = self.dialer.request(path)?;
        let name = &self.dialer.target.name;
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender
                    .ready()
                    .await
                    .with_context(|| format!("{name} closed the connection"))?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender
                    .ready()
                    .await
                    .with_context(|| format!("{name} closed the connection"))?;
                sender.send_request(request).await
            }
        };
        let response = response.with_context(|| format!("{name} gave no answer to {path}"))?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let body = response
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            anyhow::bail!(
                "{name} answered {path} with {status}: {}",
                String::from_utf8_lossy(&body[..body.len().min(300)])
            );
        }
        Ok(response)
    }

    /// Sends a GET and reads the answer to its end; an empty one is an error.
    pub(crate) async fn get(&mut self, path: &str) -> Result<()> {
        let mut body = self.start(path).await?.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        ensure!(
            bytes > 0,
            "{} gave an empty answer to {path}",
            self.dialer.target.name
        );
        Ok(())
    }
}
