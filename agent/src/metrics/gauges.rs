//! Metrics that are read from the parts rather than counted by them.
//!
//! In: the kernel's maps and counters, the certificates, the pods' classes, the policy store. Out: gauges that are up to date.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Metrics;
use crate::kernel::{Counter, Kernel};
use crate::store::Store;
use crate::tls::Certificates;
use crate::upstream::Upstream;
use crate::workload::PodCounts;

/// How often gauges are brought up to date: more often than any scraper asks.
const GAUGES_EVERY: Duration = Duration::from_secs(5);

/// How often the kernel's maps are counted: full ones take some 50 ms.
const FILL_EVERY: Duration = Duration::from_secs(30);

/// Tells how full the kernel's maps are.
pub(crate) async fn map_usage(kernel: Arc<Kernel>, metrics: Arc<Metrics>) {
    let mut tick = tokio::time::interval(FILL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let kernel = Arc::clone(&kernel);
        match tokio::task::spawn_blocking(move || kernel.map_usage()).await {
            Ok(Ok(maps)) => {
                for map in maps {
                    metrics.map_usage(map.map, map.entries, map.capacity);
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the kernel's maps cannot be counted"),
            Err(error) => tracing::warn!(%error, "the kernel's maps cannot be counted"),
        }
    }
}

/// Keeps gauges up to date.
pub(crate) async fn gauges(
    metrics: Arc<Metrics>,
    certificates: Arc<Certificates>,
    upstream: Upstream,
    status: watch::Receiver<PodCounts>,
) {
    let mut tick = tokio::time::interval(GAUGES_EVERY);
    let mut no_cgroup_before = 0;
    loop {
        tick.tick().await;
        metrics.certificate_expiry("leaf", since_epoch(certificates.not_after()));
        metrics.certificate_expiry("node-ca", since_epoch(certificates.ca_not_after()));
        if let Some(end) = upstream.credential_not_after() {
            metrics.certificate_expiry("upstream", since_epoch(end));
        }
        let pods = *status.borrow();
        metrics.pods("enforced", pods.enforced);
        metrics.pods("exempt", pods.exempt);
        metrics.pods("assumed_exempt", pods.assumed_exempt);
        metrics.pods("pending", pods.pending);
        metrics.pods("egress_unfiltered", pods.egress_unfiltered);
        metrics.pods("no_cgroup", pods.no_cgroup);
        // Twice in a row, since a pod that ends leaves its cgroup before the API server hears of it.
        let unseen = pods.no_cgroup.min(no_cgroup_before);
        if unseen > 0 {
            tracing::error!(
                pods = unseen,
                "pods that are to be enforced run in no cgroup below kernel.cgroupRoot: nothing holds them"
            );
        }
        no_cgroup_before = pods.no_cgroup;
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Counts how readings of the policy files went.
pub(crate) async fn reloads(metrics: Arc<Metrics>, store: Arc<Store>) {
    let mut changes = store.changes();
    metrics.policy_generation(changes.borrow_and_update().generation);
    while changes.changed().await.is_ok() {
        let now = changes.borrow_and_update().clone();
        metrics.reload("policy", now.last_error.is_none());
        metrics.policy_generation(now.generation);
    }
}

/// The kernel's counters by name.
pub(crate) fn counters(kernel: &Kernel) -> Vec<(&'static str, u64)> {
    match kernel.counters() {
        Ok(counters) => Counter::ALL
            .into_iter()
            .map(|counter| (counter.as_str(), counters.get(counter)))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "the kernel's counters cannot be read");
            Vec::new()
        }
    }
}
