//! Lists of objects, as `kubectl get -o yaml` and `-o json` print them.
//!
//! In: the documents of a file. Out: its objects, those in a list each by itself, with the places where they are written.

use super::tree::{Value, YamlNode};

/// The objects of these documents, in the order of the file. A list in a list stays one: `kubectl` prints none.
pub(crate) fn objects(documents: Vec<YamlNode>) -> Vec<YamlNode> {
    documents.into_iter().flat_map(items).collect()
}

fn items(document: YamlNode) -> Vec<YamlNode> {
    if !is_list(&document) {
        return vec![document];
    }
    let Value::Map(entries) = document.value else {
        return Vec::new();
    };
    entries
        .into_iter()
        .find_map(|(key, value)| match (key.value, value.value) {
            (Value::Text(key), Value::List(items)) if key == "items" => Some(items),
            _ => None,
        })
        .unwrap_or_default()
}

/// Whether this is a `List` of `v1`, or an `AgentPolicyList` and the like, with its items.
fn is_list(document: &YamlNode) -> bool {
    let Value::Map(entries) = &document.value else {
        return false;
    };
    let has = |name: &str, is: fn(&Value) -> bool| {
        let is_it = |(key, value): &(YamlNode, YamlNode)| {
            matches!(&key.value, Value::Text(key) if key == name) && is(&value.value)
        };
        entries.iter().any(is_it)
    };
    has(
        "kind",
        |kind| matches!(kind, Value::Text(kind) if kind.ends_with("List")),
    ) && has("items", |items| matches!(items, Value::List(_)))
}
