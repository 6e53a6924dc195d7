//! Objects of Kubernetes in protobuf.
//!
//! In: the messages `runtime.Unknown`, and an object's own. Out: what rules judge of it. `ObjectMeta` is the first field of
//! every object that is listed, and `ListMeta` of every list (apimachinery's generated.proto files).

use std::borrow::Cow;

use super::wire::{Field, each_field};
use crate::error::FilterError;
use crate::head::Readings;

/// What each protobuf body of Kubernetes starts with.
pub(super) const MAGIC: &[u8; 4] = b"k8s\0";

/// `runtime.TypeMeta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TypeMeta<'a> {
    pub(super) api_version: &'a str,
    pub(super) kind: &'a str,
}

/// Reads `TypeMeta`. A repeated field is an error: a decoder takes the last, and others might not.
pub(super) fn type_meta(message: &[u8]) -> Result<TypeMeta<'_>, FilterError> {
    let (mut api_version, mut kind) = (None, None);
    each_field(message, |field| match field.number {
        1 => once(&mut api_version, field.text()?),
        2 => once(&mut kind, field.text()?),
        _ => Err(UNKNOWN),
    })?;
    Ok(TypeMeta {
        api_version: api_version.unwrap_or_default(),
        kind: kind.unwrap_or_default(),
    })
}

pub(super) const UNKNOWN: FilterError = FilterError::Protobuf("an envelope has unknown fields");

/// Sets what may be given once.
pub(super) fn once<T>(place: &mut Option<T>, value: T) -> Result<(), FilterError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(FilterError::Protobuf("a field of an envelope is repeated")),
    }
}

/// Checks a field of `Unknown` besides its type and raw bytes: these are neither compressed nor of another encoding.
pub(super) fn check_encoding(field: Field<'_>) -> Result<(), FilterError> {
    match (field.number, field.text()?) {
        (3 | 4, "") | (4, "application/vnd.kubernetes.protobuf") => Ok(()),
        (3 | 4, _) => Err(FilterError::Protobuf("its content is of another encoding")),
        _ => Err(UNKNOWN),
    }
}

/// An object in its envelope, as a watch sends it.
pub(super) fn enveloped(bytes: &[u8]) -> Result<(TypeMeta<'_>, &[u8]), FilterError> {
    let envelope = bytes
        .strip_prefix(MAGIC)
        .ok_or(FilterError::Protobuf("an object has no envelope"))?;
    let (mut types, mut raw) = (None, None);
    each_field(envelope, |field| match field.number {
        1 => once(&mut types, type_meta(field.bytes()?)?),
        2 => once(&mut raw, field.bytes()?),
        _ => check_encoding(field),
    })?;
    let types = types.ok_or(FilterError::Protobuf("an envelope has no type"))?;
    Ok((types, raw.unwrap_or_default()))
}

/// Reads an item.
pub(super) fn read<'a>(item: &'a [u8], types: TypeMeta<'a>) -> Result<Readings<'a>, FilterError> {
    let mut readings = Readings::default();
    readings.api_version.add(Cow::Borrowed(types.api_version));
    readings.kind.add(Cow::Borrowed(types.kind));
    each_field(item, |field| match field.number {
        1 => metadata(&mut readings, field.bytes()?),
        _ => Ok(()),
    })?;
    Ok(readings)
}

/// `ObjectMeta`. A decoder merges several, so each counts.
fn metadata<'a>(readings: &mut Readings<'a>, message: &'a [u8]) -> Result<(), FilterError> {
    each_field(message, |field| {
        match field.number {
            1 => readings.name.add(Cow::Borrowed(field.text()?)),
            3 => readings.namespace.add(Cow::Borrowed(field.text()?)),
            11 => {
                let (mut key, mut value) = ("", "");
                each_field(field.bytes()?, |entry| {
                    match entry.number {
                        1 => key = entry.text()?,
                        2 => value = entry.text()?,
                        _ => {}
                    }
                    Ok(())
                })?;
                readings.labels.push((Cow::Borrowed(key), Cow::Borrowed(value)));
            }
            _ => {}
        }
        Ok(())
    })
}
