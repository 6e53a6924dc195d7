//! Objects in files, for commands that judge requests without an agent.
//!
//! In: files and folders. Out: their texts, and the [`PolicySet`] that an agent would make of them.

use std::path::PathBuf;

use picket_policy::{Diagnostic, PolicySet};

use crate::store::StoreError;
use crate::store::files::{objects, read_all};

/// What is wrong with files of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// With an object, at its place.
    Diagnostic(Diagnostic),
    /// With a path.
    Other(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Diagnostic(error) => error.fmt(f),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

fn faults(error: StoreError) -> Vec<Fault> {
    match error {
        StoreError::Objects { errors } => errors.into_iter().map(Fault::Diagnostic).collect(),
        error => vec![Fault::Other(error.to_string())],
    }
}

/// The texts of files, by path.
///
/// # Errors
/// Everything that cannot be read.
pub(super) fn texts(paths: &[PathBuf]) -> Result<Vec<(PathBuf, String)>, Vec<String>> {
    let manifests = read_all(paths).map_err(|error| vec![error.to_string()])?;
    let (mut texts, mut errors) = (Vec::new(), Vec::new());
    for manifest in manifests {
        match manifest.fault {
            None => texts.push((manifest.path, manifest.text)),
            Some(fault) => errors.push(format!(
                "{}:{}:{}: {}",
                manifest.path.display(),
                fault.line,
                fault.column,
                fault.reason
            )),
        }
    }
    if errors.is_empty() { Ok(texts) } else { Err(errors) }
}

/// The set that an agent would make of the objects of these files.
///
/// # Errors
/// Everything that is wrong with them.
pub(super) fn compile(paths: &[PathBuf]) -> Result<PolicySet, Vec<Fault>> {
    let manifests = read_all(paths).map_err(faults)?;
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    for manifest in &manifests {
        let reading = objects(manifest);
        errors.extend(reading.errors.into_iter().map(Fault::Diagnostic));
        documents.extend(reading.entries.into_iter().filter_map(|entry| entry.document));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    PolicySet::compile(documents).map_err(|errors| errors.into_iter().map(Fault::Diagnostic).collect())
}
