//! Kubernetes Events about pods and the node: left in a queue by whoever has something to tell, and posted by one task.
//!
//! In: notices. Out: Events.

mod post;
mod queue;

pub(crate) use post::{Patience, post};
pub use queue::{About, Notice, Notices, Reason};
