//! Values of expressions: from JSON, and to what an outcome may be.
//!
//! In: JSON. Out: values of the interpreter, of which there are at most [`MAX_VALUES`] with at most [`MAX_TEXT`]; and a [`CelOutcome`] of
//! one of its own.

use std::collections::HashMap;
use std::sync::Arc;

use ::cel::Value;
use ::cel::objects::{Key, Map};
use serde_json::Value as Json;

/// How many values the variables of one evaluation may hold together. An expression with two loops in each other looks at the
/// square of this; a directory's tokens have a few hundred groups.
pub const MAX_VALUES: usize = 1024;

/// How many bytes of text the variables of one evaluation may hold together, keys included. A token has 16 KB at most, and the
/// groups of its user a prefix each.
pub const MAX_TEXT: usize = 24 * 1024;

/// How many bytes of text a number counts for: 309 digits and a sign.
pub(super) const PER_NUMBER: usize = 320;

/// How many bytes of text an outcome may have. What a token's user is kept with is made of outcomes.
pub const MAX_OUTCOME: usize = 64 * 1024;

/// What the variables of one evaluation may still hold.
#[derive(Debug)]
pub(super) struct Room {
    values: usize,
    text: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            values: MAX_VALUES,
            text: MAX_TEXT,
        }
    }
}

impl Room {
    fn text(&mut self, text: &str) -> Option<Arc<String>> {
        self.text = self.text.checked_sub(text.len())?;
        Some(Arc::new(text.to_owned()))
    }
}

/// What an expression came to.
#[derive(Debug, Clone, PartialEq)]
pub enum CelOutcome {
    /// A boolean.
    Bool(bool),
    /// Text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// Nothing: `null`, or an optional without a value.
    Nothing,
    /// Something else.
    Other,
}

impl CelOutcome {
    /// Whether it is one that may be kept.
    pub(super) fn is_small(&self) -> bool {
        let length = match self {
            Self::Text(text) => text.len(),
            Self::Texts(texts) => texts.iter().map(|text| text.len() + size_of::<String>()).sum(),
            Self::Bool(_) | Self::Nothing | Self::Other => 0,
        };
        length <= MAX_OUTCOME
    }
}

impl From<Value> for CelOutcome {
    fn from(value: Value) -> Self {
        match value {
            Value::Bool(value) => Self::Bool(value),
            Value::String(text) => Self::Text(text.as_ref().clone()),
            Value::Null => Self::Nothing,
            Value::List(items) => {
                let text = |item: &Value| match item {
                    Value::String(text) => Some(text.as_ref().clone()),
                    _ => None,
                };
                let texts: Option<Vec<_>> = items.iter().map(text).collect();
                texts.map_or(Self::Other, Self::Texts)
            }
            _ => Self::Other,
        }
    }
}

/// A value of JSON, where there is room for it, which is taken off. Whole numbers are `int`, as the API server
/// has them, and others `double`.
pub(super) fn of_json(json: &Json, room: &mut Room) -> Option<Value> {
    room.values = room.values.checked_sub(1)?;
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => {
                // Such a number may become a long text.
                room.text = room.text.checked_sub(PER_NUMBER)?;
                Value::Float(number.as_f64()?)
            }
        },
        Json::String(text) => Value::String(room.text(text)?),
        Json::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(|item| of_json(item, room)).collect();
            Value::List(Arc::new(items?))
        }
        Json::Object(entries) => {
            let mut map = HashMap::with_capacity(entries.len().min(room.values));
            for (key, value) in entries {
                let key = Key::String(room.text(key)?);
                map.insert(key, of_json(value, room)?);
            }
            Value::Map(Map { map: Arc::new(map) })
        }
    })
}
