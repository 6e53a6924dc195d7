//! Who may change something in the kernel: one agent at a time, and one of its parts.

use std::sync::Arc;

use tokio::sync::{OwnedMutexGuard, watch};

/// Whose turn it is to change something in the kernel: this agent's, unless another takes over.
#[derive(Debug, Clone)]
pub(crate) struct KernelWriteLease {
    /// Held while something is changed.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
    /// Whether another agent takes over.
    pub(crate) giving: watch::Receiver<bool>,
}

impl KernelWriteLease {
    /// Waits until it is this agent's turn. `None` once the agent ends.
    pub(crate) async fn acquire(&mut self) -> Option<LeaseGuard> {
        let mut back = false;
        loop {
            back |= self.giving.has_changed().ok()?;
            self.giving.wait_for(|giving| !*giving).await.ok()?;
            let changing = Arc::clone(&self.changing).lock_owned().await;
            back |= self.giving.has_changed().ok()?;
            if !*self.giving.borrow_and_update() {
                return Some(LeaseGuard {
                    back,
                    _changing: changing,
                });
            }
        }
    }

    /// Waits until the turn goes to another agent, or comes back. False once the agent ends.
    pub(crate) async fn transferred(&mut self) -> bool {
        self.giving.changed().await.is_ok()
    }
}

/// The right to change something in the kernel, for as long as it is held.
#[derive(Debug)]
pub(crate) struct LeaseGuard {
    /// Whether another agent had it since this part did.
    pub(crate) back: bool,
    _changing: OwnedMutexGuard<()>,
}
