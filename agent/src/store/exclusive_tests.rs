//! Exclusive identities: when their claims are made anew, and how operators see them.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use kube::runtime::watcher::Event;
use picket_policy::PolicySet;
use picket_policy::api::v1alpha1::ConditionStatus;
use serde_json::{Value, json};

use super::super::cluster::KINDS;
use super::*;

const OBJECTS: &str = "
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: a}
spec: {owner: o, exclusive: true, attest: {pod: {namespace: n, serviceAccount: s}}}
";

fn pod(workload: &str) -> PodFacts {
    PodFacts {
        namespace: "n".to_owned(),
        name: "p".to_owned(),
        service_account: "s".to_owned(),
        labels: Default::default(),
        workload: workload.to_owned(),
    }
}

fn set(text: &str) -> PolicySet {
    PolicySet::compile(picket_policy::read_documents("f.yaml", text).expect("valid")).expect("a set")
}

#[test]
fn claims_are_made_anew_after_a_change_and_not_for_each_request() {
    let store = Store::for_tests(set(OBJECTS));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    store.set_claimants(Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        vec![pod("Job/a"), pod("Job/b")]
    }));
    let contested = || {
        let claims = store.claims(&store.current());
        claims.contested().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        (contested(), contested()),
        (vec!["a".to_owned()], vec!["a".to_owned()])
    );
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // As where a pod changed.
    store.epoch().raise();
    assert_eq!((contested().len(), asked.load(Ordering::Relaxed)), (1, 2));
    // Nobody asks for the pods where no identity is exclusive.
    store.replace_for_tests(set(&OBJECTS.replace("exclusive: true", "exclusive: false")));
    assert_eq!((contested().len(), asked.load(Ordering::Relaxed)), (0, 2));
    store.replace_for_tests(set(OBJECTS));
    assert_eq!((contested().len(), asked.load(Ordering::Relaxed)), (1, 3));
}

#[test]
fn a_pod_that_comes_while_claims_are_made_is_among_the_next() {
    let store = Arc::new(Store::for_tests(set(OBJECTS)));
    let (asked, epoch) = (AtomicUsize::new(0), store.epoch().clone());
    store.set_claimants(Arc::new(move || match asked.fetch_add(1, Ordering::Relaxed) {
        0 => {
            epoch.raise();
            vec![pod("Job/a")]
        }
        _ => vec![pod("Job/a"), pod("Job/b")],
    }));
    let contested = || store.claims(&store.current()).contested().count();
    assert_eq!((contested(), contested()), (0, 1));
}

#[test]
fn claims_are_those_of_the_set_that_is_asked_about() {
    let store = Store::for_tests(set(OBJECTS));
    store.set_claimants(Arc::new(|| vec![pod("Job/a"), pod("Job/b")]));
    let before = store.current();
    // As where a request began by the set before.
    let other = Arc::new(set(&OBJECTS.replace("name: a", "name: other")));
    let contested = |set| {
        store
            .claims(set)
            .contested()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert_eq!(
            (contested(&before), contested(&other)),
            (vec!["a".to_owned()], vec!["other".to_owned()])
        );
    }
}

#[test]
fn the_status_says_who_claims_the_identity() {
    let status = |text: &str, workloads: &[&str]| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.yaml"), text).expect("written");
        let store = Store::open(&[folder.path().to_owned()]).expect("valid");
        let pods: Vec<_> = workloads.iter().map(|workload| pod(workload)).collect();
        store.set_claimants(Arc::new(move || pods.clone()));
        store.statuses().remove(0)
    };
    let one = status(OBJECTS, &["Job/a", "Job/a"]);
    assert_eq!(
        (one.workloads, one.message.as_str()),
        (vec!["Job/a".to_owned()], "")
    );
    let two = status(OBJECTS, &["Job/a", "Job/b"]);
    assert!(
        two.message
            .starts_with("Exclusive, and Job/a and Job/b of this node claim it: every request"),
        "{two:?}"
    );
    // What denies every request anyway is said instead.
    let suspended = OBJECTS.replace("owner: o", "owner: o, state: Suspended");
    let suspended = status(&suspended, &["Job/a", "Job/b"]);
    assert_eq!(suspended.workloads.len(), 2);
    assert!(suspended.message.starts_with("Suspended: every"), "{suspended:?}");
    let shared = OBJECTS.replace("exclusive: true", "exclusive: false");
    assert!(status(&shared, &["Job/a", "Job/b"]).workloads.is_empty());
}

#[test]
fn the_condition_says_which_workloads_of_all_nodes_claim_it() {
    let conflict = |exclusive: bool, nodes: Value| {
        let store = Store::open_or_deny_all(&[], true);
        store.set_node("n1");
        let cluster = store.cluster.clone().expect("a cluster");
        for (place, kind) in KINDS.iter().enumerate() {
            cluster.event(place, Event::Init);
            if place == 0 {
                let object = json!({
                    "apiVersion": "picket.dev/v1alpha1", "kind": kind.kind,
                    "metadata": {"name": "a", "uid": "u", "generation": 1},
                    "spec": {"owner": "o", "exclusive": exclusive, "attest": {"pod": {"namespace": "n", "serviceAccount": "s"}}},
                    "status": {"nodes": nodes},
                });
                let object = serde_json::from_value(object).expect("an object");
                cluster.event(place, Event::InitApply(object));
            }
            cluster.event(place, Event::InitDone);
        }
        store.judge_cluster();
        let judged = Arc::clone(&store.judged.lock());
        let object = judged.object(0).expect("the identity");
        assert!(cluster.shown_workloads(0, "a", "of-an-earlier-one").is_empty());
        let workloads = cluster.shown_workloads(0, "a", "u");
        let conditions = object.conditions(&workloads, Timestamp::UNIX_EPOCH);
        conditions
            .into_iter()
            .find(|condition| condition.kind == "Conflict")
    };
    let on = |node: &str, workloads: Value| json!({"node": node, "pods": 1, "reviewDue": false, "workloads": workloads});
    let two = [on("n1", json!(["Job/a"])), on("n2", json!(["Job/a", "Job/b"]))];
    let found = conflict(true, json!(two)).expect("a conflict");
    assert_eq!(
        (found.status, found.reason.as_str()),
        (ConditionStatus::True, "SeveralWorkloads")
    );
    assert!(
        found.message.contains("Job/a on node n1, Job/b on node n2."),
        "{}",
        found.message
    );
    assert_eq!(conflict(false, json!(two)), None);
    assert_eq!(conflict(true, json!([two[0]])), None);
}
