//! What Kubernetes itself calls things: its verbs and its resources.
//!
//! In: words of requests and documents. Out: typed verbs, and what is wrong with a word that no API server knows.

pub(crate) mod resources;
pub(crate) mod verbs;
