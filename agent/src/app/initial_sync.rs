//! When an agent has settled: the pods are judged, the protected endpoints in force, and no other agent's programs are left.
//!
//! In: how pods and protected endpoints stand, and what the agent before this one agrees to. Out: that agent's programs are ended, and the
//! agent is ready.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::kernel::lease::KernelWriteLease;
use crate::runtime::readiness::Pending;
use crate::workload::Status;

/// The pause after another agent's programs could not be ended.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What an agent has to wait for until it has settled, and whom it tells.
pub(super) struct InitialSync {
    /// How the pods stand.
    pub(super) status: watch::Receiver<Status>,
    /// Whether the protected endpoints are in force.
    pub(super) endpoints: watch::Receiver<bool>,
    /// Told once both are as they should be.
    pub(super) judged: watch::Sender<bool>,
    /// Whether the agent before this one has agreed that its programs are ended.
    pub(super) agreed: watch::Receiver<bool>,
    /// Whose turn it is to change something in the kernel.
    pub(super) lease: KernelWriteLease,
    /// This agent ends, and ends no other's programs any more.
    pub(super) cancel: CancellationToken,
    /// Goes when they are.
    pub(super) ready: Pending,
    /// Told then, too.
    pub(super) told: watch::Sender<bool>,
}

impl InitialSync {
    /// Waits until every pod that was there at the start is judged and the protected endpoints are in force, then has the programs of an
    /// agent with another layout ended, by `retire`, which until then kept those pods from going past, and says so.
    pub(super) async fn finish(mut self, retire: impl Fn() -> anyhow::Result<()> + Clone + Send + 'static) {
        let settled = self.status.wait_for(|status| status.settled).await.is_ok();
        if !settled || self.endpoints.wait_for(|in_force| *in_force).await.is_err() {
            return;
        }
        let now = *self.status.borrow();
        if now.enforced + now.exempt == now.assumed_exempt && now.pending + now.assumed_exempt > 0 {
            tracing::warn!(
                pending = now.pending + now.assumed_exempt,
                "no pod here is one that the API server has on this node: is nodeName as `kubectl get nodes` shows it?"
            );
        }
        self.judged.send_replace(true);
        if self.agreed.wait_for(|agreed| *agreed).await.is_err() {
            return;
        }
        let mut failed = false;
        loop {
            let Some(turn) = self.lease.acquire().await else {
                return;
            };
            if self.cancel.is_cancelled() {
                return std::future::pending().await;
            }
            let retired = tokio::task::spawn_blocking(retire.clone())
                .await
                .unwrap_or_else(|error| Err(error.into()));
            drop(turn);
            let Err(error) = retired else {
                break;
            };
            if !std::mem::replace(&mut failed, true) {
                tracing::error!(%error, "kernel programs of another version stay attached, trying on");
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        self.ready.ready();
        self.told.send_replace(true);
        // A core task does not end by itself; this one's work is done.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::runtime::readiness::Readiness;

    async fn soon(told: &mut watch::Receiver<bool>) {
        let awaited = tokio::time::timeout(Duration::from_secs(5), told.wait_for(|told| *told));
        drop(awaited.await.expect("it is not told").unwrap());
    }

    #[tokio::test]
    async fn the_programs_of_the_agent_before_are_ended_once_it_agrees_and_in_this_agents_turn() {
        let readiness = Readiness::default();
        let (status, stands) = watch::channel(Status::default());
        let (endpoints, are_in_force) = watch::channel(false);
        let (judged, mut is_judged) = watch::channel(false);
        let (agreed, is_agreed) = watch::channel(false);
        let (giving, given) = watch::channel(true);
        let (told, mut is_told) = watch::channel(false);
        let (ended, mut is_ended) = watch::channel(false);
        let initial_sync = InitialSync {
            status: stands,
            endpoints: are_in_force,
            judged,
            agreed: is_agreed,
            lease: KernelWriteLease {
                changing: Arc::default(),
                giving: given,
            },
            cancel: CancellationToken::new(),
            ready: readiness.register("pods"),
            told,
        };
        let (ended, once) = (Arc::new(ended), Arc::new(AtomicBool::default()));
        tokio::spawn(initial_sync.finish(move || {
            ended.send_replace(true);
            // One of this agent's own is missing at first.
            anyhow::ensure!(once.swap(true, Ordering::Relaxed), "not yet");
            Ok(())
        }));
        let while_waiting = || tokio::time::sleep(Duration::from_millis(20));
        endpoints.send_replace(true);
        while_waiting().await;
        assert!(!*is_judged.borrow(), "before the pods are");
        status.send_modify(|status| status.settled = true);
        soon(&mut is_judged).await;
        while_waiting().await;
        agreed.send_replace(true);
        while_waiting().await;
        assert!(!*is_ended.borrow(), "in another's turn");
        giving.send_replace(false);
        soon(&mut is_ended).await;
        while_waiting().await;
        assert!(!*is_told.borrow(), "they are still there");
        soon(&mut is_told).await;
        assert!(*is_ended.borrow() && readiness.waiting().is_empty());
    }

    #[tokio::test]
    async fn where_the_agent_before_does_not_agree_nothing_is_ended() {
        nothing_is_ended(false, CancellationToken::new()).await;
    }

    #[tokio::test]
    async fn an_agent_that_ends_itself_ends_no_other() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        nothing_is_ended(true, cancel).await;
    }

    async fn nothing_is_ended(agrees: bool, cancel: CancellationToken) {
        let readiness = Readiness::default();
        let (_status, stands) = watch::channel(Status {
            settled: true,
            ..Status::default()
        });
        let (judged, mut is_judged) = watch::channel(false);
        let (_agreed, is_agreed) = watch::channel(agrees);
        let (_giving, given) = watch::channel(false);
        let (told, is_told) = watch::channel(false);
        let initial_sync = InitialSync {
            status: stands,
            endpoints: watch::channel(true).1,
            judged,
            agreed: is_agreed,
            lease: KernelWriteLease {
                changing: Arc::default(),
                giving: given,
            },
            cancel,
            ready: readiness.register("pods"),
            told,
        };
        let (ended, is_ended) = watch::channel(false);
        let ended = Arc::new(ended);
        let finishing = tokio::spawn(initial_sync.finish(move || {
            ended.send_replace(true);
            Ok(())
        }));
        soon(&mut is_judged).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!*is_ended.borrow() && !*is_told.borrow());
        assert!(!readiness.waiting().is_empty() && !finishing.is_finished());
    }
}
