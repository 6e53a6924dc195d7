//! Metrics of Kubernetes Events.
//!
//! In: each Event that was posted, failed or omitted. Out: counters in the registry.

use crate::metrics::{CounterFamily, MetricsRegistry};

/// The metrics of Kubernetes Events; cheap to clone.
#[derive(Debug, Clone)]
pub struct NotifyMetrics {
    events: CounterFamily<1>,
}

impl NotifyMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> Self {
        let events = registry.counters(
            "kubernetes_events",
            ["outcome"],
            "Kubernetes Events about pods and the node: `posted`, `failed`, or `omitted` because there are too many",
        );
        for outcome in ["posted", "failed", "omitted"] {
            events.show([outcome]);
        }
        Self { events }
    }

    pub(super) fn posted(&self) {
        self.events.inc(["posted"]);
    }

    pub(super) fn failed(&self) {
        self.events.inc(["failed"]);
    }

    pub(super) fn omitted(&self) {
        self.events.inc(["omitted"]);
    }
}
