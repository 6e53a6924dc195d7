//! Canonical Kubernetes requests and the decisions on them.
//!
//! In: an HTTP request's head, and the text of identity, grant and policy files. Out: a [`Permit`] or a [`Denial`].
//! Pure: no I/O, no clock, no runtime. Callers pass the time where it matters.

pub mod api;
pub mod decision;
pub mod engine;
mod glob;
mod kubernetes;
pub mod request;
pub mod yaml;

pub use api::v1alpha1::{AgentGrant, AgentIdentity, AgentPolicy};
pub use api::{Document, read_documents};
pub use decision::{Cause, Decision, Denial, Finding, Impersonate, Permit, Subject};
pub use engine::{Grant, Identity, PolicySet, Standing, Summary, builtin};

pub use request::{Exec, KubeRequest, ReadError, Target, Verb};
pub use yaml::Diagnostic;
