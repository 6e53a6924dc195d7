//! Metrics of the node's status.
//!
//! In: what became of each write, and what it showed. Out: counters in the registry.

use prometheus_client::metrics::counter::Counter;

use crate::metrics::{CounterFamily, MetricsRegistry};

/// The metrics of the node's status; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct NodeStatusMetrics {
    writes: CounterFamily<1>,
    resets: Counter,
}

impl NodeStatusMetrics {
    /// Registers them.
    pub(crate) fn register(registry: &MetricsRegistry) -> Self {
        let writes = registry.counters(
            "node_status_writes",
            ["result"],
            "Times that the agent wrote the status of its node's PicketNode, by result: `success`, or `failure` where the API server is away, or the CRD or a right is missing",
        );
        for result in ["success", "failure"] {
            writes.show([result]);
        }
        let resets = registry.counter(
            "store_resets",
            "Times that a write of the status of the node's PicketNode showed that the API server's objects were set back to an older state, as by a restore of etcd from a backup; the agent lists all objects anew",
        );
        Self { writes, resets }
    }

    pub(super) fn found_reset(&self) {
        self.resets.inc();
    }

    pub(super) fn wrote(&self, is_written: bool) {
        self.writes.inc([if is_written { "success" } else { "failure" }]);
    }
}
