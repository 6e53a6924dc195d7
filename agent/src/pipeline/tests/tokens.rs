//! Grants with `upstream.serviceAccount`: a token of the account is the only credential of the requests.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use http::{Request, StatusCode, header};
use serde_json::Value;

use super::issuer::token;
use super::world::{Seen, World, ask_over, policies, target};

const GET: &str = "/api/v1/namespaces/n/pods/x";
const TOKEN: &str = "/api/v1/namespaces/ci/serviceaccounts/bot/token";

/// A world whose agent acts by tokens of `ci/bot`, and whose node has a client certificate.
async fn world() -> World {
    let (world, _) = World::with_certificate().await;
    world.store.replace_for_tests(policies(
        "impersonate: {user: 'agent:fixer', groups: [readers, 'picket:agents']}",
        "serviceAccount: {namespace: ci, name: bot}",
    ));
    world
}

/// What the API server got, requests for tokens apart from the others.
fn seen(world: &World) -> (Vec<Seen>, Vec<Seen>) {
    world.seen().into_iter().partition(|seen| seen.target == TOKEN)
}

fn credential(record: &Value) -> (&str, &str) {
    let at = |name: &str| record["credential"][name].as_str().unwrap_or_default();
    (at("method"), at("id"))
}

#[tokio::test]
async fn the_token_is_the_only_credential_of_a_request() {
    let world = world().await;
    let request = Request::get(target(GET))
        .header("authorization", format!("Bearer {}", world.token()))
        .header("x-remote-user", "system:admin");
    let answer = world.ask(request, "").await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"done"[..]));
    let (requests, others) = seen(&world);
    let ([asked], [got]) = (&requests[..], &others[..]) else {
        panic!("{requests:?} {others:?}")
    };
    // The node asks for the token as itself.
    assert!(
        asked.certificate && !asked.headers.contains_key(header::AUTHORIZATION),
        "{asked:?}"
    );
    let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
    assert_eq!(body["spec"], serde_json::json!({"expirationSeconds": 600}));
    // A certificate would win over the token.
    assert!(!got.certificate, "{got:?}");
    assert_eq!(got.headers["authorization"], format!("Bearer {}", token(1, 600)));
    for seen in [asked, got] {
        let claims = seen
            .headers
            .keys()
            .filter(|name| name.as_str().starts_with("impersonate"));
        assert_eq!(claims.count(), 0, "{seen:?}");
        assert!(!seen.headers.contains_key("x-remote-user"), "{seen:?}");
    }
    assert!(!asked.headers.contains_key("audit-id"), "{asked:?}");

    let records = world.records().await;
    let [record] = &records[..] else {
        panic!("{records:#?}")
    };
    assert_eq!(credential(record), ("service-account-token", "JTI=token-1"));
    assert_eq!(record["auditID"], got.headers["audit-id"].to_str().expect("text"));
    let user = &record["impersonatedUser"];
    assert_eq!(user["username"], "system:serviceaccount:ci:bot");
    assert_eq!(
        user["groups"],
        serde_json::json!([
            "system:serviceaccounts",
            "system:serviceaccounts:ci",
            "system:authenticated"
        ])
    );
    assert!(user["extra"].is_null(), "{user}");
    assert!(
        !format!("{records:?}").contains(&token(1, 600)),
        "a token is in a record"
    );
}

#[tokio::test]
async fn a_crowd_of_requests_costs_one_token() {
    let world = world().await;
    let answers = join_all((0..20).map(|_| world.ask(Request::get(target(GET)), ""))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    let (requests, others) = seen(&world);
    assert_eq!((requests.len(), others.len()), (1, 20));
}

#[tokio::test]
async fn an_upgrade_has_the_token_alone_too() {
    let world = world().await;
    let request = Request::get(target("/api/v1/namespaces/n/pods/x/exec?command=sh&stdout=true"))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "v5.channel.k8s.io");
    let mut sender = world.connect().await;
    let request = request
        .header(header::HOST, "k")
        .body(Default::default())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let (_, others) = seen(&world);
    assert!(!others[0].certificate, "{others:?}");
    assert_eq!(
        others[0].headers["authorization"],
        format!("Bearer {}", token(1, 600))
    );
}

/// The API server ends no stream with the token that it began by.
#[tokio::test]
async fn a_watch_outlives_its_token() {
    let world = world().await;
    // Ends 10 s early, so after 1 s.
    world.issuer.lifetime.store(11, Ordering::Relaxed);
    let mut sender = world.connect().await;
    let watch = Request::get(target("/api/v1/namespaces/n/pods?watch=true"))
        .header(header::HOST, "k")
        .body(Default::default())
        .expect("a request");
    let mut watch = sender.send_request(watch).await.expect("an answer").into_body();
    let first = http_body_util::BodyExt::frame(&mut watch).await;
    assert!(first.is_some_and(|frame| frame.is_ok()));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let answer = world.ask(Request::get(target(GET)), "").await;
    assert_eq!(answer.status, StatusCode::OK);
    world.upstream.refresh();
    let (requests, others) = seen(&world);
    assert_eq!(requests.len(), 2);
    assert_eq!(
        others[1].headers["authorization"],
        format!("Bearer {}", token(2, 11))
    );
    let more = tokio::time::timeout(
        Duration::from_millis(100),
        http_body_util::BodyExt::frame(&mut watch),
    )
    .await;
    assert!(more.is_err(), "the watch ended: {more:?}");
    assert_eq!(world.sessions.list(&Default::default()).len(), 1);
}

#[tokio::test]
async fn a_node_that_may_not_request_tokens_says_which_right_is_missing() {
    let world = world().await;
    for (status, code, reason, retry, words) in [
        (
            403,
            "token_request_forbidden",
            StatusCode::FORBIDDEN,
            false,
            "lacks the right to create serviceaccounts/token",
        ),
        (
            404,
            "service_account_missing",
            StatusCode::FORBIDDEN,
            false,
            "the account does not exist",
        ),
        (
            500,
            "token_unavailable",
            StatusCode::SERVICE_UNAVAILABLE,
            true,
            "status 500",
        ),
        (
            429,
            "token_unavailable",
            StatusCode::SERVICE_UNAVAILABLE,
            true,
            "status 429",
        ),
        (
            401,
            "token_unavailable",
            StatusCode::SERVICE_UNAVAILABLE,
            true,
            "does not accept the node's credential",
        ),
        (
            200,
            "token_unavailable",
            StatusCode::SERVICE_UNAVAILABLE,
            true,
            "cannot be read",
        ),
    ] {
        world.issuer.status.store(status, Ordering::Relaxed);
        world.upstream.forget_tokens();
        let answer = world
            .ask(Request::post(target("/api/v1/namespaces/n/pods")), "{}")
            .await;
        assert_eq!(answer.status, reason, "{status}");
        let said = answer.json();
        let message = said["message"].as_str().unwrap_or_default();
        assert!(
            message.contains("service account ci/bot") && message.contains(words),
            "{message}"
        );
        assert!(!message.contains("picket:node"), "{message}");
        assert_eq!(
            answer.headers.contains_key(header::RETRY_AFTER),
            retry,
            "{status}"
        );
        let records = world.ended(1).await;
        let record = records.last().expect("a record");
        assert_eq!(record["decision"]["outcome"], "error", "{record:#}");
        assert!(record.to_string().contains(code), "{record:#}");
    }
    let (requests, others) = seen(&world);
    assert_eq!(
        (requests.len(), others.len()),
        (6, 0),
        "nothing goes without a token"
    );
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_moment() {
    let world = world().await;
    world.issuer.status.store(403, Ordering::Relaxed);
    for _ in 0..5 {
        let answer = world.ask(Request::get(target(GET)), "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(seen(&world).0.len(), 1);
}

/// One who has just been issued a token has no better one to get; the answer is what it is.
#[tokio::test]
async fn a_refused_token_is_replaced_unless_it_is_fresh() {
    let world = world().await;
    let mut sender = world.connect().await;
    assert_eq!(
        ask_over(&mut sender, Request::get(target(GET)), "").await.status,
        StatusCode::OK
    );
    world
        .issuer
        .refused
        .lock()
        .push(format!("Bearer {}", token(1, 600)));
    let answer = ask_over(&mut sender, Request::get(target(GET)), "").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    world.upstream.age_tokens(Duration::from_secs(10));
    let answer = ask_over(&mut sender, Request::get(target(GET)), "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    let said = answer.json();
    assert!(
        said["message"]
            .as_str()
            .is_some_and(|said| said.contains("no longer accepts the token of")),
        "{said}"
    );
    let answer = ask_over(&mut sender, Request::get(target(GET)), "").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(seen(&world).0.len(), 2);
}
