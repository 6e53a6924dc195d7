//! Metrics of limits.
//!
//! In: requests that a limit refuses, or would. Out: counters and a gauge in the registry.

use prometheus_client::metrics::gauge::Gauge;

use super::LimitKind;
use crate::metrics::{CounterFamily, MetricsRegistry};

/// The metrics of limits; cheap to clone.
#[derive(Debug, Clone)]
pub struct LimitMetrics {
    limited: CounterFamily<2>,
    breakers: Gauge,
}

impl LimitMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> Self {
        let limited = registry.counters(
            "limited_requests",
            ["limit", "mode"],
            "Requests above a limit of an AgentPolicy, by the field of `spec.limits` and the policy's mode; in mode `Audit` the limit did not refuse them",
        );
        for kind in LimitKind::ALL {
            for mode in MODES {
                limited.show([kind.field(), mode]);
            }
        }
        Self {
            limited,
            breakers: registry.gauge(
                "open_breakers",
                "Refused requests that came too often and are answered with 429 until their minute has passed",
            ),
        }
    }

    pub(super) fn limited(&self, kind: LimitKind, enforced: bool) {
        self.limited.inc([kind.field(), MODES[usize::from(!enforced)]]);
    }

    /// Counts a breaker as open for as long as the guard lives.
    #[must_use]
    pub fn open_breaker(&self) -> BreakerGuard {
        self.breakers.inc();
        BreakerGuard(self.breakers.clone())
    }
}

/// The modes of policies, as they are written.
const MODES: [&str; 2] = ["Enforce", "Audit"];

/// Counts one open breaker until it is dropped.
#[derive(Debug)]
pub struct BreakerGuard(Gauge);

impl Drop for BreakerGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
