//! Metrics of connections that never became requests.
//!
//! In: each denied connection with its cause, and each cgroup escape. Out: counters in the registry.

use prometheus_client::metrics::counter::Counter;

use crate::metrics::{CounterFamily, MetricsRegistry};

/// The metrics of denied connections; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct DeniedMetrics {
    denied: CounterFamily<2>,
    unrecorded: Counter,
    escapes: Counter,
}

impl DeniedMetrics {
    /// Registers them.
    pub(crate) fn register(registry: &MetricsRegistry) -> Self {
        Self {
            denied: registry.counters(
                "connects_denied",
                ["cause", "endpoint"],
                "Connects, packets and sockets of pods that the kernel programs denied, by cause and by what is at the address",
            ),
            unrecorded: registry.counter(
                "denied_connections_unrecorded",
                "Denied connections without an audit record, because the audit log took no more",
            ),
            escapes: registry.counter(
                "cgroup_escapes",
                "Processes seen outside their pod's cgroup, and connections of such processes",
            ),
        }
    }

    /// The kernel denied a connect. `endpoint` is what is at the address: `api-server`, `kubelet`, `etcd`, `metadata`, `other`.
    pub(super) fn denied(&self, cause: &'static str, endpoint: &'static str) {
        self.denied.inc([cause, endpoint]);
    }

    /// A denied connection is not in the audit log.
    pub(super) fn unrecorded(&self) {
        self.unrecorded.inc();
    }

    /// A process was seen outside its pod's cgroup.
    pub(crate) fn cgroup_escape(&self) {
        self.escapes.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_counted_by_cause_and_endpoint() {
        let registry = MetricsRegistry::default();
        let metrics = DeniedMetrics::register(&registry);
        metrics.denied("denied_endpoint", "kubelet");
        metrics.cgroup_escape();
        let text = registry.encode().expect("text");
        for line in [
            "picket_connects_denied_total{cause=\"denied_endpoint\",endpoint=\"kubelet\"} 1\n",
            "picket_denied_connections_unrecorded_total 0\n",
            "picket_cgroup_escapes_total 1\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
