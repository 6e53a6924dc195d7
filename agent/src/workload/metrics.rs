//! Metrics of the pods on this node.
//!
//! In: the reconciler's [`PodCounts`], and how long a pod took to be classified. Out: gauges and a histogram in the registry.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;

use super::{PodCounts, sandbox};
use crate::metrics::{GaugeFamily, MetricsRegistry};

/// How often the gauges are set: more often than any scraper asks.
const EVERY: Duration = Duration::from_secs(5);

/// Upper bounds for the time until a pod is classified, in seconds: from a sandbox's own few milliseconds to a node that is out of
/// order.
const SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 120.0,
];

/// The metrics of pods; cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkloadMetrics {
    pods: GaugeFamily<1>,
    sandboxed: GaugeFamily<1>,
    pending: Histogram,
    failures: Counter,
}

impl WorkloadMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> Self {
        Self {
            pods: registry.gauges(
                "pods",
                ["class"],
                "Pods on this node, by class; `exempt` includes `assumed_exempt`, `enforced` includes `egress_unfiltered`, pods that are `too_deep` are in another class too",
            ),
            sandboxed: registry.gauges(
                "sandboxed_pods",
                ["runtime_class"],
                "Enforced pods whose connections cannot be redirected, by the RuntimeClass that gives them a network stack of their own",
            ),
            pending: registry.durations(
                "pod_pending",
                SECONDS,
                "Time from the moment that a new pod's cgroup is seen until the pod is enforced or exempt",
            ),
            failures: registry.counter(
                "enforcement_failures",
                "Attempts to put a pod's class in force, or to check an enforced pod, that failed; the agent tries each again",
            ),
        }
    }

    /// A pod was classified so long after its cgroup was seen.
    pub(crate) fn classified(&self, after: Duration) {
        self.pending.observe(after.as_secs_f64());
    }

    /// Keeps the gauges current for as long as it is polled.
    pub(crate) async fn follow(self, status: watch::Receiver<PodCounts>) {
        let mut tick = tokio::time::interval(EVERY);
        let mut before = 0;
        loop {
            tick.tick().await;
            let now = status.borrow().clone();
            self.set(&now);
            // Twice in a row, since a pod that ends leaves its cgroup before the API server hears of it.
            let pods = now.no_cgroup.min(before);
            if pods > 0 {
                tracing::error!(
                    pods,
                    "pods that must be enforced run in no cgroup below kernel.cgroupRoot; nothing enforces them"
                );
            }
            before = now.no_cgroup;
        }
    }

    fn set(&self, now: &PodCounts) {
        for (class, pods) in [
            ("enforced", now.enforced),
            ("exempt", now.exempt),
            ("assumed_exempt", now.assumed_exempt),
            ("pending", now.pending),
            ("egress_unfiltered", now.egress_unfiltered),
            ("no_cgroup", now.no_cgroup),
            ("too_deep", now.too_deep),
        ] {
            self.pods.set([class], pods);
        }
        self.failures
            .inc_by(now.failures.saturating_sub(self.failures.get()));
        let mut sandboxed: BTreeMap<&str, usize> = BTreeMap::new();
        for (class, pods) in &now.sandboxed {
            *sandboxed.entry(sandbox::label(class)).or_default() += pods;
        }
        // Those of before too, which may have none any more.
        for class in sandbox::labels() {
            self.sandboxed
                .set([class], sandboxed.get(class).copied().unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_shown_by_class_and_the_time_until_they_have_one() {
        let registry = MetricsRegistry::default();
        let metrics = WorkloadMetrics::register(&registry);
        metrics.classified(Duration::from_millis(7));
        metrics.set(&PodCounts {
            failures: 4,
            ..PodCounts::default()
        });
        metrics.set(&PodCounts {
            enforced: 3,
            no_cgroup: 1,
            too_deep: 2,
            failures: 5,
            sandboxed: [("kata-qemu".to_owned(), 2)].into(),
            ..PodCounts::default()
        });
        let text = registry.encode().expect("text");
        for line in [
            "picket_pods{class=\"enforced\"} 3\n",
            "picket_pods{class=\"no_cgroup\"} 1\n",
            "picket_pods{class=\"too_deep\"} 2\n",
            "picket_enforcement_failures_total 5\n",
            "picket_sandboxed_pods{runtime_class=\"kata-qemu\"} 2\n",
            "picket_pod_pending_seconds_bucket{le=\"0.005\"} 0\n",
            "picket_pod_pending_seconds_bucket{le=\"0.01\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        metrics.set(&PodCounts::default());
        let text = registry.encode().expect("text");
        assert!(
            text.contains("picket_sandboxed_pods{runtime_class=\"kata-qemu\"} 0\n"),
            "{text}"
        );
    }
}
