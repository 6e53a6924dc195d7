//! Metrics of token verification.
//!
//! In: what verification, fetches and readings of the file came to. Out: counters in the registry.

use crate::metrics::{CounterFamily, MetricsRegistry};

/// The metrics of tokens; cheap to clone.
#[derive(Debug, Clone)]
pub struct JwtMetrics {
    failures: CounterFamily<1>,
    fetches: CounterFamily<1>,
    reloads: CounterFamily<1>,
}

impl JwtMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &MetricsRegistry) -> Self {
        let failures = registry.counters(
            "attestation_failures",
            ["reason"],
            "Requests refused because the caller did not prove who it is, by reason",
        );
        let fetches = registry.counters(
            "jwt_key_fetches",
            ["result"],
            "Fetches of issuers' keys, by result",
        );
        let reloads = registry.counters(
            "authentication_reloads",
            ["result"],
            "Times that a changed authentication configuration was read, by result",
        );
        for result in ["success", "failure"] {
            fetches.show([result]);
            reloads.show([result]);
        }
        Self {
            failures,
            fetches,
            reloads,
        }
    }

    pub(super) fn failed(&self, reason: &'static str) {
        self.failures.inc([reason]);
    }

    pub(super) fn fetched(&self, succeeded: bool) {
        self.fetches.inc([result(succeeded)]);
    }

    pub(super) fn reloaded(&self, succeeded: bool) {
        self.reloads.inc([result(succeeded)]);
    }
}

fn result(succeeded: bool) -> &'static str {
    if succeeded { "success" } else { "failure" }
}
