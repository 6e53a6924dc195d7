//! The structure of a document, checked by the schema of its type.
//!
//! In: a node of a file and a schema. Out: the value as JSON, and a diagnostic for each field that is unknown, missing or of
//! the wrong kind. A harmless value takes the place of one that cannot stand. So the rest of the document is checked in the
//! same reading, and a person sees every error at once. A derived reader would end at the first error.
//!
//! The names, the words and the lengths are the schema's: nothing of an object is written down twice.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::free_form;
use super::schema::{FREE, VALIDATED};
use crate::yaml::{self, Decoder, FieldPath, YamlNode};

/// What a value may be, as far as its place in a file can be told at once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    /// Anything.
    Any,
    /// True or false.
    Bool,
    /// A whole number.
    Integer {
        /// From this number
        least: Option<i64>,
        /// to this one.
        most: Option<i64>,
    },
    /// Text.
    Text {
        /// It must not be empty.
        filled: bool,
        /// It is a moment in RFC 3339.
        moment: bool,
        /// The words that it can be; empty where it can be any.
        words: Vec<String>,
        /// Most characters.
        most: Option<usize>,
    },
    /// A list.
    List {
        /// What its items are.
        items: Box<Self>,
        /// It must not be empty.
        filled: bool,
        /// It must be there.
        needed: bool,
        /// Most items.
        most: Option<usize>,
        /// No two items are the same.
        distinct: bool,
    },
    /// A mapping with names of the writer's own.
    Map {
        /// What its values are.
        values: Box<Self>,
        /// Most entries.
        most: Option<usize>,
    },
    /// A mapping of any names and values, also deep inside.
    Free {
        /// Most entries.
        most: Option<usize>,
    },
    /// A mapping with fields.
    Fields {
        /// Its fields.
        fields: BTreeMap<String, Self>,
        /// Those that must be there.
        required: Vec<String>,
    },
}

/// A schema that says what no [`Shape`] can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("keyword `{0}` is not understood")]
pub(crate) struct UnknownKeyword(String);

/// Keywords that say nothing about structure, or what [`Spec::validate`](super::v1alpha1::Spec::validate) says in its own
/// words. The table of cases in the tests holds both to the same verdict.
const OTHER_KEYWORDS: &[&str] = &[
    "$schema",
    "anyOf",
    "default",
    "description",
    "format",
    "minProperties",
    "not",
    "pattern",
    "title",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    VALIDATED,
];

impl Shape {
    /// The shape that a schema describes.
    pub(crate) fn of_schema(schema: &Value) -> Result<Self, UnknownKeyword> {
        let Value::Object(keywords) = schema else {
            return Ok(Self::Any);
        };
        let (own, shape): (&[&str], _) = match keywords.get("type").and_then(Value::as_str) {
            None => (&[], Self::Any),
            Some("boolean") => (&["type"], Self::Bool),
            Some("integer") => {
                let bound = |name| keywords.get(name).and_then(Value::as_i64);
                let (least, most) = (bound("minimum"), bound("maximum"));
                (&["type", "minimum", "maximum"], Self::Integer { least, most })
            }
            Some("string") => (&["type", "minLength", "maxLength", "enum"], Self::text(keywords)),
            Some("array") => (
                &["type", "items", "minItems", "maxItems", "uniqueItems"],
                Self::list(keywords)?,
            ),
            Some("object") => (
                &[
                    "type",
                    "properties",
                    "required",
                    "additionalProperties",
                    "maxProperties",
                    FREE,
                ],
                Self::mapping(keywords)?,
            ),
            Some(other) => return Err(UnknownKeyword(format!("type: {other}"))),
        };
        let known = |keyword: &str| own.contains(&keyword) || OTHER_KEYWORDS.contains(&keyword);
        match keywords.keys().find(|keyword| !known(keyword)) {
            Some(unknown) => Err(UnknownKeyword(unknown.clone())),
            None => Ok(shape),
        }
    }

    fn text(keywords: &Map<String, Value>) -> Self {
        let words = keywords.get("enum").and_then(Value::as_array);
        let words = words.filter(|_| !keywords.contains_key(VALIDATED));
        Self::Text {
            filled: at_least_one(keywords, "minLength"),
            moment: keywords.get("format").and_then(Value::as_str) == Some("date-time"),
            words: words.into_iter().flatten().filter_map(text_of).collect(),
            most: at_most(keywords, "maxLength"),
        }
    }

    fn list(keywords: &Map<String, Value>) -> Result<Self, UnknownKeyword> {
        Ok(Self::List {
            items: Box::new(keywords.get("items").map_or(Ok(Self::Any), Self::of_schema)?),
            filled: at_least_one(keywords, "minItems"),
            needed: false,
            most: at_most(keywords, "maxItems"),
            distinct: keywords.get("uniqueItems") == Some(&json!(true)),
        })
    }

    fn mapping(keywords: &Map<String, Value>) -> Result<Self, UnknownKeyword> {
        if keywords.get(FREE) == Some(&json!(true)) {
            return Ok(Self::Free {
                most: at_most(keywords, "maxProperties"),
            });
        }
        let Some(Value::Object(properties)) = keywords.get("properties") else {
            let values = keywords.get("additionalProperties");
            return Ok(Self::Map {
                values: Box::new(values.map_or(Ok(Self::Any), Self::of_schema)?),
                most: at_most(keywords, "maxProperties"),
            });
        };
        let required = keywords.get("required").and_then(Value::as_array);
        let required: Vec<_> = required.into_iter().flatten().filter_map(text_of).collect();
        let field = |(name, schema): (&String, &Value)| {
            let mut shape = Self::of_schema(schema)?;
            if let Self::List { needed, .. } = &mut shape {
                *needed = required.contains(name);
            }
            Ok((name.clone(), shape))
        };
        Ok(Self::Fields {
            fields: properties.iter().map(field).collect::<Result<_, _>>()?,
            required,
        })
    }

    /// A value that stands in for one that cannot, so that the rest can be checked.
    fn stand_in(&self) -> Value {
        match self {
            Self::Any => Value::Null,
            Self::Bool => json!(false),
            Self::Integer { .. } => json!(0),
            Self::Text { moment: true, .. } => json!("1970-01-01T00:00:00Z"),
            Self::Text { words, .. } => json!(words.first().map_or("", String::as_str)),
            Self::List { .. } => json!([]),
            Self::Map { .. } | Self::Free { .. } => json!({}),
            Self::Fields { fields, required } => required
                .iter()
                .filter_map(|name| Some((name.clone(), fields.get(name)?.stand_in())))
                .collect::<Map<_, _>>()
                .into(),
        }
    }
}

fn at_least_one(keywords: &Map<String, Value>, name: &str) -> bool {
    keywords
        .get(name)
        .and_then(Value::as_u64)
        .is_some_and(|least| least > 0)
}

fn at_most(keywords: &Map<String, Value>, name: &str) -> Option<usize> {
    let most = keywords.get(name).and_then(Value::as_u64)?;
    usize::try_from(most).ok()
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Names that a document may have used, or will be able to use, each by its path with `[]` for an index.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OtherNames {
    /// Fields of the design that this version does not have.
    pub(crate) planned_fields: &'static [&'static str],
    /// Words of the design that this version does not have.
    pub(crate) planned_words: &'static [(&'static str, &'static [&'static str])],
    /// Fields that had another name before.
    pub(crate) renamed_fields: &'static [(&'static str, &'static str)],
}

/// Checks one document.
#[derive(Debug)]
pub(crate) struct StructureCheck<'d> {
    pub(crate) decoder: &'d mut Decoder,
    pub(crate) names: OtherNames,
    /// Fields that a harmless value stands in for.
    pub(crate) replaced: Vec<FieldPath>,
}

impl StructureCheck<'_> {
    /// The value of a node, as JSON that has the shape.
    pub(crate) fn value(&mut self, shape: &Shape, node: &YamlNode, path: &FieldPath) -> Value {
        self.checked(shape, node, path).unwrap_or_else(|| {
            self.replaced.push(path.clone());
            shape.stand_in()
        })
    }

    fn checked(&mut self, shape: &Shape, node: &YamlNode, path: &FieldPath) -> Option<Value> {
        match shape {
            Shape::Any => Some(plain(node)),
            Shape::Bool => self.flag(node, path),
            Shape::Integer { least, most } => self.integer(node, path, (*least, *most)),
            Shape::Text { words, .. } if !words.is_empty() => self.word(words, node, path),
            Shape::Text {
                filled, moment, most, ..
            } => {
                let path = path.to_string();
                let text = if *moment {
                    let text = self.decoder.text(node, &path)?;
                    self.decoder.moment(&text, &path)?;
                    text
                } else if *filled {
                    self.decoder.filled_text(node, &path)?
                } else {
                    self.decoder.text(node, &path)?
                };
                self.fits(node, &path, text.value.chars().count(), *most, "characters")?;
                Some(Value::String(text.value))
            }
            Shape::List {
                items,
                filled,
                needed,
                most,
                distinct,
            } => {
                let nodes = self.decoder.items(node, &path.to_string())?;
                if *filled && nodes.is_empty() {
                    // It matches nothing, which nobody means.
                    let instead = if *needed {
                        "name at least one"
                    } else {
                        "leave it out, or name something"
                    };
                    let reason = format!("field `{path}` is an empty list: {instead}");
                    self.decoder.error_at(node, reason);
                    return None;
                }
                self.fits(node, &path.to_string(), nodes.len(), *most, "items")?;
                if *distinct {
                    self.refuse_repeated(nodes, path);
                }
                let values = nodes.iter().enumerate();
                let values = values.map(|(index, node)| self.value(items, node, &path.index(index)));
                Some(Value::Array(values.collect()))
            }
            Shape::Map { values, most } => {
                let entries = self.decoder.entries(node, &path.to_string())?;
                self.fits(node, &path.to_string(), entries.len(), *most, "entries")?;
                let values = entries
                    .into_iter()
                    .map(|(name, node)| (name.clone(), self.value(values, node, &path.field(&name))));
                Some(Value::Object(values.collect()))
            }
            Shape::Free { most } => {
                let value = free_form::read(self.decoder, node, path)?;
                let entries = value.as_object().map_or(0, Map::len);
                self.fits(node, &path.to_string(), entries, *most, "entries")?;
                Some(value)
            }
            Shape::Fields { fields, required } => self.fields(fields, required, node, path),
        }
    }

    /// Notes a value that is larger than its bound; `None` then.
    fn fits(
        &mut self,
        node: &YamlNode,
        path: &str,
        has: usize,
        most: Option<usize>,
        what: &str,
    ) -> Option<()> {
        let most = most.filter(|most| has > *most);
        let Some(most) = most else { return Some(()) };
        let reason = format!("field `{path}` has {has} {what}; it can have {most}");
        self.decoder.error_at(node, reason);
        None
    }

    /// Notes texts that a list has twice.
    fn refuse_repeated(&mut self, nodes: &[YamlNode], path: &FieldPath) {
        let mut seen = BTreeSet::new();
        for node in nodes {
            if let yaml::Value::Text(text) = &node.value
                && !seen.insert(text)
            {
                let reason = format!("field `{path}` has {text:?} twice");
                self.decoder.error_at(node, reason);
            }
        }
    }

    fn flag(&mut self, node: &YamlNode, path: &FieldPath) -> Option<Value> {
        if let yaml::Value::Bool(value) = &node.value {
            return Some(json!(value));
        }
        let reason = format!(
            "field `{path}` must be true or false, not {}",
            node.value.describe()
        );
        self.decoder.error_at(node, reason);
        None
    }

    fn integer(
        &mut self,
        node: &YamlNode,
        path: &FieldPath,
        (least, most): (Option<i64>, Option<i64>),
    ) -> Option<Value> {
        let number = match &node.value {
            yaml::Value::Number(number) => number.parse::<i64>().ok(),
            _ => None,
        };
        let reason = match (number, least, most) {
            (None, ..) => format!(
                "field `{path}` must be a whole number, not {}",
                node.value.describe()
            ),
            (Some(number), Some(least), Some(most)) if !(least..=most).contains(&number) => {
                format!("field `{path}` is {number}; it can be from {least} to {most}")
            }
            (Some(number), ..) => return Some(json!(number)),
        };
        self.decoder.error_at(node, reason);
        None
    }

    fn word(&mut self, words: &[String], node: &YamlNode, path: &FieldPath) -> Option<Value> {
        let pattern = path.pattern();
        let planned = self
            .names
            .planned_words
            .iter()
            .find(|(field, _)| *field == pattern);
        if let (yaml::Value::Text(word), Some((_, planned))) = (&node.value, planned)
            && planned.contains(&word.as_str())
        {
            let field = path.last_field();
            let reason = format!("field `{path}`: {field} {word} is not supported by this version yet");
            self.decoder.error_at(node, reason);
            return None;
        }
        let choices: Vec<_> = words.iter().map(|word| (word.as_str(), word.as_str())).collect();
        let word = self.decoder.choice(node, &path.to_string(), &choices)?;
        Some(json!(word))
    }

    fn fields(
        &mut self,
        shapes: &BTreeMap<String, Shape>,
        required: &[String],
        node: &YamlNode,
        path: &FieldPath,
    ) -> Option<Value> {
        // What must be there is named first.
        let others = shapes.keys().filter(|name| !required.contains(name));
        let known: Vec<_> = required.iter().chain(others).map(String::as_str).collect();
        let pattern = path.pattern();
        let here = |field: &'static str| {
            let (parent, name) = field.rsplit_once('.').unwrap_or(("", field));
            (parent == pattern).then_some(name)
        };
        let names = self.names;
        let planned: Vec<_> = names
            .planned_fields
            .iter()
            .filter_map(|field| here(field))
            .collect();
        let renamed = names
            .renamed_fields
            .iter()
            .filter_map(|(old, new)| Some((here(old)?, *new)));
        let renamed: Vec<_> = renamed.collect();
        let text = path.to_string();
        let fields = self
            .decoder
            .fields_renamed(node, &text, &known, &planned, &renamed)?;
        let mut value = Map::new();
        for (name, shape) in shapes {
            let path = path.field(name);
            if let Some(node) = fields.get(name) {
                value.insert(name.clone(), self.value(shape, node, &path));
            } else if required.contains(name) {
                // Notes that it is missing.
                self.decoder.required(&fields, name);
                value.insert(name.clone(), shape.stand_in());
                self.replaced.push(path);
            }
        }
        Some(Value::Object(value))
    }
}

/// A node as it is. Numbers that JSON has no way to write become text.
pub(crate) fn plain(node: &YamlNode) -> Value {
    match &node.value {
        yaml::Value::Null => Value::Null,
        yaml::Value::Bool(value) => json!(value),
        yaml::Value::Number(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        yaml::Value::Text(text) => json!(text),
        yaml::Value::List(items) => items.iter().map(plain).collect(),
        yaml::Value::Map(entries) => entries
            .iter()
            .filter_map(|(key, value)| match &key.value {
                yaml::Value::Text(key) => Some((key.clone(), plain(value))),
                _ => None,
            })
            .collect::<Map<_, _>>()
            .into(),
    }
}
