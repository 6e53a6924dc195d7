//! A request's body as one value, whatever it is written in, and the value as it goes upstream.
//!
//! In: the Content-Type header and the bytes of a body. Out: the one value that every reader finds in it, or a
//! [`BodyError`] where two readers could find different ones. Picket sends [`write`]'s bytes, so that what was judged is
//! what the API server reads.

mod cbor;
mod error;
mod json;
mod media;
mod number;
mod protobuf;
mod scalar;
mod write;
mod yaml;

use serde_json::Value;

pub use error::{BodyError, Place};
pub use media::MediaType;
pub use protobuf::answers;
pub use write::write;

/// How deep lists and objects may be nested. The largest schemas of custom resources nest about 60 deep, and `serde_json`
/// reads no deeper than this. The API server reads 10,000 deep.
pub const MAX_DEPTH: usize = 128;

/// How many values a body may hold, each list, object, text and number being one. A value takes up to 128 bytes of memory, and where each is
/// alone in a mapping some 330, so that a body takes 90 MB at most. An object as large as etcd stores has some 130,000 values if all of it is
/// `managedFields`, which are the densest that there is.
pub const MAX_VALUES: usize = 256 * 1024;

/// Whether an API server's answer in JSON may hold more values than are kept of a body. A mapping counts for six, since it takes as much
/// memory as they do; what is in texts does not count.
#[must_use]
pub fn has_too_many_values(json: &[u8]) -> bool {
    let (mut values, mut in_text, mut escaped) = (1_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' if !in_text => values += 6,
            b'[' | b',' if !in_text => values += 1,
            _ => {}
        }
    }
    values > MAX_VALUES
}

/// The value that a body holds.
///
/// # Errors
/// Whatever two readers could take differently, what no reader takes, and what is too deep or has too many values.
pub fn read(media: MediaType, bytes: &[u8]) -> Result<Value, BodyError> {
    if bytes.is_empty() {
        return Err(BodyError::Empty);
    }
    match media {
        MediaType::Json | MediaType::JsonPatch | MediaType::MergePatch | MediaType::StrategicMergePatch => {
            json::read(bytes)
        }
        MediaType::Cbor | MediaType::ApplyCbor => cbor::read(bytes),
        MediaType::Protobuf => protobuf::read(bytes),
        MediaType::Yaml | MediaType::ApplyYaml => yaml::read(bytes),
    }
}
