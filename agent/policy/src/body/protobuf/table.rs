//! The messages of Kubernetes' own kinds.
//!
//! In: `messages.txt`, which tests/protobuf-oracle writes from the Go types of the API. Out: the [`TABLE`].
//!
//! A line is one of `kind APIVERSION KIND MESSAGE`, `message NAME`, and below a message for each field
//! `NUMBER JSON-NAME one|pointer|list|map never|empty|zero|inline TYPE`. A message is referred to by its place among them.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The messages of this release.
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| Table::read(include_str!("messages.txt")));

/// Kinds and messages.
#[derive(Default)]
pub(super) struct Table {
    kinds: HashMap<(&'static str, &'static str), usize>,
    messages: Vec<Vec<Field>>,
}

/// A field of a message.
pub(super) struct Field {
    pub(super) number: u64,
    /// Its key in JSON.
    pub(super) name: &'static str,
    pub(super) often: Often,
    pub(super) left_out: LeftOut,
    pub(super) of: Type,
}

/// How often a field comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Often {
    /// Once; without it, the value is that of its type when nothing is set.
    One,
    /// Once or not at all.
    Pointer,
    List,
    /// Texts to values.
    Map,
}

/// When JSON leaves a field out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftOut {
    Never,
    /// `omitempty`: when it is false, 0, empty or nil. A message is none of these.
    Empty,
    /// `omitzero`: also when it is a message with nothing set.
    Zero,
    /// Its own fields stand in its place.
    Inline,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int32,
    Int64,
    Double,
    Text,
    Bytes,
    /// A message that JSON writes as a list of texts.
    Texts,
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrString,
    /// JSON inside of protobuf.
    Raw,
    Message(usize),
}

impl Table {
    fn read(text: &'static str) -> Self {
        let mut table = Self::default();
        for line in text.lines() {
            let words: Vec<&'static str> = line.split(' ').collect();
            match *words.as_slice() {
                ["kind", api_version, kind, message] => {
                    let message = message.parse().unwrap_or(usize::MAX);
                    table.kinds.insert((api_version, kind), message);
                }
                ["message", _] => table.messages.push(Vec::new()),
                [number, name, often, left_out, of] => {
                    if let (Some(fields), Some(field)) = (
                        table.messages.last_mut(),
                        Field::read([number, name, often, left_out, of]),
                    ) {
                        fields.push(field);
                    }
                }
                _ => {}
            }
        }
        table
    }

    /// The message of a kind.
    pub(super) fn kind(&self, api_version: &str, kind: &str) -> Option<usize> {
        // Every group has the kind of options.
        let any = self.kinds.get(&("*", kind));
        any.or_else(|| self.kinds.get(&(api_version, kind))).copied()
    }

    /// The fields of a message, in the order of their Go type.
    pub(super) fn fields(&self, message: usize) -> &[Field] {
        self.messages.get(message).map_or(&[], Vec::as_slice)
    }
}

impl Field {
    fn read([number, name, often, left_out, of]: [&'static str; 5]) -> Option<Self> {
        Some(Self {
            number: number.parse().ok()?,
            name,
            often: match often {
                "one" => Often::One,
                "pointer" => Often::Pointer,
                "list" => Often::List,
                "map" => Often::Map,
                _ => return None,
            },
            left_out: match left_out {
                "never" => LeftOut::Never,
                "empty" => LeftOut::Empty,
                "zero" => LeftOut::Zero,
                "inline" => LeftOut::Inline,
                _ => return None,
            },
            of: match of {
                "bool" => Type::Bool,
                "int32" => Type::Int32,
                "int64" => Type::Int64,
                "double" => Type::Double,
                "string" => Type::Text,
                "bytes" => Type::Bytes,
                "texts" => Type::Texts,
                "time" => Type::Time,
                "microtime" => Type::MicroTime,
                "duration" => Type::Duration,
                "quantity" => Type::Quantity,
                "int-or-string" => Type::IntOrString,
                "raw" => Type::Raw,
                message => Type::Message(message.parse().ok()?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        let text = include_str!("messages.txt");
        let starting = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
        let fields = text
            .lines()
            .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
            .count();
        assert_eq!(TABLE.kinds.len(), starting("kind "));
        assert_eq!(TABLE.messages.len(), starting("message "));
        assert_eq!(TABLE.messages.iter().map(Vec::len).sum::<usize>(), fields);
        let refers = |field: &Field| match field.of {
            Type::Message(number) => number < TABLE.messages.len(),
            _ => true,
        };
        assert!(TABLE.messages.iter().flatten().all(refers));
        assert!(TABLE.kinds.values().all(|number| *number < TABLE.messages.len()));
        assert!(TABLE.kind("v1", "Pod").is_some() && TABLE.kind("apps/v1", "DeleteOptions").is_some());
        assert!(TABLE.kind("apps/v1", "Pod").is_none());
    }
}
