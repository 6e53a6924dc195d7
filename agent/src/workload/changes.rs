//! Tells sessions that a pod changed, so that they are judged again.
//!
//! In: a pod whose facts were replaced, or that was released. Out: a wake of whoever waits at [`PodChanges::next`].

use std::sync::Arc;

use tokio::sync::Notify;

/// Tells that what is known of a pod was replaced, or that a pod was released; cheap to clone. Changes that nobody has
/// waited for count as one.
#[derive(Debug, Clone, Default)]
pub struct PodChanges(Arc<Notify>);

impl PodChanges {
    /// To be called after the change.
    pub fn changed(&self) {
        self.0.notify_one();
    }

    /// Waits for the next change, or for one that came since the last wait.
    pub async fn next(&self) {
        self.0.notified().await;
    }
}
