//! Canonical Kubernetes requests and the decisions on them.
//!
//! In: an HTTP request's head, and the text of identity, grant and policy files. Out: a [`Permit`] or a [`Denial`].
//! Pure: no I/O, no clock, no runtime. Callers pass the time where it matters.

pub mod builtin;
pub mod catalog;
pub mod decide;
mod glob;
pub mod objects;
pub mod request;
mod served;

pub use catalog::{Catalog, Grant, Identity, Standing, Summary};
pub use decide::{Cause, Decision, Denial, Finding, Impersonate, Permit, Subject};
pub use objects::{AgentGrant, AgentIdentity, AgentPolicy, Document, ObjectError, read_documents};
pub use request::{Exec, KubeRequest, ReadError, Target, Verb};
