//! A message of the API server's as the text of a JSON object, read without what a writer of objects can make unreadable.
//!
//! In: the fields of a message in the table, and its bytes. Out: what the API server would write as JSON, appended to a text.
//!
//! Requests are read by [`super::message`], where doubt is a refusal: two readers could differ. Here the API server has read the object
//! already, and a refusal would hide every other object of its list. A field that this release does not know is passed over, and of a
//! field that comes twice the last one counts. `metadata.managedFields` is never looked into: no part of Picket needs it, and its writer
//! nests it deeper than Go's JSON goes. Values are written as they are met, so that a list takes no more memory than its text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::MAX_DEPTH;
use super::BodyError;
use super::message::is_struct;
use super::special;
use super::table::{Field, LeftOut, Often, TABLE, Type};
use super::wire::{Fields, Payload};

/// The only field of this name is of `ObjectMeta`.
const MANAGED_FIELDS: &str = "managedFields";

/// What stands for a time that no calendar here has, such as one of year 10000; that there is a time can matter.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Writes a message as an object; gives whether nothing is set in it.
pub(super) fn object(
    out: &mut Vec<u8>,
    fields: &[Field],
    bytes: &[u8],
    depth: usize,
) -> Result<bool, BodyError> {
    out.push(b'{');
    let start = out.len();
    let unset = members(out, start, fields, bytes, depth)?;
    out.push(b'}');
    Ok(unset)
}

/// Writes the members of an object that begins at `start`, behind those that it has.
pub(super) fn members(
    out: &mut Vec<u8>,
    start: usize,
    fields: &[Field],
    bytes: &[u8],
    depth: usize,
) -> Result<bool, BodyError> {
    if depth == MAX_DEPTH {
        return Err(BodyError::Protobuf("its messages nest too deep"));
    }
    let mut found = Vec::new();
    for field in Fields::of(bytes) {
        let (number, payload) = field?;
        let known = fields.iter().position(|field| field.number == number);
        if let Some(place) = known.filter(|place| fields[*place].name != MANAGED_FIELDS) {
            found.push((place, payload));
        }
    }
    // In the order of the Go type; those of one field stay in the order of the wire.
    found.sort_by_key(|(place, _)| *place);
    let mut rest = found.as_slice();
    let mut unset = true;
    for (place, field) in fields.iter().enumerate() {
        let (payloads, behind) = rest.split_at(rest.partition_point(|(other, _)| *other <= place));
        rest = behind;
        unset &= member(out, start, field, payloads, depth)?;
    }
    Ok(unset)
}

/// Writes one member, unless Go leaves it out; gives whether it is not set.
fn member(
    out: &mut Vec<u8>,
    start: usize,
    field: &Field,
    payloads: &[(usize, Payload<'_>)],
    depth: usize,
) -> Result<bool, BodyError> {
    if let (LeftOut::Inline, Type::Message(number)) = (field.left_out, field.of) {
        return match (payloads.last(), field.often) {
            (Some((_, Payload::Bytes(bytes))), often) => {
                let unset = members(out, start, TABLE.fields(number), bytes, depth + 1)?;
                Ok(unset && often == Often::One)
            }
            (Some(_), _) => Err(WIRE_TYPE),
            (None, Often::One) => members(out, start, TABLE.fields(number), b"", depth + 1),
            // A pointer that is not set has no fields.
            (None, _) => Ok(true),
        };
    }
    let before = out.len();
    key(out, start, field.name);
    let unset = match (field.often, payloads) {
        (Often::One, []) => absent(out, field.of, depth)?,
        (_, []) => null(out),
        (Often::One, [.., (_, payload)]) => value(out, field.of, *payload, depth)?,
        (Often::Pointer, [.., (_, payload)]) => {
            value(out, field.of, *payload, depth)?;
            false
        }
        (Often::List, items) => {
            out.push(b'[');
            for (index, (_, payload)) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                value(out, field.of, *payload, depth)?;
            }
            out.push(b']');
            false
        }
        (Often::Map, entries) => {
            map(out, field.of, entries, depth)?;
            false
        }
    };
    let is_left_out = match field.left_out {
        LeftOut::Empty => unset && !is_struct(field),
        LeftOut::Zero => unset,
        LeftOut::Never | LeftOut::Inline => false,
    };
    if is_left_out {
        out.truncate(before);
    }
    Ok(unset)
}

/// Writes a map. Where a key comes twice, the last one counts; an entry without a value has an empty one.
fn map(out: &mut Vec<u8>, of: Type, entries: &[(usize, Payload<'_>)], depth: usize) -> Result<(), BodyError> {
    let mut read = BTreeMap::new();
    for (_, entry) in entries {
        let Payload::Bytes(bytes) = *entry else {
            return Err(WIRE_TYPE);
        };
        let (mut key, mut item) = (Cow::default(), None);
        for field in Fields::of(bytes) {
            match field? {
                (1, Payload::Bytes(bytes)) => key = String::from_utf8_lossy(bytes),
                (1, _) => return Err(WIRE_TYPE),
                (2, payload) => item = Some(payload),
                _ => {}
            }
        }
        read.insert(key, item);
    }
    out.push(b'{');
    let start = out.len();
    for (name, item) in read {
        key(out, start, &name);
        match item {
            Some(payload) => value(out, of, payload, depth)?,
            // How Go writes nil, and reads it as no bytes.
            None if of == Type::Bytes => text(out, ""),
            None => absent(out, of, depth)?,
        };
    }
    out.push(b'}');
    Ok(())
}

/// Writes what Go writes for a value that is not on the wire.
fn absent(out: &mut Vec<u8>, of: Type, depth: usize) -> Result<bool, BodyError> {
    match of {
        Type::Bool => value(out, of, Payload::Varint(0), depth),
        Type::Int32 | Type::Int64 => value(out, of, Payload::Varint(0), depth),
        Type::Double => value(out, of, Payload::Fixed64(0), depth),
        Type::Bytes | Type::Texts => Ok(null(out)),
        _ => value(out, of, Payload::Bytes(b""), depth),
    }
}

/// Writes a field's value; gives whether it is what its Go type holds when nothing is set.
fn value(out: &mut Vec<u8>, of: Type, payload: Payload<'_>, depth: usize) -> Result<bool, BodyError> {
    Ok(match (of, payload) {
        (Type::Bool, Payload::Varint(number)) => {
            json(out, &Value::Bool(number != 0));
            number == 0
        }
        // Go's own cut.
        (Type::Int32, Payload::Varint(number)) => {
            #[expect(clippy::cast_possible_truncation, reason = "as Go reads it")]
            let number = number as u32;
            json(out, &Value::from(number.cast_signed()));
            number == 0
        }
        (Type::Int64, Payload::Varint(number)) => {
            json(out, &Value::from(number.cast_signed()));
            number == 0
        }
        // What is no number of JSON is null.
        (Type::Double, Payload::Fixed64(bits)) => {
            let float = f64::from_bits(bits);
            json(out, &Value::from(float));
            float == 0.0
        }
        (Type::Text, Payload::Bytes(bytes)) => text(out, &String::from_utf8_lossy(bytes)),
        (Type::Bytes, Payload::Bytes(bytes)) => text(out, &STANDARD.encode(bytes)),
        (Type::Message(number), Payload::Bytes(bytes)) => {
            object(out, TABLE.fields(number), bytes, depth + 1)?
        }
        (Type::Texts, Payload::Bytes(bytes)) => {
            out.push(b'[');
            let start = out.len();
            for field in Fields::of(bytes) {
                if let (1, Payload::Bytes(bytes)) = field? {
                    comma(out, start);
                    text(out, &String::from_utf8_lossy(bytes));
                }
            }
            let is_empty = out.len() == start;
            out.push(b']');
            is_empty
        }
        (_, Payload::Bytes(bytes)) => {
            let read = match of {
                Type::Time => special::time(bytes).or_else(|_| Ok((EPOCH.into(), false))),
                Type::MicroTime => special::micro_time(bytes).or_else(|_| Ok((EPOCH.into(), false))),
                Type::Duration => special::duration(bytes),
                Type::Quantity => special::quantity(bytes),
                Type::IntOrString => special::int_or_string(bytes),
                Type::Raw => special::raw(bytes),
                _ => return Err(WIRE_TYPE),
            };
            // What makes no sense is as if it were not there.
            let (read, unset) = read.or_else(|_: BodyError| match of {
                Type::Raw => Ok((Value::Null, true)),
                Type::Duration => special::duration(b""),
                Type::Quantity => special::quantity(b""),
                _ => special::int_or_string(b""),
            })?;
            json(out, &read);
            unset
        }
        _ => return Err(WIRE_TYPE),
    })
}

const WIRE_TYPE: BodyError = BodyError::Protobuf("a field has another wire type than its message says");

/// Begins a member of the object that begins at `start`.
pub(super) fn key(out: &mut Vec<u8>, start: usize, name: &str) {
    comma(out, start);
    text(out, name);
    out.push(b':');
}

/// Ends what was written before in a list or an object.
pub(super) fn comma(out: &mut Vec<u8>, start: usize) {
    if out.len() > start {
        out.push(b',');
    }
}

/// Writes a text; gives whether it is empty.
pub(super) fn text(out: &mut Vec<u8>, text: &str) -> bool {
    // Memory takes every byte: there is nothing that could fail.
    serde_json::to_writer(out, text).unwrap_or_default();
    text.is_empty()
}

fn json(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).unwrap_or_default();
}

fn null(out: &mut Vec<u8>) -> bool {
    json(out, &Value::Null);
    true
}
