//! The initial sync: the pods of the start are classified, the protected endpoints are in the kernel, and no programs of another
//! map layout are left.
//!
//! In: the pods' status and the agent's phase. Out: the phase Synced; other agents' programs detached; the phase Established,
//! and readiness.

use std::time::Duration;

use tokio::sync::watch;

use crate::kernel::lease::KernelWriteLease;
use crate::runtime::phase::{Phase, PhaseControl};
use crate::runtime::readiness::Pending;
use crate::workload::PodCounts;

/// The pause after another agent's programs could not be detached.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The initial sync of an agent.
pub(super) struct InitialSync {
    /// The pods' status.
    pub(super) status: watch::Receiver<PodCounts>,
    /// Waits for the protected endpoints and for the predecessor, and says how far the sync is.
    pub(super) phase: PhaseControl,
    /// Held while programs are detached.
    pub(super) lease: KernelWriteLease,
    /// Ready once the agent is established.
    pub(super) ready: Pending,
}

impl InitialSync {
    /// Waits until every pod of the start is classified and the protected endpoints are in the kernel. Then it has the programs
    /// of another map layout detached, by `retire`: until then those kept enforced pods from the protected endpoints.
    pub(super) async fn run(mut self, retire: impl Fn() -> anyhow::Result<()> + Clone + Send + 'static) {
        let phase = self.phase.watch();
        let classified = self.status.wait_for(|status| status.synced).await.is_ok();
        if !classified || phase.reached(Phase::EndpointsEnforced).await.is_err() {
            return;
        }
        self.phase.reach(Phase::Synced);
        if phase.reached(Phase::PredecessorAgreed).await.is_err() {
            return;
        }
        let mut failed = false;
        loop {
            let Some(guard) = self.lease.acquire().await else {
                return;
            };
            let retired = tokio::task::spawn_blocking(retire.clone())
                .await
                .unwrap_or_else(|error| Err(error.into()));
            drop(guard);
            let Err(error) = retired else {
                break;
            };
            if !std::mem::replace(&mut failed, true) {
                tracing::error!(%error, "kernel programs of another version stay attached; retrying");
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        self.ready.ready();
        self.phase.reach(Phase::Established);
        // A core task does not end by itself; this one's work is done.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt;

    use super::*;
    use crate::runtime::phase::PhaseWatch;
    use crate::runtime::readiness::Readiness;

    async fn soon(phase: &PhaseWatch, awaited: Phase) {
        let reached = tokio::time::timeout(Duration::from_secs(5), phase.reached(awaited));
        reached.await.expect("it is not reached").unwrap();
    }

    async fn while_waiting() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    #[tokio::test]
    async fn the_programs_of_the_predecessor_are_detached_once_it_agrees_and_while_this_agent_holds_the_lease()
     {
        let readiness = Readiness::default();
        let (status, stands) = watch::channel(PodCounts::default());
        let control = PhaseControl::new(true);
        let phase = control.watch();
        control.lend();
        let sync = InitialSync {
            status: stands,
            phase: control.clone(),
            lease: KernelWriteLease::new(phase.clone()),
            ready: readiness.register("pods"),
        };
        let (detached, mut are_detached) = watch::channel(false);
        let (detached, once) = (Arc::new(detached), Arc::new(AtomicBool::default()));
        tokio::spawn(sync.run(move || {
            detached.send_replace(true);
            // One of this agent's own is missing at first.
            anyhow::ensure!(once.swap(true, Ordering::Relaxed), "not yet");
            Ok(())
        }));
        control.reach(Phase::EndpointsEnforced);
        while_waiting().await;
        assert!(
            !phase.has_reached(Phase::Synced),
            "before the pods are classified"
        );
        status.send_modify(|status| status.synced = true);
        soon(&phase, Phase::Synced).await;
        while_waiting().await;
        control.reach(Phase::PredecessorAgreed);
        while_waiting().await;
        assert!(!*are_detached.borrow(), "another agent has the lease");
        assert!(control.take_back());
        let waited = tokio::time::timeout(Duration::from_secs(5), are_detached.wait_for(|are| *are));
        drop(waited.await.expect("they are not detached").unwrap());
        while_waiting().await;
        assert!(!phase.has_reached(Phase::Established), "they are still there");
        soon(&phase, Phase::Established).await;
        assert!(readiness.waiting().is_empty());
    }

    #[tokio::test]
    async fn where_the_predecessor_does_not_agree_nothing_is_detached() {
        nothing_is_detached(false, false).await;
    }

    #[tokio::test]
    async fn an_agent_that_stops_detaches_no_others_programs() {
        nothing_is_detached(true, true).await;
    }

    async fn nothing_is_detached(agrees: bool, stops: bool) {
        let readiness = Readiness::default();
        let (_status, stands) = watch::channel(PodCounts {
            synced: true,
            ..PodCounts::default()
        });
        let control = PhaseControl::new(!agrees);
        let phase = control.watch();
        control.reach(Phase::EndpointsEnforced);
        let sync = InitialSync {
            status: stands,
            phase: control.clone(),
            lease: KernelWriteLease::new(phase.clone()),
            ready: readiness.register("pods"),
        };
        if stops {
            control.end();
        }
        let (detached, are_detached) = watch::channel(false);
        let running = tokio::spawn(sync.run(move || {
            detached.send_replace(true);
            Ok(())
        }));
        tokio::time::sleep(Duration::from_millis(70)).await;
        assert!(phase.has_reached(Phase::Synced), "the lease alone holds it back");
        assert!(!*are_detached.borrow() && !phase.has_reached(Phase::Established));
        assert!(!readiness.waiting().is_empty());
        assert_eq!(running.now_or_never().is_some(), stops);
    }
}
