//! Metrics of the gateway.
//!
//! In: each time that the gateway stops accepting, and the limit that is reached. Out: a counter in the registry, and a line in the
//! log now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::metrics::{CounterFamily, MetricsRegistry};

/// The log says no more often than that why new callers wait; the counter has each time.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// A limit of the gateway's that is of all callers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GatewayLimit {
    /// Connections.
    Connections,
    /// Connections of callers that are not known yet.
    Strangers,
    /// New connections a second that do not become known.
    StrangersPerSecond,
}

impl GatewayLimit {
    const ALL: [Self; 3] = [Self::Connections, Self::Strangers, Self::StrangersPerSecond];

    fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Strangers => "strangers",
            Self::StrangersPerSecond => "strangers_per_second",
        }
    }
}

/// The metrics of the gateway; cheap to clone.
#[derive(Debug, Clone)]
pub struct GatewayMetrics {
    full: CounterFamily<1>,
    /// When the log said so last, of each limit.
    told: Arc<Mutex<[Option<Instant>; GatewayLimit::ALL.len()]>>,
}

impl GatewayMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            full: registry.counters(
                "gateway_full",
                ["limit"],
                "Times that the gateway stopped accepting connections until one of all callers' places was free, by the limit that \
                 was reached (`connections`, `strangers`, `strangers_per_second`)",
            ),
            told: Arc::default(),
        };
        for limit in GatewayLimit::ALL {
            metrics.full.show([limit.label()]);
        }
        metrics
    }

    /// A limit is reached: new callers wait.
    pub(super) fn reached(&self, limit: GatewayLimit) {
        self.full.inc([limit.label()]);
        let told = &mut self.told.lock()[limit as usize];
        if told.is_none_or(|told| told.elapsed() >= LOG_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(
                limit = limit.label(),
                "new callers of the gateway wait, since this limit of all callers is reached; keep away the addresses that flood it"
            );
        }
    }
}

#[cfg(test)]
impl GatewayMetrics {
    /// Of a registry that nobody reads.
    pub(super) fn unread() -> Self {
        Self::register(&MetricsRegistry::default())
    }
}
