//! Lists and watches from which rules hide objects: what the client gets, what the API server is asked, and what is recorded.

use std::time::{Duration, Instant};

use http::{Request, StatusCode, header};
use picket_policy::PolicySet;
use serde_json::{Value, json};

use super::sessions::follow_as;
use super::world::{Answer, World, policies, target};

/// The world's objects with a Filter rule.
fn hiding() -> PolicySet {
    policies(
        "  rules:\n  - {name: keep,",
        "  rules:\n  - {name: not-pay, action: Filter, message: Others see it., match: {verbs: [get, list, watch], resources: [pods], \
         namespaces: [pay]}}\n  - {name: keep,",
    )
}

async fn world() -> World {
    let world = World::new().await;
    world.store.replace_for_tests(hiding());
    world
}

async fn list(world: &World, path: &'static str) -> Answer {
    world.ask(Request::get(target(path)), "").await
}

#[tokio::test]
async fn hidden_objects_are_taken_out_of_a_list() {
    let world = world().await;
    let request = Request::get(target("/api/v1/pods?items=list"))
        .header(header::ACCEPT, "application/cbor, application/json;q=0.9")
        .header(header::ACCEPT_ENCODING, "gzip");
    let answer = world.ask(request, "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let names: Vec<_> = answer.json()["items"].as_array().expect("items").clone();
    assert_eq!(names, [json!({"metadata": {"name": "a", "namespace": "shop"}})]);
    assert_eq!(answer.json()["metadata"]["resourceVersion"], "9");
    assert!(
        !answer.headers.contains_key(header::CONTENT_LENGTH),
        "it would be the whole list's"
    );
    assert_eq!(
        answer.headers[header::WARNING],
        "299 - \"policy guard, rule not-pay: Others see it.\""
    );
    let seen = world.seen().pop().expect("a request");
    assert_eq!(seen.headers[header::ACCEPT], "application/json;q=0.9");
    assert_eq!(seen.headers[header::ACCEPT_ENCODING], "identity");
    let record = world.ended(1).await.remove(0);
    assert_eq!(record["decision"]["outcome"], "masked", "{record:#}");
    assert_eq!(
        record["masking"],
        json!({"rules": ["guard/not-pay"], "counts": {"items": 2, "hidden": 1}})
    );
    assert_eq!(record["annotations"]["authorization.k8s.io/decision"], "allow");

    // One in a namespace of its own passes as it was.
    let whole = list(&world, "/api/v1/namespaces/shop/pods?items=list").await;
    assert!(whole.headers.contains_key(header::CONTENT_LENGTH));
    let refused = list(&world, "/api/v1/namespaces/pay/pods?items=list").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.json()["details"]["causes"][0]["field"], "guard/not-pay");
}

#[tokio::test]
async fn what_cannot_be_filtered_never_reaches_the_client() {
    let world = world().await;
    let yaml = Request::get(target("/api/v1/pods?items=list")).header(header::ACCEPT, "application/yaml");
    let refused = world.ask(yaml, "").await;
    assert_eq!(refused.status, StatusCode::NOT_ACCEPTABLE);
    let message = refused.json()["message"].to_string();
    assert!(
        message.contains("guard/not-pay") && message.contains("Accept: application/json"),
        "{message}"
    );
    assert!(world.seen().is_empty(), "nobody was asked");

    for (path, named) in [
        ("/api/v1/pods?items=text", "text/plain"),
        ("/api/v1/pods?items=zipped", "application/json"),
    ] {
        let refused = list(&world, path).await;
        assert_eq!(refused.status, StatusCode::BAD_GATEWAY, "{path}");
        assert!(refused.json()["message"].to_string().contains(named), "{path}");
    }
    // What the API server says of a failure in its own way may quote anything; its code and when to try again pass.
    let busy = list(&world, "/api/v1/pods?items=busy").await;
    assert_eq!(busy.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(busy.headers[header::RETRY_AFTER], "7");
    assert_eq!(busy.json()["reason"], "TooManyRequests");
    assert_eq!(busy.json()["details"]["retryAfterSeconds"], 7);
    assert!(!String::from_utf8_lossy(&busy.body).contains("hush"));
    // The API server's own refusal passes.
    let status = list(&world, "/api/v1/pods?items=status").await;
    assert_eq!(
        (status.status, &status.json()["reason"]),
        (StatusCode::CONFLICT, &"Conflict".into())
    );

    for (path, why) in [
        ("/api/v1/pods?items=nameless", "no metadata.name"),
        ("/api/v1/pods?items=other", "no list that Picket knows"),
        ("/api/v1/pods?items=begun", "ended before"),
    ] {
        let refused = list(&world, path).await;
        assert_eq!(refused.status, StatusCode::BAD_GATEWAY, "{path}");
        let message = refused.json()["message"].to_string();
        assert!(
            message.contains("guard/not-pay") && message.contains(why),
            "{message}"
        );
    }
    // What shows too late that it cannot be read.
    let broken = broken_off(&world, "/api/v1/pods?items=cut").await;
    assert!(!String::from_utf8_lossy(&broken).contains("hush"));
    for (record, reason) in world.ended(9).await.iter().zip([
        "not_acceptable",
        "unfilterable",
        "unfilterable",
        "answer_withheld",
        "",
        "unfilterable",
        "unfilterable",
        "unfilterable",
        "unfilterable",
    ]) {
        assert_eq!(
            record["decision"]["reason"].as_str().unwrap_or_default(),
            reason,
            "{record:#}"
        );
    }
}

/// What a client gets of a response that breaks off.
async fn broken_off(world: &World, path: &'static str) -> Vec<u8> {
    use http_body_util::BodyExt as _;
    let mut sender = world.connect().await;
    let request = Request::get(target(path)).header(header::HOST, "kubernetes.default.svc");
    let request = request.body(http_body_util::Full::default()).expect("a request");
    // Where the connection breaks before its first bytes have left there is no answer at all.
    let Ok(answer) = sender.send_request(request).await else {
        return Vec::new();
    };
    let mut body = answer.into_body();
    let mut got = Vec::new();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => got.extend_from_slice(&frame.into_data().expect("data")),
            Some(Err(_)) => return got,
            None => panic!("{path}: it looks whole"),
        }
    }
}

#[tokio::test]
async fn a_response_waits_for_nobody_where_the_pod_s_memory_for_items_is_taken() {
    let world = world().await;
    let taken = world.share.filtered((64 << 20) - 1024).expect("all of it");
    let refused = list(&world, "/api/v1/pods?items=large").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    let record = world.ended(1).await.remove(0);
    assert_eq!(record["decision"]["reason"], "filters_busy");
    drop(taken);
    let whole = list(&world, "/api/v1/pods?items=large").await;
    assert_eq!(whole.json()["items"].as_array().map(Vec::len), Some(1));
    world.ended(2).await;
    assert!(
        world.share.filtered((64 << 20) - 1024).is_some(),
        "it is free again"
    );
}

#[tokio::test]
async fn a_watch_goes_on_without_hidden_objects_and_ends_when_rules_hide_others() {
    let world = world().await;
    let watch = "/api/v1/pods?watch=true&items=events";
    let request = || Request::get(target(watch)).header(header::HOST, "kubernetes.default.svc");
    let watching = follow_as(&world, request()).await;
    let started = world.records().await;
    assert_eq!(
        started.last().expect("a record")["masking"],
        json!({"rules": ["guard/not-pay"]})
    );
    world.store.replace_for_tests(hiding());
    world.sessions.sweep(Instant::now());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!watching.is_finished(), "the same rules hide the same");
    world.store.replace_for_tests(policies("", ""));
    assert_eq!(world.sessions.sweep(Instant::now()), 1);
    let seen = watching.await.expect("ended");
    let rest = String::from_utf8(seen.rest).expect("text");
    assert!(!rest.contains("hush"), "{rest}");
    let last: Value = serde_json::from_str(rest.lines().last().expect("an event")).expect("JSON");
    assert_eq!(
        (&last["type"], &last["object"]["code"]),
        (&"ERROR".into(), &410.into()),
        "{rest}"
    );
    assert_eq!(last["object"]["reason"], "Expired");
    let record = world.ended(1).await.remove(0);
    assert_eq!(record["masking"]["counts"], json!({"items": 3, "hidden": 1}));
    assert_eq!(record["session"]["endCause"], "filter_changed");
}

#[tokio::test]
async fn a_watch_that_cannot_be_filtered_any_further_says_so() {
    use http_body_util::BodyExt as _;
    let world = world().await;
    let mut sender = world.connect().await;
    let request = Request::get(target("/api/v1/pods?watch=true&items=nameless"))
        .header(header::HOST, "kubernetes.default.svc")
        .body(http_body_util::Full::default())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let said = answer.into_body().collect().await.expect("in order").to_bytes();
    let last: Value = serde_json::from_slice(&said).expect("one event");
    assert_eq!(
        (&last["type"], &last["object"]["code"]),
        (&"ERROR".into(), &502.into()),
        "{last:#}"
    );
    assert!(
        last["object"]["message"].to_string().contains("guard/not-pay"),
        "{last:#}"
    );
    let record = world.ended(1).await.remove(0);
    assert_eq!(record["decision"]["reason"], "unfilterable", "{record:#}");
}

#[tokio::test]
async fn a_list_whose_first_item_comes_after_a_change_is_judged_again() {
    let world = world().await;
    let listing = list(&world, "/api/v1/pods?items=list&slow=1");
    let changing = async {
        world.seen_are(1).await;
        world.store.replace_for_tests(policies(
            "  - {name: keep,",
            "  - {name: none, action: Deny, match: {resources: [pods]}}\n  - {name: keep,",
        ));
    };
    let (answer, ()) = tokio::join!(listing, changing);
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{:?}", answer.body);
    assert_eq!(answer.json()["details"]["causes"][0]["field"], "guard/none");
    // The same rules hide the same; without them it would lack what the agent may see now.
    for (policies, status) in [(hiding(), StatusCode::OK), (policies("", ""), StatusCode::GONE)] {
        world.store.replace_for_tests(hiding());
        let count = world.seen().len();
        let listing = list(&world, "/api/v1/pods?items=list&slow=1");
        let changing = async {
            world.seen_are(count + 1).await;
            world.store.replace_for_tests(policies);
        };
        let (answer, ()) = tokio::join!(listing, changing);
        assert_eq!(answer.status, status, "{:?}", answer.body);
    }
}

#[tokio::test]
async fn nothing_in_a_head_tells_of_what_is_hidden() {
    let world = world().await;
    let tagged = list(&world, "/api/v1/pods?items=tagged").await;
    assert_eq!(tagged.json()["items"].as_array().map(Vec::len), Some(1));
    let head = world
        .ask(Request::head(target("/api/v1/pods?items=tagged")), "")
        .await;
    assert_eq!(head.status, StatusCode::OK);
    for headers in [&tagged.headers, &head.headers] {
        for name in [header::ETAG, header::CONTENT_LENGTH] {
            assert!(!headers.contains_key(&name), "{name}: {headers:?}");
        }
    }
    // Of a HEAD there is no body that could be read.
    let zipped = world
        .ask(Request::head(target("/api/v1/pods?items=zipped")), "")
        .await;
    assert_eq!(zipped.status, StatusCode::OK);
}

#[tokio::test]
async fn a_watch_that_fails_is_answered_with_the_api_server_s_status() {
    let world = world().await;
    let failed = list(&world, "/api/v1/pods?watch=1&items=status").await;
    assert_eq!(
        (failed.status, &failed.json()["reason"]),
        (StatusCode::CONFLICT, &"Conflict".into())
    );
}

#[tokio::test]
async fn a_list_that_never_comes_to_an_item_is_not_held_back() {
    use http_body_util::BodyExt as _;
    let world = world().await;
    let mut sender = world.connect().await;
    let request = Request::get(target("/api/v1/pods?items=without-end"))
        .header(header::HOST, "kubernetes.default.svc")
        .body(http_body_util::Full::default())
        .expect("a request");
    let answer = tokio::time::timeout(Duration::from_secs(20), sender.send_request(request));
    let answer = answer.await.expect("it does not wait").expect("an answer");
    let mut body = answer.into_body();
    let first = body.frame().await.expect("a frame").expect("data");
    assert!(first.into_data().expect("data").starts_with(b"{\"items\":[]"));
}
