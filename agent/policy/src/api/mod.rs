//! The objects people write (group `picket.dev`), and how their YAML is read.
//!
//! In: a file's name and text. Out: [`Document`]s, or every [`Diagnostic`](crate::yaml::Diagnostic) in it with file, line and
//! column. A field that is unknown, or known to the design but not built yet, is an error: nothing that is written is ignored.

mod read;
pub mod v1alpha1;

pub use read::read_documents;

use crate::yaml::Spanned;
use v1alpha1::{AgentGrant, AgentIdentity, AgentPolicy};

/// The API group of every object.
pub const GROUP: &str = "picket.dev";
/// The `apiVersion` of every object.
pub const API_VERSION: &str = "picket.dev/v1alpha1";

/// One document of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
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
        match self {
            Self::Identity(_) => "AgentIdentity",
            Self::Grant(_) => "AgentGrant",
            Self::Policy(_) => "AgentPolicy",
        }
    }

    /// `metadata.name` and its place.
    #[must_use]
    pub fn name(&self) -> &Spanned<String> {
        match self {
            Self::Identity(identity) => &identity.name,
            Self::Grant(grant) => &grant.name,
            Self::Policy(policy) => &policy.name,
        }
    }
}

#[cfg(test)]
mod tests;
