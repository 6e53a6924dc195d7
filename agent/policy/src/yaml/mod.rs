//! YAML whose every value knows its file, line and column, and how it is decoded with all errors reported at once.
//!
//! In: a file's name and text. Out: [`YamlNode`]s, and a [`Decoder`] that takes values out of them and collects a
//! [`Diagnostic`] for each that cannot stand.

mod decoder;
mod edit;
mod list;
mod path;
mod tree;

use std::sync::Arc;

pub use decoder::{Decoder, Fields};
pub use edit::{EditError, remove_document, set_text};
pub(crate) use list::objects;
pub use path::FieldPath;
pub use tree::{Value, YamlNode, parse};

/// Largest file that is read, in bytes: what a ConfigMap or an object in etcd can hold.
pub const MAX_FILE: usize = 1024 * 1024;

/// A value as a YAML document.
///
/// In: what JSON can hold. Out: text that [`parse`] reads as the same value. A text that YAML cannot write comes out as JSON,
/// which YAML reads too.
#[must_use]
pub fn to_yaml(value: &serde_json::Value) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|_| format!("{value:#}\n"))
}

/// Where something stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceLocation {
    /// The file as it was named to [`read_documents`](crate::api::read_documents).
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// Something in a file that cannot stand, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}:{column}: {reason}")]
pub struct Diagnostic {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong, naming the field.
    pub reason: String,
}

impl Diagnostic {
    /// An error at a place.
    #[must_use]
    pub fn at(place: &SourceLocation, reason: impl Into<String>) -> Self {
        Self {
            file: place.file.to_string(),
            line: place.line,
            column: place.column,
            reason: reason.into(),
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: SourceLocation,
}
