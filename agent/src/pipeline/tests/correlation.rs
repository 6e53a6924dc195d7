//! How a request is found again: by the id that its answer names, and by what its client sends with it.

use http::{Request, StatusCode};
use picket_policy::PolicySet;
use serde_json::{Value, json};

use super::world::{World, target};

/// The record of a refusal is the one that its `Audit-Id` names, whoever refused.
#[tokio::test]
async fn each_answer_of_pickets_own_names_its_record() {
    let mut world = World::new().await;
    let denied = Request::delete(target("/api/v1/namespaces/n/pods/x"));
    let unreadable = Request::get(target("/api/v1//pods"));
    let held = Request::get(target("/api/v1/namespaces/n/secrets/x"));
    let mut answers = Vec::new();
    for request in [denied, unreadable, held] {
        answers.push(world.ask(request, "").await);
    }
    world.lose_server().await;
    let unreachable = Request::get(target("/api/v1/namespaces/n/pods/x"));
    answers.push(world.ask(unreachable, "").await);
    world.store.replace_for_tests(PolicySet::default());
    let nobody = Request::get(target("/api/v1/namespaces/n/pods/x"));
    answers.push(world.ask(nobody, "").await);

    let mut records = world.records().await;
    records.retain(|record| record["stage"] == "ResponseComplete");
    assert_eq!(records.len(), answers.len(), "{records:#?}");
    for (record, answer) in records.iter().zip(&answers) {
        assert!(answer.status.as_u16() >= 400, "{record:#}");
        assert_eq!(record["responseStatus"]["code"], answer.status.as_u16());
        let ids: Vec<_> = answer.headers.get_all("audit-id").iter().collect();
        assert_eq!(ids, [record["auditID"].as_str().expect("an id")]);
    }
}

#[tokio::test]
async fn what_a_client_sends_to_correlate_travels_and_is_recorded() {
    let world = World::new().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let session = "4b5d62a4-4a5c-4e8c-9d6c-0b6f0c6f0c6f";
    let request = Request::get(target("/api/v1/namespaces/n/pods/x"))
        .header("Traceparent", parent)
        .header("Kubectl-Session", session)
        .header("Kubectl-Command", "kubectl get");
    assert_eq!(world.ask(request, "").await.status, StatusCode::OK);
    let seen = &world.seen()[0].headers;
    assert_eq!(
        (
            &seen["traceparent"],
            &seen["kubectl-session"],
            &seen["kubectl-command"]
        ),
        (
            &parent.parse().expect("a value"),
            &session.parse().expect("a value"),
            &"kubectl get".parse().expect("a value")
        )
    );
    let records = world.records().await;
    let trace = json!({"traceparent": parent, "kubectlSession": session, "kubectlCommand": "kubectl get"});
    assert_eq!(records[0]["trace"], trace);
}

/// The client chooses these values, and a refusal costs it nothing.
#[tokio::test]
async fn what_a_client_sends_to_correlate_is_bounded_in_the_record() {
    let world = World::new().await;
    let long = "many words ".repeat(500);
    let request = Request::get(target("/api/v1/namespaces/n/pods/x"))
        .header("traceparent", &long)
        .header("kubectl-session", "password=hunter2")
        .header("kubectl-command", &b"kubectl \xff"[..]);
    assert_eq!(world.ask(request, "").await.status, StatusCode::OK);
    let plain = Request::get(target("/api/v1/namespaces/n/pods/x"));
    assert_eq!(world.ask(plain, "").await.status, StatusCode::OK);
    let records = world.records().await;
    let trace = &records[0]["trace"];
    let kept = trace["traceparent"].as_str().expect("kept");
    assert!(kept.len() < 200 && kept.ends_with("...TRUNCATED"), "{kept}");
    assert!(
        !trace["kubectlSession"].to_string().contains("hunter2"),
        "{trace}"
    );
    assert_eq!(trace["kubectlCommand"], "kubectl \u{fffd}");
    assert_eq!(records[1]["trace"], Value::Null);
}
