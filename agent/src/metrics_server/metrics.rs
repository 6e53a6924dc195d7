//! Metrics of the metrics' own port.
//!
//! In: how each request and each closed connection ended. Out: a counter in the registry.

use crate::metrics::{CounterFamily, MetricsRegistry};

/// How a request ended, or a connection that had none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScrapeOutcome {
    /// The metrics were sent.
    Served,
    /// Nobody knows the caller.
    Unauthenticated,
    /// The caller has no right to read them.
    Forbidden,
    /// The API server did not say who the caller is, or what it may.
    Unavailable,
    /// Another path or method.
    NotFound,
    /// The TLS handshake failed.
    Handshake,
    /// The address has as many connections as it may have, at once or a second.
    Limited,
}

impl ScrapeOutcome {
    const ALL: [Self; 7] = [
        Self::Served,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Unavailable,
        Self::NotFound,
        Self::Handshake,
        Self::Limited,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
            Self::NotFound => "not_found",
            Self::Handshake => "handshake",
            Self::Limited => "limited",
        }
    }
}

/// The metrics of the port; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ScrapeMetrics {
    scrapes: CounterFamily<1>,
}

impl ScrapeMetrics {
    /// Registers them.
    #[must_use]
    pub(crate) fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            scrapes: registry.counters(
                "scrapes",
                ["outcome"],
                "Requests for metrics over TLS, by outcome: `served`, `unauthenticated`, `forbidden`, `unavailable` (the API server did \
                 not say who the caller is), `not_found`; connections without a request: `handshake`, `limited`",
            ),
        };
        for outcome in ScrapeOutcome::ALL {
            metrics.scrapes.show([outcome.label()]);
        }
        metrics
    }

    pub(super) fn count(&self, outcome: ScrapeOutcome) {
        self.scrapes.inc([outcome.label()]);
    }
}
