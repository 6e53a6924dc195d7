//! Metrics of token verification.
//!
//! In: what verification, fetches and readings of the file came to. Out: counters in the registry.

use super::JwtError;
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
            "Requests whose token does not prove what it must, by reason",
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

    pub(super) fn failed(&self, error: &JwtError) {
        self.failures.inc([error.code()]);
    }

    /// Counts a caller whose token contradicts what the kernel or the identity says.
    pub fn contradicted(&self, reason: &'static str) {
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
