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
pub use write::write;

/// How deep lists and objects may be nested. The largest schemas of custom resources nest about 60 deep, and `serde_json`
/// reads no deeper than this. The API server reads 10,000 deep.
pub const MAX_DEPTH: usize = 128;

/// How many values a body may hold, each list, object, text and number being one. A value takes up to 128 bytes of memory,
/// so that a body takes 32 MB at most. An object as large as etcd stores has some 130,000 values if all of it is
/// `managedFields`, which are the densest that there is.
pub const MAX_VALUES: usize = 256 * 1024;

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
