//! Requests whose objects rules look into: what is judged, what is sent, and what is recorded.

use std::time::Duration;

use http::{Request, StatusCode, header};
use picket_policy::PolicySet;
use serde_json::{Value, json};

use super::world::{Answer, World, policies, target};

const MAPS: &str = "/api/v1/namespaces/n/configmaps";
const MAP: &str = "/api/v1/namespaces/n/configmaps/x";

/// The world's objects with a rule that nobody stores `mode: wild`, of a policy with these fields.
fn not_wild(fields: &str) -> PolicySet {
    let rules = format!(
        "name: guard}}\nspec:\n{fields}  rules:\n  - {{name: not-wild, action: Deny, message: Not so., match: {{verbs: [create, update], \
         resources: [configmaps]}}, when: \"object.?mode.orValue('') == 'wild'\"}}\n"
    );
    policies("name: guard}\nspec:\n  rules:\n", &rules)
}

async fn create(world: &World, body: &'static str) -> Answer {
    world.ask(Request::post(target(MAPS)), body).await
}

async fn patch(world: &World, path: &'static str, body: &'static str) -> Answer {
    let request = Request::patch(target(path)).header(header::CONTENT_TYPE, "application/merge-patch+json");
    world.ask(request, body).await
}

/// A world in which that rule is in force.
async fn world_with(fields: &str) -> World {
    let world = World::new().await;
    world.store.replace_for_tests(not_wild(fields));
    world
}

#[tokio::test]
async fn what_is_judged_is_what_the_api_server_gets() {
    let world = world_with("").await;
    let answer = create(
        &world,
        "{ \"mode\": \"mild\", \"metadata\": {\"name\": \"\\u0078\"} }",
    )
    .await;
    assert_eq!(answer.status, StatusCode::OK);
    let seen = world.seen().pop().expect("a request");
    assert_eq!(seen.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(seen.headers[header::CONTENT_LENGTH], seen.body.len().to_string());
    let sent: Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!(
        sent,
        json!({"mode": "mild", "metadata": {"name": "x", "namespace": "n"}})
    );

    let answer = create(&world, "{\"mode\": \"wild\", \"metadata\": {\"name\": \"x\"}}").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let causes = &answer.json()["details"]["causes"];
    assert_eq!(
        causes[0],
        json!({"reason": "policy", "message": "the same request is refused again", "field": "guard/not-wild"})
    );
    let owner = causes.as_array().and_then(|causes| causes.last());
    assert_eq!(owner, Some(&json!({"reason": "owner", "message": "team-a"})));
    assert_eq!(world.seen().len(), 1, "it went to nobody");
}

#[tokio::test]
async fn a_body_that_is_refused_stays_out_of_the_record() {
    let world = world_with("").await;
    let answer = create(&world, "{\"pin-0123\": 1, \"pin-0123\": 2}").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(
        answer.json()["message"].to_string().contains("pin-0123"),
        "the client reads it"
    );
    assert!(world.seen().is_empty(), "it went to nobody");
    let record = world.ended(1).await.remove(0);
    assert_eq!(record["decision"]["reason"], "duplicate_key");
    assert!(!record.to_string().contains("pin-0123"), "{record:#}");
}

#[tokio::test]
async fn a_policy_in_mode_audit_changes_and_refuses_nothing() {
    let world = world_with("  mode: Audit\n").await;
    for body in [
        "{\"mode\": \"mild\", \"mode\": \"wild\"}",
        "{ \"mode\": \"wild\" }",
        "{",
    ] {
        assert_eq!(create(&world, body).await.status, StatusCode::OK, "{body}");
        assert_eq!(world.seen().pop().expect("a request").body, body, "as it came");
    }
    for record in world.ended(3).await {
        assert_eq!(
            record["decision"]["wouldDeny"][0]["rule"], "not-wild",
            "{record:#}"
        );
    }
    // A patch is probed, and goes on as it came.
    let body = "{ \"mode\": \"wild\" }";
    assert_eq!(patch(&world, MAP, body).await.status, StatusCode::OK);
    assert_eq!(world.seen().pop().expect("a request").body, body);
    let nowhere = "/api/v1/namespaces/n/configmaps/nowhere";
    assert_eq!(patch(&world, nowhere, body).await.status, StatusCode::OK);
    assert_eq!(world.seen().len(), 7, "two probes, and all that was asked");
    // Nor does it wait.
    let room = world
        .share
        .judged((4 << 20) - 1024)
        .await
        .expect("all the room that there is");
    assert_eq!(create(&world, "{}").await.status, StatusCode::OK);
    drop(room);
}

#[tokio::test]
async fn a_patch_is_probed_judged_and_bound() {
    let world = world_with("").await;
    assert_eq!(
        patch(&world, MAP, "{\"mode\": \"mild\"}").await.status,
        StatusCode::OK
    );
    let seen = world.seen();
    assert_eq!(seen[0].target, format!("{MAP}?dryRun=All"));
    assert_eq!(
        seen[0].headers["impersonate-user"],
        seen[1].headers["impersonate-user"]
    );
    assert_eq!(seen[1].target, MAP);
    let sent: Value = serde_json::from_slice(&seen[1].body).expect("JSON");
    assert_eq!(
        sent,
        json!({"mode": "mild", "metadata": {"resourceVersion": "7"}})
    );

    let refused = patch(&world, MAP, "{\"mode\": \"wild\"}").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let gone = patch(&world, "/api/v1/namespaces/n/configmaps/nowhere", "{}").await;
    assert_eq!(
        (gone.status, &gone.json()["reason"]),
        (StatusCode::NOT_FOUND, &"NotFound".into())
    );
    assert_eq!(gone.json()["message"], "configmaps \"nowhere\" not found");
    assert_eq!(world.seen().len(), 4, "of each a probe alone");
    let record = world.ended(3).await.pop().expect("a record");
    assert_eq!(record["decision"]["reason"], "dry_run");
    assert!(
        !record["decision"]["message"].to_string().contains("nowhere"),
        "{record:#}"
    );
}

#[tokio::test]
async fn bodies_that_are_judged_wait_for_room() {
    let world = world_with("").await;
    let room = world
        .share
        .judged((4 << 20) - 1024)
        .await
        .expect("all the room that there is");
    let body = "{\"mode\": \"mild\", \"metadata\": {\"name\": \"x\"}}";
    let mut waits = Box::pin(create(&world, body));
    let waited = tokio::time::timeout(Duration::from_millis(200), &mut waits).await;
    assert!(waited.is_err() && world.seen().is_empty());
    drop(room);
    assert_eq!(waits.await.status, StatusCode::OK);
    // It is free again once the request has ended.
    world.ended(1).await;
    assert!(world.share.judged_at_once((4 << 20) - 1024).is_some());
}
