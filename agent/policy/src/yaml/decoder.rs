//! Decoding helpers: each wants one shape.
//!
//! In: [`YamlNode`]s of a file. Out: plain values with their places, and a [`Diagnostic`] with the field's path where a node
//! has another shape.

use std::sync::Arc;

use jiff::Timestamp;

use super::tree::{Value, YamlNode};
use super::{Diagnostic, SourceLocation, Spanned};

/// Takes values out of the nodes of one file, and collects the errors.
#[derive(Debug)]
pub struct Decoder {
    /// The file's name.
    pub(crate) file: Arc<str>,
    /// What was wrong so far, each with its place among the errors.
    pub(crate) errors: Vec<(Order, Diagnostic)>,
}

/// The line and column that an error is told after those before.
type Order = (u32, u32);

/// What an error can be noted at.
pub trait Locate {
    /// Where it stands in the file that is decoded.
    fn locate(&self, file: &Arc<str>) -> SourceLocation;
}

impl Locate for YamlNode {
    fn locate(&self, file: &Arc<str>) -> SourceLocation {
        self.location(file)
    }
}

impl Locate for SourceLocation {
    fn locate(&self, _: &Arc<str>) -> SourceLocation {
        self.clone()
    }
}

/// The fields of a mapping that were asked for by name.
#[derive(Debug)]
pub struct Fields<'n> {
    /// The mapping's place.
    pub node: &'n YamlNode,
    path: String,
    entries: Vec<(&'n str, &'n YamlNode)>,
    /// Where its last key of a name that is not known stands.
    unknown: Option<Order>,
}

impl<'n> Fields<'n> {
    /// A field's value; one that is written and empty counts as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'n YamlNode> {
        let (_, node) = self.entries.iter().find(|(key, _)| *key == name)?;
        (!matches!(node.value, Value::Null)).then_some(*node)
    }

    /// A field's path from the document's root.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}

impl Decoder {
    /// A decoder of a file that has no errors yet.
    #[must_use]
    pub fn new(file: &str) -> Self {
        Self {
            file: Arc::from(file),
            errors: Vec::new(),
        }
    }

    /// What was read, or everything that is wrong, in the order of the file. What a mapping lacks follows its unknown keys: one of them
    /// may be the field that was meant.
    ///
    /// # Errors
    /// Those that were noted.
    pub fn finish<T>(mut self, read: T) -> Result<T, Vec<Diagnostic>> {
        if self.errors.is_empty() {
            return Ok(read);
        }
        self.errors.sort_by_key(|(order, _)| *order);
        Err(self.errors.into_iter().map(|(_, error)| error).collect())
    }

    /// Notes an error at a node or a place.
    pub fn error_at(&mut self, at: &impl Locate, reason: impl Into<String>) {
        let location = at.locate(&self.file);
        let order = (location.line, location.column);
        self.errors.push((order, Diagnostic::at(&location, reason)));
    }

    /// A mapping with these fields only. `later` names fields of the design that this version does not have.
    pub fn fields<'n>(
        &mut self,
        node: &'n YamlNode,
        path: &str,
        known: &[&str],
        later: &[&str],
    ) -> Option<Fields<'n>> {
        self.fields_renamed(node, path, known, later, &[])
    }

    /// Likewise, where some fields had another name before: each old name with the new one's whole path.
    pub fn fields_renamed<'n>(
        &mut self,
        node: &'n YamlNode,
        path: &str,
        known: &[&str],
        later: &[&str],
        renamed: &[(&str, &str)],
    ) -> Option<Fields<'n>> {
        let Value::Map(map) = &node.value else {
            let what = if path.is_empty() {
                "the document".to_owned()
            } else {
                format!("field `{path}`")
            };
            self.error_at(
                node,
                format!("{what} must be a mapping, not {}", node.value.describe()),
            );
            return None;
        };
        let mut fields = Fields {
            node,
            path: path.to_owned(),
            entries: Vec::with_capacity(map.len()),
            unknown: None,
        };
        for (key, value) in map {
            let Value::Text(name) = &key.value else {
                self.error_at(
                    key,
                    format!("a field's name must be text, not {}", key.value.describe()),
                );
                continue;
            };
            if known.contains(&name.as_str()) {
                fields.entries.push((name, value));
            } else if later.contains(&name.as_str()) {
                self.error_at(
                    key,
                    format!(
                        "field `{}` is not supported by this version yet",
                        fields.path(name)
                    ),
                );
            } else if let Some((_, new)) = renamed.iter().find(|(old, _)| old == name) {
                let old = fields.path(name);
                self.error_at(key, format!("field `{old}` is called `{new}` now"));
            } else {
                let known = known.join(", ");
                fields.unknown = Some((key.line, key.column));
                self.error_at(
                    key,
                    format!("unknown field `{}`; known here: {known}", fields.path(name)),
                );
            }
        }
        Some(fields)
    }

    /// A field that must be there.
    pub fn required<'n>(&mut self, fields: &Fields<'n>, name: &str) -> Option<&'n YamlNode> {
        let node = fields.get(name);
        if node.is_none() {
            self.error_at(fields.node, format!("field `{}` is required", fields.path(name)));
            if let (Some(unknown), Some((order, _))) = (fields.unknown, self.errors.last_mut()) {
                *order = unknown;
            }
        }
        node
    }

    /// Text.
    pub fn text(&mut self, node: &YamlNode, path: &str) -> Option<Spanned<String>> {
        match &node.value {
            Value::Text(text) => Some(Spanned {
                value: text.clone(),
                at: node.location(&self.file),
            }),
            Value::Bool(_) | Value::Number(_) => {
                self.error_at(
                    node,
                    format!(
                        "field `{path}` must be text, not {}: quote it",
                        node.value.describe()
                    ),
                );
                None
            }
            other => {
                self.error_at(
                    node,
                    format!("field `{path}` must be text, not {}", other.describe()),
                );
                None
            }
        }
    }

    /// Text that is not empty.
    pub fn filled_text(&mut self, node: &YamlNode, path: &str) -> Option<Spanned<String>> {
        let text = self.text(node, path)?;
        if text.value.trim().is_empty() {
            self.error_at(node, format!("field `{path}` must not be empty"));
            return None;
        }
        Some(text)
    }

    /// Text that is there and not empty.
    pub fn required_text(&mut self, fields: &Fields<'_>, name: &str) -> Option<Spanned<String>> {
        let node = self.required(fields, name)?;
        self.filled_text(node, &fields.path(name))
    }

    /// The items of a list; none where it is no list.
    pub fn list<'n>(&mut self, node: &'n YamlNode, path: &str) -> &'n [YamlNode] {
        self.items(node, path).unwrap_or_default()
    }

    /// The items of a list.
    pub fn items<'n>(&mut self, node: &'n YamlNode, path: &str) -> Option<&'n [YamlNode]> {
        if let Value::List(items) = &node.value {
            return Some(items);
        }
        self.error_at(
            node,
            format!("field `{path}` must be a list, not {}", node.value.describe()),
        );
        None
    }

    /// The entries of a mapping with names of the writer's own.
    pub fn entries<'n>(&mut self, node: &'n YamlNode, path: &str) -> Option<Vec<(String, &'n YamlNode)>> {
        let Value::Map(entries) = &node.value else {
            self.error_at(
                node,
                format!("field `{path}` must be a mapping, not {}", node.value.describe()),
            );
            return None;
        };
        let entry = |(key, value): &'n (YamlNode, YamlNode)| Some((self.text(key, path)?.value, value));
        Some(entries.iter().filter_map(entry).collect())
    }

    /// One word of a few.
    pub fn choice<T: Copy>(&mut self, node: &YamlNode, path: &str, choices: &[(&str, T)]) -> Option<T> {
        let written = match &node.value {
            Value::Text(text) => {
                let found = choices.iter().find(|(word, _)| word == text);
                if let Some((_, choice)) = found {
                    return Some(*choice);
                }
                format!("{text:?}")
            }
            other => other.describe().to_string(),
        };
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let words = words.join(", ");
        let words = match words.rsplit_once(", ") {
            Some((first, last)) => format!("{first} or {last}"),
            None => words,
        };
        self.error_at(node, format!("field `{path}` is {written}; it can be {words}"));
        None
    }

    /// A moment in RFC 3339.
    pub fn moment(&mut self, text: &Spanned<String>, path: &str) -> Option<Timestamp> {
        let moment = text.value.parse().ok();
        if moment.is_none() {
            self.error_at(
                &text.at,
                format!("field `{path}` must be a moment such as 2027-01-31T00:00:00Z"),
            );
        }
        moment
    }
}
