//! What a case sends: HTTP requests, each with what it is for.
//!
//! In: an HTTP request or an audit record of a test file. Out: [`PlannedRequest`]s, or an [`InputError`].

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Deserialize as _;
use serde_json::Value as Json;

use super::model::TestRequest;
use super::recorded::AuditEvent;
use crate::body::MediaType;
use crate::request::{CanonicalRequest, OldObject, ReadError};

/// What is wrong with an input, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InputError(pub(super) String);

/// What a request is to the command that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestRole {
    /// The command is for this.
    Acting,
    /// The command ends without this one's answer.
    Needed,
    /// The command goes on without it.
    Optional,
}

/// A request that a case sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRequest {
    /// What it is to the command.
    pub role: RequestRole,
    /// The HTTP method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The object that the API server has, as far as the case says so.
    pub old_object: OldObject,
}

impl PlannedRequest {
    /// A request without a body.
    pub(super) fn new(role: RequestRole, method: Method, target: impl Into<String>) -> Self {
        Self {
            role,
            method,
            target: target.into(),
            headers: Vec::new(),
            body: Vec::new(),
            old_object: OldObject::Unread,
        }
    }

    /// Likewise, with an object as the body.
    pub(super) fn with_body(mut self, media: MediaType, body: &Json) -> Self {
        self.headers
            .push(("Content-Type".to_owned(), media.name().to_owned()));
        self.body = body.to_string().into_bytes();
        self
    }

    /// Likewise, with the headers of a WebSocket.
    pub(super) fn over_websocket(mut self) -> Self {
        for (name, value) in [("Connection", "Upgrade"), ("Upgrade", "websocket")] {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Method and target.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// The request as Picket reads it.
    ///
    /// # Errors
    /// As [`CanonicalRequest::read`], in the inner result. An [`InputError`] where no HTTP client could send it.
    pub fn canonical(&self) -> Result<Result<CanonicalRequest, ReadError>, InputError> {
        let uri: Uri = self
            .target
            .parse()
            .map_err(|error| InputError(format!("{:?} is no request target: {error}", self.target)))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| InputError(format!("{name:?} is no name of a header")))?;
            let value = HeaderValue::from_str(value)
                .map_err(|_| InputError(format!("header {name} cannot have the value {value:?}")))?;
            headers.append(name, value);
        }
        let mut request = http::Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(CanonicalRequest::read(request.into_parts().0))
    }
}

/// The request of a case's `request`.
///
/// # Errors
/// Where it is none that a client could send.
pub fn of_http(request: &TestRequest) -> Result<PlannedRequest, InputError> {
    let method = request.method.as_deref().unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes())
        .ok()
        .filter(|_| method.bytes().all(|byte| byte.is_ascii_uppercase()))
        .ok_or_else(|| {
            InputError(format!(
                "{method:?} is no HTTP method: write GET, POST, PUT, PATCH or DELETE"
            ))
        })?;
    if !request.path.starts_with('/') {
        return Err(InputError(format!("path {:?} must begin with /", request.path)));
    }
    let mut planned = PlannedRequest::new(RequestRole::Acting, method, request.path.clone());
    planned.headers = headers(&request.headers);
    match &request.body {
        None => {}
        Some(Json::String(text)) => planned.body = text.clone().into_bytes(),
        Some(object) => {
            let has_type = |(name, _): &(String, String)| name.eq_ignore_ascii_case("content-type");
            planned.body = object.to_string().into_bytes();
            if !planned.headers.iter().any(has_type) {
                planned
                    .headers
                    .push(("Content-Type".to_owned(), MediaType::Json.name().to_owned()));
            }
        }
    }
    Ok(planned)
}

fn headers(headers: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let pairs = headers.iter();
    pairs.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The request that an audit record tells of (`audit.k8s.io/v1`, Event; Picket's records are a superset). Where it may be of more than
/// one, the likeliest.
///
/// # Errors
/// Where the record does not tell verb and requestURI, or only a part of the request line.
pub fn of_audit_record(record: &Json) -> Result<PlannedRequest, InputError> {
    let event = AuditEvent::deserialize(record)
        .map_err(|error| InputError(format!("the record is no Event of audit.k8s.io/v1: {error}")))?;
    let mut requests = event.requests()?;
    Ok(requests.swap_remove(0).0)
}
