//! Who may change something in the kernel: one agent at a time, and one of its parts.
//!
//! In: the agent's phase, by which the lease is lent to a successor. Out: a guard to hold while something is changed.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::runtime::phase::PhaseWatch;

/// The right to change something in the kernel. This agent holds it, unless another one upgrades. Each part has a clone.
#[derive(Debug, Clone)]
pub(crate) struct KernelWriteLease {
    changing: Arc<Mutex<()>>,
    phase: PhaseWatch,
    /// The moves of the lease that this part knows of.
    seen: u64,
}

impl KernelWriteLease {
    /// Nobody changes anything yet.
    pub(crate) fn new(phase: PhaseWatch) -> Self {
        Self {
            changing: Arc::default(),
            seen: phase.lease().moves,
            phase,
        }
    }

    /// Waits until this agent holds the lease and none of its other parts changes anything. `None` once the agent stops.
    pub(crate) async fn acquire(&mut self) -> Option<LeaseGuard> {
        loop {
            self.phase.lent(false).await.ok()?;
            let changing = Arc::clone(&self.changing).lock_owned().await;
            let now = self.phase.lease();
            if now.ended {
                return None;
            }
            if !now.lent {
                let was_lent = std::mem::replace(&mut self.seen, now.moves) != now.moves;
                return Some(LeaseGuard {
                    was_lent,
                    _changing: changing,
                });
            }
        }
    }

    /// Waits until the lease goes to another agent, or comes back. False once the agent stops.
    pub(crate) async fn moved(&self) -> bool {
        self.phase.moved(self.seen).await.is_ok()
    }

    /// Waits until none of this agent's parts changes anything.
    pub(crate) async fn idle(&self) {
        drop(self.changing.lock().await);
    }
}

/// The lease while it is used.
#[derive(Debug)]
pub(crate) struct LeaseGuard {
    /// Whether another agent held the lease since this part did.
    pub(crate) was_lent: bool,
    _changing: OwnedMutexGuard<()>,
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::runtime::phase::PhaseControl;

    #[tokio::test]
    async fn one_part_changes_the_kernel_at_a_time_and_none_while_the_lease_is_lent() {
        let phase = PhaseControl::new(false);
        let mut one = KernelWriteLease::new(phase.watch());
        let mut other = one.clone();
        let guard = one.acquire().await.unwrap();
        assert!(other.acquire().now_or_never().is_none(), "another part has it");
        assert!(other.idle().now_or_never().is_none());
        drop(guard);
        assert!(!other.acquire().await.unwrap().was_lent);
        phase.lend();
        assert!(other.moved().await);
        assert!(other.acquire().now_or_never().is_none(), "another agent has it");
        assert!(phase.take_back());
        assert!(other.acquire().await.unwrap().was_lent);
        assert!(!other.acquire().await.unwrap().was_lent, "said once");
        assert!(one.acquire().await.unwrap().was_lent, "and to each part");
        assert!(one.moved().now_or_never().is_none());
        phase.end();
        assert!(one.acquire().await.is_none() && !one.moved().await);
    }
}
