//! Which workloads of this node claim each exclusive identity now.
//!
//! In: the set in force, and the node's pods that can send. Out: [`Claims`], made anew only after a change of either.
//!
//! [`Store::epoch`] tells of a change: it is raised once the change is in force. So claims of the present epoch know every pod
//! that was there when a request was judged by them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use picket_policy::api::v1alpha1::{AgentIdentitySpec, Spec as _};
use picket_policy::{Claims, PolicySet};
use prometheus_client::metrics::gauge::Gauge;

use super::Store;
use super::nodes::{PodFacts, PodsOfNode};
use super::status::{IdentityState, ObjectStatus};
use crate::metrics::MetricsRegistry;

/// How often it is told which identities are contested, where nobody asks for anything.
const LOOK: Duration = Duration::from_secs(2);

/// Keeps the claims of a moment.
#[derive(Default)]
pub(super) struct Exclusive {
    pods: OnceLock<PodsOfNode>,
    known: ArcSwapOption<Known>,
    /// Which identities were contested when that was told last.
    told: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Exclusive {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Exclusive").finish_non_exhaustive()
    }
}

/// Claims, and what they were made of.
#[derive(Debug)]
struct Known {
    epoch: u64,
    set: Arc<PolicySet>,
    claims: Arc<Claims>,
}

impl Store {
    /// Says which pods of this node can send, those that are about to end among them; once, before the first request.
    pub fn set_claimants(&self, pods: PodsOfNode) {
        self.exclusive.pods.get_or_init(|| pods);
    }

    /// The workloads that claim the exclusive identities of a set. Nothing is made or locked where nothing changed.
    #[must_use]
    pub fn claims(&self, set: &Arc<PolicySet>) -> Arc<Claims> {
        // Before anything is read that may change.
        let epoch = self.epoch.now();
        if let Some(known) = &*self.exclusive.known.load()
            && known.epoch == epoch
            && Arc::ptr_eq(&known.set, set)
        {
            return Arc::clone(&known.claims);
        }
        let pods = match self.exclusive.pods.get().filter(|_| set.has_exclusive()) {
            Some(pods) => pods(),
            None => Vec::new(),
        };
        let claims = Arc::new(set.claims(pods.iter().map(PodFacts::claim)));
        self.exclusive.known.store(Some(Arc::new(Known {
            epoch,
            set: Arc::clone(set),
            claims: Arc::clone(&claims),
        })));
        self.tell(&claims);
        claims
    }

    /// Logs which identities are contested now and were not before, and the other way round.
    fn tell(&self, claims: &Claims) {
        let now: Vec<_> = claims.contested().map(str::to_owned).collect();
        let mut told = self.exclusive.told.lock();
        for identity in now.iter().filter(|identity| !told.contains(identity)) {
            let workloads: Vec<_> = claims.workloads(identity).collect();
            tracing::warn!(
                identity,
                ?workloads,
                "several workloads of this node claim an exclusive identity, so every request of all of them is denied"
            );
        }
        for identity in told.iter().filter(|identity| !now.contains(identity)) {
            tracing::info!(identity, "several workloads claim the exclusive identity no more");
        }
        *told = now;
    }

    /// Adds to the statuses of exclusive identities which workloads of this node claim them.
    pub(super) fn add_claims(&self, statuses: &mut [ObjectStatus]) {
        let set = self.current();
        if !set.has_exclusive() {
            return;
        }
        let claims = self.claims(&set);
        let in_force = statuses
            .iter_mut()
            .filter(|status| status.kind == AgentIdentitySpec::KIND && status.state.is_some());
        for status in in_force {
            status.workloads = claims.workloads(&status.name).map(str::to_owned).collect();
            // What denies every request anyway has been said.
            let may_act = status.ready && status.state == Some(IdentityState::Active);
            if status.workloads.len() > 1 && may_act {
                status.message = format!(
                    "Exclusive, and {} of this node claim it: every request of this agent is denied here until one is left",
                    status.workloads.join(" and ")
                );
            }
        }
    }
}

/// The metric of exclusive identities; cheap to clone.
#[derive(Debug, Clone)]
pub struct ClaimMetrics {
    contested: Gauge,
}

impl ClaimMetrics {
    /// Registers it.
    pub fn register(registry: &MetricsRegistry) -> Self {
        Self {
            contested: registry.gauge(
                "identities_contested",
                "Exclusive AgentIdentities that several workloads of the node claim, so that every request of theirs is denied",
            ),
        }
    }

    /// Counts them, and has the log tell of them, for as long as it is polled.
    pub(crate) async fn follow(self, store: Arc<Store>) {
        loop {
            let contested = store.claims(&store.current()).contested().count();
            self.contested.set(i64::try_from(contested).unwrap_or(i64::MAX));
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
#[path = "exclusive_tests.rs"]
mod tests;
