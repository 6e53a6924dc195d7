//! Metrics of the kernel programs and their maps.
//!
//! In: the counters and the map usage of a [`Kernel`]. Out: counters that are read at each scrape, and gauges that are set from
//! time to time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use tokio::time::MissedTickBehavior;

use super::{Counter, Kernel};
use crate::metrics::{GaugeFamily, MetricKind, MetricReference, MetricsRegistry};

/// How often the kernel's maps are counted: full ones take some 50 ms.
const EVERY: Duration = Duration::from_secs(30);

/// The name and the meaning of the programs' counters.
const EVENTS: (&str, &str) = (
    "kernel_events",
    "What the kernel programs counted since they were attached, by event",
);

/// The metrics of the kernel; cheap to clone.
#[derive(Debug, Clone)]
pub struct KernelMetrics {
    map_entries: GaugeFamily<1>,
    map_capacity: GaugeFamily<1>,
}

impl KernelMetrics {
    /// Registers them. The programs' counters are read at each scrape.
    pub fn register(registry: &MetricsRegistry, counters: KernelCounters) -> Self {
        let (name, help) = EVENTS;
        let events = MetricReference::new(name, MetricKind::Counter, &["event"], help);
        registry.collect(&[events], Box::new(counters));
        Self {
            map_entries: registry.gauges(
                "kernel_map_entries",
                ["map"],
                "Entries of a map of the kernel programs; `flows` includes those that no listener took",
            ),
            map_capacity: registry.gauges(
                "kernel_map_capacity",
                ["map"],
                "Entries that a map of the kernel programs holds at most",
            ),
        }
    }

    /// Keeps the gauges current for as long as it is polled.
    pub(crate) async fn follow(self, kernel: Arc<Kernel>) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let kernel = Arc::clone(&kernel);
            match tokio::task::spawn_blocking(move || kernel.map_usage()).await {
                Ok(Ok(maps)) => {
                    for map in maps {
                        self.map_entries.set([map.map], map.entries);
                        self.map_capacity.set([map.map], map.capacity);
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the agent cannot count the entries of the kernel maps")
                }
                Err(error) => tracing::warn!(%error, "the agent cannot count the entries of the kernel maps"),
            }
        }
    }
}

/// Reads the programs' counters, by their names.
pub struct KernelCounters(Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>);

impl KernelCounters {
    /// Those of these programs.
    pub(crate) fn of(kernel: Arc<Kernel>) -> Self {
        Self(Box::new(move || match kernel.counters() {
            Ok(counters) => Counter::ALL
                .into_iter()
                .map(|counter| (counter.as_str(), counters.get(counter)))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "the agent cannot read the kernel counters");
                Vec::new()
            }
        }))
    }

    /// None, where no programs are attached.
    #[must_use]
    pub fn none() -> Self {
        Self(Box::new(Vec::new))
    }
}

impl fmt::Debug for KernelCounters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KernelCounters")
    }
}

impl Collector for KernelCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = EVENTS;
        let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (event, count) in (self.0)() {
            let labels = [("event", event)];
            ConstCounter::new(count).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_counters_are_read_at_each_scrape() {
        let registry = MetricsRegistry::default();
        let counters = KernelCounters(Box::new(|| vec![("flows_lost", 4)]));
        let metrics = KernelMetrics::register(&registry, counters);
        metrics.map_entries.set(["classes"], 12_usize);
        let text = registry.encode().expect("text");
        for line in [
            "picket_kernel_events_total{event=\"flows_lost\"} 4\n",
            "picket_kernel_map_entries{map=\"classes\"} 12\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
