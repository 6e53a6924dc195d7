//! Tests of where a bundle is needed.

use super::*;

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
    serde_json::from_value(json!({"metadata": metadata, "data": {KEY: content}})).unwrap()
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
            BundleChange::Apply(_) => '+',
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
