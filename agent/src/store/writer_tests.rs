//! What a write of a status says, and what follows a failure.

use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::cluster::testing::answering;
use crate::metrics::MetricsRegistry;

/// An API server that answers each request with this code; its URL, and the requests with their bodies.
async fn server(code: u16) -> (String, Arc<Mutex<Vec<(String, Value)>>>) {
    let sent: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let seen = Arc::clone(&sent);
    let url = answering(move |request| {
        let body = serde_json::from_slice(request.body()).expect("JSON");
        seen.lock()
            .push((format!("{} {}", request.method(), request.uri()), body));
        (
            code,
            json!({"metadata": {"name": "a"}, "code": code, "message": "no"}),
        )
    })
    .await;
    (url, sent)
}

#[tokio::test]
async fn a_write_is_of_one_manager_and_for_one_object_and_not_for_a_later_one_of_its_name() {
    let (url, sent) = server(200).await;
    let (_folder, connector) = Connector::for_tests(&url);
    let metrics = StoreMetrics::register(&MetricsRegistry::default());
    let mut writer = StatusWriter::new(connector, metrics, "a status");
    let status = json!({"nodes": []});
    assert!(
        writer
            .write((0, "a", "uid-a"), "picket-node-n", status.clone())
            .await
    );
    let sent = sent.lock().clone();
    let [(line, body)] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!(
        line,
        "PATCH /apis/picket.dev/v1alpha1/agentidentities/a/status?&force=true&fieldManager=picket-node-n"
    );
    assert_eq!(
        *body,
        json!({
            "apiVersion": API_VERSION, "kind": "AgentIdentity", "metadata": {"name": "a", "uid": "uid-a"}, "status": status,
        })
    );
}

#[tokio::test]
async fn after_a_failure_the_kubeconfig_is_read_anew() {
    let ((refusing, _), (taking, sent)) = (server(401).await, server(200).await);
    let (folder, connector) = Connector::for_tests(&refusing);
    let (other, _) = Connector::for_tests(&taking);
    let registry = MetricsRegistry::default();
    let mut writer = StatusWriter::new(connector, StoreMetrics::register(&registry), "a status");
    assert!(!writer.write((0, "a", "u"), "m", json!({})).await);
    let file = |folder: &crate::cluster::testing::Folder| folder.path().join("kubeconfig");
    std::fs::copy(file(&other), file(&folder)).expect("copied");
    assert!(writer.write((0, "a", "u"), "m", json!({})).await);
    assert_eq!(sent.lock().len(), 1);
    let shown = registry.encode().expect("metrics");
    for result in ["success", "failure"] {
        let one = format!("picket_object_status_writes_total{{result=\"{result}\"}} 1");
        assert!(shown.contains(&one), "{shown}");
    }
}
