//! Writes whose rules look at the object that is stored: what is asked for it, and that nothing else than what was judged is done.

use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use picket_policy::PolicySet;
use serde_json::{Value, json};

use super::stored::{KEPT, KEPT_SERVICE, Troubles};
use super::world::{Answer, World, policies, target};

/// The world's objects, where a rule keeps ConfigMaps that say so from deletion, and that label on them. Its policy has these fields.
fn protecting(fields: &str) -> PolicySet {
    let rule = format!(
        "name: guard}}\nspec:\n{fields}  rules:\n  - {{name: protected, action: Deny, message: It is protected., match: {{verbs: [create, \
         update, delete], resources: [configmaps]}}, when: \"oldObject != null && has(oldObject.metadata.labels) && \
         oldObject.metadata.labels.?protected.orValue('') == 'true' && (object == null || !has(object.metadata.labels) || \
         object.metadata.labels.?protected.orValue('') != 'true')\"}}\n  - {{name: unused, action: Deny, match: {{resources: [leases]}}}}\n  - \
         {{name: ask, action: Deny, match: {{resources: [secrets]}}}}\n  - {{name: hint, action: Warn, match: {{resources: [leases]}}}}\n"
    );
    policies(
        "name: guard}\nspec:\n  rules:\n  - {name: keep, action: Deny, message: Ask SRE., match: {verbs: [delete]}}\n  - {name: ask, action: \
         Deny, message: A person looks., match: {resources: [secrets]}}\n  - {name: hint, action: Warn, message: Mind the quota., match: \
         {verbs: [create]}}\n",
        &rule,
    )
}

async fn world_with(fields: &str, labels: Value) -> World {
    let world = World::new().await;
    world.store.replace_for_tests(protecting(fields));
    world.stored.put(labels);
    world
}

async fn patch(world: &World, body: &'static str) -> Answer {
    let request = Request::patch(target(KEPT)).header(header::CONTENT_TYPE, "application/merge-patch+json");
    world.ask(request, body).await
}

async fn put(world: &World, body: &'static str) -> Answer {
    world.ask(Request::put(target(KEPT)), body).await
}

async fn delete(world: &World) -> Answer {
    world.ask(Request::delete(target(KEPT)), "").await
}

/// What the API server was asked: the methods, a dry run as such.
fn asked(world: &World) -> Vec<String> {
    let seen = world.seen().into_iter();
    seen.map(|seen| match seen.target.contains("dryRun=All") {
        true => format!("dry {}", seen.method),
        false => seen.method.to_string(),
    })
    .collect()
}

/// The body that the API server got last.
fn last_body(world: &World) -> Value {
    let seen = world.seen().pop().expect("a request");
    serde_json::from_slice(&seen.body).expect("JSON")
}

fn reason(answer: &Answer) -> (StatusCode, Value) {
    (answer.status, answer.json()["reason"].clone())
}

const NO_LABEL: &str = r#"{"metadata": {"labels": {"protected": null}}}"#;
const RELABELLED: &str = r#"{"metadata": {"labels": {"team": "a"}}}"#;

#[tokio::test]
async fn a_write_is_judged_by_the_stored_object_which_no_client_sees() {
    let world = world_with("", json!({"protected": "true"})).await;
    let before = world.stored.object();
    for answer in [
        put(&world, "{}").await,
        patch(&world, NO_LABEL).await,
        delete(&world).await,
    ] {
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        let message = answer.json()["message"].to_string();
        assert!(
            message.contains("(policy guard, rule protected): It is protected."),
            "{message}"
        );
        assert!(!answer.body.windows(4).any(|window| window == b"hush"));
    }
    assert_eq!(asked(&world), ["GET", "GET", "dry PATCH", "GET"]);
    assert_eq!(world.stored.object(), before);
    let look = &world.seen()[0];
    assert_eq!((look.target.as_str(), &look.body[..]), (KEPT, &b""[..]));
    assert_eq!(look.headers["impersonate-user"], "agent:fixer");
    // What keeps the label passes.
    assert_eq!(patch(&world, RELABELLED).await.status, StatusCode::OK);
    assert_eq!(last_body(&world)["metadata"]["resourceVersion"], "5");
    let records = world.ended(4).await;
    assert_eq!(records.len(), 4, "one of each request: {records:#?}");
    // The API server's log tells Picket's questions from what the client asked.
    let id = records[3]["auditID"].as_str().expect("an id");
    let ids: Vec<_> = world.seen()[4..]
        .iter()
        .map(|seen| seen.headers["audit-id"].to_str().expect("text").to_owned())
        .collect();
    assert_eq!(ids, [format!("{id}.get"), format!("{id}.dry-run"), id.to_owned()]);
}

#[tokio::test]
async fn a_write_that_is_let_through_names_what_was_judged() {
    let world = world_with("", json!({})).await;
    assert_eq!(put(&world, "{\"data\": {}}").await.status, StatusCode::OK);
    assert_eq!(
        last_body(&world)["metadata"],
        json!({"resourceVersion": "5", "uid": "u1"})
    );
    let deleted = delete(&world).await;
    assert_eq!(deleted.status, StatusCode::OK, "{:?}", deleted.body);
    let preconditions = &last_body(&world)["preconditions"];
    assert_eq!(preconditions["resourceVersion"], "6");
    let seen = world.seen().pop().expect("a request");
    assert_eq!(seen.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(world.stored.object(), None);
    // What is not there is not judged, and nothing that comes by now is hit.
    assert_eq!(reason(&delete(&world).await).0, StatusCode::NOT_FOUND);
    assert_eq!(
        last_body(&world)["preconditions"],
        json!({"resourceVersion": "1"})
    );
    let apply = Request::patch(target(KEPT)).header(header::CONTENT_TYPE, "application/apply-patch+yaml");
    assert_eq!(
        world.ask(apply, "{\"data\": {}}").await.status,
        StatusCode::CREATED
    );
    assert_eq!(last_body(&world)["metadata"]["resourceVersion"], "1");
}

#[tokio::test]
async fn a_dry_run_that_deletes_stays_one() {
    let world = world_with("", json!({})).await;
    let dry = |body| {
        let query = "/api/v1/namespaces/n/configmaps/kept?dryRun=All&gracePeriodSeconds=0";
        world.ask(Request::delete(target(query)), body)
    };
    assert_eq!(dry("").await.status, StatusCode::OK);
    assert!(world.stored.object().is_some(), "it is still there");
    assert_eq!(
        last_body(&world),
        json!({
            "dryRun": ["All"], "gracePeriodSeconds": 0,
            "preconditions": {"resourceVersion": "5", "uid": "u1"},
        })
    );
    // The API server looks at the body alone where there is one.
    assert_eq!(dry("{\"dryRun\": [\"All\"]}").await.status, StatusCode::OK);
    assert!(world.stored.object().is_some());
    assert_eq!(
        dry("{\"propagationPolicy\": \"Orphan\"}").await.status,
        StatusCode::OK
    );
    assert_eq!(last_body(&world)["propagationPolicy"], "Orphan");
    assert_eq!(world.stored.object(), None);
    // An option that is not known would be lost.
    let unknown = target("/api/v1/namespaces/n/configmaps/kept?later=1");
    world.stored.put(json!({}));
    let refused = world.ask(Request::delete(unknown), "").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(world.stored.object().is_some());
}

#[tokio::test]
async fn a_stored_object_that_cannot_be_seen_refuses_the_write() {
    let world = world_with("  failurePolicy: Ignore\n", json!({})).await;
    let got = |code| Troubles {
        get: Some(code),
        ..Troubles::default()
    };
    world.stored.trouble(got(StatusCode::FORBIDDEN));
    let refused = delete(&world).await;
    let message = refused.json()["message"].to_string();
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(
        message.contains("(policy guard, rule protected)")
            && message.contains("the agent's user needs `get` on it"),
        "{message}"
    );
    world.stored.trouble(got(StatusCode::METHOD_NOT_ALLOWED));
    let refused = delete(&world).await.json()["message"].to_string();
    assert!(refused.contains("the stored object is not known"), "{refused}");
    // What failed says so, and is no verdict.
    for code in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::TOO_MANY_REQUESTS] {
        world.stored.trouble(got(code));
        let failed = delete(&world).await;
        assert_eq!(failed.status, code);
        assert_eq!(failed.json()["message"], "Trouble of the API server");
        let is_told_when = failed.headers.contains_key(header::RETRY_AFTER);
        assert_eq!(is_told_when, code == StatusCode::TOO_MANY_REQUESTS);
    }
    world.stored.trouble(Troubles::default());
    world.stored.fill(2 << 20);
    for answer in [
        delete(&world).await,
        put(&world, "{}").await,
        patch(&world, "{}").await,
    ] {
        let message = answer.json()["message"].to_string();
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(message.contains("larger than 1.5 MiB"), "{message}");
    }
    assert!(world.stored.object().is_some());
    let sent = asked(&world);
    assert!(
        sent.iter().all(|asked| asked == "GET" || asked == "dry PATCH"),
        "{sent:?}"
    );
    let records = world.ended(7).await;
    assert_eq!(records[2]["decision"]["reason"], "old_object", "{records:#?}");
}

/// A small value takes far more memory than its text.
#[tokio::test]
async fn an_answer_with_too_many_values_is_not_read() {
    let world = world_with("", json!({"list": vec![0; 300_000]})).await;
    for answer in [delete(&world).await, patch(&world, RELABELLED).await] {
        let message = answer.json()["message"].to_string();
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(message.contains("larger than 1.5 MiB"), "{message}");
    }
    assert_eq!(asked(&world), ["GET", "GET", "dry PATCH"]);
    // Nor is what a patch makes, where a rule looks at that alone.
    let new = "name: guard}\nspec:\n  rules:\n  - {name: wild, action: Deny, match: {verbs: [update], resources: [configmaps]}, when: \
               \"object.?mode.orValue('') == 'wild'\"}\n";
    world
        .store
        .replace_for_tests(policies("name: guard}\nspec:\n  rules:\n", new));
    let refused = patch(&world, RELABELLED).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let message = refused.json()["message"].to_string();
    assert!(message.contains("larger than 1.5 MiB"), "{message}");
    assert_eq!(asked(&world)[3..], ["dry PATCH"]);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_refuses_the_write() {
    let world = world_with("", json!({})).await;
    let garbled = Request::delete(target("/api/v1/namespaces/n/configmaps/garbled"));
    let refused = world.ask(garbled, "").await;
    assert_eq!(refused.status, StatusCode::BAD_GATEWAY);
    assert_eq!(asked(&world), ["GET"]);
}

#[tokio::test]
async fn a_slow_answer_is_waited_for() {
    let world = world_with("", json!({})).await;
    world.stored.trouble(Troubles {
        slow: Duration::from_millis(300),
        ..Troubles::default()
    });
    assert_eq!(delete(&world).await.status, StatusCode::OK);
    assert_eq!(asked(&world), ["GET", "DELETE"]);
}

#[tokio::test]
async fn a_client_that_names_another_version_gets_its_conflict() {
    let world = world_with("", json!({})).await;
    let other = put(&world, r#"{"metadata": {"resourceVersion": "4"}}"#).await;
    assert_eq!(reason(&other), (StatusCode::CONFLICT, "Conflict".into()));
    assert!(
        other.json()["message"]
            .to_string()
            .contains("Operation cannot be fulfilled on configmaps"),
        "{:?}",
        other.body
    );
    let gone = world
        .ask(
            Request::delete(target(KEPT)),
            r#"{"preconditions": {"uid": "u2"}}"#,
        )
        .await;
    assert_eq!(reason(&gone), (StatusCode::CONFLICT, "Conflict".into()));
    assert_eq!(asked(&world), ["GET", "GET"]);
    assert_eq!(world.ended(2).await[0]["decision"]["reason"], "conflict");
    // A conflict that is the client's own is not tried again.
    world.stored.trouble(Troubles {
        writes_before_writes: 9,
        ..Troubles::default()
    });
    let own = put(&world, r#"{"metadata": {"resourceVersion": "5"}}"#).await;
    assert_eq!(own.status, StatusCode::CONFLICT);
    assert_eq!(asked(&world)[2..], ["GET", "PUT"]);
}

#[tokio::test]
async fn a_conflict_that_picket_brought_about_is_tried_again() {
    let once = || Troubles {
        writes_before_writes: 1,
        ..Troubles::default()
    };
    for method in [Method::PATCH, Method::PUT, Method::DELETE] {
        let world = world_with("", json!({})).await;
        world.stored.trouble(once());
        let answer = match method {
            Method::PATCH => patch(&world, RELABELLED).await,
            Method::PUT => put(&world, "{\"data\": {}}").await,
            _ => delete(&world).await,
        };
        assert_eq!(answer.status, StatusCode::OK, "{method}");
        let sent = asked(&world);
        let writes = sent.iter().filter(|asked| *asked == method.as_str()).count();
        assert_eq!(
            (writes, sent.iter().filter(|asked| *asked == "GET").count()),
            (2, 2),
            "{sent:?}"
        );
        let records = world.ended(1).await;
        assert_eq!(records.len(), 1, "{records:#?}");
        assert_eq!(records[0]["responseStatus"]["code"], 200);
        assert_eq!(records[0]["decision"]["outcome"], "allow");
    }
    // Twice, and then it is well.
    let world = world_with("", json!({})).await;
    world.stored.trouble(Troubles {
        writes_before_writes: 2,
        ..Troubles::default()
    });
    assert_eq!(patch(&world, RELABELLED).await.status, StatusCode::OK);
    assert_eq!(
        world.stored.object().expect("an object")["metadata"]["labels"],
        json!({"team": "a"})
    );
}

#[tokio::test]
async fn a_conflict_without_end_is_the_clients_in_the_end() {
    let world = world_with("", json!({})).await;
    world.stored.trouble(Troubles {
        writes_before_writes: u32::MAX,
        ..Troubles::default()
    });
    let answer = patch(&world, RELABELLED).await;
    assert_eq!(reason(&answer), (StatusCode::CONFLICT, "Conflict".into()));
    assert_eq!(answer.json()["message"], "Conflict of the API server", "as it is");
    let sent = asked(&world);
    assert_eq!(
        sent.iter().filter(|asked| *asked == "PATCH").count(),
        3,
        "{sent:?}"
    );
    let records = world.ended(1).await;
    assert_eq!(
        (records.len(), &records[0]["responseStatus"]["code"]),
        (1, &409.into())
    );
}

#[tokio::test]
async fn an_object_that_keeps_changing_while_a_write_is_tried_again_is_the_clients_conflict() {
    let world = world_with("", json!({})).await;
    world.stored.trouble(Troubles {
        writes_before_writes: 1,
        then_before_dry_runs: u32::MAX,
        ..Troubles::default()
    });
    let answer = patch(&world, RELABELLED).await;
    assert_eq!(reason(&answer), (StatusCode::CONFLICT, "Conflict".into()));
    let sent = asked(&world);
    let count = |what: &str| sent.iter().filter(|asked| *asked == what).count();
    assert_eq!((count("PATCH"), count("dry PATCH")), (1, 1 + 3), "{sent:?}");
}

#[tokio::test]
async fn each_try_is_judged_anew() {
    let world = world_with("", json!({})).await;
    world.stored.trouble(Troubles {
        writes_before_writes: 1,
        protects: true,
        ..Troubles::default()
    });
    let answer = delete(&world).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(asked(&world), ["GET", "DELETE", "GET"]);
    assert!(
        world.stored.object().is_some(),
        "what is protected by now is still there"
    );
    let records = world.ended(1).await;
    let [record] = &records[..] else {
        panic!("{records:#?}")
    };
    assert_eq!(record["decision"]["outcome"], "deny");
    assert_eq!(record["decision"]["rule"], "protected");
    assert_eq!(record["responseStatus"]["code"], 403);
}

#[tokio::test]
async fn a_patch_is_made_of_the_object_that_was_looked_at() {
    let world = world_with("", json!({})).await;
    world.stored.trouble(Troubles {
        writes_before_dry_runs: 1,
        protects: true,
        ..Troubles::default()
    });
    let answer = patch(&world, NO_LABEL).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "the label came in between");
    assert_eq!(asked(&world), ["GET", "dry PATCH", "GET", "dry PATCH"]);
    world.stored.put(json!({}));
    world.stored.trouble(Troubles {
        writes_before_dry_runs: u32::MAX,
        ..Troubles::default()
    });
    let answer = patch(&world, RELABELLED).await;
    assert_eq!(reason(&answer), (StatusCode::CONFLICT, "Conflict".into()));
    assert_eq!(asked(&world).len(), 4 + 6, "three looks");
}

#[tokio::test]
async fn rules_that_only_note_refuse_nothing_and_change_nothing() {
    let world = world_with("  mode: Audit\n", json!({"protected": "true"})).await;
    assert_eq!(put(&world, "{ \"data\": {}}").await.status, StatusCode::OK);
    assert_eq!(
        world.seen().pop().expect("a request").body,
        "{ \"data\": {}}",
        "as it came"
    );
    for get in [StatusCode::FORBIDDEN, StatusCode::INTERNAL_SERVER_ERROR] {
        world.stored.put(json!({"protected": "true"}));
        world.stored.trouble(Troubles {
            get: Some(get),
            ..Troubles::default()
        });
        assert_eq!(delete(&world).await.status, StatusCode::OK);
        assert_eq!(world.seen().pop().expect("a request").body, "", "as it came");
    }
    for record in world.ended(3).await {
        assert_eq!(
            record["decision"]["wouldDeny"][0]["rule"], "protected",
            "{record:#}"
        );
    }
    // What is noted is true, where the object could be looked at.
    world.stored.put(json!({}));
    world.stored.trouble(Troubles::default());
    assert_eq!(delete(&world).await.status, StatusCode::OK);
    let record = world.ended(4).await.pop().expect("a record");
    assert_eq!(record["decision"].get("wouldDeny"), None, "{record:#}");
    // Nor do they wait for room.
    let room = world
        .share
        .judged((4 << 20) - 1024)
        .await
        .expect("all the room that there is");
    world.stored.put(json!({}));
    assert_eq!(delete(&world).await.status, StatusCode::OK);
    drop(room);
}

#[tokio::test]
async fn an_answer_that_is_looked_at_has_room_first() {
    let world = world_with("", json!({})).await;
    let room = world
        .share
        .judged((4 << 20) - 1024 - (300 << 10))
        .await
        .expect("room for less than an answer is left");
    let mut waits = Box::pin(put(&world, "{}"));
    let waited = tokio::time::timeout(Duration::from_millis(200), &mut waits).await;
    assert!(waited.is_err() && world.seen().is_empty());
    drop(room);
    assert_eq!(waits.await.status, StatusCode::OK);
    world.ended(1).await;
    assert!(world.share.judged_at_once((4 << 20) - 1024).is_some());
}

#[tokio::test]
async fn a_patch_that_cannot_be_held_to_what_was_judged_is_refused() {
    let world = World::new().await;
    let frozen = |mode: &str| {
        let rule = "name: frozen, action: Deny, match: {verbs: [update], resources: [configmaps]}, when: \"oldObject != null && \
                    oldObject.?data.?frozen.orValue('') == 'yes'\"";
        let policy = format!("name: guard}}\nspec:\n  mode: {mode}\n  rules:\n  - {{{rule}}}\n");
        policies("name: guard}\nspec:\n  rules:\n", &policy)
    };
    world.store.replace_for_tests(frozen("Enforce"));
    world.stored.put(json!({}));
    world.stored.fill(1 << 20);
    assert_eq!(patch(&world, RELABELLED).await.status, StatusCode::OK);
    let patch_of = |bytes: usize| -> &'static str {
        Box::leak(format!("{{\"data\": {{\"more\": \"{}\"}}}}", "y".repeat(bytes)).into_boxed_str())
    };
    // What it makes is too large to be read, and then the patch itself.
    for bytes in [800 << 10, 2 << 20] {
        let answer = patch(&world, patch_of(bytes)).await;
        let message = answer.json()["message"].to_string();
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(message.contains("larger than 1.5 MiB"), "{message}");
    }
    let stored = world.stored.object().expect("an object");
    assert_eq!(stored["data"].get("more"), None);
    // One that no dry run can be made of is held to nothing.
    let odd = Request::patch(target("/api/v1/namespaces/n/configmaps/kept?dryRun=None"));
    let odd = odd.header(header::CONTENT_TYPE, "application/merge-patch+json");
    let answer = world.ask(odd, RELABELLED).await;
    let message = answer.json()["message"].to_string();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(message.contains("the stored object is not known"), "{message}");
    assert_eq!(asked(&world).last().map(String::as_str), Some("GET"));
    // A rule that only notes has looked at the object all the same.
    world.store.replace_for_tests(frozen("Audit"));
    assert_eq!(patch(&world, patch_of(800 << 10)).await.status, StatusCode::OK);
    let record = world.ended(5).await.pop().expect("a record");
    assert_eq!(record["decision"].get("wouldDeny"), None, "{record:#}");
}

/// Whether an update creates shows in the API server alone. One that is held to a version does not.
#[tokio::test]
async fn an_update_that_is_held_to_a_version_creates_nothing_and_another_may() {
    let world = World::new().await;
    for (action, status) in [("Deny", StatusCode::OK), ("Warn", StatusCode::FORBIDDEN)] {
        let rules = format!(
            "name: guard}}\nspec:\n  rules:\n  - {{name: frozen, action: {action}, match: {{verbs: [update], resources: [services]}}, when: \
             \"oldObject != null && oldObject.?data.?frozen.orValue('') == 'yes'\"}}\n  - {{name: none, action: Deny, match: {{verbs: [create], \
             resources: [services]}}, when: \"object != null && request.operation == 'CREATE'\"}}\n"
        );
        let set = policies("name: guard}\nspec:\n  rules:\n", &rules);
        world.store.replace_for_tests(set);
        world.stored.put(json!({}));
        let answer = world
            .ask(Request::put(target(KEPT_SERVICE)), "{\"data\": {}}")
            .await;
        assert_eq!(answer.status, status, "{action}");
    }
}
