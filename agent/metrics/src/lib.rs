//! The registry of metrics, of the agent and of the controller.
//!
//! In: a name, label names and a meaning for each metric. Out: a counter, gauge or histogram for whoever counts, OpenMetrics text,
//! and the manual's reference page. Pure: no I/O and no runtime.
//!
//! The reference page names nothing that is not registered. Labels are of low cardinality: constants of the program and names
//! from the configuration, never names from requests, pods or policies.
//!
//! # Code map
//!
//! The table names the modules that each module imports. `cargo xtask check` compares the last column with the sources and
//! refuses a circle.
//!
//! | module | holds | imports |
//! |---|---|---|
//! | `family` | metrics with labels | - |
//! | `reference` | the description of a metric, for the manual | - |

mod family;

mod reference;

use std::fmt;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

pub use family::{CounterFamily, GaugeFamily, TimeFamily, count};
pub use reference::{MetricKind, MetricReference};

/// The media type of what [`MetricsRegistry::encode`] gives (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every metric's name begins with.
const PREFIX: &str = "picket";

/// All metrics of a process, of whichever module.
pub struct MetricsRegistry(Mutex<Inner>);

struct Inner {
    registry: Registry,
    reference: Vec<MetricReference>,
}

impl fmt::Debug for MetricsRegistry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MetricsRegistry").finish_non_exhaustive()
    }
}

impl Default for MetricsRegistry {
    fn default() -> Self {
        let registry = Self(Mutex::new(Inner {
            registry: Registry::with_prefix(PREFIX),
            reference: Vec::new(),
        }));
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let help = "The running version";
        registry.add("build", MetricKind::Info, &["version"], None, help, version);
        registry
    }
}

impl MetricsRegistry {
    /// A counter.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        let counter = Counter::default();
        self.add(name, MetricKind::Counter, &[], None, help, counter.clone());
        counter
    }

    /// A counter for each combination of label values.
    pub fn counters<const N: usize>(
        &self,
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> CounterFamily<N> {
        let counters = CounterFamily::new(labels);
        let family = counters.family();
        self.add(name, MetricKind::Counter, &labels, None, help, family);
        counters
    }

    /// A gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        let gauge = Gauge::default();
        self.add(name, MetricKind::Gauge, &[], None, help, gauge.clone());
        gauge
    }

    /// A gauge for each combination of label values.
    pub fn gauges<const N: usize>(
        &self,
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> GaugeFamily<N> {
        let gauges = GaugeFamily::new(labels);
        let family = gauges.family();
        self.add(name, MetricKind::Gauge, &labels, None, help, family);
        gauges
    }

    /// A point in time, in seconds since 1970, for each combination of label values.
    pub fn times<const N: usize>(
        &self,
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> TimeFamily<N> {
        let times = TimeFamily::new(labels);
        let family = times.family();
        self.add(
            name,
            MetricKind::Gauge,
            &labels,
            Some(Unit::Seconds),
            help,
            family,
        );
        times
    }

    /// A histogram of durations, with upper bounds in seconds.
    pub fn durations<const N: usize>(
        &self,
        name: &'static str,
        bounds: [f64; N],
        help: &'static str,
    ) -> Histogram {
        let histogram = Histogram::new(bounds);
        let unit = Some(Unit::Seconds);
        self.add(name, MetricKind::Histogram, &[], unit, help, histogram.clone());
        histogram
    }

    /// Metrics whose values are read at each scrape, and what they are. The collector has to use the same names.
    pub fn collect(&self, described: &[MetricReference], collector: Box<dyn Collector>) {
        let mut inner = self.0.lock();
        inner.reference.extend_from_slice(described);
        inner.registry.register_collector(collector);
    }

    fn add(
        &self,
        name: &'static str,
        kind: MetricKind,
        labels: &[&'static str],
        unit: Option<Unit>,
        help: &'static str,
        metric: impl Metric,
    ) {
        let mut inner = self.0.lock();
        let mut reference = MetricReference::new(name, kind, labels, help);
        reference.seconds = unit.is_some();
        inner.reference.push(reference);
        match unit {
            Some(unit) => inner.registry.register_with_unit(name, help, unit, metric),
            None => inner.registry.register(name, help, metric),
        }
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// When a collector fails to write, which none does.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let inner = self.0.lock();
        let mut out = String::new();
        text::encode(&mut out, &inner.registry)?;
        Ok(out)
    }

    /// Every metric, in the order of names.
    #[must_use]
    pub fn reference(&self) -> Vec<MetricReference> {
        let mut all = self.0.lock().reference.clone();
        all.sort_by(|one, other| one.name.cmp(other.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_is_shown_and_described_under_the_same_name() {
        let registry = MetricsRegistry::default();
        registry.counter("drops", "Drops").inc();
        let requests = registry.counters("requests", ["verb", "reason"], "Requests");
        requests.inc(["list", ""]);
        requests.add(["list", "policy"], 3);
        registry.gauge("open", "Open").set(4);
        registry.gauges("pods", ["class"], "Pods").set(["enforced"], 3);
        let expiry = registry.times("expiry", ["certificate"], "Expiry");
        expiry.set(["leaf"], std::time::Duration::from_secs(1_800_000_000));
        registry.durations("judging", [0.1, 1.0], "Judging").observe(0.5);
        let text = registry.encode().expect("text");
        for line in [
            concat!("picket_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "picket_drops_total 1",
            "picket_requests_total{verb=\"list\",reason=\"\"} 1",
            "picket_requests_total{verb=\"list\",reason=\"policy\"} 3",
            "picket_open 4",
            "picket_pods{class=\"enforced\"} 3",
            "picket_expiry_seconds{certificate=\"leaf\"} 1800000000.0",
            "picket_judging_seconds_bucket{le=\"0.1\"} 0",
            "picket_judging_seconds_bucket{le=\"1.0\"} 1",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
        let shown: Vec<_> = registry.reference().iter().map(MetricReference::shown).collect();
        assert_eq!(
            shown,
            [
                "picket_build_info",
                "picket_drops_total",
                "picket_expiry_seconds",
                "picket_judging_seconds",
                "picket_open",
                "picket_pods",
                "picket_requests_total"
            ]
        );
    }
}
