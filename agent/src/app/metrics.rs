//! The metrics of all modules.
//!
//! In: the metrics type of each module. Out: a registry with all of them registered, and the reference page that
//! describes them.

use std::fmt::Write as _;
use std::sync::Arc;

use picket_controller::ControllerMetrics;

use crate::audit::{self, Stats};
use crate::denied::DeniedMetrics;
use crate::enforce::EnforceMetrics;
use crate::identity::jwt::JwtMetrics;
use crate::kernel::{KernelCounters, KernelMetrics};
use crate::limits::LimitMetrics;
use crate::listener::GatewayMetrics;
use crate::metrics::{MetricReference, MetricsRegistry};
use crate::metrics_server::ScrapeMetrics;
use crate::node_ca::NodeCaMetrics;
use crate::node_status::NodeStatusMetrics;
use crate::notify::NotifyMetrics;
use crate::pipeline::PipelineMetrics;
use crate::session::SessionMetrics;
use crate::store::{ClaimMetrics, ReviewMetrics, StoreMetrics};
use crate::tls::CertificateMetrics;
use crate::upgrade::UpgradeMetrics;
use crate::workload::WorkloadMetrics;

/// The metrics of the modules that an agent has from its start on; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ModuleMetrics {
    pub(super) registry: Arc<MetricsRegistry>,
    pub(super) certificates: CertificateMetrics,
    pub(super) denied: DeniedMetrics,
    pub(super) enforce: EnforceMetrics,
    pub(super) gateway: GatewayMetrics,
    pub(super) jwt: JwtMetrics,
    pub(super) limits: LimitMetrics,
    pub(super) node_ca: NodeCaMetrics,
    pub(super) node_status: NodeStatusMetrics,
    pub(super) notify: NotifyMetrics,
    pub(super) pipeline: PipelineMetrics,
    pub(super) reviews: ReviewMetrics,
    pub(super) claims: ClaimMetrics,
    pub(super) scrapes: ScrapeMetrics,
    pub(super) session: SessionMetrics,
    pub(super) store: StoreMetrics,
    pub(super) upgrade: UpgradeMetrics,
    pub(super) workload: WorkloadMetrics,
}

impl ModuleMetrics {
    /// Registers them.
    pub(super) fn register() -> Self {
        let registry = Arc::new(MetricsRegistry::default());
        Self {
            certificates: CertificateMetrics::register(&registry),
            denied: DeniedMetrics::register(&registry),
            enforce: EnforceMetrics::register(&registry),
            gateway: GatewayMetrics::register(&registry),
            jwt: JwtMetrics::register(&registry),
            limits: LimitMetrics::register(&registry),
            node_ca: NodeCaMetrics::register(&registry),
            node_status: NodeStatusMetrics::register(&registry),
            notify: NotifyMetrics::register(&registry),
            pipeline: PipelineMetrics::register(&registry),
            reviews: ReviewMetrics::register(&registry),
            claims: ClaimMetrics::register(&registry),
            scrapes: ScrapeMetrics::register(&registry),
            session: SessionMetrics::register(&registry),
            store: StoreMetrics::register(&registry),
            upgrade: UpgradeMetrics::register(&registry),
            workload: WorkloadMetrics::register(&registry),
            registry,
        }
    }
}

/// The head of a table of metrics.
const TABLE: &str = "| metric | type | labels | meaning |\n|---|---|---|---|\n";

/// The page of the manual that describes every metric, of the agent and of the controller.
#[must_use]
pub fn metrics_reference() -> String {
    let modules = ModuleMetrics::register();
    audit::register_metrics(&modules.registry, Arc::new(Stats::default()));
    KernelMetrics::register(&modules.registry, KernelCounters::none());
    let mut page = String::from(
        "# Metrics reference\n\nThe admin socket serves these metrics as OpenMetrics text at `/metrics`, and so does `metrics.listen` over TLS. Names in labels are\nconstants of the program, or come from the configuration.\n\n",
    );
    page.push_str(TABLE);
    write_rows(&mut page, &modules.registry.reference());
    page.push_str(
        "\n## The controller\n\nEach replica of `picket controller` serves these and `picket_build_info` at `--metrics`.\n\n",
    );
    page.push_str(TABLE);
    let registry = MetricsRegistry::default();
    let shared = registry.reference();
    ControllerMetrics::register(&registry);
    let mut own = registry.reference();
    own.retain(|metric| !shared.contains(metric));
    write_rows(&mut page, &own);
    page
}

fn write_rows(page: &mut String, metrics: &[MetricReference]) {
    for metric in metrics {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_metric_that_is_shown_without_a_label() {
        let modules = ModuleMetrics::register();
        audit::register_metrics(&modules.registry, Arc::new(Stats::default()));
        KernelMetrics::register(&modules.registry, KernelCounters::none());
        ControllerMetrics::register(&modules.registry);
        let (page, text) = (metrics_reference(), modules.registry.encode().expect("text"));
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
