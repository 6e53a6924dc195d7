//! Where objects come from.
//!
//! In: files, and later other places that keep objects. Out: texts that [`super::Store`] reads and merges into one set.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use super::StoreError;

/// A place that keeps objects.
pub trait Source: fmt::Debug + Send + Sync {
    /// All that it holds now, in an order that stays.
    ///
    /// # Errors
    /// A [`StoreError`] where it cannot be read, or holds nothing.
    fn manifests(&self) -> Result<Vec<Manifest>, StoreError>;

    /// Folders in which a change may be one of the source.
    fn folders(&self) -> BTreeSet<PathBuf>;
}

/// A text with objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its path.
    pub path: PathBuf,
    /// The text; empty where there is a fault.
    pub text: String,
    /// Why the text cannot be read. The other texts count all the same: they may shut an agent out.
    pub fault: Option<TextFault>,
}

/// Why a text cannot be read, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFault {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong.
    pub reason: String,
}

impl Manifest {
    /// A text that was read.
    #[must_use]
    pub fn new(path: PathBuf, text: String) -> Self {
        Self {
            path,
            text,
            fault: None,
        }
    }
}
