//! What is known of namespaces through lists, watches and failures, and that nobody asks for them in vain.

use std::sync::atomic::{AtomicUsize, Ordering};

use kube::core::Status;
use picket_policy::read_documents;

use super::*;
use crate::cluster::testing;
use crate::metrics::MetricsRegistry;
use crate::store::StoreMetrics;

fn namespace(name: &str, env: &str, annotation: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"env": env}, "annotations": {"a": annotation}, "resourceVersion": "1",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    }))
    .expect("a namespace")
}

fn list(index: &NamespaceIndex, namespaces: Vec<DynamicObject>) -> bool {
    index.event(Event::Init);
    for namespace in namespaces {
        assert!(
            !index.event(Event::InitApply(namespace)),
            "a list counts when it is complete"
        );
    }
    index.event(Event::InitDone)
}

fn refused(code: u16) -> watcher::Error {
    let status = Status {
        code,
        ..Status::default()
    };
    watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
}

fn why(index: &NamespaceIndex) -> Option<UnknownNamespace> {
    index.known().why_unknown()
}

#[test]
fn changes_of_labels_are_told_and_others_are_not_where_labels_alone_count() {
    let index = NamespaceIndex::default();
    index.begin(NamespaceUse::Labels);
    assert_eq!(why(&index), Some(UnknownNamespace::NotListed));
    assert!(list(
        &index,
        vec![namespace("a", "dev", "x"), namespace("b", "prod", "x")]
    ));
    assert_eq!((why(&index), index.known().len()), (None, 2));
    assert!(!list(
        &index,
        vec![namespace("b", "prod", "y"), namespace("a", "dev", "y")]
    ));
    assert!(!index.event(Event::Apply(namespace("a", "dev", "z"))));
    assert!(index.event(Event::Apply(namespace("a", "prod", "z"))));
    assert!(index.event(Event::Delete(namespace("a", "prod", "z"))));
    assert!(!index.event(Event::Delete(namespace("a", "prod", "z"))));
    assert_eq!(index.known().len(), 1);
    // An expression sees the rest too.
    index.begin(NamespaceUse::Objects);
    assert!(list(&index, vec![namespace("b", "prod", "y")]));
    assert!(index.event(Event::Apply(namespace("b", "prod", "z"))));
    assert!(index.forget());
    assert_eq!(why(&index), Some(UnknownNamespace::NotListed));
}

#[test]
fn a_watch_that_goes_on_after_a_refusal_is_followed_by_a_list() {
    let index = NamespaceIndex::default();
    index.begin(NamespaceUse::Labels);
    let begun = Instant::now();
    list(&index, vec![namespace("a", "dev", "x")]);
    assert!(index.failed(&refused(403), begun));
    assert!(!index.event(Event::Apply(namespace("a", "prod", "x"))));
    assert_eq!(why(&index), Some(UnknownNamespace::Forbidden));
    assert_eq!(index.check(begun + RELIST_AFTER, begun).0, WatchCheck::Relist);
    assert!(list(&index, vec![namespace("a", "prod", "x")]));
    assert_eq!(why(&index), None);
}

#[test]
fn what_was_known_stands_for_a_while_and_not_without_the_right() {
    let index = NamespaceIndex::default();
    index.begin(NamespaceUse::Labels);
    let begun = Instant::now();
    list(&index, vec![namespace("a", "dev", "x")]);
    assert_eq!(
        index.check(begun + STALE_AFTER * 2, begun),
        (WatchCheck::Healthy, false)
    );
    assert!(!index.failed(&refused(500), begun));
    assert_eq!(index.check(begun, begun), (WatchCheck::Healthy, false));
    // However long it was followed before.
    let earlier = begun.checked_sub(RELIST_AFTER).expect("a moment");
    assert_eq!(index.check(begun, earlier), (WatchCheck::Healthy, false));
    assert_eq!(
        index.check(begun + RELIST_AFTER, begun),
        (WatchCheck::Relist, false)
    );
    // A list that began a moment ago is given its time.
    let again = begun + RELIST_AFTER;
    assert_eq!(index.check(again, again), (WatchCheck::Healthy, false));
    assert_eq!(why(&index), None);
    assert!(!index.failed(&refused(500), again));
    assert_eq!(
        index.check(begun + STALE_AFTER, again),
        (WatchCheck::Relist, true)
    );
    assert_eq!(why(&index), Some(UnknownNamespace::WatchFails));
    assert!(list(&index, vec![namespace("a", "dev", "x")]));
    assert_eq!(
        index.check(begun + STALE_AFTER * 2, begun),
        (WatchCheck::Healthy, false)
    );
    assert!(index.failed(&refused(403), begun));
    assert_eq!(why(&index), Some(UnknownNamespace::Forbidden));
    assert!(!index.failed(&refused(403), begun));
}

#[test]
fn a_namespace_that_is_too_large_is_not_known() {
    let index = NamespaceIndex::default();
    index.begin(NamespaceUse::Objects);
    let large = "x".repeat(MAX_NAMESPACE);
    list(
        &index,
        vec![namespace("large", "dev", &large), namespace("a", "dev", "x")],
    );
    let known = index.known();
    assert_eq!(known.len(), 2);
    assert!(known.size() < 10_000, "{}", known.size());
}

/// Whoever makes many namespaces must not fill the node's memory.
#[test]
fn all_namespaces_take_a_bounded_room() {
    let index = NamespaceIndex::default();
    index.begin(NamespaceUse::Objects);
    let annotation = "x".repeat(MAX_NAMESPACE - 1024);
    let large = |number: usize| namespace(&format!("n{number}"), "dev", &annotation);
    let most = MAX_ALL / (MAX_NAMESPACE - 2048);
    // Each list begins to count anew, one that was broken off too.
    index.event(Event::Init);
    for number in 0..most {
        index.event(Event::InitApply(large(number)));
    }
    for _ in 0..2 {
        list(&index, (0..=most).map(large).collect());
        let size = index.known().size();
        assert!(size <= MAX_ALL && size > MAX_ALL - 2 * MAX_NAMESPACE, "{size}");
        assert_eq!(index.known().len(), most + 1);
    }
    index.event(Event::Apply(large(most + 1)));
    assert_eq!(index.known().len(), most + 2);
    assert!(index.known().size() <= MAX_ALL, "{}", index.known().size());
}

#[test]
fn a_list_that_was_broken_off_is_no_part_of_the_next() {
    let index = NamespaceIndex::default();
    index.begin(NamespaceUse::Labels);
    let begun = Instant::now();
    index.failed(&refused(500), begun);
    index.event(Event::Init);
    index.event(Event::InitApply(namespace("a", "dev", "x")));
    // What has not come whole says nothing of the watch.
    assert_eq!(index.check(begun + RELIST_AFTER, begun).0, WatchCheck::Relist);
    list(&index, vec![namespace("b", "dev", "x")]);
    let names: Vec<_> = ["a", "b"]
        .into_iter()
        .filter(|name| is_known(&index, name))
        .collect();
    assert_eq!(names, ["b"]);
    // Nor does a failure outlive the rules that asked.
    index.failed(&refused(500), begun);
    index.forget();
    let later = begun + STALE_AFTER * 2;
    assert_eq!(index.check(later, begun), (WatchCheck::Healthy, false));
}

fn is_known(index: &NamespaceIndex, name: &str) -> bool {
    index.known().with(name, None).is_some()
}

/// A store whose set in force looks at namespaces, or does not.
fn store(rule: &str) -> Arc<Store> {
    Arc::new(Store::for_tests(set(rule)))
}

fn set(rule: &str) -> PolicySet {
    let policy = format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p}}\nspec:\n  rules: [{{name: r, action: Deny, {rule}}}]\n"
    );
    PolicySet::compile(read_documents("f.yaml", &policy).expect("a policy")).expect("a set")
}

const BY_LABELS: &str = "match: {namespaceSelector: {matchLabels: {env: prod}}}";
const BY_NAMES: &str = "match: {namespaces: [a]}";

#[tokio::test]
async fn nothing_is_asked_while_no_rule_looks_at_namespaces() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let url = testing::answering(move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        assert_eq!(request.uri().path(), "/api/v1/namespaces");
        if request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch="))
        {
            return (
                500,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500}),
            );
        }
        let items = vec![serde_json::to_value(namespace("a", "dev", "x")).expect("JSON")];
        (200, json!({"metadata": {"resourceVersion": "7"}, "items": items}))
    })
    .await;
    let (_folder, connector) = Connector::for_tests(&url);
    let store = store(BY_NAMES);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&store).follow_namespaces(connector, cancel.clone()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    assert_eq!(store.namespaces(&store.current()), None);
    let epoch = store.epoch().now();
    store.replace_for_tests(set(BY_LABELS));
    store.namespaces_tried(Duration::from_secs(10)).await;
    assert_eq!(store.why_no_namespaces(), None);
    assert!(asked.load(Ordering::SeqCst) > 0);
    assert!(
        store.epoch().now() > epoch + 1,
        "requests under way are judged again"
    );
    store.replace_for_tests(set(BY_NAMES));
    let gone = async {
        while store.known_namespaces().why_unknown().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("it is kept");
    cancel.cancel();
    running.await.expect("it ends");
}

#[tokio::test]
async fn without_the_right_none_is_known_and_a_start_does_not_wait_for_it() {
    let url = testing::listing(|_| None).await;
    let (_folder, connector) = Connector::for_tests(&url);
    let store = store(BY_LABELS);
    assert_eq!(store.why_no_namespaces(), Some(UnknownNamespace::NotListed));
    // Without an answer a start waits for as long as it may.
    let in_time = Duration::from_secs(20);
    let waited = tokio::time::timeout(in_time, store.namespaces_tried(Duration::from_millis(50)));
    waited.await.expect("it waits no longer");
    let epoch = store.epoch().now();
    let following = Arc::clone(&store).follow_namespaces(connector, CancellationToken::new());
    let running = tokio::spawn(following);
    let waited = tokio::time::timeout(in_time, store.namespaces_tried(Duration::from_secs(3600)));
    waited.await.expect("a refusal is an answer");
    assert_eq!(store.why_no_namespaces(), Some(UnknownNamespace::Forbidden));
    assert!(store.epoch().now() > epoch, "requests under way are judged again");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_metric_tells_of_rules_that_fire_since_no_namespace_is_known() {
    let store = store(BY_LABELS);
    let registry = MetricsRegistry::default();
    let following = tokio::spawn(StoreMetrics::register(&registry).follow(Arc::clone(&store)));
    let listed = Namespaces::listed([]);
    for (namespaces, shown) in [(None, 1), (Some(listed), 0)] {
        if let Some(namespaces) = namespaces {
            store.set_namespaces_for_tests(namespaces);
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let text = registry.encode().expect("metrics");
        let line = format!("picket_namespaces_unlisted {shown}\n");
        assert!(text.contains(&line), "{line} {text}");
    }
    following.abort();
}

#[tokio::test(start_paused = true)]
async fn while_the_watch_fails_they_are_listed_again_and_in_the_end_none_is_known() {
    let store = store(BY_LABELS);
    store.namespaces.begin(NamespaceUse::Labels);
    list(&store.namespaces, vec![namespace("a", "dev", "x")]);
    let (epoch, begun) = (store.epoch().now(), Instant::now());
    store.namespaces.failed(&refused(500), begun);
    let mut lists = 0;
    while store.why_no_namespaces().is_none() {
        store.until_to_list_again(Instant::now()).await;
        lists += 1;
    }
    assert_eq!(store.why_no_namespaces(), Some(UnknownNamespace::WatchFails));
    assert!(begun.elapsed() >= STALE_AFTER && begun.elapsed() < STALE_AFTER * 2);
    assert!((2..=7).contains(&lists), "{lists}");
    assert!(store.epoch().now() > epoch, "requests under way are judged again");
}
