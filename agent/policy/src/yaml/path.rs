//! The way to a value in a document.
//!
//! In: field names and indexes. Out: a [`FieldPath`], as messages show it and as [`YamlNode`](super::YamlNode) follows it.

use std::fmt;

/// The way to a field: `spec.rules[0].match`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(Vec<Segment>);

/// One step of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// A field of a mapping.
    Field(String),
    /// An item of a list.
    Index(usize),
}

impl FieldPath {
    /// The path of a field at the top of an object.
    #[must_use]
    pub fn new(field: &str) -> Self {
        Self::default().field(field)
    }

    /// The path of a field in this one.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(Segment::Field(name.to_owned()))
    }

    /// The path of an item in this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = Vec::with_capacity(self.0.len() + 1);
        segments.extend_from_slice(&self.0);
        segments.push(segment);
        Self(segments)
    }

    /// Its steps from the top.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The last field's name.
    pub(crate) fn last_field(&self) -> &str {
        let field = |segment: &'_ Segment| matches!(segment, Segment::Field(_));
        match self.0.iter().rfind(|segment| field(segment)) {
            Some(Segment::Field(name)) => name,
            _ => "",
        }
    }

    /// Its first steps.
    pub(crate) fn first(&self, steps: usize) -> Self {
        Self(self.0.iter().take(steps).cloned().collect())
    }

    /// Whether it is another path or leads into it.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The path with `[]` for every index, as tables of fields name it.
    pub(crate) fn pattern(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, segment| {
            match segment {
                Segment::Field(name) if text.is_empty() => text.push_str(name),
                Segment::Field(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Segment::Index(_) => text.push_str("[]"),
            }
            text
        })
    }
}

/// Whoever writes a file chooses the names of unknown fields. A name cannot begin a line of its own or move a terminal's cursor.
impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if number == 0 => write!(f, "{}", name.escape_debug())?,
                Segment::Field(name) => write!(f, ".{}", name.escape_debug())?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_a_file_made_up_is_shown_in_one_line() {
        let path = FieldPath::new("spec")
            .index(1)
            .field("a\n::error::\u{1b}[2J\u{202e}b");
        assert_eq!(path.to_string(), "spec[1].a\\n::error::\\u{1b}[2J\\u{202e}b");
        assert_eq!(FieldPath::new("a/b-c").to_string(), "a/b-c");
    }
}
