//! A message as an object of JSON, as Go's library would write the message's Go type.
//!
//! In: a message's number in the table, and its bytes. Out: the object, and whether nothing is set in it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value};

use super::super::yaml::as_go_writes;
use super::super::{MAX_DEPTH, MAX_VALUES};
use super::special;
use super::table::{Field, LeftOut, Often, TABLE, Type};
use super::wire::{Fields, Payload, text};
use super::{BodyError, Object, once};

/// What a body may come to.
pub(super) struct Budget {
    /// How many values still may come.
    values: usize,
    /// How many messages are open.
    depth: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            values: MAX_VALUES,
            depth: 0,
        }
    }
}

impl Budget {
    #[cfg(test)]
    pub(super) fn at_depth(depth: usize) -> Self {
        let values = MAX_VALUES;
        Self { values, depth }
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.values
    }

    fn take(&mut self) -> Result<(), BodyError> {
        self.values = self.values.checked_sub(1).ok_or(BodyError::Values)?;
        Ok(())
    }
}

/// A value, and whether it is what its Go type holds when nothing is set.
type Valued = (Value, bool);

/// Reads a message.
pub(super) fn message(number: usize, bytes: &[u8], budget: &mut Budget) -> Result<(Object, bool), BodyError> {
    if budget.depth == MAX_DEPTH {
        return Err(BodyError::Protobuf("its messages nest too deep"));
    }
    budget.depth += 1;
    let read = fields_of(number, bytes, budget);
    budget.depth -= 1;
    read
}

fn fields_of(number: usize, bytes: &[u8], budget: &mut Budget) -> Result<(Object, bool), BodyError> {
    let fields = TABLE.fields(number);
    let mut found: Vec<Option<Valued>> = Vec::new();
    found.resize_with(fields.len(), || None);
    for field in Fields::of(bytes) {
        let (number, payload) = field?;
        let known = fields
            .iter()
            .zip(&mut found)
            .find(|(field, _)| field.number == number);
        let (field, slot) = known.ok_or(BodyError::Protobuf(
            "it has a field that this release of Picket does not know",
        ))?;
        budget.take()?;
        match field.often {
            Often::One | Often::Pointer => once(slot, value(field.of, payload, budget)?)?,
            Often::List => {
                let item = value(field.of, payload, budget)?.0;
                match slot {
                    Some((Value::Array(list), _)) => list.push(item),
                    _ => *slot = Some((Value::Array(vec![item]), false)),
                }
            }
            Often::Map => {
                let (key, item) = entry(field.of, payload, budget)?;
                if !matches!(slot, Some((Value::Object(_), _))) {
                    *slot = Some((Value::Object(Object::new()), false));
                }
                if let Some((Value::Object(map), _)) = slot
                    && map.insert(key, item).is_some()
                {
                    return Err(BodyError::Protobuf("a map has a key twice"));
                }
            }
        }
    }
    let mut object = Object::new();
    let mut unset = true;
    for (field, found) in fields.iter().zip(found) {
        let is_absent = found.is_none();
        let (value, is_zero) = match found {
            Some((value, is_zero)) => (value, is_zero && field.often == Often::One),
            None => (absent(field, budget)?, true),
        };
        unset &= is_zero;
        let before = object.len();
        write(&mut object, field, value, is_zero);
        // Two bytes can stand for a message with many fields that Go writes all the same.
        if is_absent && object.len() > before {
            budget.take()?;
        }
    }
    Ok((object, unset))
}

/// Puts a field into its object, unless Go leaves it out.
fn write(object: &mut Object, field: &Field, value: Value, is_zero: bool) {
    match (field.left_out, value) {
        (LeftOut::Inline, Value::Object(inner)) => object.extend(inner),
        // A pointer that is not set has no fields.
        (LeftOut::Inline, _) => {}
        (LeftOut::Empty, value) if is_zero && !is_struct(field) => drop(value),
        (LeftOut::Zero, value) if is_zero => drop(value),
        (_, value) => {
            object.insert(field.name.to_owned(), value);
        }
    }
}

/// Whether a field is a struct of Go, which `omitempty` never leaves out.
pub(super) fn is_struct(field: &Field) -> bool {
    let is_scalar = matches!(
        field.of,
        Type::Bool | Type::Int32 | Type::Int64 | Type::Double | Type::Text | Type::Bytes | Type::Texts
    );
    field.often == Often::One && !is_scalar
}

/// What Go writes for a field that is not on the wire.
fn absent(field: &Field, budget: &mut Budget) -> Result<Value, BodyError> {
    Ok(match (field.often, field.of) {
        (Often::One, Type::Bool) => Value::Bool(false),
        (Often::One, Type::Int32 | Type::Int64 | Type::Double) => Value::from(0),
        (Often::One, Type::Text) => Value::String(String::new()),
        (Often::One, Type::Message(_) | Type::Time | Type::MicroTime | Type::Duration)
        | (Often::One, Type::Quantity | Type::IntOrString | Type::Raw) => {
            value(field.of, Payload::Bytes(b""), budget)?.0
        }
        (Often::One, Type::Bytes | Type::Texts) | (Often::Pointer | Often::List | Often::Map, _) => {
            Value::Null
        }
    })
}

/// An entry of a map: a message of a key and a value, each of which is empty when it is missing.
fn entry(of: Type, payload: Payload<'_>, budget: &mut Budget) -> Result<(String, Value), BodyError> {
    let Payload::Bytes(bytes) = payload else {
        return Err(WIRE_TYPE);
    };
    let (mut key, mut item) = (None, None);
    for field in Fields::of(bytes) {
        match field? {
            (1, Payload::Bytes(bytes)) => once(&mut key, text(bytes)?)?,
            (2, payload) => once(&mut item, value(of, payload, budget)?.0)?,
            _ => return Err(BodyError::Protobuf("a map's entry has an unknown field")),
        }
    }
    match (key, item) {
        (Some(key), Some(item)) => Ok((key.to_owned(), item)),
        // How Go writes nil, and reads it as no bytes.
        (Some(key), None) if of == Type::Bytes => Ok((key.to_owned(), Value::String(String::new()))),
        // Writers always give both, and readers differ in what an entry without them is.
        _ => Err(BodyError::Protobuf("a map's entry has no key or no value")),
    }
}

/// A field's value.
fn value(of: Type, payload: Payload<'_>, budget: &mut Budget) -> Result<Valued, BodyError> {
    match (of, payload) {
        (Type::Bool, Payload::Varint(number @ 0..=1)) => Ok((Value::Bool(number == 1), number == 0)),
        // Go cuts a longer number to 32 bits.
        (Type::Int32, Payload::Varint(number)) => {
            let number = i32::try_from(number.cast_signed())
                .map_err(|_| BodyError::Protobuf("a number has more than 32 bits where 32 belong"))?;
            Ok((Value::from(number), number == 0))
        }
        (Type::Int64, Payload::Varint(number)) => Ok((Value::from(number.cast_signed()), number == 0)),
        (Type::Double, Payload::Fixed64(bits)) => {
            let float = f64::from_bits(bits);
            let number =
                Number::from_f64(float).ok_or(BodyError::Protobuf("a number is infinite, or none"))?;
            Ok((Value::Number(as_go_writes(number)), float == 0.0))
        }
        (Type::Text, Payload::Bytes(bytes)) => Ok((Value::from(text(bytes)?), bytes.is_empty())),
        // Not nil, and empty to `omitempty` all the same.
        (Type::Bytes, Payload::Bytes(bytes)) => Ok((Value::String(STANDARD.encode(bytes)), bytes.is_empty())),
        (Type::Message(number), Payload::Bytes(bytes)) => {
            let (object, unset) = message(number, bytes, budget)?;
            Ok((Value::Object(object), unset))
        }
        (Type::Texts, Payload::Bytes(bytes)) => {
            let mut texts = Vec::new();
            for field in Fields::of(bytes) {
                budget.take()?;
                match field? {
                    (1, Payload::Bytes(bytes)) => texts.push(Value::from(text(bytes)?)),
                    _ => return Err(BodyError::Protobuf("a list of texts has an unknown field")),
                }
            }
            let is_empty = texts.is_empty();
            Ok((Value::Array(texts), is_empty))
        }
        (Type::Time, Payload::Bytes(bytes)) => special::time(bytes),
        (Type::MicroTime, Payload::Bytes(bytes)) => special::micro_time(bytes),
        (Type::Duration, Payload::Bytes(bytes)) => special::duration(bytes),
        (Type::Quantity, Payload::Bytes(bytes)) => special::quantity(bytes),
        (Type::IntOrString, Payload::Bytes(bytes)) => special::int_or_string(bytes),
        (Type::Raw, Payload::Bytes(bytes)) => special::raw(bytes),
        _ => Err(WIRE_TYPE),
    }
}

const WIRE_TYPE: BodyError = BodyError::Protobuf("a field has another wire type than its message says");
