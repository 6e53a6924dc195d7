//! Answers of the API server in protobuf, as the JSON that it would send.
//!
//! In: the body of a list, or a frame of a watch, whole. Out: the same in JSON, without `metadata.managedFields`, or an [`AnswerError`].
//!
//! Whoever asks in protobuf hears of every object that the node's kube-proxy hears of. In JSON the API server cannot send an object whose
//! `managedFields` nest 10,000 deep, and it sends nothing of that kind behind it either.

use thiserror::Error;

use super::lenient::{comma, key, members, object, text};
use super::table::{Field, LeftOut, Often, TABLE, Type};
use super::wire::{Fields, Payload};
use super::{BodyError, MAGIC};

/// The longest frame of a watch. client-go reads no longer ones (pkg/runtime/serializer/streaming), so that kube-proxy hears of none.
pub const MAX_FRAME: usize = 16 << 20;

/// The longest body of a list: a page of 50 objects, each as long as the API server takes (3 MiB), and their frame.
pub const MAX_LIST: usize = 160 << 20;

/// How much of a kind's name is quoted.
const QUOTED_CHARS: usize = 64;

/// Why an answer cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// It is none, or is cut.
    #[error("the API server's answer is no protobuf of Kubernetes: {0}")]
    Protobuf(&'static str),
    /// It has something else in it than was asked for.
    #[error(
        "the API server's answer is of the kind {api_version} {kind}, which Picket does not read in protobuf"
    )]
    Kind {
        /// As the answer says.
        api_version: String,
        /// Its kind.
        kind: String,
    },
}

impl From<BodyError> for AnswerError {
    fn from(error: BodyError) -> Self {
        Self::Protobuf(match error {
            BodyError::Protobuf(what) => what,
            _ => "a value in it cannot be read",
        })
    }
}

/// The JSON of a list, or of the Status that stands in its place.
///
/// # Errors
/// The answer is cut or broken, or of another kind.
pub fn list(body: &[u8]) -> Result<Vec<u8>, AnswerError> {
    let object = Envelope::read(body)?;
    // Names of fields are longer in JSON, and most values shorter.
    let mut out = Vec::with_capacity(object.raw.len().saturating_mul(2));
    object.begin(&mut out);
    let item = (object.kind.strip_suffix("List")).and_then(|kind| TABLE.kind(&object.api_version, kind));
    match item {
        Some(item) => items(&mut out, TABLE.fields(item), object.raw)?,
        None if object.is_status() => {
            members(&mut out, 0, &STATUS, object.raw, 0)?;
        }
        None => return Err(object.unknown()),
    }
    out.push(b'}');
    Ok(out)
}

/// The JSON of a frame of a watch, without the end of its line.
///
/// # Errors
/// The frame is cut or broken, or has an object of another kind.
pub fn watch_event(frame: &[u8]) -> Result<Vec<u8>, AnswerError> {
    let (mut of, mut extension) = (String::new(), None);
    for field in Fields::of(frame) {
        match field? {
            (1, Payload::Bytes(bytes)) => of = String::from_utf8_lossy(bytes).into_owned(),
            (2, Payload::Bytes(bytes)) => extension = Some(bytes),
            _ => {}
        }
    }
    let mut raw = None;
    for field in Fields::of(extension.unwrap_or_default()) {
        if let (1, Payload::Bytes(bytes)) = field? {
            raw = Some(bytes);
        }
    }
    let raw = raw.ok_or(AnswerError::Protobuf("a watch's event has no object"))?;
    let object = Envelope::read(raw)?;
    let mut out = Vec::with_capacity(object.raw.len().saturating_mul(2));
    out.extend_from_slice(b"{\"type\":");
    text(&mut out, &of);
    out.extend_from_slice(b",\"object\":");
    let start = object.begin(&mut out);
    match TABLE.kind(&object.api_version, &object.kind) {
        Some(number) => members(&mut out, start, TABLE.fields(number), object.raw, 0)?,
        None if object.is_status() => members(&mut out, start, &STATUS, object.raw, 0)?,
        None => return Err(object.unknown()),
    };
    out.extend_from_slice(b"}}");
    Ok(out)
}

/// Writes the metadata and the items of a list, which every kind of list numbers alike.
fn items(out: &mut Vec<u8>, item: &[Field], list: &[u8]) -> Result<(), AnswerError> {
    let mut metadata: &[u8] = b"";
    for field in Fields::of(list) {
        if let (1, Payload::Bytes(bytes)) = field? {
            metadata = bytes;
        }
    }
    out.extend_from_slice(b",\"metadata\":");
    object(out, &LIST_META, metadata, 0)?;
    out.extend_from_slice(b",\"items\":[");
    let start = out.len();
    for field in Fields::of(list) {
        if let (2, Payload::Bytes(bytes)) = field? {
            comma(out, start);
            object(out, item, bytes, 0)?;
        }
    }
    out.push(b']');
    Ok(())
}

/// `runtime.Unknown`, which every object is in.
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, AnswerError> {
        let unknown = bytes
            .strip_prefix(MAGIC)
            .ok_or(AnswerError::Protobuf("it does not start with \"k8s\\0\""))?;
        let (mut type_meta, mut raw): (&[u8], &[u8]) = (b"", b"");
        for field in Fields::of(unknown) {
            match field? {
                (1, Payload::Bytes(bytes)) => type_meta = bytes,
                (2, Payload::Bytes(bytes)) => raw = bytes,
                (3, Payload::Bytes([_, ..])) => {
                    return Err(AnswerError::Protobuf("its object is encoded once more"));
                }
                _ => {}
            }
        }
        let (mut api_version, mut kind) = (String::new(), String::new());
        for field in Fields::of(type_meta) {
            match field? {
                (1, Payload::Bytes(bytes)) => api_version = String::from_utf8_lossy(bytes).into_owned(),
                (2, Payload::Bytes(bytes)) => kind = String::from_utf8_lossy(bytes).into_owned(),
                _ => {}
            }
        }
        Ok(Self {
            api_version,
            kind,
            raw,
        })
    }

    /// Begins the object with its type; gives where its members begin.
    fn begin(&self, out: &mut Vec<u8>) -> usize {
        out.push(b'{');
        let start = out.len();
        key(out, start, "kind");
        text(out, &self.kind);
        key(out, start, "apiVersion");
        text(out, &self.api_version);
        start
    }

    fn is_status(&self) -> bool {
        self.api_version == "v1" && self.kind == "Status"
    }

    fn unknown(self) -> AnswerError {
        let quoted = |text: &str| text.chars().take(QUOTED_CHARS).collect();
        AnswerError::Kind {
            api_version: quoted(&self.api_version),
            kind: quoted(&self.kind),
        }
    }
}

/// `metav1.ListMeta`.
const LIST_META: [Field; 4] = [
    once(1, "selfLink", Type::Text),
    once(2, "resourceVersion", Type::Text),
    once(3, "continue", Type::Text),
    Field {
        often: Often::Pointer,
        ..once(4, "remainingItemCount", Type::Int64)
    },
];

/// `metav1.Status`, less what nobody here reads of it.
const STATUS: [Field; 4] = [
    once(2, "status", Type::Text),
    once(3, "message", Type::Text),
    once(4, "reason", Type::Text),
    once(6, "code", Type::Int32),
];

const fn once(number: u64, name: &'static str, of: Type) -> Field {
    Field {
        number,
        name,
        often: Often::One,
        left_out: LeftOut::Empty,
        of,
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
