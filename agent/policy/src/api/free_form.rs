//! A mapping whose names and values are the writer's own, such as `spec.params` of an AgentPolicy.
//!
//! In: a node of a file. Out: the same as JSON, and a diagnostic for all in it that JSON has no way to say: nothing is left out, and no
//! whole number is rounded.
//! A harmless value stands in for what is faulty, so that the rest of the document is checked in the same reading.

use serde_json::{Map, Number, Value, json};

use crate::yaml::{self, Decoder, FieldPath, YamlNode};

/// Most mappings and lists in each other. An object of Kubernetes has some 20, and the reader of a file takes 40 in all.
const MAX_DEPTH: usize = 32;

/// Reads a mapping.
pub(super) fn read(decoder: &mut Decoder, node: &YamlNode, path: &FieldPath) -> Option<Value> {
    let yaml::Value::Map(entries) = &node.value else {
        let reason = format!("field `{path}` must be a mapping, not {}", node.value.describe());
        decoder.error_at(node, reason);
        return None;
    };
    Some(mapping(decoder, entries, path, 1))
}

fn value(decoder: &mut Decoder, node: &YamlNode, path: &FieldPath, depth: usize) -> Value {
    let is_nested = matches!(node.value, yaml::Value::Map(_) | yaml::Value::List(_));
    if is_nested && depth > MAX_DEPTH {
        // Without the path, which is as long as this is deep.
        let reason = format!("mappings and lists are nested deeper than {MAX_DEPTH} here");
        decoder.error_at(node, reason);
        return Value::Null;
    }
    match &node.value {
        yaml::Value::Null => Value::Null,
        yaml::Value::Bool(value) => json!(value),
        yaml::Value::Text(text) => json!(text),
        yaml::Value::Number(text) => number(text).map_or_else(
            || {
                let reason = format!("field `{path}`: a whole number has 64 bits at most; write a larger one as text, in quotes");
                decoder.error_at(node, reason);
                json!(0)
            },
            Value::Number,
        ),
        yaml::Value::List(items) => {
            let items = items.iter().enumerate();
            let items = items.map(|(index, item)| value(decoder, item, &path.index(index), depth + 1));
            Value::Array(items.collect())
        }
        yaml::Value::Map(entries) => mapping(decoder, entries, path, depth),
    }
}

fn mapping(decoder: &mut Decoder, entries: &[(YamlNode, YamlNode)], path: &FieldPath, depth: usize) -> Value {
    let mut map = Map::new();
    for (key, entry) in entries {
        if let yaml::Value::Text(name) = &key.value {
            let entry = value(decoder, entry, &path.field(name), depth + 1);
            map.insert(name.clone(), entry);
        } else {
            let described = key.value.describe();
            let reason = format!("field `{path}`: a field's name must be text, not {described}");
            decoder.error_at(key, reason);
        }
    }
    Value::Object(map)
}

/// A number of JSON. A whole one beyond 64 bits has been rounded by the library, and has no point.
fn number(text: &str) -> Option<Number> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    let float = text.parse::<f64>().ok()?;
    Number::from_f64(float).filter(|_| text.contains('.'))
}
