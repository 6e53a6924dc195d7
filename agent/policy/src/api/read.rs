//! From a file's text to documents.
//!
//! In: a file's name and text. Out: its [`Document`]s, those in a Kubernetes list too, or every [`Diagnostic`]; as [`FileReading`] both, entry by entry.
//!
//! A document is read in three steps, and the errors of all three are reported at once. Its structure is checked by the schema
//! of its kind ([`shape`](super::shape)), its typed object by serde. [`Spec::validate`] checks what no schema can say.

use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;

use super::field::FieldErrors;
use super::schema::{schema_of, spec_schema};
use super::shape::{OtherNames, Shape, StructureCheck};
use super::v1alpha1::{AgentGrantSpec, AgentIdentitySpec, AgentPolicySpec, Object, ObjectMeta, Spec};
use super::{API_VERSION, AnyObject, Document, GROUP, name_path};
use crate::yaml::{Decoder, Diagnostic, FieldPath, Value, YamlNode, objects, parse};

/// What a file says, as far as it can be read.
#[derive(Debug, Clone, Default)]
pub struct FileReading {
    /// Its documents in order, faulty ones too. Empty where the file is no YAML.
    pub entries: Vec<DocumentEntry>,
    /// Everything that is wrong in it, in the order of the file.
    pub errors: Vec<Diagnostic>,
}

/// A document of a file, faulty or not.
#[derive(Debug, Clone)]
pub struct DocumentEntry {
    /// The kind as it is written; empty where that cannot be told.
    pub kind: String,
    /// `metadata.name` as it is written; empty where that cannot be told.
    pub name: String,
    /// The line of its name, or of what the name is missing from.
    pub line: u32,
    /// The line that it begins in.
    pub first_line: u32,
    /// `spec.state` as it is written, empty where it is no text: what shuts an agent out counts in a faulty object too.
    pub state: Option<String>,
    /// The object, where nothing is wrong with it by itself.
    pub document: Option<Document>,
}

/// Reads every document of a file.
///
/// # Errors
/// Everything that is wrong in it, in the order of the file.
pub fn read_documents(file: &str, text: &str) -> Result<Vec<Document>, Vec<Diagnostic>> {
    let FileReading { entries, errors } = read_file(file, text);
    if errors.is_empty() {
        Ok(entries.into_iter().filter_map(|entry| entry.document).collect())
    } else {
        Err(errors)
    }
}

/// Likewise, with what can be told of documents that cannot stand.
#[must_use]
pub fn read_file(file: &str, text: &str) -> FileReading {
    let nodes = match parse(file, text) {
        Ok(nodes) => nodes,
        Err(error) => {
            return FileReading {
                entries: Vec::new(),
                errors: vec![error],
            };
        }
    };
    let mut decoder = Decoder::new(file);
    let entries = objects(nodes)
        .into_iter()
        .map(|node| {
            let text = |node: &YamlNode| match &node.value {
                Value::Text(text) => text.clone(),
                _ => String::new(),
            };
            let name = node.at(&name_path());
            let (state, steps) = node.follow(&state_path());
            let state = (steps == state_path().segments().len()).then(|| text(state));
            DocumentEntry {
                kind: text(node.at(&FieldPath::new("kind"))),
                name: text(name),
                line: name.line,
                first_line: node.line,
                state,
                document: document(&mut decoder, node),
            }
        })
        .collect();
    FileReading {
        entries,
        errors: decoder.finish(()).err().unwrap_or_default(),
    }
}

/// Reads a file whose documents are all of one kind, which is no kind of object.
///
/// # Errors
/// Everything that is wrong in it, in the order of the file.
pub(crate) fn read_objects<S: Spec>(
    file: &str,
    text: &str,
) -> Result<Vec<(Object<S>, YamlNode)>, Vec<Diagnostic>> {
    let nodes = parse(file, text).map_err(|error| vec![error])?;
    let mut decoder = Decoder::new(file);
    let shape = spec_shape::<S>();
    let mut objects = Vec::new();
    for node in nodes {
        let before = decoder.errors.len();
        for (name, wanted) in [("apiVersion", API_VERSION), ("kind", S::KIND)] {
            if let Some((at, written)) = top(&node, name).filter(|(_, written)| *written != wanted) {
                decoder.error_at(at, format!("{name} is {written:?}; it must be {wanted} here"));
            }
        }
        if decoder.errors.len() == before
            && let Some(object) = object::<S>(&mut decoder, &node, &shape)
        {
            objects.push((object, node));
        }
    }
    decoder.finish(objects)
}

fn state_path() -> FieldPath {
    FieldPath::new("spec").field("state")
}

/// The kinds that are read.
pub(super) const KINDS: [&str; 3] = [
    AgentIdentitySpec::KIND,
    AgentGrantSpec::KIND,
    AgentPolicySpec::KIND,
];

/// Kinds of the design that this version does not have.
const PLANNED_KINDS: [&str; 2] = ["AuditSink", "ApprovalRequest"];

/// The kind of test files, which stand in folders of their own.
const TEST_KIND: &str = "AgentPolicyTest";

static IDENTITY: LazyLock<Shape> = LazyLock::new(spec_shape::<AgentIdentitySpec>);
static GRANT: LazyLock<Shape> = LazyLock::new(spec_shape::<AgentGrantSpec>);
static POLICY: LazyLock<Shape> = LazyLock::new(spec_shape::<AgentPolicySpec>);
static META: LazyLock<Shape> = LazyLock::new(|| shape_of(&schema_of::<ObjectMeta>()));
/// A document whose kind is not known: its spec may be anything.
static UNKNOWN: LazyLock<Shape> = LazyLock::new(|| object_shape(Shape::Any));

/// The shape of a schema. One that its schema does not tell is left to serde, which refuses the same with fewer words; a test
/// shows that there is none.
fn shape_of(schema: &Json) -> Shape {
    Shape::of_schema(schema).unwrap_or(Shape::Any)
}

fn spec_shape<S: Spec>() -> Shape {
    object_shape(shape_of(&spec_schema::<S>()))
}

/// An object with this spec. Its version and its kind are looked at before, and can be any text here.
fn object_shape(spec: Shape) -> Shape {
    let text = Shape::Text {
        filled: true,
        moment: false,
        words: Vec::new(),
        most: None,
    };
    let fields = [
        ("apiVersion", text.clone()),
        ("kind", text),
        ("metadata", META.clone()),
        ("spec", spec),
    ];
    Shape::Fields {
        required: fields.iter().map(|(name, _)| (*name).to_owned()).collect(),
        fields: fields
            .into_iter()
            .map(|(name, shape)| (name.to_owned(), shape))
            .collect(),
    }
}

/// A text at the top of a document.
fn top<'n>(node: &'n YamlNode, name: &str) -> Option<(&'n YamlNode, &'n str)> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    entries
        .iter()
        .find_map(|(key, value)| match (&key.value, &value.value) {
            (Value::Text(key), Value::Text(text)) if key == name => Some((value, text.as_str())),
            _ => None,
        })
}

fn document(decoder: &mut Decoder, mut node: YamlNode) -> Option<Document> {
    let version = top(&node, "apiVersion").filter(|(_, text)| !text.trim().is_empty());
    let kind = top(&node, "kind").filter(|(_, text)| !text.trim().is_empty());
    if let (Some((_, version)), Some((_, kind))) = (version, kind) {
        let group = version.split_once('/').map_or("", |(group, _)| group);
        if group != GROUP && !KINDS.contains(&kind) {
            // One line for somebody else's document, such as a ClusterRole: none of its fields would be known.
            decoder.error_at(&node, format!("not a Picket object (kind {kind} of {version})"));
            return None;
        }
    }
    if kind.is_some_and(|(_, kind)| KINDS.contains(&kind)) {
        without_status(&mut node);
    }
    let object = match (top(&node, "apiVersion"), top(&node, "kind")) {
        (Some((_, API_VERSION)), Some((_, AgentIdentitySpec::KIND))) => {
            object(decoder, &node, &IDENTITY).map(AnyObject::Identity)
        }
        (Some((_, API_VERSION)), Some((_, AgentGrantSpec::KIND))) => {
            object(decoder, &node, &GRANT).map(AnyObject::Grant)
        }
        (Some((_, API_VERSION)), Some((_, AgentPolicySpec::KIND))) => {
            object(decoder, &node, &POLICY).map(AnyObject::Policy)
        }
        (version, kind) => {
            unknown(decoder, &node, version, kind);
            None
        }
    };
    let object = object?;
    Some(Document {
        object,
        file: Arc::clone(&decoder.file),
        node: Arc::new(node),
    })
}

/// Takes out the status: what Picket wrote of an object is no part of it, as in the API server where somebody creates it.
fn without_status(node: &mut YamlNode) {
    if let Value::Map(entries) = &mut node.value {
        entries.retain(|(key, _)| !matches!(&key.value, Value::Text(key) if key == "status"));
    }
}

/// Notes what is wrong with a document that is of no kind and version that are read.
fn unknown(
    decoder: &mut Decoder,
    node: &YamlNode,
    version: Option<(&YamlNode, &str)>,
    kind: Option<(&YamlNode, &str)>,
) {
    let mut check = StructureCheck {
        decoder,
        names: OtherNames::default(),
        replaced: Vec::new(),
    };
    let value = check.value(&UNKNOWN, node, &FieldPath::default());
    let replaced = check.replaced;
    if let Some(metadata) = value.get("metadata").cloned() {
        let mut errors = FieldErrors::default();
        if let Ok(metadata) = serde_json::from_value::<ObjectMeta>(metadata) {
            metadata.validate(&FieldPath::new("metadata"), &mut errors);
        }
        locate(decoder, node, errors, &replaced);
    }
    match (version, kind) {
        (Some((at, version)), Some(_)) if version != API_VERSION => {
            decoder.error_at(at, format!("apiVersion is {version:?}; it must be {API_VERSION}"));
        }
        (Some(_), Some((at, kind))) if PLANNED_KINDS.contains(&kind) => {
            decoder.error_at(at, format!("kind {kind} is not supported by this version yet"));
        }
        (Some(_), Some((at, TEST_KIND))) => decoder.error_at(
            at,
            format!("kind {TEST_KIND} is a test and no object: run `picket policy test` on it, and keep it in another folder"),
        ),
        (Some(_), Some((at, kind))) => {
            decoder.error_at(at, format!("unknown kind {kind:?}; known: {}", KINDS.join(", ")));
        }
        _ => {}
    }
}

/// Reads an object of a kind, and notes all that is wrong with it.
fn object<S: Spec>(decoder: &mut Decoder, node: &YamlNode, shape: &Shape) -> Option<Object<S>> {
    let before = decoder.errors.len();
    let mut check = StructureCheck {
        decoder,
        names: OtherNames {
            planned_fields: S::PLANNED_FIELDS,
            planned_words: S::PLANNED_WORDS,
            renamed_fields: S::RENAMED_FIELDS,
        },
        replaced: Vec::new(),
    };
    let value = check.value(shape, node, &FieldPath::default());
    let replaced = check.replaced;
    let object = typed::<S>(decoder, node, value)?;
    let mut errors = FieldErrors::default();
    object.validate(&mut errors);
    locate(decoder, node, errors, &replaced);
    (decoder.errors.len() == before).then_some(object)
}

/// The typed object. The structure has been checked, so that what serde refuses all the same is noted without a field.
fn typed<S: Spec>(decoder: &mut Decoder, node: &YamlNode, value: Json) -> Option<Object<S>> {
    match serde_json::from_value(value) {
        Ok(object) => Some(object),
        Err(error) => {
            decoder.error_at(node, format!("not a valid {}: {error}", S::KIND));
            None
        }
    }
}

/// Notes errors of fields where the fields stand, but for those that only come of a value that stood in for a faulty one: errors
/// of such a field, and of a whole mapping that has one.
fn locate(decoder: &mut Decoder, node: &YamlNode, errors: FieldErrors, replaced: &[FieldPath]) {
    for error in errors.into_vec() {
        let (at, steps) = node.follow(&error.path);
        let found = error.path.first(steps);
        let whole = matches!(at.value, Value::Map(_));
        let echo = replaced
            .iter()
            .any(|path| error.path.is_within(path) || (whole && path.is_within(&found)));
        if !echo {
            decoder.error_at(at, error.reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_understood_by_the_reader() {
        fn understood(schema: &Json) {
            let shape = Shape::of_schema(schema);
            assert!(matches!(shape, Ok(Shape::Fields { .. })), "{shape:?}\n{schema:#}");
        }
        understood(&spec_schema::<AgentIdentitySpec>());
        understood(&spec_schema::<AgentGrantSpec>());
        understood(&spec_schema::<AgentPolicySpec>());
        understood(&schema_of::<ObjectMeta>());
    }
}
