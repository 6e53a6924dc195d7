//! Requests whose objects rules look into: what is judged, what is sent, and what is recorded.

use std::time::Duration;

use http::{Request, StatusCode, header};
use picket_policy::PolicySet;
use serde_json::{Value, json};

use super::stored::KEPT;
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
async fn an_apply_that_creates_is_held_to_no_version() {
    let world = world_with("").await;
    let apply = |body| {
        let request =
            Request::patch(target(KEPT)).header(header::CONTENT_TYPE, "application/apply-patch+yaml");
        world.ask(request, body)
    };
    assert_eq!(apply("{\"mode\": \"wild\"}").await.status, StatusCode::FORBIDDEN);
    assert_eq!(apply("{\"mode\": \"mild\"}").await.status, StatusCode::CREATED);
    let sent: Value = serde_json::from_slice(&world.seen()[2].body).expect("JSON");
    assert_eq!(sent, json!({"mode": "mild"}));
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

const CREATED: &str = "{\"mode\": \"mild\", \"metadata\": {\"name\": \"x\"}}";

/// All the room that a pod has for bodies that are judged.
const ALL_ROOM: u64 = (4 << 20) - 1024;

/// Lets so much time pass for what waits. What is on its way has arrived before.
async fn pass(time: Duration) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn the_room_of_a_body_is_held_until_its_request_has_ended() {
    let world = world_with("").await;
    let slow = world.ask(
        Request::post(target("/api/v1/namespaces/n/configmaps?slow=1")),
        CREATED,
    );
    let while_it_is_under_way = async {
        world.seen_are(1).await;
        assert!(world.share.judged_at_once(ALL_ROOM).is_none());
    };
    let (answer, ()) = tokio::join!(slow, while_it_is_under_way);
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_for_which_there_is_no_room_is_refused_in_time() {
    let world = world_with("").await;
    let room = world.share.judged(ALL_ROOM).await.expect("all the room");
    let refused = tokio::time::timeout(Duration::from_secs(40), create(&world, CREATED));
    let (refused, ()) = tokio::join!(refused, pass(Duration::from_secs(11)));
    let answer = refused.expect("in time");
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(world.seen().is_empty());
    drop(room);
}

#[tokio::test]
async fn a_dry_run_counts_the_object_that_it_may_be_answered_with() {
    let world = world_with("").await;
    let room = world.share.judged(ALL_ROOM - (300 << 10)).await.expect("room");
    assert_eq!(create(&world, CREATED).await.status, StatusCode::OK);
    let mut waits = Box::pin(patch(&world, MAP, "{}"));
    let waited = tokio::time::timeout(Duration::from_millis(200), &mut waits).await;
    assert!(waited.is_err() && world.seen().len() == 1);
    drop(room);
    assert_eq!(waits.await.status, StatusCode::OK);
}

/// The beginning of the answer to a request whose body is still to come, once this time has passed and `rest` was sent.
async fn answer_after(world: &World, head: &str, time: Duration, rest: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut client = world.stream().await;
    let request = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: kubernetes.default.svc\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.expect("sent");
    pass(time).await;
    let mut read = vec![0; 8192];
    let answered = async {
        client.write_all(rest.as_bytes()).await.expect("sent");
        client.read(&mut read).await
    };
    let length = tokio::time::timeout(Duration::from_secs(20), answered).await;
    let length = length.expect("in time").expect("an answer");
    String::from_utf8_lossy(&read[..length]).into_owned()
}

#[tokio::test]
async fn a_body_that_rules_look_into_comes_in_time_or_is_refused() {
    let world = world_with("").await;
    let head = format!("Content-Length: {}", CREATED.len());
    let slow = answer_after(&world, &head, Duration::from_secs(21), "").await;
    assert!(slow.starts_with("HTTP/1.1 4"), "{slow}");
    assert!(world.seen().is_empty());
    // One that is only looked at to note something is not held to it.
    world.store.replace_for_tests(not_wild("  mode: Audit\n"));
    let noted = answer_after(&world, &head, Duration::from_secs(21), CREATED).await;
    assert!(noted.starts_with("HTTP/1.1 200"), "{noted}");
}

#[tokio::test]
async fn a_body_that_does_not_say_its_length_takes_the_room_of_the_longest() {
    let world = world_with("").await;
    let chunked = format!("{:x}\r\n{CREATED}\r\n0\r\n\r\n", CREATED.len());
    let head = "Transfer-Encoding: chunked";
    let room = world.share.judged(ALL_ROOM - (1 << 20)).await.expect("room");
    let answer = answer_after(&world, head, Duration::ZERO, &chunked);
    let while_it_waits = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.seen().is_empty());
        drop(room);
    };
    let (answer, ()) = tokio::join!(answer, while_it_waits);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_dense_body_takes_the_room_of_what_it_holds() {
    let world = world_with("").await;
    let body: &'static str = Box::leak("x".repeat(20 << 10).into_boxed_str());
    let ask = |media: &'static str| {
        let request = Request::post(target(MAPS)).header(header::CONTENT_TYPE, media);
        world.ask(request, body)
    };
    let room = world.share.judged(ALL_ROOM - (40 << 10)).await.expect("room");
    assert_eq!(ask("application/json").await.status, StatusCode::BAD_REQUEST);
    for media in ["application/cbor", "application/vnd.kubernetes.protobuf"] {
        let waited = tokio::time::timeout(Duration::from_millis(200), ask(media)).await;
        assert!(waited.is_err(), "{media}");
    }
    drop(room);
    assert_eq!(ask("application/cbor").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_body_that_is_too_long_takes_no_more_room_than_is_read_of_it() {
    let world = world_with("").await;
    let room = world.share.judged(ALL_ROOM - (2 << 20)).await.expect("room");
    let body: &'static str = Box::leak("x".repeat(5 << 20).into_boxed_str());
    let refused = tokio::time::timeout(Duration::from_secs(5), create(&world, body)).await;
    assert_eq!(refused.expect("in time").status, StatusCode::FORBIDDEN);
    drop(room);
}

#[tokio::test]
async fn a_dry_run_s_answer_that_cannot_be_read_refuses_the_patch() {
    let world = world_with("").await;
    let garbled = patch(&world, "/api/v1/namespaces/n/configmaps/garbled", "{}").await;
    assert_eq!(garbled.status, StatusCode::BAD_GATEWAY);
    // Of one that is too long nothing is known, so the rule about it holds.
    let huge = patch(&world, "/api/v1/namespaces/n/configmaps/huge", "{}").await;
    assert_eq!(huge.status, StatusCode::FORBIDDEN);
    assert_eq!(huge.json()["details"]["causes"][0]["field"], "guard/not-wild");
    assert_eq!(world.seen().len(), 2, "of each a probe alone");
}
