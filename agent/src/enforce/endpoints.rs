//! Puts the protected endpoints in force.
//!
//! In: the protected endpoints as the cluster and the configuration name them. Out: the kernel's map of protected endpoints, and whether
//! the API server's own are all in it, for `/readyz`.

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
use crate::runtime::readiness::{Pending, Readiness};
use crate::runtime::signals;
use crate::workload::PodCounts;

/// The pause after the kernel did not take the protected endpoints.
const ENDPOINTS_PAUSE: Duration = Duration::from_secs(1);

/// The part of `/readyz` that names essential protected endpoints that are left out.
const PART: &str = "protected-endpoints";

/// How the protected endpoints come into force at the start.
pub(crate) struct Start {
    /// Goes once they are all there.
    pub(crate) ready: Pending,
    /// Moved then, too.
    pub(crate) phase: PhaseControl,
    /// Whether they are all in force later.
    pub(crate) readiness: Readiness,
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
                tell_omitted(&start.readiness, &now);
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

/// Says for `/readyz` whether addresses are left out that matter most.
fn tell_omitted(readiness: &Readiness, now: &ProtectedEndpoints) {
    if now.essential_omitted == 0 {
        if readiness.works(PART) {
            tracing::info!("all addresses of the API server are protected endpoints again");
        }
        return;
    }
    let reason = format!(
        "{} addresses of the API server, of protectedEndpoints or of cloud metadata are left out because a limit is reached, and enforced \
         pods reach them past Picket: correct the Service `kubernetes` and its EndpointSlices in the namespace `default`",
        now.essential_omitted
    );
    if readiness.fails(PART, reason.clone()) {
        tracing::error!(reason, "protected endpoints are left out that matter most");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_most_and_is_left_out_fails_readiness() {
        let readiness = Readiness::default();
        let omitting = |omitted, essential_omitted| ProtectedEndpoints {
            omitted,
            essential_omitted,
            ..ProtectedEndpoints::default()
        };
        tell_omitted(&readiness, &omitting(7, 0));
        assert!(readiness.failing().is_empty(), "kubelets alone are a metric");
        tell_omitted(&readiness, &omitting(7, 2));
        let failing = readiness.failing();
        assert!(
            matches!(&failing[..], [(PART, reason)] if reason.starts_with("2 addresses of the API server")),
            "{failing:?}"
        );
        tell_omitted(&readiness, &omitting(7, 0));
        assert!(readiness.failing().is_empty());
    }
}
