//! Decoding helpers: each wants one shape, and notes an error with the field's path where it finds another.

use std::sync::Arc;

use jiff::Timestamp;

use super::tree::{Node, Value};
use super::{Located, ObjectError, Place};

/// Collects the errors of one file.
#[derive(Debug)]
pub struct Reader {
    /// The file's name.
    pub(super) file: Arc<str>,
    /// What was wrong so far.
    pub(super) errors: Vec<ObjectError>,
}

/// The fields of a mapping that were asked for by name.
#[derive(Debug)]
pub struct Fields<'n> {
    /// The mapping's place.
    pub node: &'n Node,
    path: String,
    entries: Vec<(&'n str, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// A field's value; one that is written and empty counts as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'n Node> {
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

impl Reader {
    /// A reader of a file that has no errors yet.
    #[must_use]
    pub fn new(file: &str) -> Self {
        Self {
            file: Arc::from(file),
            errors: Vec::new(),
        }
    }

    /// What was read, or everything that is wrong, in the order of the file.
    ///
    /// # Errors
    /// Those that were noted.
    pub fn finish<T>(mut self, read: T) -> Result<T, Vec<ObjectError>> {
        if self.errors.is_empty() {
            return Ok(read);
        }
        self.errors.sort_by_key(|error| (error.line, error.column));
        Err(self.errors)
    }

    /// Notes an error at a node.
    pub fn fault(&mut self, node: &Node, reason: impl Into<String>) {
        self.errors.push(ObjectError::at(&node.place(&self.file), reason));
    }

    /// Notes an error at a place.
    pub fn fault_at(&mut self, place: &Place, reason: impl Into<String>) {
        self.errors.push(ObjectError::at(place, reason));
    }

    /// A mapping with these fields only. `later` names fields of the design that this version does not have.
    pub fn fields<'n>(
        &mut self,
        node: &'n Node,
        path: &str,
        known: &[&str],
        later: &[&str],
    ) -> Option<Fields<'n>> {
        let Value::Map(map) = &node.value else {
            let what = if path.is_empty() {
                "the document".to_owned()
            } else {
                format!("field `{path}`")
            };
            self.fault(
                node,
                format!("{what} must be a mapping, not {}", node.value.describe()),
            );
            return None;
        };
        let mut fields = Fields {
            node,
            path: path.to_owned(),
            entries: Vec::with_capacity(map.len()),
        };
        for (key, value) in map {
            let Value::Text(name) = &key.value else {
                self.fault(
                    key,
                    format!("a field's name must be text, not {}", key.value.describe()),
                );
                continue;
            };
            if known.contains(&name.as_str()) {
                fields.entries.push((name, value));
            } else if later.contains(&name.as_str()) {
                self.fault(
                    key,
                    format!(
                        "field `{}` is not supported by this version yet",
                        fields.path(name)
                    ),
                );
            } else {
                let known = known.join(", ");
                self.fault(
                    key,
                    format!("unknown field `{}`; known here: {known}", fields.path(name)),
                );
            }
        }
        Some(fields)
    }

    /// A field that must be there.
    pub fn required<'n>(&mut self, fields: &Fields<'n>, name: &str) -> Option<&'n Node> {
        let node = fields.get(name);
        if node.is_none() {
            self.fault(fields.node, format!("field `{}` is required", fields.path(name)));
        }
        node
    }

    /// Text.
    pub fn text(&mut self, node: &Node, path: &str) -> Option<Located<String>> {
        match &node.value {
            Value::Text(text) => Some(Located {
                value: text.clone(),
                at: node.place(&self.file),
            }),
            Value::Bool(_) | Value::Number(_) => {
                self.fault(
                    node,
                    format!(
                        "field `{path}` must be text, not {}: quote it",
                        node.value.describe()
                    ),
                );
                None
            }
            other => {
                self.fault(
                    node,
                    format!("field `{path}` must be text, not {}", other.describe()),
                );
                None
            }
        }
    }

    /// Text that is there and not empty.
    pub fn required_text(&mut self, fields: &Fields<'_>, name: &str) -> Option<Located<String>> {
        let node = self.required(fields, name)?;
        let path = fields.path(name);
        let text = self.text(node, &path)?;
        if text.value.trim().is_empty() {
            self.fault(node, format!("field `{path}` must not be empty"));
            return None;
        }
        Some(text)
    }

    /// The items of a list.
    pub fn list<'n>(&mut self, node: &'n Node, path: &str) -> &'n [Node] {
        if let Value::List(items) = &node.value {
            return items;
        }
        self.fault(
            node,
            format!("field `{path}` must be a list, not {}", node.value.describe()),
        );
        &[]
    }

    /// A list of texts; `None` where the field is absent. A list that is written and empty matches nothing, which
    /// nobody means, and is refused.
    pub fn texts(&mut self, fields: &Fields<'_>, name: &str) -> Option<Vec<Located<String>>> {
        let node = fields.get(name)?;
        let path = fields.path(name);
        let items = self.list(node, &path);
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            self.fault(
                node,
                format!("field `{path}` is an empty list: leave it out, or name something"),
            );
        }
        let texts = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| self.text(item, &format!("{path}[{index}]")))
            .collect();
        Some(texts)
    }

    /// One word of a few.
    pub fn choice<T: Copy>(&mut self, node: &Node, path: &str, choices: &[(&str, T)]) -> Option<T> {
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
        self.fault(node, format!("field `{path}` is {written}; it can be {words}"));
        None
    }

    /// A moment in RFC 3339.
    pub fn moment(&mut self, fields: &Fields<'_>, name: &str) -> Option<Timestamp> {
        let node = fields.get(name)?;
        let path = fields.path(name);
        let text = self.text(node, &path)?;
        match text.value.parse() {
            Ok(moment) => Some(moment),
            Err(_) => {
                self.fault(
                    node,
                    format!("field `{path}` must be a moment such as 2027-01-31T00:00:00Z"),
                );
                None
            }
        }
    }
}

/// Whether a text is a DNS subdomain as Kubernetes wants names to be (RFC 1123).
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        })
}
