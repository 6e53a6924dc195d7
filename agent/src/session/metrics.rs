//! Metrics of sessions.
//!
//! In: each session that opens or ends, with its kind and cause. Out: counters, gauges and a histogram in the registry.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::SessionKind;
use crate::metrics::{CounterFamily, GaugeFamily, MetricsRegistry};

/// Upper bounds in seconds: the goal is 0.1.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0];

/// The metrics of sessions; cheap to clone.
#[derive(Debug, Clone)]
pub struct SessionMetrics {
    open: GaugeFamily<1>,
    ended: CounterFamily<2>,
    closing: Histogram,
}

impl Default for SessionMetrics {
    fn default() -> SessionMetrics {
        SessionMetrics::register(&MetricsRegistry::default())
    }
}

impl SessionMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> SessionMetrics {
        let metrics = SessionMetrics {
            open: registry.gauges(
                "sessions",
                ["kind"],
                "Watches, followed logs and upgraded streams that run now, by kind",
            ),
            ended: registry.counters(
                "sessions_ended",
                ["kind", "cause"],
                "Sessions that ended, by kind and cause: `closed` by client or API server, anything else by Picket",
            ),
            closing: registry.durations(
                "session_end_duration",
                BUCKETS,
                "Time from the change that ended a session until its client's side was closed",
            ),
        };
        // A gauge that is missing cannot be told from one that is zero.
        for kind in SessionKind::ALL {
            metrics.open.show([kind.as_str()]);
        }
        metrics
    }

    pub(super) fn opened(&self, kind: SessionKind) {
        self.open.inc([kind.as_str()]);
    }

    pub(super) fn ended(&self, kind: SessionKind, cause: &'static str) {
        let kind = kind.as_str();
        self.open.dec([kind]);
        self.ended.inc([kind, cause]);
    }

    pub(super) fn closed(&self, after: Duration) {
        self.closing.observe(after.as_secs_f64());
    }
}
