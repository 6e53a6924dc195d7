//! Requests through the whole pipeline, from a client's TLS session to an API server's and back.

mod arrivals;
mod bearer;
mod claims;
mod correlation;
mod exclusive;
mod filter;
mod fragments;
mod gateway;
mod heads;
mod issuer;
mod judge;
mod limits;
mod namespaces;
mod old_object;
mod on_behalf_of;
mod on_behalf_of_elsewhere;
mod sessions;
mod shares;
mod stored;
mod strangers;
mod texts;
mod tokens;
mod world;
mod writes;

use http::{Method, Request, StatusCode};
use picket_policy::{FiredRule, PolicySet};
use serde_json::Value;

use super::send::warning;
use world::{World, ask_over, policies, target};

/// Stage, outcome, policy and rule.
fn outcome(record: &Value) -> [&str; 4] {
    let at = |pointer: &str| {
        record
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    [
        at("/stage"),
        at("/decision/outcome"),
        at("/decision/policy"),
        at("/decision/rule"),
    ]
}

#[tokio::test]
async fn a_permitted_request_arrives_as_the_agent_and_without_what_speaks_for_others() {
    let world = World::new().await;
    let request = Request::get(target("/api/v1/namespaces/n/pods/x?pretty=1"))
        .header("authorization", format!("Bearer {}", world.token()))
        .header("x-remote-group", "system:masters")
        .header("cookie", "a=b")
        .header("x-mine", "kept");
    let answer = world.ask(request, "").await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"done"[..]));
    let [seen] = &world.seen()[..] else {
        panic!("{:?}", world.seen())
    };
    assert_eq!(
        (&seen.method, seen.target.as_str()),
        (&Method::GET, "/api/v1/namespaces/n/pods/x?pretty=1")
    );
    let all = |name: &str| -> Vec<&str> {
        let values = seen.headers.get_all(name).iter();
        values.map(|value| value.to_str().expect("text")).collect()
    };
    assert_eq!(all("authorization"), ["Bearer node-token"]);
    assert_eq!(all("impersonate-user"), ["agent:fixer"]);
    assert_eq!(all("impersonate-group"), ["readers", "picket:agents"]);
    assert_eq!(all("impersonate-extra-picket.dev%2fidentity"), ["fixer"]);
    assert_eq!(all("impersonate-extra-picket.dev%2fpod"), ["ns/p"]);
    assert_eq!(all("x-mine"), ["kept"]);
    assert!(all("x-remote-group").is_empty() && all("cookie").is_empty());

    let records = world.records().await;
    let [record] = &records[..] else {
        panic!("{records:#?}")
    };
    assert_eq!(outcome(record), ["ResponseComplete", "allow", "g", "rules[0]"]);
    assert_eq!(record["auditID"], all("audit-id")[0]);
    assert_eq!(record["impersonatedUser"]["username"], "agent:fixer");
    assert_eq!(record["impersonatedUser"]["extra"]["picket.dev/pod"][0], "ns/p");
    assert_eq!(record["credential"]["method"], "token");
    assert_eq!(
        record["annotations"],
        serde_json::json!({
            "authorization.k8s.io/decision": "allow",
            "authorization.k8s.io/reason": "Picket: allowed by g/rules[0]",
        })
    );
}

#[tokio::test]
async fn a_denied_request_is_a_status_and_reaches_nobody() {
    let world = World::new().await;
    let answer = world
        .ask(Request::delete(target("/api/v1/namespaces/n/pods/x")), "")
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let status = answer.json();
    assert_eq!(
        (&status["kind"], &status["reason"], &status["details"]["kind"]),
        (&"Status".into(), &"Forbidden".into(), &"pods".into())
    );
    let message = status["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("(policy guard, rule keep): Ask SRE."),
        "{message}"
    );
    let answer = world
        .ask(Request::get(target("/apis/apps/v1/deployments")), "")
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let answer = world.ask(Request::get(target("/api/v1//pods")), "").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(world.seen().is_empty(), "{:?}", world.seen());

    let records = world.records().await;
    let outcomes: Vec<_> = records.iter().map(outcome).collect();
    assert_eq!(outcomes[0], ["ResponseComplete", "deny", "guard", "keep"]);
    assert_eq!(outcomes[1][..2], ["ResponseComplete", "deny"]);
    assert_eq!(outcomes[2][..2], ["ResponseComplete", "error"]);
    let annotations = &records[0]["annotations"];
    assert_eq!(annotations["authorization.k8s.io/decision"], "forbid");
    let reason = annotations["authorization.k8s.io/reason"]
        .as_str()
        .unwrap_or_default();
    assert!(
        reason.starts_with("Picket: denied by guard/keep: agent fixer may not delete pods"),
        "{reason}"
    );
    assert_eq!(
        records[1]["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert_eq!(
        records[2]["annotations"]["authorization.k8s.io/decision"],
        Value::Null
    );
}

#[tokio::test]
async fn what_must_be_approved_is_held_on_record_and_refused_without_an_approver() {
    let world = World::new().await;
    let answer = world
        .ask(Request::get(target("/api/v1/namespaces/n/secrets/x")), "")
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let status = answer.json();
    assert_eq!(
        status["message"],
        "agent fixer may get secrets \"x\" in namespace \"n\" only with a person's approval (policy guard, rule ask): A person \
         looks. No approver is configured, so the request is refused."
    );
    assert!(world.seen().is_empty(), "{:?}", world.seen());
    let records = world.records().await;
    let outcomes: Vec<_> = records.iter().map(outcome).collect();
    assert_eq!(
        outcomes,
        [
            ["RequestReceived", "pending", "guard", "ask"],
            ["ResponseComplete", "deny", "guard", "ask"]
        ]
    );
    assert_eq!(records[0]["auditID"], records[1]["auditID"]);
}

#[tokio::test]
async fn a_write_is_on_record_first_and_its_body_arrives_whole() {
    let world = World::new().await;
    let request = Request::post(target("/api/v1/namespaces/n/configmaps"));
    let answer = world.ask(request, "{\"kind\":\"ConfigMap\"}").await;
    assert_eq!(answer.status, StatusCode::OK);
    let warning = answer.headers["warning"].to_str().unwrap_or_default();
    assert!(
        warning.contains("policy guard, rule hint: Mind the quota."),
        "{warning}"
    );
    assert_eq!(&world.seen()[0].body[..], b"{\"kind\":\"ConfigMap\"}");
    let records = world.records().await;
    let stages: Vec<_> = records.iter().map(|record| outcome(record)[0]).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
}

#[tokio::test]
async fn a_pod_that_is_nobodys_or_was_released_is_refused_on_an_open_connection() {
    let world = World::new().await;
    let mut sender = world.connect().await;
    let get = || Request::get(target("/api/v1/namespaces/n/pods/x"));
    assert_eq!(ask_over(&mut sender, get(), "").await.status, StatusCode::OK);
    world.set_pod(|pod| pod.service_account = "default".to_owned());
    let answer = ask_over(&mut sender, get(), "").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let message = answer.json()["message"].to_string();
    assert!(message.contains("is no known agent"), "{message}");
    world.set_pod(|pod| pod.service_account = "fixer".to_owned());
    assert_eq!(ask_over(&mut sender, get(), "").await.status, StatusCode::OK);
    world.released.cancel();
    let answer = ask_over(&mut sender, get(), "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["connection"], "close");
    assert_eq!(world.seen().len(), 2);
}

#[tokio::test]
async fn without_a_valid_policy_set_every_request_is_denied_and_told_why() {
    let world = World::new().await;
    let reason = "/objects/b.yml:6:3: unknown field `spec.colour`";
    world
        .store
        .replace_for_tests(PolicySet::deny_all(picket_policy::Absence::Invalid(
            reason.to_owned(),
        )));
    for path in ["/api/v1/namespaces/n/pods/x", "/version", "/healthz"] {
        let answer = world.ask(Request::get(target(path)), "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        let message = answer.json()["message"].to_string();
        assert!(message.contains(reason), "{message}");
    }
    assert!(world.seen().is_empty(), "nothing went upstream");
    let records = world.records().await;
    assert!(
        records
            .iter()
            .all(|record| record["decision"]["outcome"] == "deny"
                && record["annotations"]["authorization.k8s.io/decision"] == "forbid"),
        "{records:#?}"
    );
    world.store.replace_for_tests(policies("", ""));
    let answer = world
        .ask(Request::get(target("/api/v1/namespaces/n/pods/x")), "")
        .await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn an_api_server_that_cannot_be_reached_is_told_and_recorded() {
    let mut world = World::new().await;
    world.lose_server().await;
    let answer = world
        .ask(Request::get(target("/api/v1/namespaces/n/pods/x")), "")
        .await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["details"]["retryAfterSeconds"], 1);
    let records = world.records().await;
    assert_eq!(outcome(&records[0])[..2], ["ResponseComplete", "error"]);
    assert_eq!(records[0]["credential"], Value::Null, "no connection was made");
    assert_eq!(
        records[0]["annotations"]["authorization.k8s.io/decision"], "allow",
        "it was permitted, whatever became of it"
    );
}

#[tokio::test]
async fn the_record_names_the_credential_that_was_used_not_the_one_that_was_read_before() {
    let (world, before) = World::with_certificate().await;
    // The files change and nobody has looked yet: making the connection does.
    let used = world.rotate_certificate();
    assert_ne!(before, used);
    let answer = world
        .ask(Request::get(target("/api/v1/namespaces/n/pods/x")), "")
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let records = world.records().await;
    assert_eq!(records[0]["credential"]["method"], "client-certificate");
    assert_eq!(records[0]["credential"]["id"], used.as_str());
}

#[test]
fn a_warning_cannot_break_out_of_its_field() {
    let finding = FiredRule {
        policy: "guard".into(),
        rule: "r".into(),
        message: "say \"no\"\r\nSet-Cookie: a\\b — ".to_owned() + &"x".repeat(1000),
    };
    let value = warning(&finding);
    let text = std::str::from_utf8(value.as_bytes()).unwrap();
    assert!(
        text.starts_with(r#"299 - "policy guard, rule r: say \"no\"  Set-Cookie: a\\b — xxx"#),
        "{text}"
    );
    assert!(text.ends_with('"') && text.chars().count() < 300);
}

#[tokio::test]
async fn a_client_finds_the_address_that_it_dialled_in_the_certificate_and_no_other() {
    let world = World::new().await;
    for (server, is_served) in [("10.96.0.1", true), ("10.96.0.2", false)] {
        let (client, mut accepted) = world.accepted().await;
        accepted.origin = "10.96.0.1:443".parse().expect("an address");
        world.serve(accepted);
        let session = world.handshake_with(client, b"h2", server).await;
        assert_eq!(session.is_ok(), is_served, "{server}: {:?}", session.err());
    }
}
