//! Whether the reconciler is to pause, and whether it does.
//!
//! In: the agent's phase, which says that the kernel's lease is lent to a successor. Out: a wait for the pause or its end, and
//! a watch that says the reconciler pauses.

use tokio::sync::watch;

use crate::runtime::phase::PhaseWatch;

/// When to leave everything as it is, because another agent brings pods where they should be.
pub(super) struct PauseGate {
    pub(super) phase: Option<PhaseWatch>,
    pub(super) paused: watch::Sender<bool>,
}

impl Default for PauseGate {
    fn default() -> Self {
        Self {
            phase: None,
            paused: watch::Sender::new(false),
        }
    }
}

impl PauseGate {
    pub(super) fn wanted(&self) -> bool {
        self.phase.as_ref().is_some_and(|phase| phase.lease().lent)
    }

    /// Waits until a rest is wanted.
    pub(super) async fn requested(&self) {
        self.until(true).await;
    }

    /// Waits until none is wanted any more.
    pub(super) async fn ended(&self) {
        self.until(false).await;
    }

    /// Waits for what is asked to become `wanted`. Where the agent stops it stays as it is.
    async fn until(&self, wanted: bool) {
        if let Some(phase) = &self.phase
            && phase.lent(wanted).await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
