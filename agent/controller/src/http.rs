//! Answers short questions over HTTP: the kubelet's probes, and scrapes of the metrics.
//!
//! In: connections to a port of the pod, and a function that answers a path. Out: its answers. Nobody shows a credential, so that no
//! answer may hold a secret. How many connections there are, and how long each lasts, is bounded.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::connections::ConnectionCapacity;

/// A client that sends no request for this long is cut off.
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection lasts at most, with a client that reads slowly.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// The longest head of a request that is read.
const HEAD_BYTES: usize = 8 * 1024;

/// The pause after a failed accept: most likely there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is said of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) media_type: &'static str,
    pub(crate) text: String,
}

impl Answer {
    /// Text for people.
    pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            media_type: "text/plain; charset=utf-8",
            text: text.into(),
        }
    }

    pub(crate) fn not_found() -> Self {
        Self::plain(StatusCode::NOT_FOUND, "not found\n")
    }
}

/// Serves until it is dropped. `capacity` is how many connections there are at once; further ones wait in the kernel's queue. One address has
/// half of them, and what it dials beyond that is closed at once: else it would keep a kubelet waiting, which then ends the pod.
pub(crate) async fn serve<F>(listener: TcpListener, capacity: usize, answer: F)
where
    F: Fn(&str) -> Answer + Clone + Send + Sync + 'static,
{
    let capacity = ConnectionCapacity::new(capacity);
    loop {
        let permit = capacity.open().await;
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(held) = capacity.admit(permit, peer.ip()) else {
            continue;
        };
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let response = respond(request.method(), request.uri().path(), &answer);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .max_buf_size(HEAD_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // Whoever asked sees that a connection failed.
            let _ = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
            drop(held);
        });
    }
}

fn respond(method: &Method, path: &str, answer: &impl Fn(&str) -> Answer) -> Response<Full<Bytes>> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let found = match is_read {
        true => answer(path),
        false => Answer::plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from(found.text)));
    *response.status_mut() = found.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(found.media_type));
    if !is_read {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    async fn served(capacity: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = |path: &str| match path {
            "/here" => Answer::plain(StatusCode::OK, "found\n"),
            _ => Answer::not_found(),
        };
        tokio::spawn(serve(listener, capacity, answer));
        address
    }

    async fn ask(address: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: pod\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn paths_are_read_and_nothing_else() {
        let address = served(4).await;
        let text = ask(address, "GET /here").await;
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nfound\n"),
            "{text}"
        );
        assert!(ask(address, "GET /there").await.starts_with("HTTP/1.1 404 "));
        for method in ["POST", "DELETE"] {
            let text = ask(address, &format!("{method} /here")).await;
            assert!(
                text.starts_with("HTTP/1.1 405 ") && !text.contains("found"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn silent_connections_hold_their_places_for_seconds_only() {
        let address = served(4).await;
        let dial = |from: &'static str| async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from.parse().unwrap()).unwrap();
            socket.connect(address).await.unwrap()
        };
        let mut silent = Vec::new();
        for from in ["127.0.0.2:0", "127.0.0.2:0"] {
            silent.push(dial(from).await);
        }
        // That address has its half, and its next connection is closed at once; others are served.
        let closed = dial("127.0.0.2:0").await.read(&mut [0]).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        assert!(ask(address, "GET /here").await.starts_with("HTTP/1.1 200 "));
        for from in ["127.0.0.3:0", "127.0.0.3:0"] {
            silent.push(dial(from).await);
        }
        let waits = tokio::time::timeout(HEADER_LIMIT / 2, ask(address, "GET /here")).await;
        assert!(waits.is_err(), "all permits are taken: {waits:?}");
        let text = tokio::time::timeout(CONNECTION_LIMIT, ask(address, "GET /here"))
            .await
            .unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        drop(silent);
    }
}
