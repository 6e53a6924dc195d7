//! The administrators' socket: metrics, health, readiness, version, as HTTP/1.1 on a unix socket of mode 0600.
//!
//! There is no port: a pod has the node's network in reach and not its files, so no agent comes near it.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
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
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::runtime::metrics::{CONTENT_TYPE, Metrics};

/// Connections served at once: a scraper, a probe and a few people. More wait.
const CONNECTIONS: usize = 32;

/// Waiting connections that the kernel holds.
const BACKLOG: u32 = 32;

/// How long a connection may stay without a request, so that forgotten ones do not use up [`CONNECTIONS`].
const IDLE: Duration = Duration::from_secs(30);

/// Pause after a failed accept (no descriptors left, most likely), so that it is not tried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another process answers on it.
    #[error("admin socket {0}: another process serves it")]
    Taken(PathBuf),
    /// Something that is no socket has its name.
    #[error("admin socket {0}: there is a file of this name that is no socket")]
    NotASocket(PathBuf),
    /// It cannot be made.
    #[error("admin socket {path}: {source}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

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

/// The bound socket. Its file is removed when it is dropped.
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Makes the socket, with its folder if that is missing, and takes the place of one that a killed agent left.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When another process serves it or it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Bind {
            path: path.to_owned(),
            source,
        };
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(AdminError::NotASocket(path.to_owned()));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(AdminError::Taken(path.to_owned()));
            }
            Ok(_) => fs::remove_file(path).map_err(failed)?,
            Err(_) => {}
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed)?;
        }
        // The mode is set between bind and listen: until then nobody can connect.
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers until `cancel`.
    pub async fn serve(self, admin: Admin, cancel: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = async {
                let place = Arc::clone(&room).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = cancel.cancelled() => return,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
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

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Best effort: the next start takes the place of what is left.
        let _left = fs::remove_file(&self.path);
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
        let socket = AdminSocket::bind(&path).expect("binds");
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
        assert!(matches!(AdminSocket::bind(&path), Err(AdminError::Taken(_))));
        cancel.cancel();
        served.await.expect("ends");
        assert!(!path.exists());
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
        let socket = AdminSocket::bind(&path).expect("takes it over");
        let served = tokio::spawn(socket.serve(admin(ReadyReport::default()), cancel.clone()));
        assert!(ask(&path, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        cancel.cancel();
        served.await.expect("ends");
        fs::write(&path, "precious").expect("a file");
        assert!(matches!(AdminSocket::bind(&path), Err(AdminError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("is there"), "precious");
        fs::remove_dir_all(&folder).expect("cleans up");
    }
}
