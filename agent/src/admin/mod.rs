//! The administrators' socket: metrics, health, readiness, version, as HTTP/1.1 on a unix socket of mode 0600.
//!
//! There is no port: a pod has the node's network in reach and not its files, so no agent comes near it.

mod socket;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use socket::{PrivateSocket, SOCKET_PATH_MAX, SocketError, remove_left};

use crate::metrics::{CONTENT_TYPE, Metrics};

/// Connections served at once: a scraper, a probe and a few people. More wait.
const CONNECTIONS: usize = 32;

/// How long a connection may stay without a request, so that forgotten ones do not use up [`CONNECTIONS`].
const IDLE: Duration = Duration::from_secs(30);

/// Pause after a failed accept (no descriptors left, most likely), so that it is not tried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What `/readyz` says: ready when nothing waits and nothing fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReadyReport {
    /// Parts that have not come up yet.
    pub waiting: Vec<String>,
    /// Parts that came up and do not work now, each with the reason.
    pub failing: Vec<Failing>,
}

/// A part that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failing {
    /// The part.
    pub part: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl ReadyReport {
    /// Whether the agent serves.
    pub fn ready(&self) -> bool {
        self.waiting.is_empty() && self.failing.is_empty()
    }
}

/// What the socket shows.
#[derive(Clone)]
pub struct Admin {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/readyz`; called for each request.
    pub ready: Arc<dyn Fn() -> ReadyReport + Send + Sync>,
}

impl PrivateSocket {
    /// Answers until `cancel`.
    pub async fn serve(self, admin: Admin, cancel: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = async {
                let place = Arc::clone(&room).acquire_owned().await;
                (place, self.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = cancel.cancelled() => return,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok(stream) => {
                    let connection = connection(stream, admin.clone(), cancel.clone());
                    tokio::spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin socket cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: UnixStream, admin: Admin, cancel: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(answer(&admin, request.method(), request.uri().path())) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = cancel.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection failed");
    }
}

fn answer(admin: &Admin, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n");
    }
    match path {
        "/metrics" => match admin.metrics.encode() {
            Ok(text) => reply(StatusCode::OK, CONTENT_TYPE, text),
            Err(error) => reply(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                format!("{error}\n"),
            ),
        },
        "/healthz" => reply(StatusCode::OK, "text/plain", "ok\n"),
        "/readyz" => {
            let report = (admin.ready)();
            let code = if report.ready() {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            json(
                code,
                &serde_json::json!({
                    "ready": report.ready(), "waiting": report.waiting, "failing": report.failing,
                }),
            )
        }
        "/version" => json(
            StatusCode::OK,
            &serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }),
        ),
        _ => reply(
            StatusCode::NOT_FOUND,
            "text/plain",
            "there are /metrics, /healthz, /readyz and /version\n",
        ),
    }
}

fn json(code: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    reply(code, "application/json", format!("{value}\n"))
}

fn reply(code: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media));
    response
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("picket-admin-{}-{name}", std::process::id()));
        let _gone = fs::remove_dir_all(&folder);
        folder
    }

    fn admin(report: ReadyReport) -> Admin {
        Admin {
            metrics: Arc::new(Metrics::new()),
            ready: Arc::new(move || report.clone()),
        }
    }

    async fn ask(path: &Path, what: &str) -> String {
        let mut stream = UnixStream::connect(path).await.expect("connects");
        let request = format!("{what} HTTP/1.1\r\nHost: picket\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("reads");
        text
    }

    #[tokio::test]
    async fn answers_on_a_private_socket_and_takes_it_away() {
        let folder = folder("answers");
        let path = folder.join("admin.sock");
        let socket = PrivateSocket::bind(&path).expect("binds");
        assert_eq!(
            fs::metadata(&path).expect("is there").permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::metadata(&folder).expect("is there").permissions().mode() & 0o777,
            0o700
        );
        let cancel = CancellationToken::new();
        let report = ReadyReport {
            waiting: vec!["pods".into()],
            failing: vec![Failing {
                part: "audit",
                reason: "disk full".into(),
            }],
        };
        let served = tokio::spawn(socket.serve(admin(report), cancel.clone()));
        let metrics = ask(&path, "GET /metrics").await;
        assert!(
            metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"),
            "{metrics}"
        );
        assert!(ask(&path, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        let ready = ask(&path, "GET /readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        assert!(
            ready.contains(r#""waiting":["pods"]"#) && ready.contains(r#""reason":"disk full""#),
            "{ready}"
        );
        assert!(
            ask(&path, "GET /version")
                .await
                .contains(env!("CARGO_PKG_VERSION"))
        );
        assert!(ask(&path, "GET /x").await.starts_with("HTTP/1.1 404"));
        assert!(ask(&path, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        assert!(matches!(PrivateSocket::bind(&path), Err(SocketError::Taken(_))));
        cancel.cancel();
        served.await.expect("ends");
        assert!(!path.exists());
        fs::remove_dir_all(&folder).expect("cleans up");
    }

    #[tokio::test]
    async fn a_successor_takes_the_place_and_keeps_it_when_the_one_before_goes() {
        let folder = folder("successor");
        let path = folder.join("admin.sock");
        let before = PrivateSocket::bind(&path).expect("binds");
        let after = PrivateSocket::replace(&path).expect("takes the place");
        drop(before);
        let cancel = CancellationToken::new();
        let served = tokio::spawn(after.serve(admin(ReadyReport::default()), cancel.clone()));
        assert!(ask(&path, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        cancel.cancel();
        served.await.expect("ends");
        assert_eq!(fs::read_dir(&folder).expect("folder").count(), 0);
        fs::remove_dir_all(&folder).expect("cleans up");
    }

    #[tokio::test]
    async fn takes_over_a_dead_socket_and_nothing_else() {
        let folder = folder("dead");
        fs::create_dir_all(&folder).expect("folder");
        let path = folder.join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket whose process is gone"));
        assert!(path.exists());
        let cancel = CancellationToken::new();
        let socket = PrivateSocket::bind(&path).expect("takes it over");
        let served = tokio::spawn(socket.serve(admin(ReadyReport::default()), cancel.clone()));
        assert!(ask(&path, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        cancel.cancel();
        served.await.expect("ends");
        fs::write(&path, "precious").expect("a file");
        assert!(matches!(
            PrivateSocket::bind(&path),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(fs::read_to_string(&path).expect("is there"), "precious");
        fs::remove_dir_all(&folder).expect("cleans up");
    }
}
