//! Metrics of connections and requests.
//!
//! In: the [`Summary`] of each audit record that ends, and connections that open and close. Out: counters, gauges and
//! histograms in the registry.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::audit::{Observer, Summary};
use crate::listener::UnattributedCause;
use crate::metrics::{CounterFamily, MetricsRegistry};

/// Verbs that may be a label; a client can send any method.
const VERBS: [&str; 14] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "connect",
    "head",
    "options",
    "post",
    "put",
    "trace",
];

/// Upper bounds for the decision and for upstream time, in seconds: from below the decision's budget of 5 us to a hung upstream.
const SECONDS: [f64; 16] = [
    2e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1.0, 5.0, 30.0,
];

/// The metrics of the pipeline; cheap to clone.
#[derive(Debug, Clone)]
pub struct PipelineMetrics {
    requests: CounterFamily<3>,
    policy: Histogram,
    upstream: Histogram,
    request: Histogram,
    connections_open: Gauge,
    unattributed: CounterFamily<1>,
    flooded: Counter,
    hidden: Counter,
}

impl PipelineMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> Self {
        let unattributed = registry.counters(
            "unattributed_connections",
            ["cause"],
            "Connections to a listener that were closed unread, by cause; the audit record has the cause as its reason",
        );
        for cause in UnattributedCause::ALL {
            unattributed.show([cause.code()]);
        }
        Self {
            requests: registry.counters(
                "requests",
                ["outcome", "verb", "reason"],
                "Requests that ended, by outcome, verb, and the reason of a denial, an error, or a response that the agent cut short",
            ),
            policy: registry.durations(
                "policy_duration",
                SECONDS,
                "Time of the policy decision on a request",
            ),
            upstream: registry.durations(
                "upstream_duration",
                SECONDS,
                "Time from sending a request to the API server until the head of its response",
            ),
            request: registry.durations(
                "request_duration",
                SECONDS,
                "Time from the arrival of a request until its last byte, without watches and sessions",
            ),
            connections_open: registry.gauge(
                "connections_open",
                "Open connections from pods, and from clients of the gateway",
            ),
            unattributed,
            flooded: registry.counter(
                "flooded_connections",
                "Connections that were closed because their client sent HTTP/2 control frames without end",
            ),
            hidden: registry.counter(
                "hidden_objects",
                "Objects that rules took out of lists and watches",
            ),
        }
    }

    /// Counts the end of each request; for the audit log.
    #[must_use]
    pub fn observer(&self) -> Observer {
        let metrics = self.clone();
        Arc::new(move |summary| metrics.count_request(summary))
    }

    fn count_request(&self, summary: &Summary<'_>) {
        let verb = VERBS
            .iter()
            .find(|verb| **verb == summary.verb)
            .copied()
            .unwrap_or("other");
        self.requests
            .inc([summary.outcome.as_str(), verb, summary.reason]);
        if let Some(time) = summary.policy {
            self.policy.observe(time.as_secs_f64());
        }
        if let Some(time) = summary.upstream {
            self.upstream.observe(time.as_secs_f64());
        }
        self.hidden.inc_by(summary.hidden);
        if !summary.long {
            self.request.observe(summary.total.as_secs_f64());
        }
    }

    /// Counts a connection as open for as long as the guard lives.
    #[must_use]
    pub fn connection(&self) -> OpenConnection {
        self.connections_open.inc();
        OpenConnection(self.connections_open.clone())
    }

    /// A connection was closed because its client sent control frames without end.
    pub fn flooded_connection(&self) {
        self.flooded.inc();
    }

    /// A connection was closed unread for this cause.
    pub fn unattributed_connection(&self, cause: UnattributedCause) {
        self.unattributed.inc([cause.code()]);
    }
}

/// Counts one open connection until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::audit::Outcome;

    fn summary<'a>(verb: &'a str, outcome: Outcome, reason: &'static str, long: bool) -> Summary<'a> {
        let time = Duration::from_micros(40);
        Summary {
            identity: None,
            outcome,
            verb,
            reason,
            policy: Some(time),
            upstream: None,
            total: time,
            hidden: 2,
            long,
        }
    }

    #[test]
    fn requests_are_counted_by_few_labels() {
        let registry = MetricsRegistry::default();
        let observe = PipelineMetrics::register(&registry).observer();
        observe(&summary("list", Outcome::Allow, "", false));
        observe(&summary("list", Outcome::Allow, "", true));
        observe(&summary("invented-by-a-client", Outcome::Deny, "policy", false));
        let text = registry.encode().expect("text");
        for line in [
            "picket_requests_total{outcome=\"allow\",verb=\"list\",reason=\"\"} 2",
            "picket_requests_total{outcome=\"deny\",verb=\"other\",reason=\"policy\"} 1",
            "picket_hidden_objects_total 6",
            "picket_policy_duration_seconds_count 3",
            "picket_request_duration_seconds_count 2",
            "picket_upstream_duration_seconds_count 0",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line} is missing in\n{text}"
            );
        }
    }

    #[test]
    fn connections_that_were_closed_unread_are_counted_by_cause() {
        let registry = MetricsRegistry::default();
        let metrics = PipelineMetrics::register(&registry);
        metrics.unattributed_connection(UnattributedCause::Full);
        let text = registry.encode().expect("text");
        for (cause, count) in [
            ("too_many_connections", 1),
            ("unattributed_connection", 0),
            ("other_pod", 0),
            ("internal", 0),
        ] {
            let line = format!("picket_unattributed_connections_total{{cause=\"{cause}\"}} {count}\n");
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_connection_counts_as_open_until_its_guard_goes() {
        let registry = MetricsRegistry::default();
        let metrics = PipelineMetrics::register(&registry);
        let open = |count| {
            let text = registry.encode().expect("text");
            text.contains(&format!("picket_connections_open {count}\n"))
        };
        let (first, second) = (metrics.connection(), metrics.connection());
        assert!(open(2));
        drop(first);
        assert!(open(1));
        drop(second);
        assert!(open(0));
    }
}
