//! Puts the protected endpoints in force.
//!
//! In: the protected endpoints as the cluster and the configuration name them. Out: the kernel's map of protected endpoints.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::maintain::Maintainer;
use super::metrics::EnforceMetrics;
use crate::endpoints::ProtectedEndpoints;
use crate::kernel::lease::KernelWriteLease;
use crate::kernel::{EndpointAction, Kernel, ProtectedEndpoint};
use crate::runtime::phase::{Phase, PhaseControl};
use crate::runtime::readiness::Pending;
use crate::runtime::signals;
use crate::workload::PodCounts;

/// The pause after the kernel did not take the protected endpoints.
const ENDPOINTS_PAUSE: Duration = Duration::from_secs(1);

/// How the protected endpoints come into force at the start.
pub(crate) struct Start {
    /// Goes once they are all there.
    pub(crate) ready: Pending,
    /// Moved then, too.
    pub(crate) phase: PhaseControl,
    /// How the pods stand.
    pub(crate) pods: watch::Receiver<PodCounts>,
}

impl Start {
    /// Where programs of another layout are still attached, those hold the pods, and it is waited until all are judged: no
    /// pod that is left alone must meet a protected endpoint before. Without such, protected endpoints come first and pods wait for
    /// judgement.
    async fn wait(&mut self, kernel: &Kernel) -> Result<(), watch::error::RecvError> {
        let older = kernel.older().unwrap_or_else(|error| {
            tracing::error!(%error, "the agent cannot find out whether programs of an earlier version are attached");
            false
        });
        if older {
            self.pods.wait_for(|status| status.synced).await?;
        }
        Ok(())
    }
}

/// Puts the protected endpoints in force.
pub(crate) async fn endpoints(
    kernel: Arc<Kernel>,
    metrics: EnforceMetrics,
    mut told: watch::Receiver<ProtectedEndpoints>,
    mut lease: KernelWriteLease,
    mut start: Start,
    maintainer: Arc<Maintainer>,
) {
    if start.wait(&kernel).await.is_err() {
        return;
    }
    let mut ready = Some(start.ready);
    let mut at_work = false;
    loop {
        let Some(turn) = lease.acquire().await else {
            return;
        };
        let now = told.borrow_and_update().clone();
        let (of_kernel, wanted) = (Arc::clone(&kernel), now.clone());
        // A system call for each protected endpoint, and there may be very many.
        let outcome = tokio::task::spawn_blocking(move || put_in_force(&of_kernel, &wanted))
            .await
            .unwrap_or_else(|error| Err(error.into()));
        drop(turn);
        match outcome {
            Ok(()) => {
                if !std::mem::replace(&mut at_work, true) {
                    signals::at_work();
                }
                maintainer.endpoints_changed();
                metrics.endpoints(&now);
                if now.whole {
                    if let Some(ready) = ready.take() {
                        ready.ready();
                    }
                    start.phase.reach(Phase::EndpointsEnforced);
                }
                let changed = tokio::select! {
                    changed = told.changed() => changed.is_ok(),
                    moved = lease.moved() => moved,
                };
                if !changed {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, waiting = ready.is_some(), "the agent cannot put the protected endpoints in force; it tries again");
                tokio::time::sleep(ENDPOINTS_PAUSE).await;
            }
        }
    }
}

/// Puts the whole set in the place of the last one; adds to the last one what is not whole.
pub(super) fn put_in_force(kernel: &Kernel, now: &ProtectedEndpoints) -> anyhow::Result<()> {
    let redirect = now.redirect.iter().copied().map(ProtectedEndpoint::redirect);
    let endpoints: BTreeSet<ProtectedEndpoint> = redirect
        .chain(now.deny.iter().copied().map(ProtectedEndpoint::deny))
        .collect();
    if now.whole {
        kernel.set_endpoints(&endpoints)?
    } else {
        kernel.add_endpoints(&endpoints)?
    }
    Ok(())
}

/// The protected endpoints in force, those of an agent before this one at the start.
pub(crate) fn in_kernel(kernel: &Kernel) -> anyhow::Result<ProtectedEndpoints> {
    let mut endpoints = ProtectedEndpoints::default();
    for endpoint in kernel.endpoints()? {
        match endpoint.action {
            EndpointAction::Redirect => endpoints.redirect.insert(endpoint.addr),
            EndpointAction::Deny => endpoints.deny.insert(endpoint.addr),
        };
    }
    Ok(endpoints)
}
