//! An API server that does as it is told, frame by frame (RFC 9113), and keeps what it got.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::NodeCredential;
use super::super::connect::Connector;
use super::super::credential::Credentials;
use super::super::pool::{Pool, Pools};
use crate::pki::ca::{self, CaFiles, CaSource, NodeCa};
use crate::pki::{LeafNames, mint};

/// What the server does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Reads on.
    Nothing,
    /// Says 200.
    Answer,
    /// Sends GOAWAY without an error; streams above this one it has not looked at.
    GoAway { last: u32 },
    /// Resets the stream with REFUSED_STREAM.
    Refuse,
    /// Closes the connection.
    Close,
    /// Says 200 once the head has come, over HTTP/1.1, and nothing more.
    AnswerEarly,
}

/// A request as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Got {
    /// Counted from 0.
    pub(super) connection: usize,
    /// 1, 3, 5, ... ; 0 over HTTP/1.1.
    pub(super) stream: u32,
    pub(super) body: Vec<u8>,
    pub(super) trailers: bool,
    /// Its end has come.
    pub(super) whole: bool,
}

type Script = dyn Fn(&Got) -> Does + Send + Sync;

/// The server, and the pool that leads to it.
pub(super) struct Server {
    pub(super) pool: Arc<Pool>,
    /// The pool beside it, whose streams have a small window.
    pub(super) small: Arc<Pool>,
    got: Arc<Mutex<Vec<Got>>>,
    connections: Arc<AtomicUsize>,
    pause: Arc<Mutex<Duration>>,
}

impl Server {
    /// Lets further connections wait for so long before their TLS handshake.
    pub(super) fn greets_after(&self, pause: Duration) {
        *self.pause.lock() = pause;
    }

    /// A server that speaks HTTP/2, and asks the script with each frame of a request.
    pub(super) async fn http2(script: impl Fn(&Got) -> Does + Send + Sync + 'static) -> Server {
        Server::start(b"h2", script).await
    }

    /// One that speaks HTTP/1.1, and asks the script with each whole request.
    pub(super) async fn http1(script: impl Fn(&Got) -> Does + Send + Sync + 'static) -> Server {
        Server::start(b"http/1.1", script).await
    }

    /// The whole requests that it got, whatever it did with them.
    pub(super) fn got(&self) -> Vec<Got> {
        self.got.lock().clone()
    }

    /// The connections that were made to it.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    async fn start(protocol: &'static [u8], script: impl Fn(&Got) -> Does + Send + Sync + 'static) -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let ca = ca::create("api").expect("a CA");
        let files = CaFiles {
            certificate: write("ca.crt", &ca.certificate_pem),
            key: write("ca.key", &ca.key_pem),
        };
        let now = SystemTime::now();
        let source = CaSource::read(&files).expect("files");
        let node = NodeCa::parse(&files, &source, now).expect("a CA");
        let names = LeafNames::new(&["127.0.0.1".to_owned()]).expect("names");
        let leaf = mint(&node, names, now).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf.key)));
        config.alpn_protocols = vec![protocol.to_vec()];

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let token = NodeCredential::TokenFile(write("token", "t"));
        let credentials = Credentials::open(files.certificate, token).expect("credentials");
        let url = format!("https://{address}").parse().expect("a URL");
        let connector = Connector::new(&url, None, credentials).expect("a connector");
        let pools = Pools::for_threads(connector, NonZeroUsize::MIN);
        let server = Server {
            pool: Arc::clone(&pools[0].large),
            small: Arc::clone(&pools[0].small),
            got: Arc::default(),
            connections: Arc::default(),
            pause: Arc::default(),
        };
        let pause = Arc::clone(&server.pause);
        let (got, connections) = (Arc::clone(&server.got), Arc::clone(&server.connections));
        let (acceptor, script) = (TlsAcceptor::from(Arc::new(config)), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = Serving {
                    number: connections.fetch_add(1, Ordering::Relaxed),
                    got: Arc::clone(&got),
                    script: Arc::clone(&script) as Arc<Script>,
                };
                let (acceptor, pause) = (acceptor.clone(), *pause.lock());
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    // The test may be over by now.
                    let Ok(session) = acceptor.accept(stream).await else {
                        return;
                    };
                    // The other side may close at any time.
                    let _ended = match protocol {
                        b"h2" => serving.frames(session).await,
                        _ => serving.requests(session).await,
                    };
                });
            }
        });
        server
    }
}

/// One connection.
struct Serving {
    number: usize,
    got: Arc<Mutex<Vec<Got>>>,
    script: Arc<Script>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Room for any body that a test sends.
const WINDOW: u32 = 1 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

impl Serving {
    fn begun(&self, stream: u32) -> Got {
        Got {
            connection: self.number,
            stream,
            body: Vec::new(),
            trailers: false,
            whole: false,
        }
    }

    /// Asks the script, once the request is noted where it is whole.
    fn asked(&self, request: &Got) -> Does {
        if request.whole {
            self.got.lock().push(request.clone());
        }
        (self.script)(request)
    }

    async fn frames(self, mut session: TlsStream<TcpStream>) -> std::io::Result<()> {
        session.read_exact(&mut [0; 24]).await?;
        // SETTINGS_INITIAL_WINDOW_SIZE, and as much for the connection.
        let settings = [&[0, 4][..], &WINDOW.to_be_bytes()].concat();
        session.write_all(&frame(SETTINGS, 0, 0, &settings)).await?;
        session
            .write_all(&frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes()))
            .await?;
        let mut requests: Vec<Got> = Vec::new();
        loop {
            let mut head = [0; 9];
            session.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            session.read_exact(&mut payload).await?;
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if kind == SETTINGS && flags == 0 {
                session.write_all(&frame(SETTINGS, 1, 0, &[])).await?;
            }
            if !matches!(kind, DATA | HEADERS) {
                continue;
            }
            let at = requests.iter().position(|request| request.stream == stream);
            let request = match at {
                Some(at) => &mut requests[at],
                None => {
                    requests.push(self.begun(stream));
                    requests.last_mut().expect("pushed")
                }
            };
            match kind {
                DATA => request.body.extend(payload),
                _ => request.trailers = at.is_some(),
            }
            request.whole = flags & END_STREAM != 0;
            let reply = match self.asked(request) {
                Does::Nothing => continue,
                // 0x88 is `:status: 200` (RFC 7541 appendix A).
                Does::Answer => frame(HEADERS, END_STREAM | END_HEADERS, stream, &[0x88]),
                Does::GoAway { last } => {
                    let payload = [last.to_be_bytes(), [0; 4]].concat();
                    frame(GOAWAY, 0, 0, &payload)
                }
                Does::Refuse => frame(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes()),
                Does::Close | Does::AnswerEarly => return session.shutdown().await,
            };
            session.write_all(&reply).await?;
        }
    }

    async fn requests(self, mut session: TlsStream<TcpStream>) -> std::io::Result<()> {
        let mut read = Vec::new();
        loop {
            let (mut request, mut answered) = (self.begun(0), false);
            loop {
                let head = read.windows(4).any(|bytes| bytes == b"\r\n\r\n");
                if head && !answered && self.asked(&request) == Does::AnswerEarly {
                    session.write_all(OK).await?;
                    answered = true;
                }
                if let Some(body) = body(&read) {
                    request.body = body.to_vec();
                    request.whole = true;
                    read.clear();
                    break;
                }
                if session.read_buf(&mut read).await? == 0 {
                    return Ok(());
                }
            }
            match self.asked(&request) {
                _ if answered => {}
                Does::Answer => session.write_all(OK).await?,
                _ => return session.shutdown().await,
            }
        }
    }
}

/// The body of a whole request with a length.
fn body(request: &[u8]) -> Option<&[u8]> {
    let head = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
    request.get(head + 4..head + 4 + length)
}
