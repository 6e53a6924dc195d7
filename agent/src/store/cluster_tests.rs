//! Objects of the cluster, as its API server tells of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use picket_policy::Standing;
use picket_policy::api::v1alpha1::State;
use serde_json::{Value, json};

use super::cluster::KINDS;
use super::*;
use crate::metrics::MetricsRegistry;

const IDENTITY: usize = 0;
const GRANT: usize = 1;
const POLICY: usize = 2;

/// An object of this version.
fn object(place: usize, name: &str, generation: i64, spec: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "picket.dev/v1alpha1", "kind": KINDS[place].kind,
        "metadata": {
            "name": name, "uid": format!("uid-{name}"), "generation": generation, "resourceVersion": "1",
            "managedFields": [], "finalizers": ["a/b"], "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": spec, "status": {"conditions": []},
    }))
    .expect("an object")
}

fn identity(name: &str, generation: i64, account: &str) -> DynamicObject {
    let spec = json!({"owner": "o", "attest": {"pod": {"namespace": "n", "serviceAccount": account}}});
    object(IDENTITY, name, generation, spec)
}

fn denial(name: &str, generation: i64, subjects: Value, resource: &str) -> DynamicObject {
    let rule = json!({"name": "r", "action": "Deny", "match": {"resources": [resource]}});
    object(
        POLICY,
        name,
        generation,
        json!({"subjects": subjects, "rules": [rule]}),
    )
}

fn store(paths: &[PathBuf]) -> (Store, Arc<ClusterObjects>) {
    let store = Store::open_or_deny_all(paths, true);
    let cluster = store.cluster.clone().expect("a cluster");
    (store, cluster)
}

/// The API server lists these objects of a kind.
fn list(cluster: &ClusterObjects, place: usize, objects: Vec<DynamicObject>) {
    cluster.event(place, Event::Init);
    for object in objects {
        cluster.event(place, Event::InitApply(object));
    }
    cluster.event(place, Event::InitDone);
}

fn list_all(store: &Store, cluster: &ClusterObjects, mut objects: [Vec<DynamicObject>; 3]) {
    for place in [IDENTITY, GRANT, POLICY] {
        list(cluster, place, std::mem::take(&mut objects[place]));
    }
    store.judge_cluster();
}

fn names(store: &Store) -> Vec<String> {
    let set = store.current();
    set.identities()
        .iter()
        .map(|identity| identity.name.clone())
        .collect()
}

fn status(store: &Store, name: &str) -> ObjectStatus {
    let statuses = store.statuses();
    let found = statuses.iter().find(|status| status.name == name);
    found.unwrap_or_else(|| panic!("{statuses:#?}")).clone()
}

#[test]
fn everything_is_denied_until_every_kind_was_listed() {
    let (store, cluster) = store(&[]);
    list(&cluster, IDENTITY, vec![identity("a", 1, "x")]);
    list(&cluster, GRANT, Vec::new());
    store.judge_cluster();
    let reason = store.why_deny_all().expect("everything is denied");
    assert_eq!(reason, "the API server has not listed AgentPolicy yet");
    list(&cluster, POLICY, Vec::new());
    store.judge_cluster();
    assert_eq!(store.why_deny_all(), None);
    assert_eq!(names(&store), ["a"]);
    assert_eq!(status(&store, "a").reason, StatusReason::InForce);
}

/// A generation comes twice where etcd was set back to an older state: the first version of that number is lost.
#[test]
fn another_version_of_the_same_generation_counts() {
    let (store, cluster) = store(&[]);
    list_all(&store, &cluster, [vec![identity("a", 2, "lost")], vec![], vec![]]);
    let mut revoked = identity("a", 2, "lost");
    revoked.data["spec"]["state"] = json!("Revoked");
    let mut changes = cluster.changes();
    list(&cluster, IDENTITY, vec![revoked]);
    assert!(changes.borrow_and_update().has_changed(), "listed");
    store.judge_cluster();
    assert_eq!(store.current().identities()[0].state, State::Revoked);
    cluster.event(IDENTITY, Event::Apply(identity("a", 2, "lost")));
    assert!(changes.has_changed().expect("a sender"), "told of");
}

/// Else what nobody in the cluster can see would stay in force.
#[test]
fn no_lost_version_stays_in_force_for_a_faulty_one() {
    let faulty = |generation| object(IDENTITY, "a", generation, json!({"owner": "o", "colour": "red"}));
    for (generation, in_force) in [(4, 1), (3, 0), (2, 0)] {
        let (store, cluster) = store(&[]);
        list_all(&store, &cluster, [vec![identity("a", 3, "x")], vec![], vec![]]);
        list_all(&store, &cluster, [vec![faulty(generation)], vec![], vec![]]);
        assert_eq!(names(&store).len(), in_force, "generation {generation}");
    }
}

#[test]
fn files_alone_do_not_serve_before_the_cluster_is_listed_and_serve_where_it_has_no_crds() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: f}\nspec: {owner: o, attest: {pod: \
                {namespace: n, serviceAccount: f}}}\n";
    std::fs::write(folder.path().join("a.yaml"), text).expect("a file");
    let (store, cluster) = store(&[folder.path().to_owned()]);
    assert!(store.why_deny_all().is_some());
    for place in [IDENTITY, GRANT, POLICY] {
        cluster.not_installed(place);
    }
    store.judge_cluster();
    assert_eq!(names(&store), ["f"]);
}

#[test]
fn without_files_missing_crds_are_named_and_everything_is_denied() {
    let (store, cluster) = store(&[]);
    for place in [IDENTITY, GRANT, POLICY] {
        cluster.not_installed(place);
    }
    store.judge_cluster();
    let reason = store.why_deny_all().expect("everything is denied");
    assert!(
        reason.contains("AgentIdentity, AgentGrant, AgentPolicy: install the CRDs"),
        "{reason}"
    );
}

#[test]
fn a_faulty_version_leaves_the_last_good_one_in_force_and_stops_no_other_object() {
    let (store, cluster) = store(&[]);
    list_all(
        &store,
        &cluster,
        [vec![identity("a", 1, "x"), identity("b", 1, "y")], vec![], vec![]],
    );
    cluster.event(
        IDENTITY,
        Event::Apply(object(IDENTITY, "a", 2, json!({"owner": "o", "colour": "red"}))),
    );
    let mut suspended = identity("b", 2, "y");
    suspended.data["spec"]["state"] = json!("Suspended");
    cluster.event(IDENTITY, Event::Apply(suspended));
    store.judge_cluster();
    let set = store.current();
    let states: Vec<_> = set.identities().iter().map(|identity| identity.state).collect();
    assert_eq!(states, [State::Active, State::Suspended]);
    let faulty = status(&store, "a");
    assert!(
        !faulty.ready && faulty.reason == StatusReason::Invalid,
        "{faulty:?}"
    );
    assert!(
        faulty.message.contains("unknown field `spec.colour`"),
        "{faulty:?}"
    );
    assert!(
        faulty.message.ends_with("The last valid version stays in force"),
        "{faulty:?}"
    );
    assert_eq!(
        status(&store, "b").message,
        "Suspended: every request of this agent is denied"
    );
    cluster.event(IDENTITY, Event::Apply(identity("a", 3, "z")));
    store.judge_cluster();
    assert!(status(&store, "a").ready);
}

#[test]
fn deleting_takes_an_object_out_of_force_at_once() {
    let (store, cluster) = store(&[]);
    list_all(&store, &cluster, [vec![identity("a", 1, "x")], vec![], vec![]]);
    let epoch = store.epoch().now();
    cluster.event(IDENTITY, Event::Delete(identity("a", 1, "x")));
    store.judge_cluster();
    assert_eq!(names(&store), [""; 0]);
    assert!(store.epoch().now() > epoch);
}

#[test]
fn an_object_that_is_missing_in_a_later_list_is_gone_and_a_list_under_way_takes_nothing_away() {
    let (store, cluster) = store(&[]);
    list_all(
        &store,
        &cluster,
        [vec![identity("a", 1, "x"), identity("b", 1, "y")], vec![], vec![]],
    );
    cluster.event(IDENTITY, Event::Init);
    cluster.event(IDENTITY, Event::InitApply(identity("b", 1, "y")));
    store.judge_cluster();
    assert_eq!(names(&store), ["a", "b"]);
    cluster.event(IDENTITY, Event::InitDone);
    store.judge_cluster();
    assert_eq!(names(&store), ["b"]);
}

#[test]
fn a_change_of_the_status_alone_judges_nothing_again() {
    let (store, cluster) = store(&[]);
    list_all(&store, &cluster, [vec![identity("a", 1, "x")], vec![], vec![]]);
    let mut changes = cluster.changes();
    changes.mark_unchanged();
    cluster.event(IDENTITY, Event::Apply(identity("a", 1, "x")));
    list(&cluster, IDENTITY, vec![identity("a", 1, "x")]);
    assert!(!changes.has_changed().expect("it lives"));
    cluster.event(IDENTITY, Event::Apply(identity("a", 2, "x")));
    assert!(changes.has_changed().expect("it lives"));
}

#[test]
fn a_faulty_policy_of_which_no_version_is_known_to_be_good_denies_everything_to_its_subjects() {
    let (store, cluster) = store(&[]);
    let unknown_field = {
        let mut policy = denial("newer", 1, json!({"groups": ["g"]}), "pods");
        policy.data["spec"]["limits"] = json!({"requests": 1});
        policy
    };
    let policies = vec![
        denial("changed", 2, json!({"identities": ["a"]}), "Pods"),
        denial("fresh", 1, json!({"identities": ["b"]}), "Pods"),
        unknown_field,
        denial("good", 1, json!({"identities": ["c"]}), "pods"),
    ];
    list_all(&store, &cluster, [vec![identity("a", 1, "x")], vec![], policies]);
    // Three barriers of two rules, and the good one's.
    let summary = store.current().summary();
    assert_eq!((summary.policies, summary.rules), (4, 7));
    for name in ["changed", "fresh", "newer"] {
        let said = status(&store, name).message;
        assert!(
            said.ends_with("every request of the policy's subjects is denied"),
            "{said}"
        );
    }
    // Also where the agent sees it being made, and until it is gone or corrected.
    cluster.event(
        POLICY,
        Event::Apply(denial("born", 1, json!({"identities": ["a"]}), "Pods")),
    );
    store.judge_cluster();
    assert_eq!(store.current().summary().rules, 9);
    cluster.event(
        POLICY,
        Event::Apply(denial("born", 2, json!({"identities": ["a"]}), "pods")),
    );
    store.judge_cluster();
    assert_eq!(store.current().summary().rules, 8);
    cluster.event(
        POLICY,
        Event::Apply(denial("born", 3, json!({"identities": ["a"]}), "Pods")),
    );
    store.judge_cluster();
    // The last good version, with its one rule.
    assert_eq!(store.current().summary().rules, 8);
}

#[test]
fn a_faulty_policy_whose_subjects_cannot_be_read_is_about_everybody_and_in_mode_audit_denies_nothing() {
    let of = |spec: Value| {
        let (store, cluster) = store(&[]);
        list_all(
            &store,
            &cluster,
            [
                vec![identity("a", 1, "x")],
                vec![],
                vec![object(POLICY, "p", 1, spec)],
            ],
        );
        assert_eq!(store.current().summary().policies, 1);
        status(&store, "p").message
    };
    let everybody = "every request of every agent is denied";
    for spec in [
        json!({"subjects": {"labels": {"a": "b"}}, "rules": []}),
        json!({"subjects": ["a"], "rules": []}),
        json!({"subjects": {"identities": ["a"], "teams": ["b"]}}),
        json!({"rules": "none"}),
        json!("text"),
        json!(null),
    ] {
        let said = of(spec.clone());
        assert!(said.ends_with(everybody), "{spec}: {said}");
    }
    let said = of(json!({"mode": "Audit", "rules": "none"}));
    assert!(said.ends_with("in mode Audit it denies nothing"), "{said}");
    let said = of(json!({"mode": "audit", "rules": "none"}));
    assert!(said.ends_with(everybody), "{said}");
}

#[test]
fn a_policy_that_was_made_anew_under_its_name_has_no_good_version_from_before() {
    let (store, cluster) = store(&[]);
    let subjects = json!({"identities": ["a"]});
    list_all(
        &store,
        &cluster,
        [
            vec![identity("a", 1, "x")],
            vec![],
            vec![denial("p", 1, subjects.clone(), "pods")],
        ],
    );
    assert_eq!(store.current().summary().rules, 1);
    let mut anew = denial("p", 1, subjects, "Pods");
    anew.metadata.uid = Some("another".to_owned());
    cluster.event(POLICY, Event::Apply(anew));
    store.judge_cluster();
    assert_eq!(store.current().summary().rules, 2);
}

#[test]
fn a_faulty_version_that_shuts_its_agent_out_does_so() {
    for (field, value, wanted) in [
        ("state", json!("Revoked"), (State::Revoked, None)),
        ("state", json!("Suspended"), (State::Suspended, None)),
        ("state", json!("Quarantined"), (State::Suspended, None)),
        ("state", json!("Active"), (State::Active, None)),
        ("owner", json!("p"), (State::Active, None)),
        (
            "expiresAt",
            json!("2020-01-01T00:00:00Z"),
            (State::Active, Some("2020-01-01T00:00:00Z")),
        ),
    ] {
        let (store, cluster) = store(&[]);
        list_all(&store, &cluster, [vec![identity("a", 1, "x")], vec![], vec![]]);
        let mut faulty = identity("a", 2, "y");
        faulty.data["spec"]["colour"] = json!("red");
        faulty.data["spec"][field] = value.clone();
        cluster.event(IDENTITY, Event::Apply(faulty));
        store.judge_cluster();
        let set = store.current();
        let identity = &set.identities()[0];
        let expires = identity.expires_at.map(|at| at.to_string());
        assert_eq!((identity.state, expires.as_deref()), wanted, "{field}: {value}");
        assert_eq!(identity.owner, "o");
        assert!(!set.identities_of_pod("n", "x", &BTreeMap::new()).is_empty());
        assert!(!status(&store, "a").ready);
    }
}

#[test]
fn a_faulty_version_whose_review_is_due_sooner_suspends_its_agent_by_then() {
    let (sooner, later) = ("2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z");
    let suspend = |at: &str| json!({"reviewBy": at, "whenOverdue": "Suspend"});
    for (good, faulty, wanted) in [
        (json!({}), suspend(later), Some(later)),
        (json!({"reviewBy": sooner}), suspend(later), Some(later)),
        (suspend(later), suspend(sooner), Some(sooner)),
        (suspend(sooner), suspend(later), Some(sooner)),
        (suspend(sooner), json!({}), Some(sooner)),
        // Its own moment cannot be read, or the word is one that only another version knows.
        (json!({"reviewBy": later}), suspend("soon"), Some(later)),
        (
            json!({}),
            json!({"reviewBy": later, "whenOverdue": "Revoke"}),
            Some(later),
        ),
        (
            json!({}),
            json!({"reviewBy": sooner, "whenOverdue": "Warn"}),
            None,
        ),
        (json!({}), json!({"reviewBy": sooner}), None),
    ] {
        let (store, cluster) = store(&[]);
        let of = |generation: i64, fields: &Value| {
            let mut object = identity("a", generation, "x");
            for (field, value) in fields.as_object().expect("fields") {
                object.data["spec"][field] = value.clone();
            }
            object
        };
        list_all(&store, &cluster, [vec![of(1, &good)], vec![], vec![]]);
        let mut object = of(2, &faulty);
        object.data["spec"]["colour"] = json!("red");
        cluster.event(IDENTITY, Event::Apply(object));
        store.judge_cluster();
        let status = status(&store, "a");
        assert!(!status.ready, "{good} {faulty}");
        let set = store.current();
        let standing = |at: Timestamp| set.identities()[0].standing(at);
        let Some(wanted) = wanted else {
            assert_eq!(standing(Timestamp::MAX), Standing::Active, "{good} {faulty}");
            continue;
        };
        let from: Timestamp = wanted.parse().expect("a moment");
        assert_eq!(standing(from), Standing::Overdue(from), "{good} {faulty}");
        let before = from - jiff::SignedDuration::from_secs(1);
        assert_eq!(standing(before), Standing::Active, "{good} {faulty}");
    }
}

/// The store with identity `a` in group `g1`. The grants of `g1` and of `g2` name two users.
fn two_groups() -> (Store, Arc<ClusterObjects>) {
    let (store, cluster) = store(&[]);
    let grant = |name: &str, group: &str, user: &str| {
        let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
        let upstream = json!({"impersonate": {"user": user}});
        object(
            GRANT,
            name,
            1,
            json!({"to": {"groups": [group]}, "upstream": upstream, "rules": rules}),
        )
    };
    let grants = vec![grant("one", "g1", "u"), grant("two", "g2", "v")];
    list_all(&store, &cluster, [vec![in_groups(1, &["g1"])], grants, vec![]]);
    (store, cluster)
}

/// A version of identity `a`.
fn in_groups(generation: i64, groups: &[&str]) -> DynamicObject {
    let mut identity = identity("a", generation, "x");
    identity.data["spec"]["groups"] = json!(groups);
    identity
}

#[test]
fn an_identity_that_is_refused_beside_other_objects_is_shut_out_all_the_same() {
    for (field, value, wanted) in [
        ("state", json!("Revoked"), (State::Revoked, None)),
        ("state", json!("Suspended"), (State::Suspended, None)),
        (
            "expiresAt",
            json!("2020-01-01T00:00:00Z"),
            (State::Active, Some("2020-01-01T00:00:00Z")),
        ),
        ("owner", json!("p"), (State::Active, None)),
    ] {
        let (store, cluster) = two_groups();
        // At once with the fault, and as a later change of the faulty object.
        for (generation, before) in [(2, None), (4, Some(in_groups(3, &["g1", "g2"])))] {
            if let Some(before) = before {
                cluster.event(IDENTITY, Event::Apply(before));
                store.judge_cluster();
            }
            let mut changed = in_groups(generation, &["g1", "g2"]);
            changed.data["spec"][field] = value.clone();
            cluster.event(IDENTITY, Event::Apply(changed));
            store.judge_cluster();
            let set = store.current();
            let identity = &set.identities()[0];
            let expires = identity.expires_at.map(|at| at.to_string());
            assert_eq!((identity.state, expires.as_deref()), wanted, "{field}: {value}");
            assert_eq!(identity.owner, "o");
            assert_eq!(set.grants_of("a").len(), 1);
            let told = status(&store, "a");
            let end = match wanted.0 {
                State::Active => "stays in force",
                State::Suspended => "stays in force, and is suspended",
                State::Revoked => "stays in force, and is revoked",
            };
            assert!(!told.ready && told.message.ends_with(end), "{told:?}");
        }
    }
}

#[test]
fn an_identity_that_would_be_two_users_is_refused_and_all_three_have_the_condition() {
    let (store, cluster) = two_groups();
    cluster.event(IDENTITY, Event::Apply(in_groups(2, &["g1", "g2"])));
    store.judge_cluster();
    assert_eq!(store.current().grants_of("a").len(), 1);
    let judged = Arc::clone(&store.judged.lock());
    for object in judged.objects() {
        let conditions = object.conditions(&BTreeMap::new(), Timestamp::UNIX_EPOCH);
        let reasons: Vec<_> = conditions
            .iter()
            .map(|condition| condition.reason.as_str())
            .collect();
        let ready = if object.entry.name == "a" {
            "Invalid"
        } else {
            "InForce"
        };
        assert_eq!(reasons, [ready, "TwoUpstreamUsers"], "{conditions:#?}");
    }
}

#[test]
fn a_version_that_another_node_has_in_force_is_known_to_an_agent_that_has_just_started() {
    let ready = json!({"conditions": [{
        "type": "Ready", "status": "True", "observedGeneration": 1, "reason": "InForce", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]});
    let (store, cluster) = store(&[]);
    let mut shown = identity("a", 1, "x");
    shown.data["status"] = ready;
    list_all(
        &store,
        &cluster,
        [vec![shown, identity("b", 1, "y")], vec![], vec![]],
    );
    let known: Vec<_> = cluster
        .snapshot()
        .objects
        .iter()
        .map(|object| object.known_from)
        .collect();
    // What came into force here is known too, from then on.
    assert_eq!(known, [0, 0]);
    cluster.event(IDENTITY, Event::Apply(identity("b", 2, "y")));
    let known: Vec<_> = cluster
        .snapshot()
        .objects
        .iter()
        .map(|object| object.known_from)
        .collect();
    assert_eq!(known, [0, 1]);
}

#[test]
fn a_faulty_file_keeps_no_revocation_of_the_cluster_from_its_effect() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.yaml");
    let text = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: f}\nspec: {owner: o, attest: {pod: \
                {namespace: n, serviceAccount: f}}}\n";
    std::fs::write(&file, text).expect("a file");
    let (store, cluster) = store(&[folder.path().to_owned()]);
    list_all(&store, &cluster, [vec![identity("a", 1, "x")], vec![], vec![]]);
    std::fs::write(&file, text.replace("owner: o", "colour: o")).expect("a file");
    store.reload();
    let mut revoked = identity("a", 2, "x");
    revoked.data["spec"]["state"] = json!("Revoked");
    cluster.event(IDENTITY, Event::Apply(revoked));
    store.judge_cluster();
    let set = store.current();
    let states: Vec<_> = set.identities().iter().map(|identity| identity.state).collect();
    assert_eq!(states, [State::Active, State::Revoked]);
    assert!(
        store
            .status()
            .last_error
            .is_some_and(|error| error.contains("colour"))
    );
    assert!(!status(&store, "f").ready);
}

#[tokio::test(start_paused = true)]
async fn a_change_in_the_cluster_beside_faulty_files_is_no_reading_of_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |text: &str| std::fs::write(folder.path().join("a.yaml"), text).expect("written");
    let text = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: f}\nspec: {owner: o, attest: {pod: \
                {namespace: n, serviceAccount: f}}}\n";
    write(text);
    let (store, cluster) = store(&[folder.path().to_owned()]);
    let store = Arc::new(store);
    list_all(&store, &cluster, [vec![identity("a", 1, "x")], vec![], vec![]]);
    let registry = MetricsRegistry::default();
    let following = tokio::spawn(StoreMetrics::register(&registry).follow(Arc::clone(&store)));
    let settle = || tokio::time::sleep(std::time::Duration::from_secs(20));
    settle().await;
    let shown = |successes: u64, failures: u64| {
        let text = registry.encode().expect("metrics");
        for (result, number) in [("success", successes), ("failure", failures)] {
            let line =
                format!("picket_config_reloads_total{{kind=\"policy\",result=\"{result}\"}} {number}\n");
            assert!(text.contains(&line), "{line} {text}");
        }
    };
    write(&text.replace("owner", "colour"));
    store.reload();
    settle().await;
    shown(0, 1);
    for generation in 2..5 {
        cluster.event(IDENTITY, Event::Apply(identity("a", generation, "x")));
        store.judge_cluster();
        settle().await;
        assert!(store.status().last_error.is_some());
    }
    shown(0, 1);
    // A fault that stays the same is one of another reading all the same, and one that shuts out counts once.
    write(&text.replace("owner: o", "state: Revoked, colour: o"));
    store.reload();
    settle().await;
    shown(0, 2);
    write(text);
    store.reload();
    settle().await;
    shown(1, 2);
    following.abort();
}

#[test]
fn an_object_of_a_file_stays_where_the_cluster_has_one_of_the_same_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\nspec: {owner: file, attest: {pod: \
                {namespace: n, serviceAccount: f}}}\n";
    std::fs::write(folder.path().join("a.yaml"), text).expect("a file");
    let (store, cluster) = store(&[folder.path().to_owned()]);
    list_all(&store, &cluster, [vec![identity("a", 1, "x")], vec![], vec![]]);
    assert_eq!(store.current().identities()[0].owner, "file");
    let statuses = store.statuses();
    let of_cluster = statuses
        .iter()
        .find(|status| status.source.starts_with("cluster"))
        .expect("it");
    assert!(
        of_cluster.message.contains("is already at") && !of_cluster.ready,
        "{of_cluster:?}"
    );
}

/// A file with identity `a` in this state, and an agent that has it in force beside the cluster's.
fn beside_a_file(state: &str) -> (tempfile::TempDir, Store, Arc<ClusterObjects>) {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a}}\nspec: {{owner: file, state: {state}, \
         attest: {{pod: {{namespace: n, serviceAccount: f}}}}}}\n"
    );
    std::fs::write(folder.path().join("a.yaml"), text).expect("a file");
    let (store, cluster) = store(&[folder.path().to_owned()]);
    list_all(&store, &cluster, [vec![identity("a", 1, "x")], vec![], vec![]]);
    (folder, store, cluster)
}

/// The cluster's identity `a` says this beside its owner.
fn says(store: &Store, cluster: &ClusterObjects, generation: i64, more: Value) {
    let mut changed = identity("a", generation, "x");
    let spec = changed.data["spec"].as_object_mut().expect("a spec");
    spec.extend(more.as_object().expect("fields").clone());
    cluster.event(IDENTITY, Event::Apply(changed));
    store.judge_cluster();
}

#[test]
fn an_identity_of_a_file_and_of_the_cluster_has_the_stricter_state_of_both() {
    use State::{Active, Revoked, Suspended};
    let cases = [
        ("Active", json!({"state": "Suspended"}), Suspended),
        ("Active", json!({"state": "Revoked"}), Revoked),
        ("Suspended", json!({"state": "Revoked"}), Revoked),
        ("Suspended", json!({"state": "Active"}), Suspended),
        ("Revoked", json!({"state": "Suspended"}), Revoked),
        ("Active", json!({"state": "Active"}), Active),
        // A fault in the cluster's keeps nobody going.
        ("Active", json!({"state": "Revoked", "colour": "red"}), Revoked),
        ("Active", json!({"state": "Paused"}), Suspended),
    ];
    for (number, (state, said, wanted)) in cases.into_iter().enumerate() {
        let (_folder, store, cluster) = beside_a_file(state);
        says(&store, &cluster, 2, said);
        let set = store.current();
        let [in_force] = set.identities() else {
            panic!("{number}: {:?}", set.identities())
        };
        // The rest is as the file says.
        assert_eq!(
            (in_force.state, in_force.owner.as_str()),
            (wanted, "file"),
            "{number}"
        );
    }
}

#[test]
fn an_identity_of_a_file_that_the_cluster_shuts_out_says_so_and_comes_back_when_the_cluster_says_no_more() {
    let (folder, store, cluster) = beside_a_file("Active");
    let of_file = || store.statuses().swap_remove(0);
    assert_eq!(of_file().state, Some(IdentityState::Active));
    says(&store, &cluster, 2, json!({"state": "Revoked"}));
    let told = of_file();
    assert!(told.source.contains("a.yaml"), "{told:?}");
    assert_eq!(told.state, Some(IdentityState::Revoked));
    assert!(
        told.message.contains("in the cluster limits this one"),
        "{told:?}"
    );
    let judged = Arc::clone(&store.judged.lock());
    let object = judged.object(0).expect("the cluster's");
    let conditions = object.conditions(&BTreeMap::new(), Timestamp::UNIX_EPOCH);
    assert_eq!(
        (conditions[0].kind.as_str(), conditions[0].reason.as_str()),
        ("Ready", LIMITS_FILE)
    );
    assert!(conditions[0].message.contains("is already at"), "{conditions:?}");
    assert!(
        conditions[0]
            .message
            .ends_with("the stricter state and dates of both"),
        "{conditions:?}"
    );

    // Another reading of the files changes nothing of it.
    let text = std::fs::read_to_string(folder.path().join("a.yaml")).expect("a text");
    std::fs::write(
        folder.path().join("a.yaml"),
        text.replace("owner: file", "owner: other"),
    )
    .expect("written");
    store.reload();
    assert_eq!(of_file().state, Some(IdentityState::Revoked));
    assert_eq!(store.current().identities()[0].state, State::Revoked);

    cluster.event(IDENTITY, Event::Delete(identity("a", 2, "x")));
    store.judge_cluster();
    assert_eq!(of_file().state, Some(IdentityState::Active));
    assert!(!of_file().message.contains("cluster"), "{:?}", of_file());
    assert_eq!(store.current().identities()[0].state, State::Active);
}

#[test]
fn an_agent_that_a_file_shuts_out_as_well_is_said_to_be_shut_out_in_the_cluster() {
    for (file, said, reason) in [
        ("Revoked", "Revoked", LIMITS_FILE),
        ("Suspended", "Suspended", LIMITS_FILE),
        ("Revoked", "Suspended", LIMITS_FILE),
        // Nothing of this is in force, nor must it look so.
        ("Revoked", "Active", "Invalid"),
        ("Active", "Active", "Invalid"),
    ] {
        let (_folder, store, cluster) = beside_a_file(file);
        says(&store, &cluster, 2, json!({"state": said}));
        let judged = Arc::clone(&store.judged.lock());
        let object = judged.object(0).expect("the cluster's");
        let conditions = object.conditions(&BTreeMap::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(conditions[0].reason, reason, "{file} beside {said}");
    }
}

#[test]
fn the_clusters_word_suspends_no_agent_at_the_date_of_the_files_review() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\nspec: {owner: file, \
                reviewBy: \"2020-01-01T00:00:00Z\", attest: {pod: {namespace: n, serviceAccount: f}}}\n";
    std::fs::write(folder.path().join("a.yaml"), text).expect("a file");
    let (store, cluster) = store(&[folder.path().to_owned()]);
    list_all(&store, &cluster, [vec![identity("a", 1, "x")], vec![], vec![]]);
    says(&store, &cluster, 2, json!({"whenOverdue": "Suspend"}));
    assert_eq!(store.statuses()[0].state, Some(IdentityState::Active));
}

#[test]
fn an_identity_of_a_file_and_of_the_cluster_ends_with_the_earlier_of_both() {
    let (_folder, store, cluster) = beside_a_file("Active");
    says(&store, &cluster, 2, json!({"expiresAt": "2020-01-01T00:00:00Z"}));
    assert_eq!(store.statuses()[0].state, Some(IdentityState::Expired));
    says(
        &store,
        &cluster,
        3,
        json!({"reviewBy": "2020-01-01T00:00:00Z", "whenOverdue": "Suspend"}),
    );
    assert_eq!(store.statuses()[0].state, Some(IdentityState::Overdue));
    says(
        &store,
        &cluster,
        4,
        json!({"reviewBy": "2020-01-01T00:00:00Z", "whenOverdue": "Warn"}),
    );
    assert_eq!(store.statuses()[0].state, Some(IdentityState::Active));
}

#[test]
fn a_watch_that_fails_ages_and_one_that_is_silent_does_not() {
    use std::time::{Duration, Instant};
    let (store, cluster) = store(&[]);
    assert_eq!(cluster.heard(Instant::now()), [None; 3]);
    list_all(&store, &cluster, Default::default());
    cluster.failed(GRANT);
    let later = Instant::now() + Duration::from_secs(60);
    let [identities, grants, _] = cluster.heard(later);
    assert_eq!(identities, Some(Duration::ZERO));
    assert!(grants >= Some(Duration::from_secs(60)), "{grants:?}");
    // A list under way is no success yet.
    cluster.event(GRANT, Event::Init);
    assert!(cluster.heard(later)[GRANT] >= Some(Duration::from_secs(60)));
    cluster.event(GRANT, Event::InitDone);
    assert_eq!(cluster.heard(later)[GRANT], Some(Duration::ZERO));
}
