//! The objects people write (group `picket.dev`), and how their YAML is read.
//!
//! In: a file's name and text. Out: [`Document`]s, or every [`Diagnostic`] in it with file, line and
//! column. A field that is unknown, or known to the design but not built yet, is an error: nothing that is written is ignored.
//!
//! The types in [`v1alpha1`] are the one source: files are decoded by the schema that is generated from them. JSON Schema and
//! CRDs are generated from the same.

mod crd;
pub(crate) mod field;
mod free_form;
mod read;
mod schema;
mod shape;
pub mod v1alpha1;

use std::sync::Arc;

pub use crd::{crd_files, custom_resource_definitions};
pub use field::{FieldError, FieldErrors};
pub(crate) use read::read_objects;
pub use read::{DocumentEntry, FileReading, read_documents, read_file};
pub(crate) use schema::schema_file;
pub use schema::{any_object_schema, object_schema, object_schemas, schemas};
pub(crate) use shape::plain;

use crate::yaml::{Diagnostic, FieldPath, SourceLocation, YamlNode};
use v1alpha1::{
    AgentGrant, AgentGrantSpec, AgentIdentity, AgentIdentitySpec, AgentPolicy, AgentPolicySpec, Spec,
};

/// The API group of every object.
pub const GROUP: &str = "picket.dev";
/// The `apiVersion` of every object.
pub const API_VERSION: &str = "picket.dev/v1alpha1";

/// One document of a file: an object and where it stands.
#[derive(Debug, Clone)]
pub struct Document {
    /// The object.
    pub object: AnyObject,
    file: Arc<str>,
    /// Shared, since a set of thousands of objects is compiled anew at each change of one.
    node: Arc<YamlNode>,
}

/// An object of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyObject {
    /// Who an agent is.
    Identity(AgentIdentity),
    /// What agents may do.
    Grant(AgentGrant),
    /// What agents must not do.
    Policy(AgentPolicy),
}

impl Document {
    /// The kind as it is written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.object {
            AnyObject::Identity(_) => AgentIdentitySpec::KIND,
            AnyObject::Grant(_) => AgentGrantSpec::KIND,
            AnyObject::Policy(_) => AgentPolicySpec::KIND,
        }
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.object {
            AnyObject::Identity(identity) => &identity.metadata.name,
            AnyObject::Grant(grant) => &grant.metadata.name,
            AnyObject::Policy(policy) => &policy.metadata.name,
        }
    }

    /// Where a field stands, or where the mapping stands that it is missing from.
    #[must_use]
    pub fn location(&self, path: &FieldPath) -> SourceLocation {
        self.node.at(path).location(&self.file)
    }

    /// Where the name stands.
    #[must_use]
    pub fn name_location(&self) -> SourceLocation {
        self.location(&name_path())
    }

    /// An error at a field.
    #[must_use]
    pub fn error_at(&self, path: &FieldPath, reason: impl Into<String>) -> Diagnostic {
        Diagnostic::at(&self.location(path), reason)
    }
}

/// Where an object's name is.
pub(crate) fn name_path() -> FieldPath {
    FieldPath::new("metadata").field("name")
}

#[cfg(test)]
mod schema_cases;
#[cfg(test)]
mod schema_checks;
#[cfg(test)]
mod tests;
