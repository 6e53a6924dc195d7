//! The agent's metrics. One [`Metrics`] is made at the start and handed to whoever counts; the admin socket shows it.
//!
//! Labels are of low cardinality: constants of the program, never names from requests, pods or policies.

pub(crate) mod gauges;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::audit::{Observer, Stats, Summary};

/// The media type of what [`Metrics::encode`] gives (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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

/// Upper bounds for judging and upstream time, in seconds: from below the decision's budget of 5 us to a hung upstream.
const SECONDS: [f64; 16] = [
    2e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1.0, 5.0, 30.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    outcome: &'static str,
    verb: &'static str,
    reason: &'static str,
}

/// Upper bounds for the time until a pod is judged, in seconds: from a sandbox's own few milliseconds to a node that is out of
/// order.
const PENDING_SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 120.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    cause: &'static str,
    endpoint: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProgramLabel {
    program: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapLabel {
    map: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpgradeLabels {
    role: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabel {
    certificate: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

/// Every metric of the agent.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    policy_seconds: Histogram,
    upstream_seconds: Histogram,
    request_seconds: Histogram,
    connections_open: Gauge,
    connects_denied: Family<RefusalLabels, Counter>,
    unattributed_connection: Counter,
    denied_connections_unrecorded: Counter,
    kube_events: Family<OutcomeLabel, Counter>,
    upgrades: Family<UpgradeLabels, Counter>,
    connections_destroyed: Family<OutcomeLabel, Counter>,
    cgroup_escapes: Counter,
    reloads: Family<ReloadLabels, Counter>,
    policy_generation: Gauge,
    certificate_expiry: Family<CertificateLabel, Gauge<f64, AtomicU64>>,
    pods: Family<ClassLabel, Gauge>,
    pending_seconds: Histogram,
    reattachments: Family<ProgramLabel, Counter>,
    map_entries: Family<MapLabel, Gauge>,
    map_capacity: Family<MapLabel, Gauge>,
    endpoints: Family<ActionLabel, Gauge>,
    endpoints_omitted: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("picket")),
            requests: Family::default(),
            policy_seconds: Histogram::new(SECONDS),
            upstream_seconds: Histogram::new(SECONDS),
            request_seconds: Histogram::new(SECONDS),
            connections_open: Gauge::default(),
            connects_denied: Family::default(),
            unattributed_connection: Counter::default(),
            denied_connections_unrecorded: Counter::default(),
            kube_events: Family::default(),
            upgrades: Family::default(),
            connections_destroyed: Family::default(),
            cgroup_escapes: Counter::default(),
            reloads: Family::default(),
            policy_generation: Gauge::default(),
            certificate_expiry: Family::default(),
            pods: Family::default(),
            pending_seconds: Histogram::new(PENDING_SECONDS),
            reattachments: Family::default(),
            map_entries: Family::default(),
            map_capacity: Family::default(),
            endpoints: Family::default(),
            endpoints_omitted: Gauge::default(),
        };
        metrics.register();
        // Growth is seen from zero alone.
        for outcome in ["posted", "failed", "left_out"] {
            drop(metrics.kube_events.get_or_create(&OutcomeLabel { outcome }));
        }
        for result in ["success", "failure"] {
            let kind = "policy";
            drop(metrics.reloads.get_or_create(&ReloadLabels { kind, result }));
        }
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(
            "build",
            "The running version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "requests",
            "Requests that ended, by what was done, the verb, and why a refused one was refused",
            self.requests.clone(),
        );
        for (name, help, histogram) in [
            ("policy_duration", "Time to judge a request", &self.policy_seconds),
            (
                "upstream_duration",
                "Time from sending upstream to the response's head",
                &self.upstream_seconds,
            ),
            (
                "request_duration",
                "Time from a request's arrival to its last byte; without watches and sessions",
                &self.request_seconds,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        registry.register(
            "connections_open",
            "Connections from pods that are open",
            self.connections_open.clone(),
        );
        registry.register(
            "connects_denied",
            "Connects, packets and sockets of pods that the kernel programs refused and told of, by cause and by what is at the address",
            self.connects_denied.clone(),
        );
        registry.register(
            "unattributed_connections",
            "Connections closed because the kernel had no record of them",
            self.unattributed_connection.clone(),
        );
        registry.register(
            "denied_connections_unrecorded",
            "Refused connections that are not in the audit log because it took no more",
            self.denied_connections_unrecorded.clone(),
        );
        registry.register(
            "kubernetes_events",
            "Kubernetes Events about pods and the node, by what became of them",
            self.kube_events.clone(),
        );
        registry.register(
            "connections_destroyed",
            "Connections to protected endpoints that were open before enforcement, by what became of them",
            self.connections_destroyed.clone(),
        );
        registry.register(
            "cgroup_escapes",
            "Processes seen outside their pod's cgroup, and connections that such made",
            self.cgroup_escapes.clone(),
        );
        registry.register(
            "upgrades",
            "Upgrades of this agent, by its role in them and by the result",
            self.upgrades.clone(),
        );
        registry.register(
            "config_reloads",
            "Times that files were read again",
            self.reloads.clone(),
        );
        registry.register(
            "policy_generation",
            "Counts the policy sets that took effect; stands still while a reload fails",
            self.policy_generation.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry",
            "When a certificate in use expires, in seconds since 1970",
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
        registry.register(
            "pods",
            "Pods on this node, by how they are treated",
            self.pods.clone(),
        );
        registry.register(
            "protected_endpoints",
            "Addresses of the control plane, by what happens to connects there",
            self.endpoints.clone(),
        );
        registry.register(
            "protected_endpoints_omitted",
            "Addresses that enforced pods can reach because there are more protected endpoints than any limit allows",
            self.endpoints_omitted.clone(),
        );
        self.register_kernel(&mut registry);
    }

    /// Those of the kernel's part.
    fn register_kernel(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "pod_pending",
            "Time from a new pod's cgroup being seen until the pod is enforced or left alone",
            Unit::Seconds,
            self.pending_seconds.clone(),
        );
        registry.register(
            "kernel_reattachments",
            "Kernel programs that somebody took away and that were put back, by program",
            self.reattachments.clone(),
        );
        registry.register(
            "kernel_map_entries",
            "Entries of the kernel programs' maps; flows include those that nobody took",
            self.map_entries.clone(),
        );
        registry.register(
            "kernel_map_capacity",
            "Entries that the kernel programs' maps hold at most",
            self.map_capacity.clone(),
        );
    }

    /// Counts each request's end; to be given to the audit log.
    pub fn observer(self: &Arc<Self>) -> Observer {
        let metrics = Arc::clone(self);
        Arc::new(move |summary| metrics.request(summary))
    }

    fn request(&self, summary: &Summary<'_>) {
        let verb = VERBS
            .iter()
            .find(|verb| **verb == summary.verb)
            .copied()
            .unwrap_or("other");
        let labels = RequestLabels {
            outcome: summary.outcome.as_str(),
            verb,
            reason: summary.reason,
        };
        self.requests.get_or_create(&labels).inc();
        if let Some(time) = summary.policy {
            self.policy_seconds.observe(time.as_secs_f64());
        }
        if let Some(time) = summary.upstream {
            self.upstream_seconds.observe(time.as_secs_f64());
        }
        if !summary.long {
            self.request_seconds.observe(summary.total.as_secs_f64());
        }
    }

    /// Counts a connection as open for as long as the guard lives.
    pub fn connection(&self) -> OpenConnection {
        self.connections_open.inc();
        OpenConnection(self.connections_open.clone())
    }

    /// The kernel refused a connect. `endpoint` is what is at the address: `api-server`, `kubelet`, `etcd`, `metadata`, `other`.
    pub fn connect_refused(&self, cause: &'static str, endpoint: &'static str) {
        let labels = RefusalLabels { cause, endpoint };
        self.connects_denied.get_or_create(&labels).inc();
    }

    /// A pod was judged so long after its cgroup was seen.
    pub fn pod_judged(&self, after: Duration) {
        self.pending_seconds.observe(after.as_secs_f64());
    }

    /// A kernel program that may have to be put back some day.
    pub fn program(&self, program: &'static str) {
        drop(self.reattachments.get_or_create(&ProgramLabel { program }));
    }

    /// A kernel program was put back.
    pub fn reattached(&self, program: &'static str) {
        self.reattachments.get_or_create(&ProgramLabel { program }).inc();
    }

    /// How full a kernel map is.
    pub fn map_usage(&self, map: &'static str, entries: usize, capacity: u32) {
        let label = MapLabel { map };
        self.map_entries
            .get_or_create(&label)
            .set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.map_capacity.get_or_create(&label).set(i64::from(capacity));
    }

    /// A connection without a flow record was closed.
    pub fn unattributed_connection(&self) {
        self.unattributed_connection.inc();
    }

    /// A refused connection is not in the audit log.
    pub fn refusal_unrecorded(&self) {
        self.denied_connections_unrecorded.inc();
    }

    /// A Kubernetes Event was `posted`, could not be (`failed`), or was `left_out` because there are too many.
    pub fn kube_event(&self, outcome: &'static str) {
        self.kube_events.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// An upgrade ended for the `predecessor` or the `successor`.
    pub fn upgrade(&self, role: &'static str, well: bool) {
        let result = if well { "success" } else { "failure" };
        self.upgrades.get_or_create(&UpgradeLabels { role, result }).inc();
    }

    /// Connections to protected endpoints were ended (`destroyed`), could not be (`left`), are somebody's unknown (`unknown`); or the
    /// kernel could not list them (`unlisted`).
    pub fn connections_destroyed(&self, outcome: &'static str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.connections_destroyed
            .get_or_create(&OutcomeLabel { outcome })
            .inc_by(count);
    }

    /// A process was seen outside its pod's cgroup.
    pub fn cgroup_escape(&self) {
        self.cgroup_escapes.inc();
    }

    /// Files of `kind` (`policy`, `credential`, `ca`) were read again.
    pub fn reload(&self, kind: &'static str, well: bool) {
        let result = if well { "success" } else { "failure" };
        self.reloads.get_or_create(&ReloadLabels { kind, result }).inc();
    }

    /// The policy set in effect.
    pub fn policy_generation(&self, generation: u64) {
        self.policy_generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// When `certificate` (`node-ca`, `leaf`, `upstream`) expires, as time since 1970.
    pub fn certificate_expiry(&self, certificate: &'static str, since_epoch: Duration) {
        self.certificate_expiry
            .get_or_create(&CertificateLabel { certificate })
            .set(since_epoch.as_secs_f64());
    }

    /// How many pods on this node are of `class` (`enforced`, `exempt` and among these `assumed_exempt`, `pending`, `egress_unfiltered`, `no_cgroup`).
    pub fn pods(&self, class: &'static str, count: usize) {
        self.pods
            .get_or_create(&ClassLabel { class })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many protected endpoints are in force, and how many are not because they do not fit.
    pub fn endpoints(&self, redirect: usize, refuse: usize, left_out: usize) {
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        for (action, count) in [("redirect", redirect), ("deny", refuse)] {
            self.endpoints
                .get_or_create(&ActionLabel { action })
                .set(gauge(count));
        }
        self.endpoints_omitted.set(gauge(left_out));
    }

    /// Shows the audit log's counters from now on.
    pub fn watch_audit(&self, stats: Arc<Stats>) {
        self.collect(Box::new(AuditCollector(stats)));
    }

    /// Shows counters that the kernel programs keep, read at each scrape.
    pub fn watch_kernel(&self, read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static) {
        self.collect(Box::new(KernelCollector(Box::new(read))));
    }

    /// Lets a room add its own.
    pub fn add(&self, room: impl FnOnce(&mut Registry)) {
        room(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn collect(&self, collector: Box<dyn Collector>) {
        self.registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .register_collector(collector);
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// When a collector fails to write, which none does.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
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

#[derive(Debug)]
struct AuditCollector(Arc<Stats>);

impl Collector for AuditCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(stats) = self;
        for (name, help, value) in [
            ("audit_lines", "Audit lines written", stats.lines()),
            ("audit_bytes", "Bytes of audit lines written", stats.bytes()),
            (
                "audit_errors",
                "Failed writes and syncs of the audit log",
                stats.errors(),
            ),
            ("audit_syncs", "Syncs of the audit log to disk", stats.syncs()),
        ] {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(encoder)?;
        }
        let in_flight = u32::try_from(stats.in_flight()).unwrap_or(u32::MAX);
        for (name, help, unit, value) in [
            (
                "audit_in_flight",
                "Audit records begun and not yet written: requests in flight and lines that wait",
                None,
                f64::from(in_flight),
            ),
            (
                "audit_lag",
                "Age of the oldest audit record of the last write, when it was written",
                Some(&Unit::Seconds),
                stats.lag().as_secs_f64(),
            ),
            (
                "audit_failing",
                "1 while the audit log cannot be written, so that writes, sessions and denials are refused",
                None,
                f64::from(u8::from(stats.failure().is_some())),
            ),
        ] {
            let encoder = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(value).encode(encoder)?;
        }
        Ok(())
    }
}

struct KernelCollector(Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>);

impl fmt::Debug for KernelCollector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KernelCollector")
    }
}

impl Collector for KernelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "What the kernel programs counted since they were attached";
        let mut encoder = encoder.encode_descriptor("kernel_events", help, None, MetricType::Counter)?;
        for (event, count) in (self.0)() {
            let labels = EventLabel { event };
            ConstCounter::new(count).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Outcome;

    fn summary<'a>(verb: &'a str, outcome: Outcome, reason: &'static str, long: bool) -> Summary<'a> {
        let time = Duration::from_micros(40);
        Summary {
            outcome,
            verb,
            reason,
            policy: Some(time),
            upstream: None,
            total: time,
            long,
        }
    }

    #[test]
    fn requests_are_counted_by_few_labels() {
        let metrics = Arc::new(Metrics::new());
        let observe = metrics.observer();
        observe(&summary("list", Outcome::Allow, "", false));
        observe(&summary("list", Outcome::Allow, "", true));
        observe(&summary("invented-by-a-client", Outcome::Deny, "policy", false));
        let text = metrics.encode().expect("text");
        for line in [
            "picket_requests_total{outcome=\"allow\",verb=\"list\",reason=\"\"} 2",
            "picket_requests_total{outcome=\"deny\",verb=\"other\",reason=\"policy\"} 1",
            "picket_policy_duration_seconds_count 3",
            // What is alarmed on when it grows is there from the start.
            "picket_config_reloads_total{kind=\"policy\",result=\"failure\"} 0",
            "picket_request_duration_seconds_count 2",
            "picket_upstream_duration_seconds_count 0",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn gauges_guards_and_collectors_show() {
        let metrics = Metrics::new();
        let first = metrics.connection();
        let second = metrics.connection();
        drop(first);
        metrics.connect_refused("denied_endpoint", "kubelet");
        metrics.pod_judged(Duration::from_millis(7));
        metrics.reattached("connect4");
        metrics.map_usage("classes", 12, 8192);
        metrics.unattributed_connection();
        metrics.connections_destroyed("destroyed", 2);
        metrics.cgroup_escape();
        metrics.reload("policy", false);
        metrics.policy_generation(7);
        metrics.certificate_expiry("leaf", Duration::from_secs(1_800_000_000));
        metrics.pods("enforced", 3);
        metrics.endpoints(4, 90, 1);
        metrics.watch_kernel(|| vec![("flows_lost", 4)]);
        metrics.watch_audit(Arc::new(Stats::default()));
        let text = metrics.encode().expect("text");
        for line in [
            "picket_connections_open 1",
            "picket_connects_denied_total{cause=\"denied_endpoint\",endpoint=\"kubelet\"} 1",
            "picket_pod_pending_seconds_bucket{le=\"0.005\"} 0",
            "picket_pod_pending_seconds_bucket{le=\"0.01\"} 1",
            "picket_kernel_reattachments_total{program=\"connect4\"} 1",
            "picket_kernel_map_entries{map=\"classes\"} 12",
            "picket_kernel_map_capacity{map=\"classes\"} 8192",
            "picket_unattributed_connections_total 1",
            "picket_connections_destroyed_total{outcome=\"destroyed\"} 2",
            "picket_cgroup_escapes_total 1",
            "picket_config_reloads_total{kind=\"policy\",result=\"failure\"} 1",
            "picket_policy_generation 7",
            "picket_certificate_expiry_seconds{certificate=\"leaf\"} 1800000000.0",
            "picket_pods{class=\"enforced\"} 3",
            "picket_protected_endpoints{action=\"deny\"} 90",
            "picket_protected_endpoints_omitted 1",
            "picket_kernel_events_total{event=\"flows_lost\"} 4",
            "picket_audit_lines_total 0",
            "picket_audit_in_flight 0.0",
            "picket_audit_lag_seconds 0.0",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line} is missing in\n{text}"
            );
        }
        drop(second);
        assert!(
            metrics
                .encode()
                .expect("text")
                .contains("picket_connections_open 0\n")
        );
    }
}
