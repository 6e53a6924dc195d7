//! What is counted of sessions.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::SessionKind;

/// Upper bounds in seconds: the goal is 0.1.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    kind: &'static str,
    cause: &'static str,
}

/// The room's metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    open: Family<KindLabel, Gauge>,
    ended: Family<EndLabels, Counter>,
    closing: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let metrics = Metrics {
            open: Family::default(),
            ended: Family::default(),
            closing: Histogram::new(BUCKETS),
        };
        // A gauge that is missing cannot be told from one that is zero.
        for kind in SessionKind::ALL {
            drop(metrics.open.get_or_create(&KindLabel { kind: kind.as_str() }));
        }
        metrics
    }
}

impl Metrics {
    /// Makes them part of what is scraped.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sessions",
            "Watches, followed logs and upgraded streams that run now, by kind",
            self.open.clone(),
        );
        registry.register(
            "sessions_ended",
            "Sessions that ended, by kind and cause: `closed` by client or API server, anything else by Picket",
            self.ended.clone(),
        );
        registry.register_with_unit(
            "session_end_duration",
            "Time from the change that ended a session until its client's side was closed",
            Unit::Seconds,
            self.closing.clone(),
        );
    }

    pub(super) fn opened(&self, kind: SessionKind) {
        self.open.get_or_create(&KindLabel { kind: kind.as_str() }).inc();
    }

    pub(super) fn ended(&self, kind: SessionKind, cause: &'static str) {
        let kind = kind.as_str();
        self.open.get_or_create(&KindLabel { kind }).dec();
        self.ended.get_or_create(&EndLabels { kind, cause }).inc();
    }

    pub(super) fn closed(&self, after: Duration) {
        self.closing.observe(after.as_secs_f64());
    }
}
