//! Metrics of enforcement.
//!
//! In: connections destroyed, listeners moved, programs attached again, and the protected endpoints in force. Out: counters and
//! gauges in the registry.

use prometheus_client::metrics::gauge::Gauge;

use crate::endpoints::ProtectedEndpoints;
use crate::kernel::Program;
use crate::metrics::{CounterFamily, GaugeFamily, MetricsRegistry, count};

/// The metrics of enforcement; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct EnforceMetrics {
    destroyed: CounterFamily<1>,
    endpoints: GaugeFamily<1>,
    listener_moves: CounterFamily<1>,
    omitted: Gauge,
    reattachments: CounterFamily<1>,
}

impl EnforceMetrics {
    /// Registers them.
    pub(crate) fn register(registry: &MetricsRegistry) -> Self {
        let reattachments = registry.counters(
            "kernel_reattachments",
            ["program"],
            "Kernel programs that were detached or replaced from outside; the agent attached each again",
        );
        for program in Program::all() {
            reattachments.show([program.name()]);
        }
        let listener_moves = registry.counters(
            "listener_moves",
            ["outcome"],
            "Programs of pods that bound the port of Picket's listener, by what became of the listener",
        );
        for outcome in ["moved", "stayed", "failed", "lost"] {
            listener_moves.show([outcome]);
        }
        Self {
            listener_moves,
            destroyed: registry.counters(
                "connections_destroyed",
                ["outcome"],
                "Connections that pods opened to protected endpoints before enforcement, by outcome: `destroyed`, `left` open by the kernel, `unknown` pod; `unlisted` counts failed searches",
            ),
            endpoints: registry.gauges(
                "protected_endpoints",
                ["action"],
                "Addresses of protected endpoints in the kernel, by the action on connections of enforced pods",
            ),
            omitted: registry.gauge(
                "protected_endpoints_omitted",
                "Addresses, names and objects of protected endpoints that the agent leaves out because a limit is reached; enforced pods can reach them",
            ),
            reattachments,
        }
    }

    /// Connections were `destroyed`, could not be (`left`), or are of nobody that is known (`unknown`); or the kernel could not list
    /// them (`unlisted`).
    pub(super) fn connections(&self, outcome: &'static str, connections: usize) {
        let connections = u64::try_from(connections).unwrap_or(u64::MAX);
        self.destroyed.add([outcome], connections);
    }

    /// These are in the kernel.
    pub(super) fn endpoints(&self, now: &ProtectedEndpoints) {
        self.endpoints.set(["redirect"], now.redirect.len());
        self.endpoints.set(["deny"], now.deny.len());
        self.omitted.set(count(now.omitted));
    }

    /// A program bound a listener's port, and the listener `moved`, `stayed` because it has moved often, or could not move
    /// (`failed`); or the report gave way to others (`lost`).
    pub(super) fn listener(&self, outcome: &'static str) {
        self.listener_moves.inc([outcome]);
    }

    /// A kernel program was attached again.
    pub(super) fn reattached(&self, program: &'static str) {
        self.reattachments.inc([program]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alarmed_on_is_shown_from_the_start() {
        let registry = MetricsRegistry::default();
        let metrics = EnforceMetrics::register(&registry);
        metrics.connections("destroyed", 2);
        metrics.endpoints(&ProtectedEndpoints {
            redirect: ["10.96.0.1:443".parse().unwrap()].into(),
            omitted: 1,
            ..ProtectedEndpoints::default()
        });
        let text = registry.encode().expect("text");
        for line in [
            "picket_kernel_reattachments_total{program=\"connect4\"} 0\n",
            "picket_connections_destroyed_total{outcome=\"destroyed\"} 2\n",
            "picket_protected_endpoints{action=\"redirect\"} 1\n",
            "picket_protected_endpoints{action=\"deny\"} 0\n",
            "picket_protected_endpoints_omitted 1\n",
            "picket_listener_moves_total{outcome=\"stayed\"} 0\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
