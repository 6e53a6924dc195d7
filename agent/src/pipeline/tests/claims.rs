//! A client that says that it is somebody else than its pod: refused, on record, and never answered as the agent.

use http::{Request, StatusCode};

use super::outcome;
use super::world::{World, ask_over, target};

const PATH: &str = "/api/v1/namespaces/n/pods/x";

#[tokio::test]
async fn a_second_identity_is_refused_on_record_and_reaches_nobody() {
    let world = World::new().await;
    let own = format!("Bearer {}", world.token());
    let cases = [
        (
            "impersonate-user",
            "alice",
            "client_impersonation",
            "header Impersonate-User",
        ),
        (
            "impersonate-group",
            "g",
            "client_impersonation",
            "header Impersonate-Group",
        ),
        (
            "authorization",
            "Bearer of-alice",
            "client_credential",
            "no token of this pod",
        ),
        (
            "authorization",
            "Basic YTpi",
            "client_credential",
            "another scheme than Bearer",
        ),
        (
            "sec-websocket-protocol",
            "base64url.bearer.authorization.k8s.io.b2YtYWxpY2U",
            "client_credential",
            "no token of this pod",
        ),
    ];
    for (name, value, _, told) in cases {
        let request = Request::get(target(PATH)).header(name, value);
        let answer = world.ask(request, "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{name}: {value}");
        let status = answer.json();
        assert_eq!(status["reason"], "Forbidden");
        let message = status["message"].as_str().expect("a message");
        assert!(
            message.starts_with("cannot get pods \"x\" in namespace \"n\": "),
            "{message}"
        );
        assert!(
            message.contains(told) && message.contains("Allowed instead: "),
            "{message}"
        );
        assert!(
            !message.contains("alice"),
            "what a client made up is repeated: {message}"
        );
    }
    // A connection that was served as the agent is no different.
    let mut sender = world.connect().await;
    let plain = Request::get(target(PATH)).header("authorization", &own);
    assert_eq!(ask_over(&mut sender, plain, "").await.status, StatusCode::OK);
    let second = Request::get(target(PATH))
        .header("authorization", &own)
        .header("authorization", "Bearer of-alice");
    assert_eq!(
        ask_over(&mut sender, second, "").await.status,
        StatusCode::FORBIDDEN
    );
    assert_eq!(world.seen().len(), 1, "{:?}", world.seen());

    let records = world.records().await;
    assert_eq!(records.len(), cases.len() + 2);
    for (record, (_, _, reason, _)) in records.iter().zip(cases) {
        assert_eq!(outcome(record)[..2], ["ResponseComplete", "deny"]);
        assert_eq!(record["decision"]["reason"], reason);
        assert_eq!(record["agent"]["identity"], "fixer");
        assert_eq!(record["responseStatus"]["code"], 403);
        assert_eq!(record["annotations"]["authorization.k8s.io/decision"], "forbid");
        assert!(!record.to_string().contains("YTpi") && !record.to_string().contains("b2YtYWxpY2U"));
    }
}

/// Discovery comes first, and of its refusal kubectl prints the warning alone.
#[tokio::test]
async fn a_refusal_in_discovery_says_what_to_do_in_a_warning() {
    let world = World::new().await;
    for (name, value) in [("impersonate-user", "alice"), ("authorization", "Bearer x")] {
        let answer = world
            .ask(Request::get(target("/api")).header(name, value), "")
            .await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        let warning = answer.headers["warning"].to_str().expect("text");
        assert!(
            warning.contains("Allowed instead: the same request with"),
            "{warning}"
        );
    }
    assert_eq!(world.seen().len(), 0);
}
