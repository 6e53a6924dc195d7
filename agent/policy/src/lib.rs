//! Canonical Kubernetes requests and the decisions on them.
//!
//! In: an HTTP request's head, and the text of identity, grant and policy files. Out: a [`Permit`] or a [`Denial`].
//! Pure: no I/O, no clock, no runtime. Callers pass the time where it matters.

pub mod decision;
pub mod engine;
mod glob;
pub mod objects;
pub mod request;
mod served;

pub use decision::{Cause, Decision, Denial, Finding, Impersonate, Permit, Subject};
pub use engine::{Grant, Identity, PolicySet, Standing, Summary, builtin};
pub use objects::{AgentGrant, AgentIdentity, AgentPolicy, Document, ObjectError, read_documents};
pub use request::{Exec, KubeRequest, ReadError, Target, Verb};
