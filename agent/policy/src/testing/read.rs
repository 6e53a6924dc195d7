//! From a test file's text to tests.
//!
//! In: a file's name and text. Out: its [`PolicyTest`]s, or every [`Diagnostic`].

use std::sync::Arc;

use serde_json::Value as Json;

use super::model::AgentPolicyTestSpec;
use crate::api::v1alpha1::{Object, Spec};
use crate::api::{object_schema, read_objects, schema_file};
use crate::yaml::{Diagnostic, FieldPath, SourceLocation, YamlNode};

/// A test of a file, and where it stands.
#[derive(Debug, Clone)]
pub struct PolicyTest {
    /// The test.
    pub object: Object<AgentPolicyTestSpec>,
    file: Arc<str>,
    node: Arc<YamlNode>,
}

impl PolicyTest {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.object.metadata.name
    }

    /// What it says.
    #[must_use]
    pub fn spec(&self) -> &AgentPolicyTestSpec {
        &self.object.spec
    }

    /// The file that it stands in.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where a case stands.
    #[must_use]
    pub fn case_location(&self, index: usize) -> SourceLocation {
        self.location(&case_path(index))
    }

    /// An error at a field of a case, such as `kubectl`.
    #[must_use]
    pub fn error_in_case(&self, index: usize, field: &str, reason: impl Into<String>) -> Diagnostic {
        Diagnostic::at(&self.location(&case_path(index).field(field)), reason)
    }

    /// An error at a field of the spec, such as `files`.
    #[must_use]
    pub fn error_at(&self, field: &str, reason: impl Into<String>) -> Diagnostic {
        Diagnostic::at(&self.location(&FieldPath::new("spec").field(field)), reason)
    }

    fn location(&self, path: &FieldPath) -> SourceLocation {
        self.node.at(path).location(&self.file)
    }
}

fn case_path(index: usize) -> FieldPath {
    FieldPath::new("spec").field("cases").index(index)
}

/// Reads every test of a file.
///
/// # Errors
/// Everything that is wrong in it, in the order of the file.
pub fn read_tests(file: &str, text: &str) -> Result<Vec<PolicyTest>, Vec<Diagnostic>> {
    let file: Arc<str> = Arc::from(file);
    let objects = read_objects::<AgentPolicyTestSpec>(&file, text)?;
    if objects.is_empty() {
        return Err(vec![Diagnostic {
            file: file.to_string(),
            line: 1,
            column: 1,
            reason: format!("no {} is in this file: write one", AgentPolicyTestSpec::KIND),
        }]);
    }
    let tests = objects.into_iter().map(|(object, node)| PolicyTest {
        object,
        file: Arc::clone(&file),
        node: Arc::new(node),
    });
    Ok(tests.collect())
}

/// The kind of a test file, and its schema.
#[must_use]
pub fn test_schema() -> (&'static str, Json) {
    (AgentPolicyTestSpec::KIND, object_schema::<AgentPolicyTestSpec>())
}

/// The file under `deploy/schemas` that editors read test files by.
#[must_use]
pub fn test_schemas() -> Vec<(String, String)> {
    let (kind, schema) = test_schema();
    vec![schema_file(kind, schema)]
}
