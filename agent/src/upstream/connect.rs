//! New connections to the API server.
//!
//! In: its address, name and the credential. Out: a TLS session and the protocol agreed on, within a time limit.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::credential::{ConnectionIdentity, Credentials, UsedCredential};
use super::{SendError, UpstreamError};

/// The longest one address may take, TLS included. The API server is near; a longer wait would outlast client-go's own
/// patience (`--request-timeout` and leases are in tens of seconds).
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// After so much silence the kernel asks whether the other end is still there, and asks again at these intervals. It is what
/// ends sessions (exec, port-forward), which may be silent for hours, when the API server's machine died.
const PROBE_AFTER: Duration = Duration::from_secs(20);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// How long the other kernel may acknowledge nothing, be it probes or data. A process that stands still is not gone: its
/// kernel answers. A line that is away for 40 s costs no watch, since the kernel tries again after 51 s
/// (0.2 s, doubled each time); a machine that died is noticed within 70 s.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// What both sides agreed to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A new TLS session, and what it was made with.
pub(super) struct TlsSession {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) protocol: Protocol,
    /// The credential's generation, by which connections are retired.
    pub(super) generation: u64,
    /// The credential that the server has seen.
    pub(super) credential: UsedCredential,
}

/// Makes connections.
#[derive(Debug)]
pub(super) struct Connector {
    host: String,
    port: u16,
    name: ServerName<'static>,
    pub(super) authority: Authority,
    pub(super) credentials: Credentials,
}

impl Connector {
    pub(super) fn new(
        server: &Uri,
        server_name: Option<&str>,
        credentials: Credentials,
    ) -> Result<Connector, UpstreamError> {
        let wrong = |reason: &str| UpstreamError::Server {
            server: server.to_string(),
            reason: reason.to_owned(),
        };
        if server.scheme() != Some(&Scheme::HTTPS) {
            return Err(wrong("it must start with https://"));
        }
        if !matches!(server.path(), "" | "/") || server.query().is_some() {
            return Err(wrong("it must not have a path"));
        }
        let authority = server
            .authority()
            .cloned()
            .ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it must not have a user"));
        }
        // An IPv6 host stands in brackets in a URL and without them everywhere else.
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(server_name.unwrap_or(&host).to_owned())
            .map_err(|_| wrong("its host is neither a DNS name nor an address"))?;
        Ok(Connector {
            port: authority.port_u16().unwrap_or(443),
            host,
            name,
            authority,
            credentials,
        })
    }

    /// A session for shared connections, or one that can be upgraded, that shows no more than this.
    pub(super) async fn connect(
        &self,
        identity: ConnectionIdentity,
        upgradable: bool,
    ) -> Result<TlsSession, SendError> {
        self.credentials.refresh();
        let credential = Arc::clone(&self.credentials.current());
        let tls = TlsConnector::from(Arc::clone(credential.tls(identity, upgradable)));
        let mut failure = format!("{} has no address", self.host);
        for address in self.addresses().await? {
            let attempt = async {
                let stream = TcpStream::connect(address).await?;
                prepare(&stream)?;
                tls.connect(self.name.clone(), stream).await
            };
            match tokio::time::timeout(CONNECT_LIMIT, attempt).await {
                Ok(Ok(stream)) => {
                    let protocol = match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => Protocol::Http2,
                        _ => Protocol::Http1,
                    };
                    return Ok(TlsSession {
                        stream,
                        protocol,
                        generation: credential.generation,
                        credential: credential.used(identity),
                    });
                }
                Ok(Err(error)) => failure = format!("{address}: {error}"),
                Err(_) => failure = format!("{address}: no answer within {} s", CONNECT_LIMIT.as_secs()),
            }
        }
        Err(SendError::Unreachable(failure))
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, SendError> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let found = tokio::time::timeout(
            CONNECT_LIMIT,
            tokio::net::lookup_host((self.host.as_str(), self.port)),
        );
        match found.await {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(error)) => Err(SendError::Unreachable(format!("{}: {error}", self.host))),
            Err(_) => Err(SendError::Unreachable(format!(
                "{}: no answer from DNS",
                self.host
            ))),
        }
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // With a user timeout the kernel does not count probes (tcp_keepalive_timer in net/ipv4/tcp_timer.c).
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(GONE_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::NodeCredential;

    #[tokio::test]
    async fn the_kernel_says_when_the_other_machine_is_gone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), PROBE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_INTERVAL);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(GONE_AFTER));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_no_session_is_given_up_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
        std::fs::write(&ca, crate::pki::ca::create("api").unwrap().certificate_pem).unwrap();
        std::fs::write(&token, "t").unwrap();
        let credentials = Credentials::open(ca, NodeCredential::TokenFile(token)).unwrap();
        // The kernel accepts, and nobody else does.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let connector = Connector::new(&server.parse().unwrap(), None, credentials).unwrap();
        let began = tokio::time::Instant::now();
        let error = connector
            .connect(ConnectionIdentity::Node, false)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("no answer within 5 s"), "{error}");
        let took = began.elapsed();
        assert!((CONNECT_LIMIT..CONNECT_LIMIT * 2).contains(&took), "{took:?}");
    }

    #[test]
    fn server_urls() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
        std::fs::write(&ca, crate::pki::ca::create("api").unwrap().certificate_pem).unwrap();
        std::fs::write(&token, "t").unwrap();
        let make = |server: &'static str| {
            let credentials =
                Credentials::open(ca.clone(), NodeCredential::TokenFile(token.clone())).unwrap();
            Connector::new(&Uri::from_static(server), None, credentials)
        };
        let connector = make("https://[fd00::1]:6443").unwrap();
        assert_eq!((connector.host.as_str(), connector.port), ("fd00::1", 6443));
        assert_eq!(connector.authority.as_str(), "[fd00::1]:6443");
        assert_eq!(make("https://api.example").unwrap().port, 443);
        for bad in [
            "http://api.example",
            "https://api.example/path",
            "https://me@api.example",
            "/",
        ] {
            assert!(make(bad).is_err(), "{bad}");
        }
    }
}
