//! Tells sessions that a pod changed, so that they are judged again.
//!
//! In: a pod whose facts were replaced, or that was released. Out: a wake of whoever waits at [`PodChanges::next`].

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::runtime::epoch::Epoch;

/// Tells that what is known of a pod was replaced, or that a pod was released; cheap to clone. Changes that nobody has
/// waited for count as one.
#[derive(Debug, Clone, Default)]
pub struct PodChanges(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    epoch: OnceLock<Epoch>,
    waiting: Notify,
}

impl PodChanges {
    /// Has each change from now on raise the epoch too, so that it counts before whoever waits has run. The first epoch stays.
    pub fn raise(&self, epoch: &Epoch) {
        self.0.epoch.get_or_init(|| epoch.clone());
    }

    /// To be called after the change.
    pub fn changed(&self) {
        if let Some(epoch) = self.0.epoch.get() {
            epoch.raise();
        }
        self.0.waiting.notify_one();
    }

    /// Waits for the next change, or for one that came since the last wait.
    pub async fn next(&self) {
        self.0.waiting.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_counts_before_anybody_has_waited_for_it() {
        let (pods, epoch) = (PodChanges::default(), Epoch::default());
        pods.clone().raise(&epoch);
        let before = epoch.now();
        pods.changed();
        assert_ne!(epoch.now(), before);
        pods.next().await;
    }
}
