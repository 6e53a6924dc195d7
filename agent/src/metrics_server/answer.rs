//! One request for metrics, and its answer.
//!
//! In: a request, and the client certificate of its connection. Out: the metrics, or a Kubernetes `Status` that says why not. It names
//! nothing of the agent's to a caller that nobody knows.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use rustls_pki_types::CertificateDer;

use super::MetricsServer;
use super::access::{PATH, ScrapeCredential, ScrapeVerdict};
use super::metrics::ScrapeOutcome;
use crate::metrics::CONTENT_TYPE as METRICS_TYPE;
use crate::reject::Status;

/// Seconds after which another try may go better.
const RETRY_SECONDS: u32 = 5;

/// Answers a request. Its body is not read.
pub(super) async fn answer<B>(
    server: &MetricsServer,
    request: Request<B>,
    certificate: Option<CertificateDer<'static>>,
) -> Response<Full<Bytes>> {
    let (outcome, response) = judged(server, &request, certificate).await;
    server.metrics.count(outcome);
    response
}

async fn judged<B>(
    server: &MetricsServer,
    request: &Request<B>,
    certificate: Option<CertificateDer<'static>>,
) -> (ScrapeOutcome, Response<Full<Bytes>>) {
    use ScrapeOutcome::{Forbidden, NotFound, Served, Unauthenticated, Unavailable};
    if request.uri().path() != PATH {
        let text = "there is no such path; the metrics are at /metrics";
        return (NotFound, refusal(StatusCode::NOT_FOUND, "NotFound", text));
    }
    if request.method() != Method::GET {
        let text = "the metrics can be read only";
        let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", text);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return (NotFound, response);
    }
    let Some(credential) = ScrapeCredential::of(request.headers(), certificate) else {
        return (Unauthenticated, unauthenticated());
    };
    match server.access.judge(&credential).await {
        Ok(ScrapeVerdict::Allowed) => match server.registry.encode() {
            Ok(text) => (Served, with_headers(Response::new(text.into()), METRICS_TYPE)),
            Err(_) => {
                let text = "the metrics cannot be written";
                let code = StatusCode::INTERNAL_SERVER_ERROR;
                (Unavailable, refusal(code, "InternalError", text))
            }
        },
        Ok(ScrapeVerdict::Unauthenticated) => (Unauthenticated, unauthenticated()),
        Ok(ScrapeVerdict::Forbidden(user)) => {
            let text = format!(
                "user {user:?} cannot get path {PATH:?}: bind it to ClusterRole picket-metrics-reader, or to another with that right"
            );
            (Forbidden, refusal(StatusCode::FORBIDDEN, "Forbidden", text))
        }
        Err(_) => {
            let text = "the API server does not say who you are, or what you may read; try again";
            (
                Unavailable,
                refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", text),
            )
        }
    }
}

fn unauthenticated() -> Response<Full<Bytes>> {
    let text = "show a token that the API server takes, of a user that may get /metrics";
    refusal(StatusCode::UNAUTHORIZED, "Unauthorized", text)
}

fn refusal(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Response<Full<Bytes>> {
    let retry = code == StatusCode::SERVICE_UNAVAILABLE;
    let status = Status {
        message: message.into(),
        reason,
        code: code.as_u16(),
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        retry_after_seconds: if retry { RETRY_SECONDS } else { 0 },
        causes: Vec::new(),
    };
    let mut response = with_headers(Response::new(status.to_json().into()), "application/json");
    *response.status_mut() = code;
    let headers: &mut HeaderMap = response.headers_mut();
    if code == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if retry {
        headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
    }
    response
}

fn with_headers(mut response: Response<Full<Bytes>>, kind: &'static str) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
