//! Unit tests: what is told of nodes, and what of it is to be acted on.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::report::NodeState;
use super::*;
use crate::cli::output::Format;
use crate::cluster::Connector;
use crate::cluster::testing::answering;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    Timestamp::now()
}

/// What a ready agent says.
fn told(node: &str) -> Value {
    let now = now();
    json!({
        "metadata": {"name": node},
        "status": {
            "version": "0.1.0", "started": now, "phase": "Serving", "lastHeartbeat": now,
            "kernel": {"release": "6.1.0", "attached": 10, "programs": 10},
            "pods": {"enforced": 2, "exempt": 3, "assumedExempt": 0, "closed": 0, "notCovered": 0},
            "policy": {"hash": "0123456789abcdef", "generation": 1, "since": "2026-01-01T00:00:00Z", "valid": 3, "invalid": 0},
            "certificates": {"nodeCA": now + 48 * HOUR, "upstream": now + HOUR / 60},
            "audit": {"spoolBytes": 4096},
        },
    })
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}})
}

fn pod(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "agents", "labels": labels}, "status": {"phase": "Running"}})
}

/// The lists of an API server, by the path.
type Lists = Arc<dyn Fn(&str) -> Result<Vec<Value>, u16> + Send + Sync>;

async fn client(lists: Lists) -> (Client, Arc<Mutex<Vec<String>>>, crate::cluster::testing::Folder) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let url = answering(move |request| {
        let target = request.uri().to_string();
        let path = request.uri().path().to_owned();
        seen.lock().push(target);
        match lists(&path) {
            Ok(items) => (200, json!({"metadata": {}, "items": items})),
            Err(code) => {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "not for you",
                });
                (code, status)
            }
        }
    })
    .await;
    let (folder, connector) = Connector::for_tests(&url);
    (connector.connect().await.expect("a client"), asked, folder)
}

async fn reported(lists: impl Fn(&str) -> Result<Vec<Value>, u16> + Send + Sync + 'static) -> StatusReport {
    let with_controller = move |path: &str| match (path, lists(path)) {
        (DEPLOYMENTS, Ok(items)) if items.is_empty() => Ok(vec![controller(2, 2, json!([]))]),
        (_, listed) => listed,
    };
    let (client, _asked, _folder) = client(Arc::new(with_controller)).await;
    report(&client, None, EXPIRING).await.expect("a report")
}

fn controller(replicas: u32, available: u32, conditions: Value) -> Value {
    json!({
        "metadata": {"name": "picket-controller", "namespace": "picket-system"},
        "spec": {"replicas": replicas, "selector": {}, "template": {"spec": {"containers": []}}},
        "status": {"availableReplicas": available, "conditions": conditions},
    })
}

const NODES: &str = "/api/v1/nodes";
const TOLD: &str = "/apis/picket.dev/v1alpha1/picketnodes";
const NAMESPACES: &str = "/api/v1/namespaces";
const DAEMONSETS: &str = "/apis/apps/v1/daemonsets";
const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
const PODS: &str = "/api/v1/namespaces/agents/pods";

/// The report of one node whose agent says this.
async fn of_one(status: Value) -> StatusReport {
    reported(move |path| {
        Ok(match path {
            NODES => vec![node("a")],
            TOLD => vec![status.clone()],
            _ => Vec::new(),
        })
    })
    .await
}

#[tokio::test]
async fn a_cluster_where_all_is_well_has_nothing_to_be_acted_on() {
    let enrolled = json!({"picket.dev/enrolled": "true"});
    let report = reported(move |path| {
        Ok(match path {
            NODES => vec![node("a"), node("b")],
            TOLD => vec![told("a"), told("b")],
            NAMESPACES => vec![json!({"metadata": {"name": "agents"}})],
            PODS => vec![pod("x", enrolled.clone())],
            _ => Vec::new(),
        })
    })
    .await;
    assert_eq!(report.findings, Vec::<String>::new());
    let text = rows::text(&report, Format::Table, false);
    let first: Vec<_> = text.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(first, ["a", "yes", "0.1.0", "2", "0", "01234567", "47h", "0s"]);
    assert!(text.contains("Nothing is to be acted on."), "{text}");
    let wide = rows::text(&report, Format::Wide, false);
    assert!(wide.contains("10/10") && wide.contains("4.0 KiB"), "{wide}");
}

#[tokio::test]
async fn a_node_without_an_agent_is_to_be_acted_on_and_one_that_can_have_none_is_not() {
    let report = reported(|path| {
        Ok(match path {
            NODES => vec![
                node("a"),
                node("b"),
                json!({"metadata": {"name": "w", "labels": {"kubernetes.io/os": "windows"}}}),
            ],
            TOLD => vec![told("a")],
            _ => Vec::new(),
        })
    })
    .await;
    let states: Vec<_> = report.nodes.iter().map(|line| line.state).collect();
    assert_eq!(
        states,
        [NodeState::Ready, NodeState::NoAgent, NodeState::OtherSystem]
    );
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(
        report.findings[0].starts_with("node b is without an agent"),
        "{:?}",
        report.findings
    );
    let text = rows::text(&report, Format::Table, false);
    assert!(text.contains("no agent") && text.contains("not linux"), "{text}");
}

#[tokio::test]
async fn an_agent_that_is_not_heard_or_stopped_is_told_with_the_time() {
    let mut silent = told("a");
    silent["status"]["lastHeartbeat"] = json!(now() - 5 * HOUR / 60);
    let report = of_one(silent).await;
    assert_eq!(report.nodes[0].state, NodeState::NotHeard);
    assert!(rows::text(&report, Format::Table, false).contains("not heard for 5m"));
    assert!(report.findings[0].contains("not heard"), "{:?}", report.findings);
    let mut stopped = told("a");
    stopped["status"]["phase"] = json!("Draining");
    let report = of_one(stopped).await;
    assert_eq!(report.nodes[0].state, NodeState::Stopped);
    assert!(rows::text(&report, Format::Table, false).contains("stopped 0s ago"));
    assert!(report.findings[0].contains("stopped"), "{:?}", report.findings);
}

#[tokio::test]
async fn what_an_agent_says_is_wrong_is_to_be_acted_on() {
    let cases = [
        (
            "/failing",
            json!([{"part": "audit", "reason": "no space"}]),
            "a: audit fails: no space",
        ),
        ("/waiting", json!(["pods"]), "a: pods has not come up yet"),
        (
            "/kernel/attached",
            json!(9),
            "a: 9 of 10 kernel programs are attached",
        ),
        (
            "/policy/lastError",
            json!("a.yaml:1"),
            "a: the last reading of the objects is not in force: a.yaml:1",
        ),
        (
            "/policy/invalid",
            json!(1),
            "a: 1 object is not in force as written: see `kubectl get picket`",
        ),
        (
            "/audit/failingSinks",
            json!([{"part": "siem", "reason": "gone"}]),
            "a: audit sink siem takes no records: gone",
        ),
        (
            "/pods/notCovered",
            json!(1),
            "a: 1 pod is not enforced, or not wholly",
        ),
        (
            "/certificates/nodeCA",
            json!(now() + HOUR / 2),
            "a: the node CA ends in 29m",
        ),
        (
            "/certificates/upstream",
            json!(now() - HOUR),
            "a: the upstream credential ended 60m ago",
        ),
    ];
    for (field, value, finding) in cases {
        let mut status = told("a");
        let (parent, name) = field.rsplit_once('/').expect("a field");
        let parent = status["status"].pointer_mut(parent).expect("its parent");
        parent[name] = value;
        let report = of_one(status).await;
        assert_eq!(report.findings, [finding], "{field}");
    }
}

#[tokio::test]
async fn the_first_end_is_one_of_picket_s_own_or_one_that_comes() {
    let far = now() + 24 * 365 * 30 * HOUR;
    for (certificates, shown) in [
        (json!({"nodeCA": now() + 48 * HOUR, "upstreamCA": far}), "47h"),
        (json!({"upstreamCA": far}), "-"),
        (json!({"upstreamCA": now() + 24 * HOUR}), "-"),
        (
            json!({"nodeCA": now() + 48 * HOUR, "upstreamCA": now() + 24 * HOUR}),
            "23h",
        ),
    ] {
        let mut status = told("a");
        status["status"]["certificates"] = certificates.clone();
        let report = of_one(status).await;
        let text = rows::text(&report, Format::Table, false);
        let cells: Vec<_> = text.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(cells[6], shown, "{certificates}");
        assert_eq!(report.findings, Vec::<String>::new(), "{certificates}");
    }
}

#[tokio::test]
async fn a_pod_that_is_not_enforced_has_a_line_with_the_reason() {
    let mut status = told("a");
    status["status"]["pods"]["notCovered"] = json!(1);
    status["status"]["pods"]["uncovered"] =
        json!([{"pod": "agents/x", "reason": "NoCgroup", "message": "nothing\nholds it"}]);
    let report = of_one(status).await;
    let text = rows::text(&report, Format::Table, false);
    let line = text
        .lines()
        .find(|line| line.contains("agents/x"))
        .expect("a line");
    assert!(
        line.contains("NoCgroup") && line.ends_with("nothing\\nholds it"),
        "{line}"
    );
}

#[tokio::test]
async fn nodes_with_older_objects_or_other_versions_are_marked() {
    let mut newer = told("b");
    newer["status"]["policy"]["hash"] = json!("fedcba9876543210");
    newer["status"]["policy"]["since"] = json!("2026-01-02T00:00:00Z");
    newer["status"]["version"] = json!("0.2.0");
    // Its set would be the newest, and nobody hears it.
    let mut silent = told("c");
    silent["status"]["policy"]["hash"] = json!("ffffffffffffffff");
    silent["status"]["policy"]["since"] = json!("2026-01-03T00:00:00Z");
    silent["status"]["lastHeartbeat"] = json!(now() - HOUR);
    let report = reported(move |path| {
        Ok(match path {
            TOLD => vec![told("a"), newer.clone(), silent.clone()],
            _ => Vec::new(),
        })
    })
    .await;
    let differ: Vec<_> = report.nodes.iter().map(|line| line.policy_differs).collect();
    assert_eq!(differ, [true, false, false]);
    assert!(rows::text(&report, Format::Table, false).contains("01234567 (old)"));
    let mut new = told("b");
    new["status"]["policy"]["hash"] = json!("fedcba9876543210");
    new["status"]["policy"]["since"] = json!(now() - HOUR / 360);
    let just_now = reported(move |path| {
        Ok(match path {
            TOLD => vec![told("a"), new.clone()],
            _ => Vec::new(),
        })
    })
    .await;
    assert_eq!(
        just_now.findings,
        Vec::<String>::new(),
        "the other may not have written yet"
    );
    let found = |what: &str| report.findings.iter().any(|finding| finding.contains(what));
    assert!(
        found("node a is without the newest objects in force"),
        "{:?}",
        report.findings
    );
    assert!(
        found("0.1.0 on 2 nodes, 0.2.0 on 1 node"),
        "{:?}",
        report.findings
    );
}

#[tokio::test]
async fn pods_that_run_without_enrolment_are_to_be_made_anew() {
    let report = reported(|path| {
        Ok(match path {
            TOLD => vec![told("a")],
            NAMESPACES => vec![json!({"metadata": {"name": "agents"}})],
            PODS => vec![
                pod("old", json!({})),
                pod("new", json!({"picket.dev/enrolled": "true"})),
                json!({"metadata": {"name": "done"}, "status": {"phase": "Succeeded"}}),
            ],
            _ => Vec::new(),
        })
    })
    .await;
    assert_eq!(
        report.findings,
        ["namespace agents: 1 of 2 pods run without enrolment: old. Recreate them"]
    );
}

#[tokio::test]
async fn a_person_who_may_list_little_is_told_what_is_not_known() {
    let report = reported(|path| match path {
        TOLD => Ok(vec![told("a")]),
        _ => Err(403),
    })
    .await;
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!(report.unknown.len(), 5, "{:?}", report.unknown);
    for unknown in &report.unknown {
        assert!(unknown.contains("not for you"), "{unknown}");
    }
}

/// What a cluster says whose agents run as service account picket-system/picket, and whose only grant names user `agent:a`. Reviews
/// are answered as `may` says of a resource and a name.
async fn with_a_grant(
    may: impl Fn(&str, &str) -> Result<bool, u16> + Send + Sync + 'static,
    node: Option<&str>,
) -> StatusReport {
    let object = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "picket.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "uid": name, "generation": 1}, "spec": spec,
        })
    };
    let attest = json!({"pod": {"namespace": "n", "serviceAccount": "a"}});
    let identity = object("AgentIdentity", "a", json!({"owner": "o", "attest": attest}));
    let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    let upstream = json!({"impersonate": {"user": "agent:a", "groups": ["readers"]}});
    let spec = json!({"to": {"identities": ["a"]}, "upstream": upstream, "rules": rules});
    let grant = object("AgentGrant", "g", spec);
    let pod = json!({"spec": {"serviceAccountName": "picket", "containers": []}});
    let agents = json!({
        "metadata": {"name": "picket", "namespace": "picket-system"}, "spec": {"selector": {}, "template": pod},
    });
    let url = answering(move |request| {
        let items = match request.uri().path().rsplit('/').next().unwrap_or_default() {
            "picketnodes" => vec![told("a")],
            "deployments" => vec![controller(2, 2, json!([]))],
            "daemonsets" => vec![agents.clone()],
            "agentidentities" => vec![identity.clone()],
            "agentgrants" => vec![grant.clone()],
            "subjectaccessreviews" => {
                let mut review: Value = serde_json::from_slice(request.body()).expect("a review");
                let spec = &review["spec"];
                assert_eq!(spec["user"], "system:serviceaccount:picket-system:picket");
                assert_eq!(spec["groups"][1], "system:serviceaccounts:picket-system");
                let of = &spec["resourceAttributes"];
                let text = |field: &str| of[field].as_str().unwrap_or_default().to_owned();
                return match may(&text("resource"), &text("name")) {
                    Ok(allowed) => {
                        review["status"] = json!({ "allowed": allowed });
                        (201, review)
                    }
                    Err(code) => (
                        code,
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no reviews"}),
                    ),
                };
            }
            _ => Vec::new(),
        };
        (200, json!({"metadata": {}, "items": items}))
    })
    .await;
    let (_folder, connector) = Connector::for_tests(&url);
    let client = connector.connect().await.expect("a client");
    report(&client, node, EXPIRING).await.expect("a report")
}

#[tokio::test]
async fn a_user_that_the_agents_may_not_impersonate_is_to_be_acted_on() {
    let report = with_a_grant(|_, _| Ok(true), None).await;
    assert_eq!(
        (report.findings.len(), report.unknown.len()),
        (0, 0),
        "{report:?}"
    );
    let report = with_a_grant(|_, name| Ok(name != "agent:a"), None).await;
    let [finding] = &report.findings[..] else {
        panic!("{report:?}")
    };
    assert!(
        finding.starts_with("the agents may not: impersonate user agent:a. The API server refuses")
            && finding.contains("picket grant rbac"),
        "{finding}"
    );
    let report = with_a_grant(|resource, _| Ok(resource == "userextras"), None).await;
    assert!(
        report.findings[0].contains("impersonate group readers, impersonate user agent:a."),
        "{report:?}"
    );
    // Of one node there is nothing to tell of grants.
    let report = with_a_grant(|_, _| Ok(false), Some("a")).await;
    assert_eq!(report.findings, Vec::<String>::new());
    let report = with_a_grant(|_, _| Err(403), None).await;
    assert_eq!(
        (report.findings.len(), report.unknown.len()),
        (0, 1),
        "{report:?}"
    );
    assert!(report.unknown[0].contains("no reviews"), "{report:?}");
}

#[test]
fn where_helm_gives_no_rights_the_lists_of_the_chart_are_no_advice() {
    let lacked = ["may not impersonate user agent:a".to_owned()];
    let advice = |by_helm| report::of_rights(&lacked, by_helm).expect("a finding");
    assert!(advice(true).contains("impersonate.users") && advice(true).contains("picket grant rbac"));
    assert!(!advice(false).contains("impersonate.users") && advice(false).contains("picket grant rbac"));
    assert_eq!(report::of_rights(&[], true), None);
}

#[tokio::test]
async fn without_the_kind_or_the_right_the_command_says_what_to_do() {
    for (code, words) in [
        (404, "picket crds | kubectl apply"),
        (403, "verb list on picketnodes.picket.dev"),
    ] {
        let (client, _asked, _folder) = client(Arc::new(move |_| Err(code))).await;
        let error = report(&client, None, EXPIRING)
            .await
            .expect_err("nothing is known");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_cluster_without_picket_is_told_from_one_whose_agents_have_not_begun() {
    let asked = async |daemonsets: Result<Vec<Value>, u16>, node: Option<&str>| {
        let (client, _asked, _folder) = client(Arc::new(move |path| match path {
            NODES => Ok(vec![node_a()]),
            DAEMONSETS => daemonsets.clone(),
            _ => Ok(Vec::new()),
        }))
        .await;
        report(&client, node, EXPIRING).await
    };
    let error = asked(Ok(Vec::new()), None)
        .await
        .expect_err("nothing is installed");
    let said = error.to_string();
    assert!(
        said.starts_with("Picket is not installed in this cluster") && said.contains("helm install picket"),
        "{said}"
    );
    let installed = json!({"metadata": {"name": "picket", "namespace": "picket-system"}});
    for (daemonsets, node) in [
        (Ok(vec![installed]), None),
        (Err(403), None),
        (Ok(Vec::new()), Some("a")),
    ] {
        let report = asked(daemonsets, node).await.expect("a report");
        assert_eq!(report.nodes[0].state, NodeState::NoAgent);
    }
}

#[tokio::test]
async fn a_node_that_no_agent_is_meant_for_is_not_to_be_acted_on() {
    let agents = json!({
        "metadata": {"name": "picket", "namespace": "picket-system"},
        "spec": {"selector": {}, "template": {"spec": {"nodeSelector": {"pool": "agents"}, "containers": []}}},
    });
    let labelled = json!({"metadata": {"name": "b", "labels": {"pool": "agents"}}});
    let report = reported(move |path| {
        Ok(match path {
            NODES => vec![node_a(), labelled.clone()],
            DAEMONSETS => vec![agents.clone()],
            _ => Vec::new(),
        })
    })
    .await;
    let states: Vec<_> = report.nodes.iter().map(|line| line.state).collect();
    assert_eq!(states, [NodeState::NotSelected, NodeState::NoAgent]);
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(
        report.findings[0].starts_with("node b is without an agent"),
        "{:?}",
        report.findings
    );
    assert!(rows::text(&report, Format::Table, false).contains("not selected"));
}

#[tokio::test]
async fn an_agent_that_stopped_where_none_is_meant_any_more_is_not_missed() {
    for (pods, findings) in [(0, 0), (2, 1)] {
        let report = reported(move |path| {
            let mut stopped = told("a");
            stopped["status"]["phase"] = json!("Draining");
            stopped["status"]["certificates"]["nodeCA"] = json!(now() - HOUR);
            let mut silent = told("b");
            silent["status"]["lastHeartbeat"] = json!(now() - HOUR);
            for told in [&mut stopped, &mut silent] {
                told["status"]["pods"]["enforced"] = json!(pods);
            }
            Ok(match path {
                NODES => vec![node("a"), node("b"), node("c")],
                // By hand, or until the DaemonSet's controller deletes its pod.
                TOLD => vec![stopped, silent, told("c")],
                DAEMONSETS => vec![json!({
                    "metadata": {"name": "picket", "namespace": "picket-system"},
                    "spec": {"selector": {}, "template": {"spec": {"nodeSelector": {"pool": "agents"}, "containers": []}}},
                })],
                _ => Vec::new(),
            })
        })
        .await;
        let states: Vec<_> = report.nodes.iter().map(|line| line.state).collect();
        assert_eq!(
            states,
            [NodeState::NotSelected, NodeState::NotSelected, NodeState::Ready]
        );
        assert_eq!(report.findings.len(), findings, "{:?}", report.findings);
        // The programs that the agents left keep these pods from the API server.
        let of_left = report
            .findings
            .iter()
            .all(|said| said.ends_with("kubectl delete picketnode a b"));
        assert!(of_left, "{:?}", report.findings);
    }
}

fn node_a() -> Value {
    node("a")
}

#[tokio::test]
async fn a_status_of_another_version_is_told_and_one_node_is_asked_for_by_its_name() {
    let mut other = told("a");
    other["status"]["phase"] = json!("Dreaming");
    let (client, asked, _folder) = client(Arc::new(move |path| {
        Ok(match path {
            TOLD => vec![other.clone()],
            _ => Vec::new(),
        })
    }))
    .await;
    let report = report(&client, Some("a"), EXPIRING).await.expect("a report");
    assert_eq!(report.nodes[0].state, NodeState::Unreadable);
    let asked = asked.lock();
    let of_name = asked
        .iter()
        .filter(|target| target.contains("fieldSelector=metadata.name%3Da"));
    assert_eq!(of_name.count(), 2, "{asked:?}");
}

#[tokio::test]
async fn a_namespace_whose_label_enrols_nothing_is_told() {
    let report = reported(|path| {
        let namespace = |name: &str, value: &str| json!({"metadata": {"name": name, "labels": {"picket.dev/enrolled": value}}});
        Ok(match path {
            TOLD => vec![told("a")],
            NAMESPACES => vec![namespace("agents", "true"), namespace("off", "false"), namespace("yes", "True")],
            _ => Vec::new(),
        })
    })
    .await;
    assert_eq!(report.namespaces.len(), 1, "{report:?}");
    let [finding] = &report.findings[..] else {
        panic!("{report:?}")
    };
    assert!(
        finding.starts_with("namespace yes: label picket.dev/enrolled=True enrols nothing"),
        "{finding}"
    );
}

#[path = "cluster_tests.rs"]
mod cluster;

#[test]
fn times_are_read_as_people_write_them() {
    assert_eq!(duration("12h"), Ok(12 * HOUR));
    assert_eq!(duration("7d"), Ok(7 * 24 * HOUR));
    for wrong in ["soon", "-1h", ""] {
        assert!(duration(wrong).is_err(), "{wrong}");
    }
}
