//! Kubernetes Events about pods and the node, for people who look with kubectl.
//!
//! In: a [`KubeEvent`] from any part that has something to report. Out: Events in the API server ([`post`]), through a bounded
//! and rate-limited queue ([`queue`]).

mod metrics;
mod post;
mod queue;

pub use metrics::NotifyMetrics;
pub(crate) use post::{Patience, post};
pub use queue::{About, EventQueue, KubeEvent, Reason};
