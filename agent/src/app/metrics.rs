//! The metrics of all rooms.
//!
//! In: the registry. Out: each room's own metrics, and the page of the manual that describes them all.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::audit::{self, Stats};
use crate::denied::DeniedMetrics;
use crate::enforce::EnforceMetrics;
use crate::kernel::{KernelCounters, KernelMetrics};
use crate::metrics::MetricsRegistry;
use crate::notify::NotifyMetrics;
use crate::pipeline::PipelineMetrics;
use crate::session::SessionMetrics;
use crate::store::StoreMetrics;
use crate::tls::CertificateMetrics;
use crate::upgrade::UpgradeMetrics;
use crate::workload::WorkloadMetrics;

/// The metrics of the rooms that an agent has from its start on; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RoomMetrics {
    pub(super) registry: Arc<MetricsRegistry>,
    pub(super) certificates: CertificateMetrics,
    pub(super) denied: DeniedMetrics,
    pub(super) enforce: EnforceMetrics,
    pub(super) notify: NotifyMetrics,
    pub(super) pipeline: PipelineMetrics,
    pub(super) session: SessionMetrics,
    pub(super) store: StoreMetrics,
    pub(super) upgrade: UpgradeMetrics,
    pub(super) workload: WorkloadMetrics,
}

impl RoomMetrics {
    /// Registers them.
    pub(super) fn register() -> Self {
        let registry = Arc::new(MetricsRegistry::default());
        Self {
            certificates: CertificateMetrics::register(&registry),
            denied: DeniedMetrics::register(&registry),
            enforce: EnforceMetrics::register(&registry),
            notify: NotifyMetrics::register(&registry),
            pipeline: PipelineMetrics::register(&registry),
            session: SessionMetrics::register(&registry),
            store: StoreMetrics::register(&registry),
            upgrade: UpgradeMetrics::register(&registry),
            workload: WorkloadMetrics::register(&registry),
            registry,
        }
    }
}

/// The page of the manual that describes every metric.
#[must_use]
pub fn metrics_reference() -> String {
    let rooms = RoomMetrics::register();
    audit::register_metrics(&rooms.registry, Arc::new(Stats::default()));
    KernelMetrics::register(&rooms.registry, KernelCounters::none());
    let mut page = String::from(
        "# Metrics reference\n\nThe admin socket serves these metrics as OpenMetrics text at `/metrics`. Names in labels are constants of the program, or come\nfrom the configuration.\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in rooms.registry.reference() {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            metric.shown(),
            metric.kind.as_str(),
            labels.join(", "),
            metric.help
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_metric_that_is_shown_without_a_label() {
        let rooms = RoomMetrics::register();
        audit::register_metrics(&rooms.registry, Arc::new(Stats::default()));
        KernelMetrics::register(&rooms.registry, KernelCounters::none());
        let (page, text) = (metrics_reference(), rooms.registry.encode().expect("text"));
        let described = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        for name in described {
            let known = ["", "_total", "_info"]
                .iter()
                .any(|suffix| page.contains(&format!("| `{name}{suffix}` | ")));
            assert!(known, "{name} is missing in\n{page}");
        }
    }
}
