//! A ConfigMap that the fake API server really stores: with versions, conflicts, dry runs and deletions, and whatever goes wrong.
//!
//! In: requests for `/api/v1/namespaces/n/configmaps/kept`, or for the Service of that name. Out: what kube-apiserver answers to them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// The path of the ConfigMap.
pub(super) const KEPT: &str = "/api/v1/namespaces/n/configmaps/kept";

/// The path of a Service, which is the same object here.
pub(super) const KEPT_SERVICE: &str = "/api/v1/namespaces/n/services/kept";

/// The ConfigMap.
#[derive(Default)]
pub(super) struct StoredMap(Mutex<State>);

#[derive(Default)]
struct State {
    object: Option<Value>,
    version: u64,
    troubles: Troubles,
}

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct Troubles {
    /// Before so many writes somebody else writes too.
    pub(super) writes_before_writes: u32,
    /// Likewise before dry runs.
    pub(super) writes_before_dry_runs: u32,
    /// Likewise before dry runs, once it was written before a write.
    pub(super) then_before_dry_runs: u32,
    /// The label `protected` that such a write puts in.
    pub(super) protects: bool,
    /// What a GET is answered instead.
    pub(super) get: Option<StatusCode>,
    /// How long a GET takes.
    pub(super) slow: Duration,
}

/// A request for the ConfigMap.
pub(super) struct StoredRequest {
    method: Method,
    dry_run: bool,
    applies: bool,
    body: Value,
}

type Answer = Response<BoxBody<Bytes, std::convert::Infallible>>;

impl StoredRequest {
    pub(super) fn of((method, target, headers): &(Method, String, HeaderMap), body: &Bytes) -> Option<Self> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let media = headers.get(header::CONTENT_TYPE);
        let media = media.and_then(|media| media.to_str().ok()).unwrap_or_default();
        let body: Value = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(body).unwrap_or(Value::Null),
        };
        // A deletion's options are in its body, where it has one.
        let dry_run = match method == Method::DELETE && !body.is_null() {
            true => body["dryRun"] == json!(["All"]),
            false => query.contains("dryRun=All"),
        };
        [KEPT, KEPT_SERVICE].contains(&path).then(|| Self {
            method: method.clone(),
            dry_run,
            applies: media.contains("apply"),
            body,
        })
    }
}

impl StoredMap {
    /// Stores a ConfigMap with these labels, in version 5.
    pub(super) fn put(&self, labels: Value) {
        let mut state = self.0.lock();
        state.version = 5;
        state.object = Some(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kept", "namespace": "n", "uid": "u1", "resourceVersion": "5", "labels": labels},
            "data": {"hush": "hush"},
        }));
    }

    /// What is stored.
    pub(super) fn object(&self) -> Option<Value> {
        self.0.lock().object.clone()
    }

    /// Makes the object so many bytes larger.
    pub(super) fn fill(&self, bytes: usize) {
        let mut state = self.0.lock();
        let object = state.object.as_mut().expect("an object");
        object["data"]["hush"] = "x".repeat(bytes).into();
    }

    /// From now on this goes wrong.
    pub(super) fn trouble(&self, troubles: Troubles) {
        self.0.lock().troubles = troubles;
    }

    pub(super) async fn answer(&self, request: StoredRequest) -> Answer {
        let slow = self.0.lock().troubles.slow;
        if request.method == Method::GET {
            tokio::time::sleep(slow).await;
        }
        self.0.lock().answer(&request)
    }
}

impl State {
    fn answer(&mut self, request: &StoredRequest) -> Answer {
        if request.method == Method::GET {
            return match (self.troubles.get, &self.object) {
                (Some(code), _) => status(code, "Trouble"),
                (None, Some(object)) => answer(StatusCode::OK, object),
                (None, None) => status(StatusCode::NOT_FOUND, "NotFound"),
            };
        }
        self.disturb(request.dry_run);
        let Some(object) = self.object.clone() else {
            return match request.applies {
                true => self.store(request.body.clone(), request.dry_run, StatusCode::CREATED),
                false => status(StatusCode::NOT_FOUND, "NotFound"),
            };
        };
        let current = object["metadata"]["resourceVersion"].clone();
        let (named, uid) = match request.method {
            Method::DELETE => (
                &request.body["preconditions"]["resourceVersion"],
                &request.body["preconditions"]["uid"],
            ),
            _ => (&request.body["metadata"]["resourceVersion"], &Value::Null),
        };
        if (!named.is_null() && *named != current) || (!uid.is_null() && *uid != object["metadata"]["uid"]) {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        match request.method {
            Method::DELETE => {
                if !request.dry_run {
                    self.object = None;
                }
                answer(StatusCode::OK, &object)
            }
            Method::PUT => self.store(request.body.clone(), request.dry_run, StatusCode::OK),
            _ => {
                let mut patched = object;
                merge(&mut patched, &request.body);
                self.store(patched, request.dry_run, StatusCode::OK)
            }
        }
    }

    /// Somebody else writes, if that is to happen now.
    fn disturb(&mut self, dry_run: bool) {
        let left = match dry_run {
            true => &mut self.troubles.writes_before_dry_runs,
            false => &mut self.troubles.writes_before_writes,
        };
        if *left == 0 {
            return;
        }
        *left -= 1;
        if !dry_run {
            self.troubles.writes_before_dry_runs = self.troubles.then_before_dry_runs;
        }
        self.version += 1;
        if let Some(object) = &mut self.object {
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            if self.troubles.protects {
                object["metadata"]["labels"]["protected"] = "true".into();
            }
        }
    }

    fn store(&mut self, mut object: Value, dry_run: bool, code: StatusCode) -> Answer {
        let version = match (dry_run, code) {
            (false, _) => self.version + 1,
            (true, _) => self.version,
        };
        object["metadata"]["resourceVersion"] = match (dry_run, code) {
            (true, StatusCode::CREATED) => Value::Null,
            _ => version.to_string().into(),
        };
        if !dry_run {
            self.version = version;
            self.object = Some(object.clone());
        }
        answer(code, &object)
    }
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => {
                into.as_object_mut().expect("a mapping").remove(key);
            }
            value => merge(&mut into[key], value),
        }
    }
}

fn answer(code: StatusCode, body: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed());
    *response.status_mut() = code;
    response
}

fn status(code: StatusCode, reason: &str) -> Answer {
    let message = format!("{reason} of the API server");
    let body = json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code.as_u16()});
    let mut response = answer(code, &body);
    if code == StatusCode::TOO_MANY_REQUESTS {
        let seconds = HeaderValue::from_static("7");
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}
