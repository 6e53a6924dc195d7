//! The controller's metrics.
//!
//! In: what each part did. Out: metrics `picket_controller_*` in a registry, and `/metrics` on a port of the pod. What the leader alone
//! knows is shown while this replica leads. No label has a name of the cluster's: the port asks nobody who he is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::{Response, StatusCode};
use picket_metrics::{CONTENT_TYPE, CounterFamily, GaugeFamily, MetricsRegistry, TimeFamily, count};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;

use crate::authority::Authority;
use crate::http::{self, Answer};
use crate::request::Refusal;
use crate::rotation::RotationState;

/// Scrapes at once.
const CONNECTIONS: usize = 8;

/// The root CA, among certificates.
const ROOT_CA: &str = "root-ca";

/// A part of the controller's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Root,
    Signer,
    Bundles,
    Nodes,
    Webhooks,
}

impl Part {
    const ALL: [Self; 5] = [
        Self::Root,
        Self::Signer,
        Self::Bundles,
        Self::Nodes,
        Self::Webhooks,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Signer => "signer",
            Self::Bundles => "bundles",
            Self::Nodes => "nodes",
            Self::Webhooks => "webhooks",
        }
    }
}

/// How a write of a bundle ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BundleWrite {
    Written,
    Removed,
    Failed,
}

impl BundleWrite {
    const ALL: [Self; 3] = [Self::Written, Self::Removed, Self::Failed];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Removed => "removed",
            Self::Failed => "failed",
        }
    }
}

/// How a request for a node CA was answered, or why it is not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeCaAnswer {
    Signed,
    /// With the reason of the condition.
    Denied(&'static str),
    /// The controller tries again.
    NoRoot,
    NotSigned,
    NotWritten,
}

impl NodeCaAnswer {
    /// Result and reason.
    fn labels(self) -> [&'static str; 2] {
        match self {
            Self::Signed => ["signed", ""],
            Self::Denied(reason) => ["denied", reason],
            Self::NoRoot => ["failed", "NoRoot"],
            Self::NotSigned => ["failed", "NotSigned"],
            Self::NotWritten => ["failed", "NotWritten"],
        }
    }
}

/// The nodes by whether each has a ready agent, and whether it has the label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NodeCounts {
    pub(crate) ready_labelled: usize,
    pub(crate) ready_unlabelled: usize,
    pub(crate) without_labelled: usize,
    pub(crate) without_unlabelled: usize,
}

/// The metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    leader: Gauge,
    expiry: TimeFamily<1>,
    rotation: GaugeFamily<1>,
    node_ca_requests: CounterFamily<2>,
    bundle_writes: CounterFamily<1>,
    lacking: Gauge,
    nodes: GaugeFamily<2>,
    errors: CounterFamily<1>,
    last_success: TimeFamily<1>,
    api_requests: CounterFamily<1>,
    admission_answers: CounterFamily<1>,
    resets: Counter,
}

impl ControllerMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            leader: registry.gauge("controller_leader", "1 while this replica holds the Lease and works"),
            expiry: registry.times(
                "controller_certificate_expiry",
                ["certificate"],
                "When the root CA that signs node CAs (`root-ca`) expires, in seconds since 1970; the leader alone has it",
            ),
            rotation: registry.gauges(
                "controller_root_ca_rotation",
                ["state"],
                "1 for the state of the root's rotation, at the leader: `idle`, `publishing` (some bundle lacks the next root), \
                 `overlap` (every bundle has it), `retiring` (it signs, and bundles hold the earlier one still), `overdue` (whoever \
                 keeps the root has to replace it)",
            ),
            node_ca_requests: registry.counters(
                "controller_node_ca_requests",
                ["result", "reason"],
                "Answers to requests for node CAs, by result: `signed`, `denied` with the reason of the request's condition, `failed` (the \
                 controller tries again: `NoRoot`, `NotSigned`, `NotWritten`)",
            ),
            bundle_writes: registry.counters(
                "controller_bundle_writes",
                ["result"],
                "Writes of the ConfigMaps `picket-ca.crt`, by result: `written`, `removed`, `failed`",
            ),
            lacking: registry.gauge(
                "controller_namespaces_without_bundle",
                "Namespaces that need the CA bundle of now and in which the leader could not write it",
            ),
            nodes: registry.gauges(
                "controller_nodes",
                ["agent", "label"],
                "Nodes, at the leader, by whether the node has a Ready agent (`ready`, `none`) and the label \
                 `picket.dev/agent` (`set`, `none`)",
            ),
            errors: registry.counters(
                "controller_errors",
                ["part"],
                "Passes and watches that failed and are tried again, by part: `root`, `signer`, `bundles`, `nodes`, `webhooks` (their certificate, and \
                 the roots that the API server trusts)",
            ),
            last_success: registry.times(
                "controller_last_success_timestamp",
                ["part"],
                "Moment of the last pass without an error, in seconds since 1970, at the leader. The part `root` has one every 5 s, and \
                 the others when something changes",
            ),
            api_requests: registry.counters(
                "controller_api_requests",
                ["result"],
                "Requests to the API server, by result: `ok`, `not_found`, `conflict`, `forbidden` (401 and 403), `client_error` (any \
                 other 4xx), `server_error`, `no_answer`",
            ),
            admission_answers: registry.counters(
                "controller_admission_answers",
                ["result"],
                "Answers of this replica's webhooks, by result: `changed`, `unchanged`, `refused`, `invalid` (no question of the API \
                 server's), `failed` (a connection without a question); none where the cluster enrols pods by policies",
            ),
            resets: registry.counter(
                "controller_store_resets",
                "Times that the Lease showed this replica that the API server's objects were set back to an older state, as by a \
                 restore of etcd from a backup; the leader lists all objects anew",
            ),
        };
        metrics.show();
        metrics
    }

    /// Shows what counts from 0 on: an alert sees no counter grow that was not there before.
    fn show(&self) {
        let failed = [
            NodeCaAnswer::NoRoot,
            NodeCaAnswer::NotSigned,
            NodeCaAnswer::NotWritten,
        ];
        let denied = Refusal::REASONS.map(NodeCaAnswer::Denied);
        for answer in [NodeCaAnswer::Signed].into_iter().chain(denied).chain(failed) {
            self.node_ca_requests.show(answer.labels());
        }
        for write in BundleWrite::ALL {
            self.bundle_writes.show([write.label()]);
        }
        for part in Part::ALL {
            self.errors.show([part.label()]);
        }
        for result in API_RESULTS {
            self.api_requests.show([result]);
        }
    }

    /// This replica leads until the guard is dropped.
    pub(crate) fn lead(&self) -> LeaderGuard {
        self.leader.set(1);
        LeaderGuard(self.clone())
    }

    pub(crate) fn succeeded(&self, part: Part) {
        self.last_success
            .set([part.label()], since_epoch(SystemTime::now()));
    }

    /// What the webhooks count by.
    pub(crate) fn admission_answers(&self) -> CounterFamily<1> {
        self.admission_answers.clone()
    }

    pub(crate) fn found_reset(&self) {
        self.resets.inc();
    }

    pub(crate) fn failed(&self, part: Part) {
        self.errors.inc([part.label()]);
    }

    /// What counts a failure of a part, for a watch of its own.
    pub(crate) fn failing(&self, part: Part) -> impl Fn() + Send + 'static {
        let errors = self.errors.clone();
        move || errors.inc([part.label()])
    }

    pub(crate) fn set_root(&self, signing: &Authority, state: RotationState) {
        self.expiry.set([ROOT_CA], since_epoch(signing.not_after));
        for other in RotationState::ALL {
            self.rotation.set([other.label()], i64::from(other == state));
        }
    }

    pub(crate) fn node_ca(&self, answer: NodeCaAnswer) {
        self.node_ca_requests.inc(answer.labels());
    }

    pub(crate) fn bundle(&self, write: BundleWrite) {
        self.bundle_writes.inc([write.label()]);
    }

    pub(crate) fn set_lacking(&self, namespaces: usize) {
        self.lacking.set(count(namespaces));
    }

    pub(crate) fn set_nodes(&self, nodes: NodeCounts) {
        self.nodes.set(["ready", "set"], nodes.ready_labelled);
        self.nodes.set(["ready", "none"], nodes.ready_unlabelled);
        self.nodes.set(["none", "set"], nodes.without_labelled);
        self.nodes.set(["none", "none"], nodes.without_unlabelled);
    }

    /// Counts the answers of the API server, as a layer of its client.
    pub(crate) fn count_answers<B, E>(
        &self,
    ) -> impl FnOnce(Result<Response<B>, E>) -> Result<Response<B>, E> + Clone + use<B, E> {
        let requests = self.api_requests.clone();
        move |answer| {
            let status = answer.as_ref().ok().map(Response::status);
            requests.inc([api_result(status)]);
            answer
        }
    }
}

const API_RESULTS: [&str; 7] = [
    "ok",
    "not_found",
    "conflict",
    "forbidden",
    "client_error",
    "server_error",
    "no_answer",
];

fn api_result(status: Option<StatusCode>) -> &'static str {
    match status {
        None => "no_answer",
        Some(StatusCode::NOT_FOUND) => "not_found",
        Some(StatusCode::CONFLICT) => "conflict",
        Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => "forbidden",
        Some(status) if status.is_client_error() => "client_error",
        Some(status) if status.is_server_error() => "server_error",
        Some(_) => "ok",
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Takes what the leader alone knows away when this replica leads no longer: another replica's word counts then.
#[derive(Debug)]
pub(crate) struct LeaderGuard(ControllerMetrics);

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        let metrics = &self.0;
        metrics.leader.set(0);
        metrics.lacking.set(0);
        metrics.expiry.clear();
        metrics.rotation.clear();
        metrics.nodes.clear();
        metrics.last_success.clear();
    }
}

/// Serves the metrics, where there is a listener, until it is dropped.
pub(crate) async fn serve(listener: Option<TcpListener>, registry: MetricsRegistry) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let registry = Arc::new(registry);
    let answer = move |path: &str| match path {
        "/metrics" => scraped(&registry),
        _ => Answer::not_found(),
    };
    http::serve(listener, CONNECTIONS, answer).await;
}

fn scraped(registry: &MetricsRegistry) -> Answer {
    match registry.encode() {
        Ok(text) => Answer {
            status: StatusCode::OK,
            media_type: CONTENT_TYPE,
            text,
        },
        Err(_) => Answer::plain(StatusCode::INTERNAL_SERVER_ERROR, "no metrics can be written\n"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::authority::make_root;

    #[tokio::test]
    async fn a_scrape_has_all_of_them() {
        let registry = MetricsRegistry::default();
        ControllerMetrics::register(&registry);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(Some(listener), registry));
        for (path, has) in [
            ("/metrics", "\npicket_controller_leader 0\n"),
            ("/readyz", "HTTP/1.1 404 "),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.contains(has), "{path}: {text}");
            assert_eq!(text.contains(CONTENT_TYPE), path == "/metrics", "{text}");
        }
    }

    /// The metrics, and how to read a series of theirs.
    fn metrics() -> (ControllerMetrics, impl Fn(&str) -> Option<String>) {
        let registry = MetricsRegistry::default();
        let metrics = ControllerMetrics::register(&registry);
        let value = move |series: &str| {
            let text = registry.encode().unwrap();
            let line = format!("picket_controller_{series} ");
            text.lines()
                .find_map(|have| have.strip_prefix(&line).map(str::to_owned))
        };
        (metrics, value)
    }

    #[test]
    fn what_the_leader_alone_knows_goes_with_the_lease() {
        let (metrics, value) = metrics();
        assert_eq!(value("leader").as_deref(), Some("0"));
        let leads = metrics.lead();
        let now = SystemTime::now();
        let root = Authority::read(&make_root(now).unwrap()).unwrap();
        metrics.set_root(&root, RotationState::Publishing);
        metrics.set_root(&root, RotationState::Overlap);
        metrics.set_nodes(NodeCounts {
            ready_labelled: 2,
            without_labelled: 1,
            ..NodeCounts::default()
        });
        metrics.set_lacking(3);
        metrics.succeeded(Part::Root);
        metrics.failed(Part::Nodes);
        let end = root.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let of_leader = [
            (
                "certificate_expiry_seconds{certificate=\"root-ca\"}",
                format!("{:?}", end.as_secs_f64()),
            ),
            ("root_ca_rotation{state=\"overlap\"}", "1".to_owned()),
            ("root_ca_rotation{state=\"publishing\"}", "0".to_owned()),
            ("nodes{agent=\"ready\",label=\"set\"}", "2".to_owned()),
            ("nodes{agent=\"none\",label=\"set\"}", "1".to_owned()),
        ];
        for (series, expected) in &of_leader {
            assert_eq!(value(series).as_ref(), Some(expected), "{series}");
        }
        assert_eq!(value("leader").as_deref(), Some("1"));
        assert_eq!(value("namespaces_without_bundle").as_deref(), Some("3"));
        assert!(value("last_success_timestamp_seconds{part=\"root\"}").is_some());

        drop(leads);
        for (series, _) in &of_leader {
            assert_eq!(value(series), None, "{series}");
        }
        assert_eq!(value("leader").as_deref(), Some("0"));
        assert_eq!(value("namespaces_without_bundle").as_deref(), Some("0"));
        assert_eq!(value("last_success_timestamp_seconds{part=\"root\"}"), None);
        assert_eq!(
            value("errors_total{part=\"nodes\"}").as_deref(),
            Some("1"),
            "a counter stays"
        );
    }

    #[test]
    fn answers_of_the_api_server_are_counted_by_what_they_say() {
        let (metrics, value) = metrics();
        let cases = [
            (Some(200), "ok"),
            (Some(201), "ok"),
            (Some(404), "not_found"),
            (Some(409), "conflict"),
            (Some(401), "forbidden"),
            (Some(403), "forbidden"),
            (Some(422), "client_error"),
            (Some(503), "server_error"),
            (None, "no_answer"),
        ];
        for (code, result) in cases {
            let series = format!("api_requests_total{{result=\"{result}\"}}");
            let before: u64 = value(&series).unwrap().parse().unwrap();
            let answer = code.ok_or("refused").map(|code: u16| {
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::from_u16(code).unwrap();
                response
            });
            let passed = metrics.count_answers()(answer);
            assert_eq!(
                passed.ok().map(|response| response.status().as_u16()),
                code,
                "it is passed on"
            );
            assert_eq!(value(&series), Some((before + 1).to_string()), "{code:?}");
        }
    }
}
