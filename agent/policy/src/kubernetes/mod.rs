//! What Kubernetes itself calls things: its verbs and its resources.

pub(crate) mod resources;
pub(crate) mod verbs;
