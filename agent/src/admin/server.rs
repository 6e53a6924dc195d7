//! Serves the admin API: HTTP/1.1 for whoever opens the socket.
//!
//! In: connections of the private socket, and what the parts of the agent show. Out: the answers of [`super::api`]. Requests
//! are bounded in size, time and number.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::PrivateSocket;
use super::api::{
    self, AgentProcess, AgentState, ApiError, ID_MIN, KillAnswer, KillRequest, ObjectList, ReadyReport,
    SessionItem, SessionList, SessionQuery, Version,
};
use crate::metrics::{CONTENT_TYPE, MetricsRegistry};
use crate::session::{Registry, SessionSelector};

/// Connections served at once: a scraper, a probe and a few people. More wait.
const CONNECTIONS: usize = 32;

/// How long a connection may stay without a request, so that forgotten ones do not use up [`CONNECTIONS`].
const IDLE: Duration = Duration::from_secs(30);

/// How long a request may take, its body included.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The largest body of a request; a kill with its reason has a few hundred bytes.
const BODY_LIMIT: usize = 16 * 1024;

/// The longest reason for a kill: it goes into a record and to each client.
const REASON_LIMIT: usize = 1024;

/// Pause after a failed accept (no descriptors left, most likely), so that it is not tried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the API shows and does.
#[derive(Clone)]
pub struct Admin {
    /// For `/metrics`.
    pub metrics: Arc<MetricsRegistry>,
    /// For `/readyz`; called for each request.
    pub ready: Arc<dyn Fn() -> ReadyReport + Send + Sync>,
    /// For `/v1/objects`; called for each request.
    pub objects: Arc<dyn Fn() -> ObjectList + Send + Sync>,
    /// How far the agent is; called for each list.
    pub state: Arc<dyn Fn() -> AgentState + Send + Sync>,
    /// The sessions that run.
    pub sessions: Registry,
}

impl PrivateSocket {
    /// Answers until `cancel`.
    pub async fn serve(self, admin: Admin, cancel: CancellationToken) {
        let capacity = Arc::new(Semaphore::new(CONNECTIONS));
        let router = router(admin);
        loop {
            let accepted = async {
                let permit = Arc::clone(&capacity).acquire_owned().await;
                (permit, self.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = cancel.cancelled() => return,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok(stream) => {
                    let connection = connection(stream, router.clone(), cancel.clone());
                    tokio::spawn(async move {
                        connection.await;
                        drop(permit);
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

async fn connection(stream: UnixStream, router: Router, cancel: CancellationToken) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
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

fn router(admin: Admin) -> Router {
    Router::new()
        .route(api::METRICS, get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route(api::READY, get(readyz))
        .route("/version", get(version))
        .route(api::OBJECTS, get(list_objects))
        .route(api::SESSIONS, get(list_sessions))
        .route(api::KILL_SESSIONS, post(kill_sessions))
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(in_time))
        .with_state(admin)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response(),
    }
}

/// An answer that is an [`ApiError`].
struct Failure {
    code: StatusCode,
    error: String,
}

impl Failure {
    fn new(code: StatusCode, error: impl Into<String>) -> Failure {
        Failure {
            code,
            error: error.into(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.code, Json(ApiError { error: self.error })).into_response()
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Failure {
        Failure::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Failure {
        Failure::new(rejection.status(), rejection.body_text())
    }
}

async fn metrics(State(admin): State<Admin>) -> Result<Response, Failure> {
    let text = admin
        .metrics
        .encode()
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let report = (admin.ready)();
    let code = if report.ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let report = serde_json::json!({
        "ready": report.ready(), "waiting": report.waiting, "failing": report.failing,
    });
    (code, Json(report)).into_response()
}

async fn version() -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

async fn list_objects(State(admin): State<Admin>) -> Json<ObjectList> {
    Json((admin.objects)())
}

async fn list_sessions(
    State(admin): State<Admin>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<Json<SessionList>, Failure> {
    let Query(query) = query?;
    let agent = AgentProcess {
        pid: std::process::id(),
        state: (admin.state)(),
    };
    let sessions = admin.sessions.list(&query.into());
    Ok(Json(SessionList {
        sessions: sessions
            .iter()
            .map(|session| SessionItem::new(session, agent))
            .collect(),
    }))
}

async fn kill_sessions(
    State(admin): State<Admin>,
    request: Result<Json<KillRequest>, JsonRejection>,
) -> Result<Json<KillAnswer>, Failure> {
    let Json(request) = request?;
    let selector = selector(&request)?;
    if let Some(id) = &selector.id {
        let count = admin.sessions.list(&selector).len();
        if count > 1 {
            let error = format!("id {id} names {count} sessions; give more of the id");
            return Err(Failure::new(StatusCode::CONFLICT, error));
        }
    }
    let ended = admin.sessions.kill(&selector, &request.reason);
    Ok(Json(KillAnswer {
        ended: ended.iter().map(ToString::to_string).collect(),
    }))
}

fn selector(request: &KillRequest) -> Result<SessionSelector, Failure> {
    let bad = |error: String| Failure::new(StatusCode::BAD_REQUEST, error);
    let named = usize::from(request.id.is_some())
        + usize::from(request.identity.is_some())
        + usize::from(request.all);
    if named != 1 {
        return Err(bad("give one of `id`, `identity` and `all`".to_owned()));
    }
    if let Some(id) = request.id.as_ref().filter(|id| id.len() < ID_MIN) {
        return Err(bad(format!("id {id:?} is shorter than {ID_MIN} characters")));
    }
    if request.reason.len() > REASON_LIMIT {
        return Err(bad(format!("the reason is longer than {REASON_LIMIT} bytes")));
    }
    Ok(SessionSelector {
        id: request.id.clone(),
        identity: request.identity.clone(),
        kind: request.kind,
    })
}
