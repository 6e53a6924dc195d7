//! A patch that rules look into: which object it would make, and that it makes no other.
//!
//! In: a patch. Out: the same patch as a dry run, for whoever asks the API server; then, with the object that the API server
//! answers, the patch to send. That patch names the version of the object that it was judged on, so that the API server answers 409 where
//! the object has changed since.

use std::sync::Arc;

use http::header::{ACCEPT, ACCEPT_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use serde_json::{Map, Value as Json, json};

use super::error::ReadError;
use super::head::CanonicalRequest;
use super::object::RequestObject;
use super::old_object::{BoundBody, NO_VERSION, OldObject, is_version, named_version};
use super::{LongTarget, Verb};
use crate::body;

/// The field of an object that changes with each of its versions.
const VERSION: &str = "/metadata/resourceVersion";

impl CanonicalRequest {
    /// The same patch as a dry run, whose answer is the object that it would make. `None` for a target that is too long to ask so, and
    /// for what is no patch.
    #[must_use]
    pub fn as_probe(&self) -> Option<Self> {
        if self.kube().verb != Verb::Patch || !self.kube().has_object() {
            return None;
        }
        let head = self.head();
        if head.extensions.get::<LongTarget>().is_some() {
            return None;
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = head.method.clone();
        parts.version = head.version;
        parts.headers = head.headers.clone();
        parts.uri = match self.kube().dry_run {
            true => head.uri.clone(),
            false => as_dry_run(&head.uri)?,
        };
        parts
            .headers
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        parts
            .headers
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut probe = Self::read(parts).ok()?;
        if !probe.kube().dry_run || probe.kube().target != self.kube().target {
            return None;
        }
        probe.set_object(RequestObject::Sought);
        Some(probe)
    }

    /// Keeps the object that the API server says the patch makes, and does not change what is sent.
    pub fn look_at_made(&mut self, made: Json) {
        self.set_object(RequestObject::Read(Arc::new(made)));
    }

    /// Keeps the object that the API server says the patch makes. Returns the patch to send in place of the client's: the same, bound to
    /// the version that the object has now. A patch that makes a new object (`is_new`) is bound to none, unless a rule looked for the
    /// stored one.
    ///
    /// # Errors
    /// Where the patch cannot be read, or takes its own version away from the object.
    pub fn bind_patch(&mut self, patch: &[u8], made: Json, is_new: bool) -> Result<BoundBody, ReadError> {
        let mut value = body::read(self.media_type()?, patch)?;
        let named_by_client = names_version(&value);
        let version = made
            .pointer(VERSION)
            .and_then(Json::as_str)
            .filter(|version| is_version(version));
        match version {
            _ if self.kube().old_object == OldObject::Absent => {
                if !self.kube().dry_run {
                    bind(&mut value, NO_VERSION, true)?;
                }
            }
            Some(version) => bind(&mut value, version, false)?,
            None if is_new => {}
            None => {
                return Err(ReadError::Patch(
                    "the API server's answer to a dry run has no resourceVersion",
                ));
            }
        }
        self.set_object(RequestObject::Read(Arc::new(made)));
        let bytes = body::write(&value);
        self.set_length(bytes.len());
        Ok(BoundBody {
            bytes,
            named_by_client,
        })
    }
}

/// The target with `dryRun=All`.
fn as_dry_run(uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query()?.as_str();
    let joint = if path.contains('?') { '&' } else { '?' };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{path}{joint}dryRun=All")).ok()?);
    Uri::from_parts(parts).ok()
}

/// Whether a key is a directive that can take fields away. Those about the order or the elements of lists cannot
/// (k8s.io/apimachinery pkg/util/strategicpatch/patch.go).
fn is_directive(key: &str) -> bool {
    const OF_LISTS: [&str; 2] = ["$setElementOrder/", "$deleteFromPrimitiveList/"];
    key.starts_with('$') && !OF_LISTS.iter().any(|known| key.starts_with(known))
}

/// Whether a patch says itself which version it is for.
fn names_version(patch: &Json) -> bool {
    match patch {
        Json::Array(operations) => operations.iter().any(|operation| {
            let path = operation.get("path").and_then(Json::as_str);
            path.is_some_and(|path| matches!(path, "" | "/metadata" | VERSION))
        }),
        _ => {
            let metadata = patch.get("metadata").and_then(Json::as_object);
            metadata.is_some_and(|metadata| named_version(metadata).is_some())
        }
    }
}

/// Puts a version into a patch. One that the client gave stays, unless it must not: the API server has compared it already.
fn bind(patch: &mut Json, version: &str, always: bool) -> Result<(), ReadError> {
    match patch {
        Json::Array(operations) => {
            operations.push(json!({"op": "add", "path": VERSION, "value": version}));
            Ok(())
        }
        Json::Object(fields) => {
            // A directive of a strategic merge patch could drop the version that is put in.
            let directs = |fields: &Map<String, Json>| fields.keys().any(|key| is_directive(key));
            let own = directs(fields);
            let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
            match metadata {
                Json::Object(metadata) if !own && !directs(metadata) => {
                    if always || named_version(metadata).is_none() {
                        metadata.insert("resourceVersion".to_owned(), version.into());
                    }
                    Ok(())
                }
                Json::Object(_) => Err(ReadError::Patch(
                    "it has a directive such as $patch or $retainKeys on the object itself or on its metadata",
                )),
                _ => Err(ReadError::Patch("its metadata is no mapping")),
            }
        }
        _ => Err(ReadError::Patch("it is neither a mapping nor a list")),
    }
}
