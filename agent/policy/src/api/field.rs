//! What is wrong with fields of an object.
//!
//! In: checks of objects, wherever they came from. Out: [`FieldError`]s, which a file's document turns into diagnostics with
//! line and column, and an object of a cluster's API server into its status.

use crate::yaml::FieldPath;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FieldError {
    /// The field.
    pub path: FieldPath,
    /// What is wrong with it.
    pub reason: String,
}

/// Collects what is wrong with one object.
#[derive(Debug, Default)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// Notes an error.
    pub fn add(&mut self, path: FieldPath, reason: impl Into<String>) {
        self.0.push(FieldError {
            path,
            reason: reason.into(),
        });
    }

    /// Notes what is wrong with each text of a list.
    pub(crate) fn add_each(
        &mut self,
        path: &FieldPath,
        list: &[String],
        reason: impl Fn(&str) -> Option<String>,
    ) {
        for (index, text) in list.iter().enumerate() {
            if let Some(reason) = reason(text) {
                self.add(path.index(index), reason);
            }
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them.
    #[must_use]
    pub fn into_vec(self) -> Vec<FieldError> {
        self.0
    }
}
