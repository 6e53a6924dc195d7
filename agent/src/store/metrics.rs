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
        Self {
            reloads,
            generation: registry.gauge(
                "policy_generation",
                "Number of policy sets that took effect; does not grow while reloads fail",
            ),
        }
    }

    /// Counts each reading of the policy files, for as long as it is polled.
    pub(crate) async fn follow(self, store: Arc<Store>) {
        let mut changes = store.changes();
        self.generation.set(count(changes.borrow_and_update().generation));
        while changes.changed().await.is_ok() {
            let now = changes.borrow_and_update().clone();
            let result = if now.last_error.is_none() {
                "success"
            } else {
                "failure"
            };
            self.reloads.inc(["policy", result]);
            self.generation.set(count(now.generation));
        }
    }
}
