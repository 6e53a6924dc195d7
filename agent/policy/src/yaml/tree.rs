//! YAML as a tree in which every node knows its line and column.
//!
//! In: a file's name and text. Out: a [`YamlNode`] for each document, or a [`Diagnostic`] where the text is no YAML that is
//! taken.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, MessageFormatter as _, UserMessageFormatter};

use super::path::{FieldPath, Segment};
use super::{Diagnostic, MAX_FILE, SourceLocation};

/// Most mappings and lists in each other. The library goes down once for each on a thread's stack, of which 50 fill 2 MiB in a debug build.
const MAX_DEPTH: usize = 40;

/// A node and where it stands.
#[derive(Debug, Clone)]
pub struct YamlNode {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Value {
    /// `null`, `~`, or nothing.
    Null,
    /// A bare boolean.
    Bool(bool),
    /// A bare number, as it prints.
    Number(String),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<YamlNode>),
    /// A mapping in the order of the file.
    Map(Vec<(YamlNode, YamlNode)>),
}

impl Value {
    /// What to call it in an error.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Number(value) => format!("the number {value}"),
            Self::Text(_) => "text".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Reads the documents of a file; empty ones are left out.
///
/// # Errors
/// The first thing in it that is no YAML, a key that is given twice, or a file that is too large.
pub fn parse(file: &str, text: &str) -> Result<Vec<YamlNode>, Diagnostic> {
    let error = |line: u32, column: u32, reason: String| Diagnostic {
        file: file.to_owned(),
        line,
        column,
        reason,
    };
    if text.len() > MAX_FILE {
        return Err(error(1, 1, format!("the file is larger than {MAX_FILE} bytes")));
    }
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {max_depth: MAX_DEPTH},
    };
    serde_saphyr::from_multiple_with_options::<YamlNode>(text, options).map_err(|fault| {
        let (line, column) = fault
            .location()
            .map_or((1, 1), |at| (narrow(at.line()), narrow(at.column())));
        let reason = match &fault {
            Error::DuplicateMappingKey { key: Some(key), .. } => format!("`{key}` is given twice"),
            _ => {
                // Without the position, which goes before it.
                let reason = UserMessageFormatter.format_message(&fault);
                let reason = reason.lines().next().unwrap_or("unreadable");
                format!("not valid YAML: {reason}")
            }
        };
        error(line, column, reason)
    })
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX).max(1)
}

impl YamlNode {
    /// Its place, for an object that outlives the tree.
    #[must_use]
    pub fn location(&self, file: &std::sync::Arc<str>) -> SourceLocation {
        SourceLocation {
            file: file.clone(),
            line: self.line,
            column: self.column,
        }
    }
}

impl YamlNode {
    /// The node that a path leads to, or the last one on the way.
    #[must_use]
    pub fn at(&self, path: &FieldPath) -> &Self {
        self.follow(path).0
    }

    /// The node that a path leads to, or the last one on the way, and how many steps lead there.
    pub(crate) fn follow(&self, path: &FieldPath) -> (&Self, usize) {
        let mut node = self;
        for (steps, segment) in path.segments().iter().enumerate() {
            let next = match (segment, &node.value) {
                (Segment::Field(name), Value::Map(entries)) => {
                    let is = |key: &Self| matches!(&key.value, Value::Text(key) if key == name);
                    let entry = entries.iter().find(|(key, _)| is(key));
                    // One that is written and empty counts as left out.
                    entry
                        .map(|(_, value)| value)
                        .filter(|value| !matches!(value.value, Value::Null))
                }
                (Segment::Index(index), Value::List(items)) => items.get(*index),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => return (node, steps),
            }
        }
        (node, path.segments().len())
    }
}

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Value>::deserialize(deserializer)?;
        let at = spanned.referenced;
        Ok(Self {
            line: narrow(at.line()),
            column: narrow(at.column()),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_where_they_stand() {
        let text = "a: 1\n---\n# note\nb:\n  - x\n  - {c: true}\n";
        let documents = parse("f.yaml", text).expect("valid");
        assert_eq!(documents.len(), 2);
        let Value::Map(entries) = &documents[1].value else {
            panic!("a mapping")
        };
        assert_eq!((entries[0].0.line, entries[0].0.column), (4, 1));
        let Value::List(items) = &entries[0].1.value else {
            panic!("a list")
        };
        assert_eq!((items[0].line, items[0].column), (5, 5));
        let Value::Map(inner) = &items[1].value else {
            panic!("a mapping")
        };
        assert_eq!((inner[0].0.line, inner[0].0.column), (6, 6));
        assert!(matches!(inner[0].1.value, Value::Bool(true)));
    }

    #[test]
    fn broken_yaml_and_doubled_keys_have_a_line() {
        let error = parse("f.yaml", "a: 1\nb: [\n").expect_err("unclosed");
        assert!(error.line >= 2, "{error}");
        assert!(!error.reason.contains("line"), "{error}");
        let error = parse("f.yaml", "a: 1\nb: 2\na: 3\n").expect_err("doubled");
        assert_eq!(error.to_string(), "f.yaml:3:1: `a` is given twice");
    }

    #[test]
    fn a_file_that_nests_too_deep_for_a_threads_stack_is_refused() {
        let of_depth = |depth: usize| format!("{}[]{}", "{a: ".repeat(depth - 1), "}".repeat(depth - 1));
        assert!(parse("f.yaml", &of_depth(MAX_DEPTH)).is_ok());
        for depth in [MAX_DEPTH + 1, 2 * MAX_DEPTH, 1000] {
            let error = parse("f.yaml", &of_depth(depth)).expect_err("too deep");
            assert!(error.reason.starts_with("not valid YAML: "), "{error}");
        }
    }

    #[test]
    fn a_file_that_unfolds_without_end_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let before = level - 1;
            text += &format!(
                "a{level}: &a{level} [{}]\n",
                vec![format!("*a{before}"); 10].join(",")
            );
        }
        assert!(parse("f.yaml", &text).is_err());
        assert!(parse("f.yaml", &"x".repeat(MAX_FILE + 1)).is_err());
        assert!(parse("f.yaml", &"[".repeat(100_000)).is_err());
    }
}
