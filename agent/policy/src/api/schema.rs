//! JSON Schema of the objects, generated from their types.
//!
//! In: the types. Out: the schema of a kind, which files are decoded by, and the same as documents for editors and checks.
//! Every schema is whole in itself (no references), as CRDs want it; [`crd`](super::crd) makes CRDs of them.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::API_VERSION;
use super::read::KINDS;
use super::v1alpha1::{AgentGrantSpec, AgentIdentitySpec, AgentPolicySpec, Object, Spec};

/// Marks words that [`Spec::validate`] refuses, since it can say more than that they are none of the listed.
pub(crate) const VALIDATED: &str = "x-picket-validated";

/// Marks a mapping of any names and values, as an API server has it too.
pub(crate) const FREE: &str = "x-kubernetes-preserve-unknown-fields";

/// Most items of a list of texts, where its field sets no bound of its own. An API server refuses a CRD whose CEL rules could cost
/// too much, and the cost grows with what they may have to read. RBAC's largest bootstrap role has 40 resources in a list.
const MAX_TEXTS: u64 = 256;

/// Most items of a list of mappings, such as rules. A cluster has more rules than this in several policies.
const MAX_MAPPINGS: u64 = 512;

/// Most entries of a mapping with names of the writer's own, such as labels.
const MAX_ENTRIES: u64 = 64;

/// Most characters of a text. Names have 253 at most; messages and command lines are longer.
const MAX_TEXT: u64 = 1024;

/// The schema of a kind's spec. All in it has a bound, for objects in files and in a cluster alike.
pub(crate) fn spec_schema<S: Spec>() -> Value {
    let mut schema = schema_of::<S>();
    bound(&mut schema);
    schema
}

/// Sets a bound on all that has none.
fn bound(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    let of_mappings = map
        .get("items")
        .is_some_and(|items| items.get("properties").is_some());
    let limit = match map.get("type").and_then(Value::as_str) {
        Some("array") if of_mappings => Some(("maxItems", MAX_MAPPINGS)),
        Some("array") => Some(("maxItems", MAX_TEXTS)),
        Some("string") if !map.contains_key("enum") && !map.contains_key("format") => {
            Some(("maxLength", MAX_TEXT))
        }
        Some("object") if !map.contains_key("properties") => Some(("maxProperties", MAX_ENTRIES)),
        _ => None,
    };
    if let Some((keyword, limit)) = limit {
        map.entry(keyword).or_insert_with(|| json!(limit));
    }
    if let Some(Value::Object(fields)) = map.get_mut("properties") {
        fields.values_mut().for_each(bound);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = map.get_mut(inner) {
            bound(schema);
        }
    }
}

/// The schema of a type, with its enumerations as lists of words.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    });
    let schema = settings
        .with_transform(Plain)
        .into_generator()
        .into_root_schema_for::<T>();
    schema.to_value()
}

/// Makes a schema plain, for editors and a later CRD: no `null`, since a field that is written and empty counts as left out; words as
/// an `enum` in place of one alternative each; no titles that only name a type.
#[derive(Debug, Clone)]
struct Plain;

impl Transform for Plain {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        drop_null(schema);
        unwrap_lines(schema);
        gather_words(schema);
        schema.remove("title");
        // Every number here is a whole one of the size that its minimum and maximum say.
        schema
            .remove("format")
            .filter(|format| format == "date-time")
            .map(|format| schema.insert("format".to_owned(), format));
    }
}

/// Doc comments are wrapped where the source ends a line, which means nothing.
fn unwrap_lines(schema: &mut Schema) {
    if let Some(Value::String(description)) = schema.get_mut("description") {
        let paragraphs = description
            .split("\n\n")
            .map(|paragraph| paragraph.replace('\n', " "));
        *description = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
}

fn drop_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    let Some(Value::Array(mut alternatives)) = schema.remove("anyOf") else {
        return;
    };
    let before = alternatives.len();
    alternatives.retain(|schema| *schema != json!({"type": "null"}));
    match &mut alternatives[..] {
        [Value::Object(only)] if before == 2 => {
            for (name, value) in std::mem::take(only) {
                // What the field itself says goes before what its type says.
                if schema.get(&name).is_none() {
                    schema.insert(name, value);
                }
            }
        }
        _ => {
            schema.insert("anyOf".to_owned(), Value::Array(alternatives));
        }
    }
}

/// `oneOf` constants with a description each, as the words of one `enum` with one description.
fn gather_words(schema: &mut Schema) {
    let Some(Value::Array(alternatives)) = schema.get("oneOf") else {
        return;
    };
    let word = |alternative: &Value| {
        let word = alternative.get("const")?.as_str()?.to_owned();
        let meaning = alternative
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default();
        Some((word, meaning.to_owned()))
    };
    let Some(words) = alternatives.iter().map(word).collect::<Option<Vec<_>>>() else {
        return;
    };
    let mut description = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    for (word, meaning) in &words {
        description.push_str(&format!("\n{word}: {meaning}"));
    }
    let words: Vec<_> = words.into_iter().map(|(word, _)| word).collect();
    schema.remove("oneOf");
    schema.insert("type".to_owned(), json!("string"));
    schema.insert("enum".to_owned(), json!(words));
    schema.insert("description".to_owned(), json!(description));
}

/// The schema of a kind's objects, as it is published.
#[must_use]
pub fn object_schema<S: Spec>() -> Value {
    let mut schema = schema_of::<Object<S>>();
    let spec = spec_schema::<S>();
    let description = spec["description"].clone();
    schema["properties"]["spec"] = spec;
    // A test is in no cluster.
    if KINDS.contains(&S::KIND) {
        schema["properties"]["status"] = json!({
            "description": "What Picket says of an object in a cluster. A file may have it, as `kubectl get -o yaml` prints it, and it counts for nothing.",
        });
    }
    schema["description"] = description;
    schema["title"] = json!(S::KIND);
    publish(&mut schema);
    schema
}

/// Takes out what is for the decoder or for CRDs alone, and orders the keys whatever features serde_json was built with.
fn publish(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.retain(|keyword, _| !keyword.starts_with("x-"));
            map.values_mut().for_each(publish);
            map.sort_keys();
        }
        Value::Array(items) => items.iter_mut().for_each(publish),
        _ => {}
    }
}

/// Every kind with the schema of its objects.
#[must_use]
pub fn object_schemas() -> Vec<(&'static str, Value)> {
    vec![
        (AgentIdentitySpec::KIND, object_schema::<AgentIdentitySpec>()),
        (AgentGrantSpec::KIND, object_schema::<AgentGrantSpec>()),
        (AgentPolicySpec::KIND, object_schema::<AgentPolicySpec>()),
    ]
}

/// The schema of an object of any kind.
#[must_use]
pub fn any_object_schema() -> Value {
    let kinds: Vec<_> = object_schemas().into_iter().map(|(_, schema)| schema).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Objects of {API_VERSION}"),
        "oneOf": kinds,
    })
}

/// The files under `deploy/schemas` and what they hold: one a kind, and one for files with objects of several kinds.
#[must_use]
pub fn schemas() -> Vec<(String, String)> {
    let mut files: Vec<_> = object_schemas()
        .into_iter()
        .map(|(kind, schema)| schema_file(kind, schema))
        .collect();
    files.push(schema_file("objects", any_object_schema()));
    files
}

/// A file under `deploy/schemas`, and what it holds.
pub(crate) fn schema_file(name: &str, mut schema: Value) -> (String, String) {
    let version = API_VERSION.rsplit('/').next().unwrap_or(API_VERSION);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    if let Value::Object(map) = &mut schema {
        map.sort_keys();
    }
    // A value of strings, lists and maps always prints.
    let text = format!("{schema:#}\n");
    (format!("{}_{version}.json", name.to_ascii_lowercase()), text)
}
