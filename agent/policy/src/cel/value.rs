//! Values of expressions: from JSON, and to what an outcome may be.
//!
//! In: JSON. Out: values of the interpreter, of which there are at most [`MAX_VALUES`]; and an [`CelOutcome`] of one of its own.

use std::collections::HashMap;
use std::sync::Arc;

use ::cel::Value;
use ::cel::objects::{Key, Map};
use serde_json::Value as Json;

/// How many values the variables of one evaluation may hold together. An expression with two loops in each other looks at the
/// square of this; a directory's tokens have a few hundred groups.
pub const MAX_VALUES: usize = 1024;

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

/// A value of JSON, where it holds no more than `left` values; they are taken off. Whole numbers are `int`, as the API server
/// has them, and others `double`.
pub(super) fn of_json(json: &Json, left: &mut usize) -> Option<Value> {
    *left = left.checked_sub(1)?;
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64()?),
        },
        Json::String(text) => Value::String(Arc::new(text.clone())),
        Json::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(|item| of_json(item, left)).collect();
            Value::List(Arc::new(items?))
        }
        Json::Object(entries) => {
            let mut map = HashMap::with_capacity(entries.len().min(*left));
            for (key, value) in entries {
                map.insert(Key::String(Arc::new(key.clone())), of_json(value, left)?);
            }
            Value::Map(Map { map: Arc::new(map) })
        }
    })
}
