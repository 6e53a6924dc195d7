//! Metrics of the node CA.
//!
//! In: how each try to get a new one ended. Out: counters in the registry. When the one in use expires is told with the other certificates
//! (`certificate_expiry`).

use crate::metrics::{CounterFamily, MetricsRegistry};

/// The metrics of the node CA; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct NodeCaMetrics {
    renewals: CounterFamily<1>,
}

impl NodeCaMetrics {
    /// Registers them.
    pub(crate) fn register(registry: &MetricsRegistry) -> Self {
        let renewals = registry.counters(
            "node_ca_renewals",
            ["result"],
            "Node CAs asked of Picket's controller: `success`, `denied` by it, `refused` by the agent because what came is not what was asked for, or `failure`, of the API server or the state folder",
        );
        for result in ["success", "denied", "refused", "failure"] {
            renewals.show([result]);
        }
        Self { renewals }
    }

    pub(super) fn ended(&self, result: &'static str) {
        self.renewals.inc([result]);
    }
}
