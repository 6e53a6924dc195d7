//! What is wrong with files, as `policy check` and `policy test` report it.
//!
//! In: a [`Diagnostic`], or a reason without a place. Out: an [`ErrorReport`], for people and for programs.

use std::fmt;

use picket_policy::Diagnostic;
use serde::Serialize;

/// What is wrong, and where that is known.
#[derive(Debug, Serialize)]
pub(super) struct ErrorReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) column: Option<u32>,
    pub(super) reason: String,
}

impl ErrorReport {
    /// One without a place.
    pub(super) fn plain(reason: String) -> Self {
        Self {
            file: None,
            line: None,
            column: None,
            reason,
        }
    }
}

impl From<Diagnostic> for ErrorReport {
    fn from(error: Diagnostic) -> Self {
        Self {
            file: Some(error.file),
            line: Some(error.line),
            column: Some(error.column),
            reason: error.reason,
        }
    }
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(file), Some(line), Some(column)) = (&self.file, self.line, self.column) {
            write!(f, "{file}:{line}:{column}: ")?;
        }
        f.write_str(&self.reason)
    }
}
