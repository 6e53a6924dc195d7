//! Tests of where a bundle is needed.

use parking_lot::Mutex;
use serde_json::Value;

use super::*;
use crate::testing::{Asked, AskedRequest, FakeServer};

fn namespace(name: &str, enrolled: bool) -> PartialObjectMeta<Namespace> {
    let labels = if enrolled {
        json!({ENROLLED: "true"})
    } else {
        json!({ENROLLED: "false"})
    };
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
}

fn pod(namespace: &str, name: &str) -> PartialObjectMeta<Pod> {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}})).unwrap()
}

fn map(namespace: &str, content: &str, ours: bool) -> ConfigMap {
    let labels = if ours { json!(labels()) } else { json!({}) };
    let annotations = if ours {
        json!({DESCRIPTION: DESCRIBED})
    } else {
        json!({})
    };
    let metadata = json!({
        "name": BUNDLE, "namespace": namespace, "uid": "u", "resourceVersion": "7", "labels": labels, "annotations": annotations,
    });
    serde_json::from_value(json!({"metadata": metadata, "data": {BUNDLE_KEY: content}})).unwrap()
}

fn list<K>(items: Vec<K>) -> Vec<Event<K>> {
    let items = items.into_iter().map(Event::InitApply);
    [Event::Init]
        .into_iter()
        .chain(items)
        .chain([Event::InitDone])
        .collect()
}

impl Enrolment {
    fn see_all(
        &mut self,
        namespaces: Vec<PartialObjectMeta<Namespace>>,
        pods: Vec<PartialObjectMeta<Pod>>,
        maps: Vec<ConfigMap>,
    ) {
        list(namespaces)
            .into_iter()
            .for_each(|event| self.see(Seen::Namespace(event)));
        list(pods)
            .into_iter()
            .for_each(|event| self.see(Seen::Pod(event)));
        list(maps)
            .into_iter()
            .for_each(|event| self.see(Seen::ConfigMap(event)));
    }

    /// The changes, `+` for a ConfigMap that is applied and `-` for one that is removed.
    fn told(&mut self) -> Vec<String> {
        let sign = |change: &BundleChange| match change {
            BundleChange::Apply(..) => '+',
            BundleChange::Remove(_) => '-',
        };
        let changes = self.take_changes();
        changes
            .iter()
            .map(|(name, change)| format!("{}{name}", sign(change)))
            .collect()
    }
}

fn enrolment() -> Enrolment {
    let mut enrolment = Enrolment::default();
    enrolment.set_bundle("root");
    enrolment
}

#[test]
fn a_bundle_is_where_a_label_or_a_pod_asks_for_it() {
    let mut enrolment = enrolment();
    enrolment.see_all(
        vec![
            namespace("a", true),
            namespace("b", false),
            namespace("c", false),
            namespace("d", false),
        ],
        vec![pod("b", "one"), pod("b", "two")],
        vec![
            map("a", "root", true),
            map("c", "root", true),
            map("d", "root", false),
        ],
    );
    assert_eq!(enrolment.told(), ["+b", "-c"], "d's is somebody else's");
    assert_eq!(enrolment.told(), [""; 0]);

    enrolment.see(Seen::ConfigMap(Event::Apply(map("b", "root", true))));
    enrolment.see(Seen::Pod(Event::Delete(pod("b", "one"))));
    assert_eq!(enrolment.told(), [""; 0], "one pod is left");
    enrolment.see(Seen::Pod(Event::Delete(pod("b", "two"))));
    assert_eq!(enrolment.told(), ["-b"]);
    enrolment.see(Seen::Namespace(Event::Apply(namespace("a", false))));
    assert_eq!(enrolment.told(), ["-a"]);
    enrolment.see(Seen::Namespace(Event::Apply(namespace("d", true))));
    assert_eq!(enrolment.told(), ["+d"], "a needed one is taken over");
}

#[test]
fn a_bundle_that_somebody_changed_or_deleted_is_put_back() {
    let mut enrolment = enrolment();
    enrolment.see_all(vec![namespace("a", true)], vec![], vec![map("a", "root", true)]);
    assert_eq!(enrolment.told(), [""; 0]);
    for changed in [map("a", "other", true), map("a", "root", false)] {
        enrolment.see(Seen::ConfigMap(Event::Apply(changed)));
        assert_eq!(enrolment.told(), ["+a"]);
    }
    enrolment.see(Seen::ConfigMap(Event::Delete(map("a", "root", true))));
    assert_eq!(enrolment.told(), ["+a"]);
}

#[test]
fn a_bundle_needs_the_controllers_labels_and_its_description() {
    let (labelled, described) = (json!(labels()), json!({DESCRIPTION: DESCRIBED}));
    let other = || json!({"app.kubernetes.io/name": "picket", "app.kubernetes.io/managed-by": "somebody"});
    let cases = [
        (labelled.clone(), described.clone(), true, true),
        (labelled.clone(), json!({}), true, false),
        (labelled, json!({DESCRIPTION: "other words"}), true, false),
        (other(), described.clone(), false, true),
        (
            json!({"app.kubernetes.io/name": "picket"}),
            described.clone(),
            false,
            true,
        ),
        (json!({}), described, false, true),
    ];
    for (labels, annotations, is_ours, is_described) in cases {
        let case = format!("{labels} {annotations}");
        let mut changed = map("a", "root", true);
        changed.metadata.labels = serde_json::from_value(labels).unwrap();
        changed.metadata.annotations = serde_json::from_value(annotations).unwrap();
        let facts = MapFacts::of(&changed);
        assert_eq!(
            (facts.is_ours, facts.is_described),
            (is_ours, is_described),
            "{case}"
        );
        let is_whole = is_ours && is_described;
        let mut needed = enrolment();
        needed.see_all(vec![namespace("a", true)], vec![], vec![changed.clone()]);
        assert_eq!(needed.told().is_empty(), is_whole, "{case}: it is put back");
        let mut unneeded = enrolment();
        unneeded.see_all(vec![namespace("a", false)], vec![], vec![changed]);
        assert_eq!(
            unneeded.told().is_empty(),
            !is_ours,
            "{case}: the controller's own is removed"
        );
    }
}

#[test]
fn a_bundle_is_everywhere_once_all_is_listed_and_no_namespace_is_left() {
    let cases = [
        ("all is written", true, true, true, Some("root")),
        ("a write failed", true, true, false, None),
        ("something is not listed", true, false, true, None),
        ("there is no root", false, true, true, None),
    ];
    for (case, has_root, is_listed, is_written, expected) in cases {
        let mut enrolment = Enrolment::default();
        if has_root {
            enrolment.set_bundle("root");
        }
        enrolment.namespaces.is_complete = true;
        enrolment.pods.is_complete = is_listed;
        enrolment.maps.is_complete = true;
        if !is_written {
            enrolment.namespaces.by_namespace.insert("a".to_owned(), true);
            enrolment.dirty.insert("a".to_owned());
        }
        assert_eq!(enrolment.everywhere().map(|bundle| &**bundle), expected, "{case}");
    }
}

#[test]
fn a_new_bundle_goes_everywhere_and_nowhere_else() {
    let mut enrolment = enrolment();
    let namespaces = vec![namespace("a", true), namespace("b", false), namespace("c", false)];
    enrolment.see_all(
        namespaces,
        vec![pod("b", "one")],
        vec![map("a", "root", true), map("b", "root", true)],
    );
    assert_eq!(enrolment.told(), [""; 0]);
    enrolment.set_bundle("root and next");
    assert_eq!(enrolment.told(), ["+a", "+b"]);
}

#[test]
fn nothing_is_decided_before_all_is_known() {
    let mut enrolment = Enrolment::default();
    let namespaces = || list(vec![namespace("a", false), namespace("b", true)]);
    namespaces()
        .into_iter()
        .for_each(|event| enrolment.see(Seen::Namespace(event)));
    let maps = list(vec![map("a", "root", true)]);
    maps.into_iter()
        .for_each(|event| enrolment.see(Seen::ConfigMap(event)));
    enrolment.set_bundle("root");
    assert_eq!(
        enrolment.told(),
        [""; 0],
        "the pods are not known: one of `a` may need it"
    );
    list(vec![pod("a", "one")])
        .into_iter()
        .for_each(|event| enrolment.see(Seen::Pod(event)));
    assert_eq!(enrolment.told(), ["+b"]);
    // A list that begins anew names what is there now.
    list(Vec::new())
        .into_iter()
        .for_each(|event| enrolment.see(Seen::Pod(event)));
    assert_eq!(enrolment.told(), ["-a"]);
}

#[test]
fn without_a_root_no_bundle_is_touched() {
    let mut enrolment = Enrolment::default();
    enrolment.see_all(
        vec![namespace("a", true), namespace("b", false)],
        vec![],
        vec![map("b", "root", true)],
    );
    assert_eq!(enrolment.told(), [""; 0]);
    enrolment.set_bundle("root");
    assert_eq!(enrolment.told(), ["+a", "-b"]);
}

#[test]
fn a_namespace_that_ends_is_left_alone() {
    let mut enrolment = enrolment();
    enrolment.see_all(vec![namespace("a", true)], vec![pod("a", "one")], vec![]);
    let mut ending = namespace("a", true);
    ending.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        jiff::Timestamp::now(),
    ));
    enrolment.see(Seen::Namespace(Event::Apply(ending)));
    assert_eq!(enrolment.told(), [""; 0]);
}

#[test]
fn what_is_removed_is_what_was_looked_at() {
    let mut enrolment = enrolment();
    enrolment.see_all(vec![namespace("a", false)], vec![], vec![map("a", "root", true)]);
    let changes = enrolment.take_changes();
    let BundleChange::Remove(preconditions) = &changes[0].1 else {
        panic!("{changes:?}");
    };
    assert_eq!(preconditions.uid.as_deref(), Some("u"));
    assert_eq!(preconditions.resource_version.as_deref(), Some("7"));
}

#[test]
fn the_release_s_own_namespace_has_a_bundle_without_a_label() {
    let mut enrolment = Enrolment {
        own: "b".to_owned(),
        ..enrolment()
    };
    enrolment.see_all(vec![namespace("a", false), namespace("b", false)], vec![], vec![]);
    assert_eq!(enrolment.told(), ["+b"]);
}

/// A client of an API server whose answers are these by turns, and what was asked.
async fn answering(answers: Vec<(u16, Value)>) -> (Client, Asked) {
    let answers = Mutex::new(answers.into_iter());
    let server = FakeServer::start(move |request| {
        let path = request.uri.path();
        assert!(
            path.starts_with("/api/v1/namespaces/a/configmaps/picket-ca.crt"),
            "{path}"
        );
        let (code, answer) = answers.lock().next().unwrap();
        (code, answer.to_string())
    })
    .await;
    (server.client(), server.asked)
}

/// An answer that refuses a write.
fn refusal(code: u16, cause: Value) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Invalid", "message": "no",
        "details": {"causes": [cause]},
    });
    (code, status)
}

fn immutable() -> (u16, Value) {
    refusal(
        422,
        json!({"reason": "FieldValueForbidden", "message": "field is immutable", "field": "data"}),
    )
}

fn written() -> (u16, Value) {
    (200, json!(map("a", "root", true)))
}

/// What the controller asks where namespace `a` needs a bundle and has this ConfigMap, what is published then, and for whom a rotation
/// waits.
async fn asked_for(
    found: Vec<ConfigMap>,
    answers: Vec<(u16, Value)>,
) -> (Vec<Value>, Option<Arc<str>>, bool) {
    let (client, asked) = answering(answers).await;
    let (_trust, trusted) = watch::channel(None);
    let (published, everywhere) = watch::channel(None);
    let (_fault, faults) = watch::channel(None);
    let health = Health::new(faults);
    let registry = picket_metrics::MetricsRegistry::default();
    let metrics = ControllerMetrics::register(&registry);
    let mut bundles = Bundles::new(client, "", trusted, published, health.clone(), metrics);
    bundles.enrolment.set_bundle("root");
    bundles
        .enrolment
        .see_all(vec![namespace("a", true)], vec![], found);
    let is_settled = bundles.write().await.is_none();
    let is_awaited = !health.set_awaited(&BTreeSet::from(["a".to_owned()]));
    assert_ne!(is_settled, is_awaited);
    let text = registry.encode().unwrap();
    let (lacking, result) = if is_settled { (0, "written") } else { (1, "failed") };
    for line in [
        format!("namespaces_without_bundle {lacking}"),
        format!("bundle_writes_total{{result=\"{result}\"}} 1"),
        format!("errors_total{{part=\"bundles\"}} {lacking}"),
    ] {
        let line = format!("picket_controller_{line}\n");
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
    let asked = asked.lock();
    let of = |asked: &AskedRequest| json!([asked.method.as_str(), asked.object["preconditions"]]);
    let published = everywhere.borrow().clone();
    (asked.iter().map(of).collect(), published, is_awaited)
}

#[tokio::test]
async fn another_config_map_takes_the_place_of_one_that_takes_no_change() {
    let (patch, delete) = (json!(["PATCH", null]), json!(["DELETE", {"uid": "u"}]));
    let gone = (404, refusal(404, json!({})).1);
    for removed in [written(), gone] {
        let stuck = vec![map("a", "other", false)];
        let (asked, published, is_awaited) = asked_for(stuck, vec![immutable(), removed, written()]).await;
        assert_eq!(asked, [patch.clone(), delete.clone(), patch.clone()]);
        assert_eq!((published.as_deref(), is_awaited), (Some("root"), false));
    }
}

#[tokio::test]
async fn a_rotation_waits_for_a_namespace_that_takes_no_bundle() {
    let (patch, delete) = (json!(["PATCH", null]), json!(["DELETE", {"uid": "u"}]));
    let kept = || vec![map("a", "other", true)];
    let denied = || refusal(422, json!({"message": "a policy denies it"}));
    let quota = || refusal(403, json!({"message": "exceeded quota", "field": "x"}));
    let cases = [
        (
            "a policy denies each write",
            kept(),
            vec![denied()],
            vec![patch.clone()],
        ),
        ("a quota is full", kept(), vec![quota()], vec![patch.clone()]),
        (
            "which one it is was not seen",
            vec![],
            vec![immutable()],
            vec![patch.clone()],
        ),
        (
            "it was replaced meanwhile",
            kept(),
            vec![immutable(), refusal(409, json!({}))],
            vec![patch.clone(), delete.clone()],
        ),
        (
            "the next one is refused too",
            kept(),
            vec![immutable(), written(), quota()],
            vec![patch.clone(), delete, patch],
        ),
    ];
    for (case, found, answers, expected) in cases {
        let (asked, published, is_awaited) = asked_for(found, answers).await;
        assert_eq!(asked, expected, "{case}");
        assert_eq!((published, is_awaited), (None, true), "{case}");
    }
}

/// The parts that a test of writes looks at: the bundles, what is published and for whom a rotation waits.
async fn failing(answers: Vec<(u16, Value)>) -> (Bundles, Asked, watch::Receiver<Option<Arc<str>>>, Health) {
    let (client, asked) = answering(answers).await;
    let (_trust, trusted) = watch::channel(None);
    let (published, everywhere) = watch::channel(None);
    let (_fault, faults) = watch::channel(None);
    let health = Health::new(faults);
    let metrics = ControllerMetrics::register(&picket_metrics::MetricsRegistry::default());
    let mut bundles = Bundles::new(client, "", trusted, published, health.clone(), metrics);
    bundles.enrolment.set_bundle("root");
    (bundles, asked, everywhere, health)
}

#[tokio::test]
async fn a_bundle_that_cannot_be_removed_holds_no_rotation_up() {
    let denied = refusal(422, json!({"message": "a policy denies it"}));
    let (mut bundles, _asked, everywhere, health) = failing(vec![denied]).await;
    bundles
        .enrolment
        .see_all(vec![namespace("a", false)], vec![], vec![map("a", "root", true)]);
    assert!(bundles.write().await.is_some(), "it is tried again");
    assert_eq!(everywhere.borrow().as_deref(), Some("root"));
    assert!(
        health.set_awaited(&BTreeSet::from(["a".to_owned()])),
        "nobody is waited for"
    );
}

#[tokio::test]
async fn a_write_that_failed_waits_longer_each_time_unless_it_is_another_one() {
    let denied = || refusal(422, json!({"message": "a policy denies it"}));
    let (mut bundles, asked, ..) = failing(vec![denied(), denied(), denied(), written()]).await;
    bundles
        .enrolment
        .see_all(vec![namespace("a", true)], vec![], vec![]);
    let due = bundles.write().await.expect("due again");
    // Something happens elsewhere meanwhile.
    bundles.enrolment.dirty.insert("b".to_owned());
    assert_eq!(bundles.write().await, Some(due));
    assert_eq!(asked.lock().len(), 1);
    let mut pauses = Vec::new();
    for _ in 0..2 {
        let failure = bundles.failures.get_mut("a").expect("a failure");
        failure.due = Instant::now();
        pauses.push(failure.pause);
        bundles.write().await;
    }
    assert_eq!(pauses, [RETRY, 2 * RETRY]);
    assert_eq!(asked.lock().len(), 3);
    bundles.enrolment.set_bundle("another root");
    assert_eq!(bundles.write().await, None, "it is another write");
    assert_eq!(asked.lock().len(), 4);
}
