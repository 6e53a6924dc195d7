//! What Kubernetes itself calls things: its verbs and its resources.
//!
//! In: words of requests and documents. Out: typed verbs, and what is wrong with a word that no API server knows.

pub(crate) mod resources;
pub(crate) mod table;
pub(crate) mod verbs;

/// The namespace of what names none, which is also that of the API server's own Service.
pub const DEFAULT_NAMESPACE: &str = "default";
