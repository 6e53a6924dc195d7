//! The object of a request, where a rule looks into it: read out of the body, and sent as it was judged.
//!
//! In: a request and its body, as far as it was read. Out: the object, kept with the request, and the body to send: Picket's own
//! serialisation of what is judged, so that no two readers take the body differently.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value as Json;

use super::Target;
use super::error::ReadError;
use super::head::CanonicalRequest;
use crate::body::{self, BodyError, MediaType};

/// The largest body that is read for a decision. etcd stores no larger request (`--max-request-bytes`, 1.5 MiB), so
/// that objects which can be stored fit; what is larger counts as matching every rule that looks into it.
pub const BODY_LIMIT: usize = 3 * 512 * 1024;

/// A request's body as far as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyInput<'a> {
    /// Nobody read it.
    #[default]
    Unread,
    /// All of it; empty where there is none.
    Whole(&'a [u8]),
    /// It is larger than the limit.
    TooLarge,
}

/// The object that a request would store, as far as it was read. Only requests whose rules look into it have it read.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum RequestObject {
    /// Nobody read it.
    #[default]
    Unread,
    /// There is none: the body is empty.
    Absent,
    /// All of it.
    Read(Arc<Json>),
    /// The body is larger than [`BODY_LIMIT`].
    TooLarge,
    /// Rules that look into objects do not judge this request: it is the dry run by which Picket asks the API server which object a patch
    /// makes, which stores nothing and whose answer no client gets; or no grant allows it, so that it is refused whatever it has.
    Sought,
}

impl fmt::Debug for RequestObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may be a Secret.
        f.write_str(match self {
            Self::Unread => "Unread",
            Self::Absent => "Absent",
            Self::Read(_) => "Read",
            Self::TooLarge => "TooLarge",
            Self::Sought => "Sought",
        })
    }
}

/// The name of the object that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectName<'a> {
    /// This one.
    Known(&'a str),
    /// One that the API server makes of this beginning (`metadata.generateName`), with five letters or digits more
    /// (k8s.io/apiserver pkg/storage/names/generate.go).
    Begins(&'a str),
    /// A new object's, which was not read.
    Unknown,
    /// None, as of a list.
    None,
}

impl CanonicalRequest {
    /// Reads the object out of the body of a create, an update or a server-side apply, and keeps it with the request. Returns the body to
    /// send in place of the client's, where it was read: the same value as JSON, and the head says so.
    ///
    /// # Errors
    /// Where the body is in no encoding that Picket reads, or could be read in more than one way.
    pub fn read_object(&mut self, body: BodyInput<'_>) -> Result<Option<Vec<u8>>, ReadError> {
        let object = match body {
            BodyInput::Unread => RequestObject::Unread,
            BodyInput::TooLarge => RequestObject::TooLarge,
            BodyInput::Whole([]) => RequestObject::Absent,
            BodyInput::Whole(bytes) => {
                let media = self.media_type()?;
                let value = self.read_body(media, bytes)?;
                let sent = body::write(&value);
                self.set_object(RequestObject::Read(Arc::new(value)));
                let media = HeaderValue::from_static(media.written());
                self.head_mut().headers.insert(CONTENT_TYPE, media);
                self.set_length(sent.len());
                return Ok(Some(sent));
            }
        };
        self.set_object(object);
        Ok(None)
    }

    /// Reads the object for rules that only note or warn, and does not change what is sent. Where it cannot be read it stays unread.
    pub fn look_at_object(&mut self, input: BodyInput<'_>) {
        let object = match input {
            BodyInput::Unread => RequestObject::Unread,
            BodyInput::TooLarge => RequestObject::TooLarge,
            BodyInput::Whole([]) => RequestObject::Absent,
            BodyInput::Whole(bytes) => {
                let read = self.media_type().and_then(|media| self.read_body(media, bytes));
                read.map_or(RequestObject::Unread, |value| {
                    RequestObject::Read(Arc::new(value))
                })
            }
        };
        self.set_object(object);
    }

    /// The object in a body of a create or an update, neither of which takes the media type of a patch; or what a server-side apply says of
    /// its object.
    fn read_body(&self, media: MediaType, bytes: &[u8]) -> Result<Json, ReadError> {
        if self.kube().apply {
            return Ok(body::read(media, bytes)?);
        }
        let mut value = self.read_value(bytes)?;
        self.complete(&mut value);
        Ok(value)
    }

    /// The value of a body that is no patch.
    pub(super) fn read_value(&self, bytes: &[u8]) -> Result<Json, ReadError> {
        let media = self.media_type()?;
        if media.is_patch() {
            return Err(BodyError::MediaType(media.name().to_owned()).into());
        }
        Ok(body::read(media, bytes)?)
    }

    /// Says how long the body is that is sent, where the client said how long its own is.
    pub(super) fn set_length(&mut self, length: usize) {
        let headers = &mut self.head_mut().headers;
        if headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }

    /// Puts in what the API server takes from the path where a body leaves it out, so that rules see it: the namespace
    /// (k8s.io/apiserver pkg/endpoints/handlers/create.go, `EnsureObjectNamespaceMatchesRequestNamespace`).
    pub(super) fn complete(&self, value: &mut Json) {
        let Target::Resource {
            resource,
            subresource: None,
            namespace: Some(namespace),
            ..
        } = &self.kube().target
        else {
            return;
        };
        let metadata = value.get_mut("metadata").and_then(Json::as_object_mut);
        if let Some(metadata) = metadata.filter(|_| resource != "namespaces") {
            let given = metadata.get("namespace").and_then(Json::as_str);
            if given.is_none_or(str::is_empty) {
                metadata.insert("namespace".to_owned(), namespace.as_str().into());
            }
        }
    }

    /// Whether the body is written in protobuf or CBOR, which take few bytes for a value.
    #[must_use]
    pub fn has_dense_body(&self) -> bool {
        let media = self.media_type();
        matches!(
            media,
            Ok(MediaType::Protobuf | MediaType::Cbor | MediaType::ApplyCbor)
        )
    }

    /// In what the body is written. The API server takes the first Content-Type, others may take the last.
    pub(super) fn media_type(&self) -> Result<MediaType, ReadError> {
        let mut types = self.head().headers.get_all(CONTENT_TYPE).iter();
        let first = types.next();
        if types.next().is_some() {
            return Err(ReadError::Headers("more than one Content-Type header"));
        }
        let text = first.map(HeaderValue::to_str).transpose();
        let text = text.map_err(|_| ReadError::Headers("a Content-Type header that is no text"))?;
        Ok(MediaType::of(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_take_few_bytes_for_a_value_are_told_from_others() {
        for (media, is_dense) in [
            ("application/json", false),
            ("application/yaml", false),
            ("application/merge-patch+json", false),
            ("application/apply-patch+yaml", false),
            ("text/plain", false),
            ("application/vnd.kubernetes.protobuf", true),
            ("application/cbor", true),
            ("application/apply-patch+cbor", true),
        ] {
            let request = http::Request::patch("/api/v1/namespaces/n/pods/x").header(CONTENT_TYPE, media);
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            let request = CanonicalRequest::read(parts).expect("read");
            assert_eq!(request.has_dense_body(), is_dense, "{media}");
        }
    }
}
