//! A patch that rules look into: which object it would make, and that it makes no other.
//!
//! In: a patch. Out: the same patch as a dry run, for whoever asks the API server; then, with the object that the API server
//! answers, the patch to send. That patch names the version of the object that it was judged on, so that the API server answers 409 where
//! the object has changed since.

use std::sync::Arc;

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use serde_json::{Map, Value as Json, json};

use super::Verb;
use super::error::ReadError;
use super::head::CanonicalRequest;
use super::object::RequestObject;
use super::old_object::{BoundBody, NO_VERSION, OldObject, is_version, named_version, names_uid, uid_of};
use crate::body::{self, MediaType};

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
        let mut parts = self.copied_head()?;
        if !self.kube().dry_run {
            parts.uri = as_dry_run(&parts.uri)?;
        }
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

    /// The patch as a probe has it: as Picket reads and will send it. The API server can read YAML otherwise, and would tell of another
    /// object than the patch makes. The head says how it is written.
    ///
    /// # Errors
    /// Where the patch cannot be read.
    pub fn probed_patch(&mut self, patch: &[u8]) -> Result<Vec<u8>, ReadError> {
        match self.media_type() {
            Ok(media) if media.is_patch() => Ok(self.write_patch(media, &body::read(media, patch)?)),
            // Of a media type that it does not take, the API server says so.
            _ => Ok(patch.to_vec()),
        }
    }

    /// Keeps the object that the API server says the patch makes, and does not change what is sent.
    pub fn look_at_made(&mut self, made: Json, is_new: bool) {
        self.set_object(RequestObject::Read(Arc::new(as_made(made, is_new))));
    }

    /// Keeps the object that the API server says the patch makes. Returns the patch to send in place of the client's: the same, bound to
    /// the version that the object has now, and an apply also to its UID, since it could create another. A patch that makes a new object
    /// (`is_new`) is bound to none, unless a rule looked for the stored one.
    ///
    /// # Errors
    /// Where the patch cannot be read, or takes its own version away from the object.
    pub fn bind_patch(&mut self, patch: &[u8], made: Json, is_new: bool) -> Result<BoundBody, ReadError> {
        let media = self.media_type()?;
        let mut value = body::read(media, patch)?;
        if media == MediaType::StrategicMergePatch && is_ambiguous(&value) {
            return Err(ReadError::Patch(
                "its $deleteFromPrimitiveList is no list, or is beside the field itself without $setElementOrder: the API server could make \
                 another object than was judged",
            ));
        }
        let named_by_client = names_version(&value);
        let made = as_made(made, is_new);
        let version = made
            .pointer(VERSION)
            .and_then(Json::as_str)
            .filter(|version| is_version(version));
        match version {
            _ if self.kube().old_object == OldObject::Absent => {
                if !self.kube().dry_run {
                    bind(&mut value, NO_VERSION, None, true)?;
                }
            }
            Some(version) => {
                let uid = uid_of(&made).filter(|_| self.kube().apply);
                bind(&mut value, version, uid, false)?;
            }
            None if is_new => {}
            None => {
                return Err(ReadError::Patch(
                    "the API server's answer to a dry run has no resourceVersion",
                ));
            }
        }
        self.set_object(RequestObject::Read(Arc::new(made)));
        Ok(BoundBody {
            bytes: self.write_patch(media, &value),
            named_by_client,
        })
    }

    /// The patch as Picket writes it; the head says how it is written, and how long it is.
    fn write_patch(&mut self, media: MediaType, patch: &Json) -> Vec<u8> {
        let sent = body::write(patch);
        let media = HeaderValue::from_static(media.written());
        self.head_mut().headers.insert(CONTENT_TYPE, media);
        self.set_length(sent.len());
        sent
    }
}

/// The object that a patch makes, as rules see it. A new one has no version: the answer to a dry run, which stores nothing, has the one
/// that the client named (k8s.io/apiserver pkg/registry/generic/registry/dryrun.go, `GuaranteedUpdate`).
fn as_made(mut made: Json, is_new: bool) -> Json {
    if is_new && let Some(Json::Object(metadata)) = made.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    made
}

/// The target with `dryRun=All`.
fn as_dry_run(uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query()?.as_str();
    let joint = if path.contains('?') { '&' } else { '?' };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{path}{joint}dryRun=All")).ok()?);
    Uri::from_parts(parts).ok()
}

/// Whether a key is a directive that can take away what a patch is bound by. Those about the order or the elements of other lists cannot
/// (k8s.io/apimachinery pkg/util/strategicpatch/patch.go).
fn is_directive(key: &str) -> bool {
    const OF_LISTS: [&str; 2] = ["$setElementOrder/", "$deleteFromPrimitiveList/"];
    let of_list = OF_LISTS.iter().find_map(|known| key.strip_prefix(known));
    key.starts_with('$') && of_list.is_none_or(|name| matches!(name, "metadata" | "resourceVersion"))
}

/// Whether a patch could make another object each time. The API server goes through a mapping in no order and treats
/// `$deleteFromPrimitiveList/K` as `K` (k8s.io/apimachinery pkg/util/strategicpatch/patch.go, `mergeMap`): beside `K` either may come last,
/// unless a list `$setElementOrder/K` has it take both first, and `null` deletes whatever `K` is.
fn is_ambiguous(patch: &Json) -> bool {
    const DELETES: &str = "$deleteFromPrimitiveList";
    match patch {
        Json::Array(items) => items.iter().any(is_ambiguous),
        Json::Object(fields) => fields.iter().any(|(key, value)| {
            let directive = key.strip_prefix(DELETES).map(|rest| {
                let Some(name) = rest.strip_prefix('/') else {
                    return true;
                };
                let order = fields.get(&format!("$setElementOrder/{name}"));
                !value.is_array() || (fields.contains_key(name) && !order.is_some_and(Json::is_array))
            });
            directive == Some(true) || is_ambiguous(value)
        }),
        _ => false,
    }
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

/// Puts a version, and a UID if there is one, into a patch. What the client gave stays, unless it must not: the API server has compared it
/// already.
fn bind(patch: &mut Json, version: &str, uid: Option<&str>, always: bool) -> Result<(), ReadError> {
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
                    match uid.is_none_or(|uid| names_uid(metadata, uid)) {
                        true => Ok(()),
                        false => Err(ReadError::Patch("it names another object by its uid")),
                    }
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

#[cfg(test)]
mod tests {
    use http::header::CONTENT_LENGTH;

    use super::*;

    /// An apply of `{"a": "b"}` as CBOR.
    const CBOR: &[u8] = b"\xA1\x41a\x41b";

    fn apply(media: &str) -> CanonicalRequest {
        let request = http::Request::patch("/api/v1/namespaces/x/configmaps/y?fieldManager=z")
            .header(CONTENT_TYPE, media)
            .header(CONTENT_LENGTH, CBOR.len());
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        CanonicalRequest::read(parts).expect("read")
    }

    fn head(request: &CanonicalRequest) -> [String; 2] {
        let value = |name| request.head().headers[name].to_str().expect("text").to_owned();
        [value(CONTENT_TYPE.as_str()), value(CONTENT_LENGTH.as_str())]
    }

    #[test]
    fn an_apply_in_cbor_is_json_to_the_api_server() {
        let mut request = apply("application/apply-patch+cbor");
        assert!(request.kube().apply);
        let mut probe = request.as_probe().expect("a probe");
        assert_eq!(probe.probed_patch(CBOR).as_deref(), Ok(&br#"{"a":"b"}"#[..]));
        assert_eq!(head(&probe), ["application/apply-patch+yaml", "9"]);
        let made = json!({"metadata": {"resourceVersion": "7"}});
        let sent = request.bind_patch(CBOR, made, false).expect("bound");
        assert_eq!(sent.bytes, br#"{"a":"b","metadata":{"resourceVersion":"7"}}"#);
        assert_eq!(head(&request), ["application/apply-patch+yaml", "44"]);
    }

    #[test]
    fn what_is_asked_about_is_what_will_be_sent() {
        // Both go on as Picket's own JSON, whatever another reader of YAML would take them for.
        let yaml = b"{data: {a: x, 'b:': ~}}";
        let block = b"data:\n  a: |\n    x\n";
        for patch in [&yaml[..], &block[..]] {
            let mut request = apply("application/apply-patch+yaml");
            let mut probe = request.as_probe().expect("a probe");
            let asked = probe.probed_patch(patch).expect("read");
            let sent = request.bind_patch(patch, json!({}), true).expect("bound");
            assert_eq!(asked, sent.bytes);
            assert_eq!(head(&probe), head(&request));
            assert!(serde_json::from_slice::<Json>(&asked).is_ok());
        }
        // What cannot be read is not asked about.
        assert!(probe_of("application/apply-patch+cbor").is_err());
        assert!(probe_of("application/merge-patch+json").is_err());
        // What is no patch the API server does not take.
        for media in ["application/json", "text/plain"] {
            assert_eq!(probe_of(media).as_deref(), Ok(&b"\xFF"[..]), "{media}");
        }
    }

    fn probe_of(media: &str) -> Result<Vec<u8>, ReadError> {
        let mut probe = apply(media).as_probe().expect("a probe");
        probe.probed_patch(b"\xFF")
    }
}
