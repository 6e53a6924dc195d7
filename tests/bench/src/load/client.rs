//! One client connection, HTTP/1.1 or HTTP/2 over TLS, and requests on it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::plan::{Protocol, Target};
use crate::tls;

/// A request: a GET, or the POST of a JSON body.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    path: Arc<str>,
    body: Option<Bytes>,
}

impl Ask {
    /// Reads what is at this path.
    pub(crate) fn get(path: &str) -> Self {
        Self {
            path: path.into(),
            body: None,
        }
    }

    /// Creates this at the path.
    pub(crate) fn post(path: &str, body: Bytes) -> Self {
        Self {
            path: path.into(),
            body: Some(body),
        }
    }
}

/// TLS on a connection of TCP.
pub(crate) type TlsSession = TlsStream<TcpStream>;

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
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
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

    /// The same, with a whole handshake for each connection, as each new process has.
    pub(crate) fn without_resumption(mut self) -> Self {
        Arc::make_mut(&mut self.config).resumption = Resumption::disabled();
        self
    }

    /// A connection on which nothing was sent yet.
    pub(crate) async fn session(&self) -> Result<TlsSession> {
        let stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        let name = match &self.target.server_name {
            Some(name) => ServerName::try_from(name.clone())?,
            None => ServerName::from(self.target.address.ip()),
        };
        Ok(TlsConnector::from(Arc::clone(&self.config))
            .connect(name, stream)
            .await?)
    }

    async fn try_dial(&self) -> Result<Connection> {
        let io = TokioIo::new(self.session().await?);
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

    /// What is dialled, as requests name it.
    pub(crate) fn authority(&self) -> String {
        self.target.address.to_string()
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>> {
        let (authority, path) = (self.target.address, &ask.path);
        let mut request = match self.protocol {
            Protocol::Http1 => Request::get(&**path).header(HOST, authority.to_string()),
            Protocol::Http2 => Request::get(format!("https://{authority}{path}")),
        };
        if let Some(token) = &self.target.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if ask.body.is_some() {
            request = request
                .method(Method::POST)
                .header(CONTENT_TYPE, "application/json");
        }
        Ok(request.body(Full::new(ask.body.clone().unwrap_or_default()))?)
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

    /// Sends a request and returns when the response's head is there, whatever it says.
    pub(crate) async fn ask(&mut self, ask: &Ask) -> Result<Response<Incoming>> {
        let request = self.dialer.request(ask)?;
        let name = &self.dialer.target.name;
        let closed = || format!("{name} closed the connection");
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.with_context(closed)?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.with_context(closed)?;
                sender.send_request(request).await
            }
        };
        response.with_context(|| format!("{name} gave no answer to {}", ask.path))
    }

    /// Sends a request and returns when the head of a response is there that says yes.
    async fn accepted(&mut self, ask: &Ask) -> Result<Response<Incoming>> {
        let response = self.ask(ask).await?;
        let wanted = match ask.body {
            Some(_) => StatusCode::CREATED,
            None => StatusCode::OK,
        };
        if response.status() != wanted {
            let status = response.status();
            let body = response
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            anyhow::bail!(
                "{} answered {} with {status}: {}",
                self.dialer.target.name,
                ask.path,
                String::from_utf8_lossy(&body[..body.len().min(300)])
            );
        }
        Ok(response)
    }

    /// Sends a GET and returns when the response's head is there.
    pub(crate) async fn start(&mut self, path: &str) -> Result<Response<Incoming>> {
        self.accepted(&Ask::get(path)).await
    }

    /// Sends a GET and reads the answer to its end; an empty one is an error.
    pub(crate) async fn get(&mut self, path: &str) -> Result<()> {
        self.carry_out(&Ask::get(path)).await
    }

    /// Sends a request and reads the answer to its end; an empty one is an error.
    pub(crate) async fn carry_out(&mut self, ask: &Ask) -> Result<()> {
        let mut body = self.accepted(ask).await?.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        ensure!(
            bytes > 0,
            "{} gave an empty answer to {}",
            self.dialer.target.name,
            ask.path
        );
        Ok(())
    }
}
