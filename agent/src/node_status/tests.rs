//! Unit tests: when a status is written, by which requests, and what is done where it cannot be.

use parking_lot::Mutex;
use picket_policy::api::v1alpha1::{
    NodeAudit, NodeCertificates, NodeFault, NodeKernel, NodePods, NodePolicy, UncoveredPod, UncoveredReason,
};
use serde_json::{Value, json};

use super::*;
use crate::cluster::testing::{Folder, answering};
use crate::metrics::MetricsRegistry;
use crate::runtime::phase::PhaseControl;

fn status() -> PicketNodeStatus {
    PicketNodeStatus {
        version: "0.1.0".to_owned(),
        started: Timestamp::UNIX_EPOCH,
        phase: NodePhase::Serving,
        waiting: Vec::new(),
        failing: Vec::new(),
        kernel: NodeKernel::default(),
        pods: NodePods::default(),
        policy: NodePolicy::default(),
        certificates: NodeCertificates::default(),
        audit: NodeAudit::default(),
        last_heartbeat: "2026-01-02T03:04:05Z".parse().expect("a moment"),
        conditions: Vec::new(),
    }
}

/// What was asked: the method with the path, and the object.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// An API server that answers each request by its method and path.
struct Server {
    asked: Asked,
    connector: Connector,
    registry: MetricsRegistry,
    _folder: Folder,
}

impl Server {
    async fn new(answer: impl Fn(&str, usize) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let asked = Asked::default();
        let seen = Arc::clone(&asked);
        let url = answering(move |request| {
            let what = format!("{} {}", request.method(), request.uri().path());
            let object = serde_json::from_slice(request.body()).unwrap_or(Value::Null);
            let mut seen = seen.lock();
            seen.push((what.clone(), object));
            let times = seen.iter().filter(|(before, _)| *before == what).count();
            answer(&what, times)
        })
        .await;
        let (folder, connector) = Connector::for_tests(&url);
        Self {
            asked,
            connector,
            registry: MetricsRegistry::default(),
            _folder: folder,
        }
    }

    fn writer(&self) -> NodeWriter {
        let metrics = NodeStatusMetrics::register(&self.registry);
        NodeWriter::new("node-1", self.connector.clone(), metrics)
    }

    fn lines(&self) -> Vec<String> {
        self.asked.lock().iter().map(|(line, _)| line.clone()).collect()
    }
}

const LIST: &str = "GET /api/v1/nodes";
const MAKE: &str = "PATCH /apis/picket.dev/v1alpha1/picketnodes/node-1";
const STATUS: &str = "PATCH /apis/picket.dev/v1alpha1/picketnodes/node-1/status";

fn made() -> Value {
    json!({"apiVersion": "picket.dev/v1alpha1", "kind": "PicketNode", "metadata": {"name": "node-1"}})
}

fn made_at(version: usize) -> Value {
    let mut object = made();
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object
}

fn failure(code: u16) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no, and here is why",
    });
    (code, status)
}

fn good(what: &str) -> (u16, Value) {
    match what {
        LIST => {
            let node = json!({"metadata": {"name": "node-1", "uid": "u1"}});
            (200, json!({"metadata": {}, "items": [node]}))
        }
        _ => (200, made()),
    }
}

#[tokio::test]
async fn the_object_is_made_once_owned_by_its_node_and_its_status_written() {
    let server = Server::new(|what, _| good(what)).await;
    let mut writer = server.writer();
    writer.write(&status()).await.expect("written");
    writer.write(&status()).await.expect("written");
    assert_eq!(server.lines(), [LIST, MAKE, STATUS, STATUS]);
    let asked = server.asked.lock();
    let owner = &asked[1].1["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Node"), &json!("u1")));
    assert_eq!(asked[2].1["status"]["phase"], "Serving");
    assert_eq!(asked[2].1["status"]["lastHeartbeat"], "2026-01-02T03:04:05Z");
}

#[tokio::test]
async fn an_object_that_was_deleted_is_made_anew() {
    let server = Server::new(|what, times| match (what, times) {
        (STATUS, 2) => failure(404),
        _ => good(what),
    })
    .await;
    let mut writer = server.writer();
    writer.write(&status()).await.expect("written");
    writer.write(&status()).await.expect("written again");
    assert_eq!(server.lines(), [LIST, MAKE, STATUS, STATUS, LIST, MAKE, STATUS]);
}

/// As after a restore of etcd: versions run again from an older one.
#[tokio::test]
async fn a_write_that_makes_an_older_version_than_the_one_before_has_all_watches_begun_anew() {
    let server = Server::new(|what, times| match (what, times) {
        (STATUS, 1..=2) => (200, made_at(1000 + times)),
        (STATUS, 3) => failure(404),
        (STATUS, _) => (200, made_at(500 + times)),
        (MAKE, 1) => (200, made_at(999)),
        (MAKE, _) => (200, made_at(500)),
        _ => good(what),
    })
    .await;
    let (mut writer, mut resets) = (server.writer(), server.connector.resets().subscribe());
    for _ in 0..2 {
        writer.write(&status()).await.expect("written");
    }
    assert!(!resets.has_changed().expect("a sender"));
    for _ in 0..2 {
        writer.write(&status()).await.expect("written");
    }
    assert_eq!(*resets.borrow_and_update(), 1);
    let shown = server.registry.encode().expect("metrics");
    assert!(shown.contains("picket_store_resets_total 1"), "{shown}");
}

#[tokio::test]
async fn a_missing_kind_a_missing_right_and_a_missing_node_are_told_apart_and_counted() {
    let no_kind = Server::new(|what, _| match what {
        LIST => good(what),
        _ => failure(404),
    })
    .await;
    assert_eq!(no_kind.writer().write(&status()).await, Err(WriteError::NoKind));
    let denied = Server::new(|what, _| match what {
        STATUS => failure(403),
        _ => good(what),
    })
    .await;
    let error = denied.writer().write(&status()).await.expect_err("denied");
    assert!(matches!(error, WriteError::Denied(_)), "{error}");
    assert!(error.to_string().contains("deploy/rbac.yaml"), "{error}");
    let no_node = Server::new(|_, _| (200, json!({"metadata": {}, "items": []}))).await;
    let error = no_node.writer().write(&status()).await.expect_err("no node");
    assert_eq!(error, WriteError::NoNode("node-1".to_owned()));
    assert_eq!(
        no_node.lines(),
        [LIST],
        "nothing is made that would outlive its node"
    );
    let shown = denied.registry.encode().expect("metrics");
    assert!(
        shown.contains("picket_node_status_writes_total{result=\"failure\"} 1"),
        "{shown}"
    );
}

fn reporter(server: &Server, control: &PhaseControl) -> NodeReporter {
    let phase = control.watch();
    let seen = phase.clone();
    let source: NodeStatusSource = Arc::new(move || PicketNodeStatus {
        phase: match seen.has_ended() {
            true => NodePhase::Draining,
            false => NodePhase::Serving,
        },
        ..status()
    });
    let metrics = NodeStatusMetrics::register(&server.registry);
    NodeReporter::new("node-1", server.connector.clone(), source, phase, metrics)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come true");
}

#[tokio::test]
async fn the_last_word_of_an_agent_that_stops_is_that_it_does() {
    let server = Server::new(|what, _| good(what)).await;
    let control = PhaseControl::new(false);
    let (cancel, said) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(reporter(&server, &control).run(cancel.clone(), said.clone()));
    until("the first status", || server.lines().len() == 3).await;
    control.end();
    cancel.cancel();
    said.cancelled().await;
    let asked = server.asked.lock();
    let last = &asked.last().expect("a request").1["status"];
    assert_eq!(last["phase"], "Draining");
    assert_eq!(last["conditions"][0]["status"], "False");
    assert_eq!(last["conditions"][0]["reason"], "Draining");
}

#[tokio::test]
async fn an_agent_whose_successor_took_over_says_nothing_more() {
    let server = Server::new(|what, _| good(what)).await;
    let control = PhaseControl::new(false);
    let (cancel, said) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(reporter(&server, &control).run(cancel.clone(), said.clone()));
    until("the first status", || server.lines().len() == 3).await;
    control.lend();
    control.end();
    cancel.cancel();
    said.cancelled().await;
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn an_agent_says_nothing_while_another_has_the_kernel() {
    let server = Server::new(|what, _| good(what)).await;
    let control = PhaseControl::new(false);
    let reporter = reporter(&server, &control);
    assert!(reporter.look().await.is_some());
    control.lend();
    assert_eq!(reporter.look().await, None);
    control.take_back();
    assert!(reporter.look().await.is_some(), "the upgrade failed");
}

#[tokio::test]
async fn a_successor_says_nothing_while_its_predecessor_serves() {
    let server = Server::new(|what, _| good(what)).await;
    let control = PhaseControl::new(true);
    let (cancel, said) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(reporter(&server, &control).run(cancel.clone(), said.clone()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(server.lines().is_empty(), "{:?}", server.lines());
    control.reach(Phase::PredecessorStopped);
    until("the first status", || server.lines().len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_written_after_a_while_and_the_heartbeat_without_one() {
    let (folder, connector) = Connector::for_tests("http://127.0.0.1:1");
    let metrics = NodeStatusMetrics::register(&MetricsRegistry::default());
    let phase = PhaseControl::new(false).watch();
    let mut reporter = NodeReporter::new("node-1", connector, Arc::new(status), phase, metrics);
    let same = status();
    let mut changed = status();
    changed.pods.exempt = 1;
    assert!(reporter.is_due(&same, HEARTBEAT), "nothing is written yet");
    reporter.written = Some((status(), Instant::now()));
    tokio::time::advance(LEAST - Duration::from_secs(1)).await;
    assert!(!reporter.is_due(&changed, HEARTBEAT), "too soon");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(reporter.is_due(&changed, HEARTBEAT) && !reporter.is_due(&same, HEARTBEAT));
    tokio::time::advance(HEARTBEAT - LEAST).await;
    assert!(reporter.is_due(&same, HEARTBEAT));
    drop(folder);
}

#[tokio::test(start_paused = true)]
async fn what_people_wait_for_is_written_at_once_and_not_without_end() {
    let (_folder, connector) = Connector::for_tests("http://127.0.0.1:1");
    let metrics = NodeStatusMetrics::register(&MetricsRegistry::default());
    let phase = PhaseControl::new(false).watch();
    let mut reporter = NodeReporter::new("node-1", connector, Arc::new(status), phase, metrics);
    let with = |waiting: &[&str]| {
        let mut status = status();
        status.waiting = waiting.iter().map(|part| (*part).to_owned()).collect();
        status.conditions = vec![ready(&status, None)];
        status
    };
    let (waits, serves) = (with(&["pods"]), with(&[]));
    reporter.keep(waits.clone());
    tokio::time::advance(LOOK).await;
    assert!(
        !reporter.is_due(&with(&["pods", "audit"]), HEARTBEAT),
        "ready neither before nor now"
    );
    assert!(reporter.is_due(&serves, HEARTBEAT), "it became ready");
    reporter.keep(serves.clone());
    let mut enforces = serves.clone();
    enforces.pods.enforced = 1;
    tokio::time::advance(LOOK).await;
    assert!(reporter.is_due(&enforces, HEARTBEAT), "its first pod");
    reporter.keep(enforces.clone());
    enforces.pods.enforced = 2;
    tokio::time::advance(LOOK).await;
    assert!(!reporter.is_due(&enforces, HEARTBEAT), "no first pod");
    // It flaps for ten minutes, and each look finds another word.
    let mut written = Vec::new();
    for second in 0_usize..600 {
        tokio::time::advance(LOOK).await;
        let now = if second % 2 == 0 { &waits } else { &serves };
        if reporter.is_due(now, HEARTBEAT) {
            reporter.keep(now.clone());
            written.push(second);
        }
    }
    for minute in written.windows(MOST + 1) {
        assert!(minute[MOST] - minute[0] >= 60, "{written:?}");
    }
    assert!(written.len() >= 30, "the last word is old: {written:?}");
}

#[test]
fn what_grows_all_the_while_is_no_change() {
    let mut later = status();
    later.last_heartbeat = Timestamp::now();
    later.audit.spool_bytes = 7;
    later.certificates.upstream = Some(Timestamp::now());
    assert!(!differs(&later, &status()));
    later.pods.uncovered.push(UncoveredPod {
        pod: "ns/a".to_owned(),
        reason: UncoveredReason::NoCgroup,
        message: "nothing holds it".to_owned(),
    });
    assert!(differs(&later, &status()));
}

#[test]
fn the_condition_says_what_fails_and_since_when() {
    let serving = ready(&status(), None);
    assert_eq!(
        (serving.status, &*serving.reason),
        (ConditionStatus::True, "Serving")
    );
    let mut failing = status();
    failing.failing.push(NodeFault {
        part: "audit".to_owned(),
        reason: "no space".to_owned(),
    });
    failing.waiting.push("pods".to_owned());
    let said = ready(&failing, None);
    assert_eq!((said.status, &*said.reason), (ConditionStatus::False, "Failing"));
    assert_eq!(said.message, "audit: no space; pods has not come up");
    let mut before = status();
    before.conditions = vec![serving.clone()];
    let mut later = status();
    later.last_heartbeat = "2026-01-03T00:00:00Z".parse().expect("a moment");
    assert_eq!(
        ready(&later, Some(&before)).last_transition_time,
        serving.last_transition_time
    );
    later.waiting.push("pods".to_owned());
    let waiting = ready(&later, Some(&before));
    assert_eq!(waiting.last_transition_time, later.last_heartbeat);
    assert_eq!(waiting.reason, "Waiting");
}
