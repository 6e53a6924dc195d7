//! A JSON Patch (RFC 6902), as far as admission needs one.
//!
//! In: paths and values. Out: operations, as the API server reads them.

use serde::Serialize;
use serde_json::Value;

/// One change. `Add` replaces what is there already.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(super) enum PatchOperation {
    /// Puts a value at the path; at the end of a list where the path ends with `/-`.
    Add { path: String, value: Value },
    /// Takes away what the path leads to.
    Remove { path: String },
}

impl PatchOperation {
    pub(super) fn add(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::Add {
            path: path.into(),
            value: value.into(),
        }
    }
}

/// Puts a value into a map of strings below `parent`, which is made where the object lacks it. Nothing where the value is there already.
pub(super) fn set_in_map(map: &Value, parent: &str, key: &str, value: &str) -> Option<PatchOperation> {
    if map.get(key).and_then(Value::as_str) == Some(value) {
        return None;
    }
    // RFC 6901 section 3.
    let escaped = key.replace('~', "~0").replace('/', "~1");
    Some(match map.is_object() {
        true => PatchOperation::add(format!("{parent}/{escaped}"), value),
        false => PatchOperation::add(parent, Value::from_iter([(key, value)])),
    })
}

#[cfg(test)]
pub(super) mod testing {
    //! What an API server makes of a patch.

    use super::*;

    pub(in crate::admission) fn apply(object: &Value, patch: &[PatchOperation]) -> Value {
        let mut object = object.clone();
        for operation in patch {
            let (PatchOperation::Add { path, .. } | PatchOperation::Remove { path }) = operation;
            let (parent, last) = path.rsplit_once('/').expect("a path");
            let last = last.replace("~1", "/").replace("~0", "~");
            let parent = object.pointer_mut(parent).expect("a place that is there");
            match (operation, parent) {
                (PatchOperation::Add { value, .. }, Value::Object(fields)) => {
                    fields.insert(last, value.clone());
                }
                (PatchOperation::Add { value, .. }, Value::Array(items)) if last == "-" => {
                    items.push(value.clone());
                }
                (PatchOperation::Remove { .. }, Value::Object(fields)) => {
                    fields.remove(&last).expect("what is taken away");
                }
                (operation, parent) => panic!("{operation:?} in {parent}"),
            }
        }
        object
    }
}
