//! Protobuf of Kubernetes' own kinds, as the value that the same object has in JSON.
//!
//! In: `k8s\0` and a `runtime.Unknown` (k8s.io/apimachinery, pkg/runtime/generated.proto). Out: the value that the API server
//! would write as JSON for the object. What stands for a kind is told by [`table`]'s messages; a field, kind or encoding that is
//! not in it is refused and never guessed, since a rule could not see what it does.
//!
//! The API server's own answers are read leniently, by [`answers`].

pub mod answers;
mod lenient;
mod message;
mod special;
mod table;
mod wire;

use serde_json::{Map, Value};

use self::message::{Budget, message};
use self::table::TABLE;
use self::wire::{Fields, Payload};
use super::{BodyError, MAX_DEPTH, MAX_VALUES};

/// What every protobuf body starts with (pkg/runtime/serializer/protobuf/protobuf.go, `protoEncodingPrefix`).
const MAGIC: &[u8] = b"k8s\0";

/// The value of an object in protobuf.
pub(super) fn read(bytes: &[u8]) -> Result<Value, BodyError> {
    let unknown = bytes
        .strip_prefix(MAGIC)
        .ok_or(BodyError::Protobuf("it does not start with \"k8s\\0\""))?;
    let (mut kind, mut raw) = (None, None);
    for field in Fields::of(unknown) {
        let (number, payload) = field?;
        match (number, payload) {
            (1, Payload::Bytes(bytes)) => once(&mut kind, bytes)?,
            (2, Payload::Bytes(bytes)) => once(&mut raw, bytes)?,
            // How the object is encoded in turn; clients leave it empty, and the API server does not look.
            (3 | 4, Payload::Bytes(b"")) => {}
            (3 | 4, _) => return Err(BodyError::Protobuf("its object is encoded once more")),
            _ => return Err(BodyError::Protobuf("its envelope has an unknown field")),
        }
    }
    let (api_version, kind) = type_meta(kind.unwrap_or_default())?;
    // The API server would take the kind of the path.
    if api_version.is_empty() || kind.is_empty() {
        return Err(BodyError::Protobuf("its apiVersion or kind is missing"));
    }
    let number = TABLE
        .kind(api_version, kind)
        .ok_or_else(|| BodyError::protobuf_kind(api_version, kind))?;
    let (mut object, _) = message(number, raw.unwrap_or_default(), &mut Budget::default())?;
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
    let object = Value::Object(object);
    check_limits(&object, 0, &mut 0)?;
    Ok(object)
}

/// Refuses what would be refused as JSON: JSON inside of protobuf starts anew with its own limits.
fn check_limits(value: &Value, depth: usize, values: &mut usize) -> Result<(), BodyError> {
    *values += 1;
    if *values > MAX_VALUES {
        return Err(BodyError::Values);
    }
    if depth == MAX_DEPTH && (value.is_object() || value.is_array()) {
        return Err(BodyError::Protobuf("it nests too deep"));
    }
    match value {
        Value::Array(list) => list
            .iter()
            .try_for_each(|item| check_limits(item, depth + 1, values)),
        Value::Object(object) => object
            .values()
            .try_for_each(|item| check_limits(item, depth + 1, values)),
        _ => Ok(()),
    }
}

/// The object's apiVersion and kind (`runtime.TypeMeta`).
fn type_meta(bytes: &[u8]) -> Result<(&str, &str), BodyError> {
    let (mut api_version, mut kind) = (None, None);
    for field in Fields::of(bytes) {
        match field? {
            (1, Payload::Bytes(bytes)) => once(&mut api_version, wire::text(bytes)?)?,
            (2, Payload::Bytes(bytes)) => once(&mut kind, wire::text(bytes)?)?,
            _ => return Err(BodyError::Protobuf("its type has an unknown field")),
        }
    }
    Ok((api_version.unwrap_or_default(), kind.unwrap_or_default()))
}

/// Keeps the value of a field that comes once: readers merge two, or take the last.
fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), BodyError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(BodyError::Protobuf("a field comes twice")),
    }
}

/// An object of JSON.
type Object = Map<String, Value>;

#[cfg(test)]
mod tests;
