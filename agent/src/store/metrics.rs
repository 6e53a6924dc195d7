//! Metrics of the objects' files.
//!
//! In: the status that the [`Store`] has after each reading. Out: a counter and a gauge in the registry.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;

use super::Store;
use crate::metrics::{CounterFamily, MetricsRegistry, count};

/// The metrics of the store; cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    reloads: CounterFamily<2>,
    generation: Gauge,
    invalid: Gauge,
    unlisted: Gauge,
    status_writes: CounterFamily<1>,
}

impl StoreMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> Self {
        let reloads = registry.counters(
            "config_reloads",
            ["kind", "result"],
            "Times that files were read again, by kind and result",
        );
        for result in ["success", "failure"] {
            reloads.show(["policy", result]);
        }
        let status_writes = registry.counters(
            "object_status_writes",
            ["result"],
            "Statuses that were written to objects of the cluster, by result",
        );
        for result in ["success", "failure"] {
            status_writes.show([result]);
        }
        Self {
            reloads,
            status_writes,
            invalid: registry.gauge(
                "invalid_objects",
                "Objects whose latest version is not in force",
            ),
            unlisted: registry.gauge(
                "unlisted_kinds",
                "Kinds of objects that the API server has not listed, because it is away or the CRD is not installed",
            ),
            generation: registry.gauge(
                "policy_generation",
                "Number of policy sets that took effect; does not grow while reloads fail",
            ),
        }
    }

    /// Counts a status that was written, or was not.
    pub(super) fn status_written(&self, written: bool) {
        self.status_writes
            .inc([if written { "success" } else { "failure" }]);
    }

    fn show(&self, store: &Store) {
        let statuses = store.statuses();
        let invalid = statuses.iter().filter(|status| !status.ready).count();
        self.invalid.set(i64::try_from(invalid).unwrap_or(i64::MAX));
        self.unlisted
            .set(i64::try_from(store.unlisted()).unwrap_or(i64::MAX));
    }

    /// Counts each reading of the policy files, for as long as it is polled.
    pub(crate) async fn follow(self, store: Arc<Store>) {
        let mut changes = store.changes();
        self.generation.set(count(changes.borrow_and_update().generation));
        self.show(&store);
        while changes.changed().await.is_ok() {
            let now = changes.borrow_and_update().clone();
            let result = if now.last_error.is_none() {
                "success"
            } else {
                "failure"
            };
            self.reloads.inc(["policy", result]);
            self.generation.set(count(now.generation));
            self.show(&store);
        }
    }
}
