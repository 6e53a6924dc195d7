//! Unit tests: what an uninstallation asks the API server for, in which order, and what it says of nodes that it cannot clean.
//!
//! The server is a fake with a state of its own: a node that does not answer, and a DaemonSet that is done or not. The chart's suite runs
//! the command on a real cluster.

use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::cluster::Connector;
use crate::cluster::testing::{Folder, answering, managed_fields_of_its_own};

/// What the fake cluster is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Each node is cleaned at once.
    Well,
    /// The kubelet of node-2 does not answer.
    Absent,
    /// The pod of node-2 fails.
    Failing,
    /// No right to delete the agents.
    Forbidden,
}

/// The changes that the server was asked for, in order.
type Asked = Arc<Mutex<Vec<String>>>;

fn status(code: u16, message: &str) -> (u16, Value) {
    let object =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message});
    (code, object)
}

fn node(name: &str, is_ready: bool, label: Option<&str>) -> Value {
    json!({
        "metadata": {"name": name, "labels": label.map(|value| json!({NODE_LABEL: value}))},
        "status": {"conditions": [{"type": "Ready", "status": if is_ready { "True" } else { "Unknown" }}]},
    })
}

const NODE_LABEL: &str = "picket.dev/agent";

fn pod(name: &str, node: &str, state: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": []}, "status": state})
}

fn items(mut items: Value) -> (u16, Value) {
    for item in items.as_array_mut().into_iter().flatten() {
        item["metadata"]["managedFields"] = managed_fields_of_its_own();
    }
    (200, json!({"metadata": {}, "items": items}))
}

fn cleaning_pods(case: Case) -> Value {
    let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    let message = json!({"terminated": {"exitCode": 1,
        "message": "nothing was removed\npicket: /sys/fs/bpf/picket is not on a BPF filesystem\n"}});
    let failing = json!({
        "conditions": [{"type": "Ready", "status": "False"}],
        "initContainerStatuses": [{
            "name": "uninstall", "image": "", "imageID": "", "ready": false, "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, "lastState": message,
        }],
    });
    let second = match case {
        Case::Well => ready.clone(),
        Case::Absent => json!({}),
        _ => failing,
    };
    json!([pod("u1", "node-1", ready), pod("u2", "node-2", second)])
}

/// A fake API server's answer.
fn answer(case: Case, asked: &Asked, request: &http::Request<bytes::Bytes>) -> (u16, Value) {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let seen = |line: &str| asked.lock().iter().any(|asked| asked == line);
    if request.method() != Method::GET {
        asked
            .lock()
            .push(format!("{} {path}", request.method()).replace("/namespaces/picket-system", ""));
    }
    // The DaemonSet that Helm made is there first.
    let created = seen("POST /apis/apps/v1/daemonsets");
    let deletions = asked
        .lock()
        .iter()
        .filter(|line| line.as_str() == DELETE_CLEANER)
        .count();
    let ended = deletions > 1;
    let resource = path.rsplit('/').next().unwrap_or_default();
    match (request.method().as_str(), resource) {
        ("DELETE", "picket") if case == Case::Forbidden => {
            status(403, "daemonsets.apps \"picket\" is forbidden")
        }
        ("DELETE", _) => (
            200,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
        ),
        ("PATCH", _) => (200, node("node-1", true, None)),
        ("POST", _) => (201, cleaner()),
        (_, "deployments") => items(json!([{"metadata": {"name": "picket-controller"}}])),
        (_, "pods") if query.contains("notin") => match case {
            Case::Absent => items(json!([pod("a2", "node-2", json!({}))])),
            _ => items(json!([])),
        },
        (_, "pods") if created && !ended => items(cleaning_pods(case)),
        (_, "pods") => items(json!([])),
        (_, "nodes") => items(json!([
            node("node-1", true, Some("ready")),
            node("node-2", case != Case::Absent, None)
        ])),
        (_, "picket-uninstall") if created && !ended => {
            let mut set = cleaner();
            set["metadata"]["generation"] = json!(1);
            let ready = if case == Case::Well { 2 } else { 1 };
            set["status"] = json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "numberReady": ready,
                "currentNumberScheduled": 2, "numberMisscheduled": 0});
            (200, set)
        }
        (_, "namespaces") => items(json!([{"metadata": {"name": "agents"}}, {"metadata": {"name": "hand"}}])),
        (_, "picket-ca.crt") if path.contains("/agents/") => (
            200,
            json!({"metadata": {"name": "picket-ca.crt", "labels":
                {"app.kubernetes.io/name": "picket", "app.kubernetes.io/managed-by": "picket-controller"}}}),
        ),
        (_, "picket-ca.crt") => (
            200,
            json!({"metadata": {"name": "picket-ca.crt", "labels": {"app.kubernetes.io/name": "picket"}}}),
        ),
        (_, "certificatesigningrequests") if query.contains("signerName%3Dpicket.dev%2Fnode-ca") => {
            let spec = json!({"request": "", "signerName": "picket.dev/node-ca"});
            items(json!([{"metadata": {"name": "csr-1"}, "spec": spec}]))
        }
        _ => status(404, "not found"),
    }
}

/// It comes twice: before the DaemonSet is made anew, and once the nodes are clean.
const DELETE_CLEANER: &str = "DELETE /apis/apps/v1/daemonsets/picket-uninstall";

fn cleaner() -> Value {
    json!({"metadata": {"name": "picket-uninstall", "namespace": "picket-system"},
        "spec": {"selector": {}, "template": {}}})
}

async fn run(case: Case, limit: Duration) -> (anyhow::Result<()>, Vec<String>, Folder) {
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let server = answering(move |request| answer(case, &seen, request)).await;
    let (folder, connector) = Connector::for_tests(&server);
    let client = connector.connect().await.unwrap();
    let set = serde_json::from_value(cleaner()).unwrap();
    let done = Uninstall::new(client, set, limit).unwrap().run().await;
    let asked = asked.lock().clone();
    (done, asked, folder)
}

/// What is removed besides agents and programs.
const LEFTOVERS: [&str; 4] = [
    "DELETE /api/v1/secrets/picket-root-ca",
    "DELETE /apis/coordination.k8s.io/v1/leases/picket-controller",
    "DELETE /api/v1/namespaces/agents/configmaps/picket-ca.crt",
    "DELETE /apis/certificates.k8s.io/v1/certificatesigningrequests/csr-1",
];

#[tokio::test]
async fn agents_end_nodes_are_cleaned_and_nothing_is_left() {
    let (done, asked, _folder) = run(Case::Well, Duration::from_secs(20)).await;
    done.unwrap();
    let before = [
        "DELETE /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/enrolment.picket.dev",
        "DELETE /apis/apps/v1/daemonsets/picket",
        "DELETE /apis/apps/v1/deployments/picket-controller",
        DELETE_CLEANER,
        "POST /apis/apps/v1/daemonsets",
        DELETE_CLEANER,
    ];
    // The node's label may come twice in a list of nodes: the fake ignores the selector. A ConfigMap that an operator made stays.
    let labels = ["PATCH /api/v1/nodes/node-1"];
    let wanted: Vec<&str> = before.into_iter().chain(LEFTOVERS).chain(labels).collect();
    let mut asked = asked;
    asked.retain(|line| line != "PATCH /api/v1/nodes/node-2");
    assert_eq!(asked, wanted);
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_named_and_the_rest_is_done() {
    let (done, asked, _folder) = run(Case::Absent, Duration::from_millis(600)).await;
    let said = done.unwrap_err().to_string();
    assert!(
        said.contains("\n  node-2: its kubelet does not answer (NotReady)\n"),
        "{said}"
    );
    assert!(!said.contains("node-1"), "{said}");
    assert!(said.contains("helm uninstall --no-hooks"), "{said}");
    for line in LEFTOVERS {
        assert!(asked.iter().any(|asked| asked == line), "{line}: {asked:#?}");
    }
    // The admission policies stay with the release, and new enrolled pods need a node with the label.
    assert!(!asked.iter().any(|line| line.starts_with("PATCH")), "{asked:#?}");
    // It cleans the node once that is back.
    let made = asked
        .iter()
        .position(|line| line == "POST /apis/apps/v1/daemonsets");
    let deleted = asked.iter().rposition(|line| line == DELETE_CLEANER);
    assert!(made > deleted, "{asked:#?}");
}

#[tokio::test]
async fn a_node_that_cannot_be_cleaned_says_why() {
    let (done, _, _folder) = run(Case::Failing, Duration::from_millis(600)).await;
    let said = done.unwrap_err().to_string();
    assert!(
        said.contains("\n  node-2: picket: /sys/fs/bpf/picket is not on a BPF filesystem\n"),
        "{said}"
    );
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    let (done, asked, _folder) = run(Case::Forbidden, Duration::from_secs(20)).await;
    assert_eq!(
        done.unwrap_err().to_string(),
        "daemonsets.apps \"picket\" is forbidden"
    );
    // The webhooks go before; nothing is asked after the refusal.
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].ends_with("/daemonsets/picket"), "{asked:?}");
}
