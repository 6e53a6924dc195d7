//! Metrics of upgrades.
//!
//! In: the role of this agent in an upgrade, and how the upgrade ended. Out: counters in the registry.

use crate::metrics::{CounterFamily, MetricsRegistry};

/// This agent's part in an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The running agent.
    Predecessor,
    /// The newer one.
    Successor,
}

/// The metrics of upgrades; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct UpgradeMetrics {
    upgrades: CounterFamily<2>,
}

impl UpgradeMetrics {
    /// Registers them.
    pub(crate) fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            upgrades: registry.counters(
                "upgrades",
                ["role", "result"],
                "Upgrades that this agent took part in, by its role (`predecessor`, `successor`) and the result (`success`, `failure`)",
            ),
        };
        for role in [Role::Predecessor, Role::Successor] {
            for well in [true, false] {
                metrics.upgrades.show(labels(role, well));
            }
        }
        metrics
    }

    /// An upgrade ended.
    pub(super) fn ended(&self, role: Role, well: bool) {
        self.upgrades.inc(labels(role, well));
    }
}

fn labels(role: Role, well: bool) -> [&'static str; 2] {
    let role = match role {
        Role::Predecessor => "predecessor",
        Role::Successor => "successor",
    };
    [role, if well { "success" } else { "failure" }]
}
