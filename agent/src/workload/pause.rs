//! Whether the reconciler is to rest, and whether it does.

use tokio::sync::watch;

/// When to leave everything as it is, because another agent brings pods where they should be.
pub(super) struct PauseGate {
    pub(super) asked: Option<watch::Receiver<bool>>,
    pub(super) told: watch::Sender<bool>,
}

impl Default for PauseGate {
    fn default() -> Self {
        Self {
            asked: None,
            told: watch::Sender::new(false),
        }
    }
}

impl PauseGate {
    pub(super) fn wanted(&mut self) -> bool {
        self.asked
            .as_mut()
            .is_some_and(|asked| *asked.borrow_and_update())
    }

    /// Waits until a rest is wanted.
    pub(super) async fn called(&mut self) {
        self.until(true).await;
    }

    /// Waits until none is wanted any more.
    pub(super) async fn over(&mut self) {
        self.until(false).await;
    }

    /// Waits for what is asked to become `wanted`. Nobody who asks is left when the agent ends: then it stays as it is.
    async fn until(&mut self, wanted: bool) {
        if let Some(asked) = &mut self.asked
            && asked.wait_for(|asked| *asked == wanted).await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
