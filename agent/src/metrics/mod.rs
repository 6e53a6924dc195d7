//! The registry of the agent's metrics. Each module has metrics of its own and registers them here.
//!
//! In: a name, label names and a meaning for each metric. Out: what crate `picket-metrics` gives, which the controller has too.

pub use picket_metrics::{
    CONTENT_TYPE, CounterFamily, GaugeFamily, MetricKind, MetricReference, MetricsRegistry, TimeFamily, count,
};
