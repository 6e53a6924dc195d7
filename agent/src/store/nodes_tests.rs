//! Entries of a node: what they say, and when they are worth a write.

use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use picket_policy::api::v1alpha1::MAX_NODES;
use picket_policy::read_documents;
use serde_json::Value;

use super::super::cluster::KINDS;
use super::*;
use crate::cluster::testing::{Folder, answering};
use crate::metrics::MetricsRegistry;

fn set(identities: &[(&str, &str)]) -> PolicySet {
    let text = identities.iter().map(|(name, selector)| {
        format!(
            "---\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, attest: {{pod: \
             {{namespace: n, serviceAccount: s, selector: {selector}}}}}}}\n"
        )
    });
    let documents = read_documents("f", &text.collect::<String>()).expect("valid");
    let objects: Vec<_> = documents
        .into_iter()
        .map(|document| picket_policy::ClusterObject {
            file: document.name().into(),
            versions: vec![document],
            known_from: 0,
        })
        .collect();
    PolicySet::compile_each(&[], &objects, "picket").expect("a set").0
}

fn pod(name: &str, app: &str) -> PodFacts {
    PodFacts {
        namespace: "n".to_owned(),
        name: name.to_owned(),
        service_account: "s".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        workload: format!("Pod/{name}"),
    }
}

#[test]
fn pods_are_counted_named_and_bounded_and_conflicts_told() {
    let set = set(&[
        ("a", "{matchLabels: {app: x}}"),
        (
            "b",
            "{matchExpressions: [{key: app, operator: In, values: [x, y]}]}",
        ),
        ("c", "{matchLabels: {app: z}}"),
    ]);
    let mut pods: Vec<_> = (0..15).map(|number| pod(&format!("p{number:02}"), "y")).collect();
    pods.push(pod("both", "x"));
    let facts = facts(&set, &pods);
    let a = PodsOf {
        count: 1,
        names: vec!["n/both".to_owned()],
        conflicts: vec!["b".to_owned()],
    };
    assert_eq!(facts.get("a"), Some(&a));
    let b = &facts["b"];
    assert_eq!(
        (b.count, b.names.len(), &b.conflicts[..]),
        (16, MAX_NODE_NAMES, &["a".to_owned()][..])
    );
    assert!(!facts.contains_key("c"));
}

#[test]
fn only_what_changed_and_moments_an_hour_later_are_written() {
    let at = |second| Some(Timestamp::from_second(second).expect("a moment"));
    let shown = IdentityNode {
        node: "n1".to_owned(),
        pods: 1,
        last_used: at(1000),
        ..IdentityNode::default()
    };
    let with = |change: &dyn Fn(&mut IdentityNode)| {
        let mut entry = shown.clone();
        change(&mut entry);
        differs(&entry, Some(&shown))
    };
    assert!(differs(&shown, None));
    assert!(!with(&|_| {}));
    assert!(!with(&|entry| entry.last_used = at(1000 + 3599)));
    assert!(with(&|entry| entry.last_used = at(1000 + 3600)));
    assert!(with(&|entry| entry.last_denied = at(5)));
    assert!(with(&|entry| entry.pods = 2));
    assert!(with(&|entry| entry.review_due = true));
    assert!(with(&|entry| entry.conflicts = vec!["b".to_owned()]));
    assert!(with(&|entry| entry.workloads = vec!["Job/b".to_owned()]));
}

#[test]
fn each_node_has_a_field_manager_of_its_own_that_an_api_server_takes() {
    assert_eq!(manager("node1"), "picket-node-node1");
    let long = "n".repeat(200);
    let (one, other) = (manager(&format!("{long}1")), manager(&format!("{long}2")));
    assert_eq!(one.len(), MAX_MANAGER);
    assert_ne!(one, other);
    assert_eq!(one, manager(&format!("{long}1")));
    assert!(manager(&"\u{e9}".repeat(200)).len() <= MAX_MANAGER);
}

/// An entry with so many pods, used so many hours after 1970 and denied two hours before that.
fn entry(node: &str, pods: u32, used: Option<i64>) -> IdentityNode {
    IdentityNode {
        node: node.to_owned(),
        pods,
        last_used: used.map(hours),
        last_denied: used.map(|used| hours(used - 2)),
        ..IdentityNode::default()
    }
}

fn hours(number: i64) -> Timestamp {
    Timestamp::from_second(number * 3600).expect("a moment")
}

#[test]
fn a_full_list_gives_the_place_of_the_entry_that_was_longest_without_use() {
    let now = hours(100);
    let found = |others: &[IdentityNode], wanted: &IdentityNode, left_alone: &[&str]| {
        let found = replaceable(others, wanted, now, |node| left_alone.contains(&node));
        found.map(|found| found.node.clone())
    };
    let others = [
        entry("busy", 1, Some(100)),
        entry("crashed", 3, Some(10)),
        entry("late", 0, Some(90)),
        entry("early", 0, Some(50)),
        entry("now", 0, Some(100)),
    ];
    let with_pods = entry("n1", 1, None);
    // Whoever has no pods goes first.
    assert_eq!(found(&others, &with_pods, &[]).as_deref(), Some("early"));
    assert_eq!(found(&others, &with_pods, &["early"]).as_deref(), Some("late"));
    // Then those with pods, whose node may be gone.
    let left = ["early", "late"];
    assert_eq!(found(&others, &with_pods, &left).as_deref(), Some("crashed"));
    let left = ["early", "late", "crashed"];
    assert_eq!(found(&others, &with_pods, &left), None, "used within the hour");
    // One that was never used is the first of all.
    let never = [entry("early", 0, Some(1)), entry("never", 0, None)];
    assert_eq!(found(&never, &with_pods, &[]).as_deref(), Some("never"));
    // With pods the agent is at work now, whenever it asked last.
    assert_eq!(
        found(&others, &entry("n1", 1, Some(10)), &[]).as_deref(),
        Some("early")
    );
    // Without pods a node takes places of earlier uses alone, so that no two take turns.
    let without = entry("n1", 0, Some(51));
    assert_eq!(found(&others, &without, &[]).as_deref(), Some("early"));
    assert_eq!(found(&others, &entry("n1", 0, Some(50)), &["crashed"]), None);
    assert_eq!(found(&[], &with_pods, &[]), None);
}

/// A reporter at an API server that has a node or not and refuses all requests of one method, and what it sends there.
async fn reporter(is_there: bool, refused: &'static str) -> (Arc<Mutex<Vec<String>>>, NodeReporter, Folder) {
    let sent: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&sent);
    let server = answering(move |request| {
        let line = format!("{} {}", request.method(), request.uri());
        let is_list = request.uri().path() == "/api/v1/nodes";
        seen.lock().push(line);
        if request.method() == refused {
            return (403, json!({"code": 403, "message": "not for you"}));
        }
        let object: Value = match is_list {
            true if is_there => json!({"metadata": {}, "items": [{"metadata": {"name": "other"}}]}),
            true => json!({"metadata": {}, "items": []}),
            false => json!({"metadata": {"name": "a"}}),
        };
        (200, object)
    })
    .await;
    let (folder, connector) = Connector::for_tests(&server);
    let store = Arc::new(Store::open_or_deny_all(&[], true));
    let cluster = store.cluster.clone().expect("a cluster");
    let metrics = StoreMetrics::register(&MetricsRegistry::default());
    let writer = StatusWriter::new(connector, metrics, "an entry");
    let reporter = NodeReporter::new(store, cluster, "n1".to_owned(), writer, Arc::new(Vec::new));
    (sent, reporter, folder)
}

/// What a reporter sends that replaces an entry with so many pods.
async fn sent(pods: u32, is_there: bool, refused: &'static str) -> (Vec<String>, NodeReporter) {
    let (sent, mut reporter, _folder) = reporter(is_there, refused).await;
    let other = entry("other", pods, Some(1));
    reporter
        .replace("a", "uid-a", &other, &entry("n1", 1, None))
        .await;
    let sent = sent.lock().clone();
    (sent, reporter)
}

#[tokio::test]
async fn an_entry_goes_by_its_own_manager_and_one_with_pods_only_with_its_node() {
    let patch = |manager: &str| {
        format!("PATCH /apis/picket.dev/v1alpha1/agentidentities/a/status?&force=true&fieldManager={manager}")
    };
    let both = [patch("picket-node-other"), patch("picket-node-n1")];
    let asked = ["GET /api/v1/nodes?&fieldSelector=metadata.name%3Dother".to_owned()];
    assert_eq!(sent(0, true, "").await.0, both);
    let (of_gone, reporter) = sent(1, false, "").await;
    assert_eq!(of_gone[..1], asked);
    assert_eq!(of_gone[1..], both);
    assert_eq!(sent(1, true, "").await.0, asked);
    // What cannot be told is no reason, and who keeps a place leaves none.
    assert_eq!(sent(1, false, "GET").await.0, asked);
    assert_eq!(sent(0, true, "PATCH").await.0, both[..1]);
    // Whatever came of it, another one is next.
    let of_other = ("uid-a".to_owned(), "other".to_owned());
    assert!(reporter.left_alone.contains_key(&of_other));
}

#[tokio::test]
async fn of_an_exclusive_identity_the_entry_of_a_claimant_whose_node_is_gone_goes() {
    let claimed = BTreeMap::from([
        ("Job/here".to_owned(), "n1".to_owned()),
        ("Job/there".to_owned(), "other".to_owned()),
    ]);
    for (is_there, refused, removed) in [(false, "", true), (true, "", false), (false, "GET", false)] {
        let (sent, mut reporter, _folder) = reporter(is_there, refused).await;
        for _ in 0..2 {
            reporter.remove_gone("a", "uid-a", &claimed).await;
        }
        let mut wanted = vec!["GET /api/v1/nodes?&fieldSelector=metadata.name%3Dother".to_owned()];
        if removed {
            wanted.push(
                "PATCH /apis/picket.dev/v1alpha1/agentidentities/a/status?&force=true&fieldManager=picket-node-other"
                    .to_owned(),
            );
        }
        // Once: nobody asks for a node again and again.
        assert_eq!(*sent.lock(), wanted, "{is_there} {refused}");
    }
}

#[test]
fn an_entry_names_the_workloads_that_claim_the_identity_and_of_many_the_first() {
    let store = Arc::new(Store::open_or_deny_all(&[], true));
    let cluster = store.cluster.clone().expect("a cluster");
    let reporter = NodeReporter::new(
        store,
        cluster,
        "n1".to_owned(),
        failing(&MetricsRegistry::default()),
        Arc::new(Vec::new),
    );
    let many: Vec<_> = (0..15).map(|number| format!("Job/{number:02}")).collect();
    let named = |all: &[String]| {
        let pods = PodsOf::default();
        let all = all.iter().map(String::as_str);
        let entry = reporter.wanted(None, Some(&pods), all, "a", (None, hours(1)));
        entry.expect("an entry").workloads
    };
    assert_eq!(named(&many[..2]), many[..2]);
    assert_eq!(named(&many), many[..MAX_NODE_NAMES]);
}

/// Every write fails.
fn failing(registry: &MetricsRegistry) -> StatusWriter {
    let connector = Connector::new(std::path::Path::new("/nonexistent/kubeconfig"));
    StatusWriter::new(connector, StoreMetrics::register(registry), "an entry")
}

/// How many writes a node with a pod of an identity tries in some time, all of which fail, where the status has these entries.
async fn tried(entries: &[IdentityNode], time: Duration) -> usize {
    let store = Arc::new(Store::open_or_deny_all(&[], true));
    store.set_node("n1");
    let cluster = store.cluster.clone().expect("a cluster");
    for (place, kind) in KINDS.iter().enumerate() {
        cluster.event(place, Event::Init);
        if place == IDENTITIES {
            let object = json!({
                "apiVersion": "picket.dev/v1alpha1", "kind": kind.kind, "metadata": {"name": "a", "uid": "u", "generation": 1},
                "spec": {"owner": "o", "attest": {"pod": {"namespace": "n", "serviceAccount": "s"}}},
                "status": {"nodes": entries},
            });
            let object = serde_json::from_value(object).expect("an object");
            cluster.event(place, Event::InitApply(object));
        }
        cluster.event(place, Event::InitDone);
    }
    store.judge_cluster();
    let registry = MetricsRegistry::default();
    let writer = failing(&registry);
    let pods = Arc::new(|| vec![pod("p", "x")]);
    let reporter = NodeReporter::new(store, cluster, "n1".to_owned(), writer, pods);
    let ran = tokio::time::timeout(time, reporter.run()).await;
    assert!(ran.is_err());
    let shown = registry.encode().expect("metrics");
    let failures = shown
        .lines()
        .find_map(|line| line.strip_prefix("picket_object_status_writes_total{result=\"failure\"} "));
    failures.map_or(0, |count| count.parse().expect("a count"))
}

#[tokio::test(start_paused = true)]
async fn a_node_without_room_writes_nothing_and_one_with_room_not_again_and_again() {
    let full = |pods, used| {
        let entries = (0..MAX_NODES).map(|number| IdentityNode {
            node: format!("other-{number}"),
            pods,
            last_used: Some(used),
            ..IdentityNode::default()
        });
        entries.collect::<Vec<_>>()
    };
    let (soon, now) = (REPEAT - PACE, Timestamp::now());
    assert_eq!(tried(&[], soon).await, 1);
    assert_eq!(tried(&[], REPEAT * 3).await, 3);
    assert_eq!(tried(&full(0, now), soon).await, 0, "no place is free");
    assert_eq!(tried(&full(0, hours(1)), soon).await, 1, "the other's entry");
    // One entry less is room for this node's.
    assert_eq!(tried(&full(0, now)[1..], soon).await, 1);
    // Its own entry has its place.
    let mut own = full(0, now);
    own[0].node = "n1".to_owned();
    assert_eq!(tried(&own, soon).await, 1);
}
