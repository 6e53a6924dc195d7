//! Requests above a limit of a policy: answers, records and Events.

use http::{Request, StatusCode, header};

use super::world::{Answer, World, policies, target};

const PODS: &str = "/api/v1/namespaces/n/pods/x";

/// The world's objects, with these fields of the policy `guard`.
fn with(fields: &str) -> picket_policy::PolicySet {
    policies(
        "name: guard}\nspec:\n",
        &format!("name: guard}}\nspec:\n  {fields}\n"),
    )
}

async fn get(world: &World, path: &'static str) -> Answer {
    world.ask(Request::get(target(path)), "").await
}

async fn delete(world: &World, path: &'static str) -> Answer {
    world.ask(Request::delete(target(path)), "").await
}

#[tokio::test]
async fn above_the_rate_the_answer_says_which_limit_and_when_to_try_again() {
    let world = World::new().await;
    world
        .store
        .replace_for_tests(with("limits: {requestsPerSecond: 1, burst: 2}"));
    assert_eq!(get(&world, PODS).await.status, StatusCode::OK);
    assert_eq!(get(&world, PODS).await.status, StatusCode::OK);
    let answer = get(&world, PODS).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    let status = answer.json();
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
    let cause = &status["details"]["causes"][0];
    assert_eq!(
        (&cause["reason"], &cause["field"]),
        (&"rate_limited".into(), &"limits.requestsPerSecond".into())
    );
    assert_eq!(world.seen().len(), 2, "it went to nobody");
    let record = &world.ended(3).await[2];
    let decision = &record["decision"];
    assert_eq!(
        (&decision["outcome"], &decision["reason"]),
        (&"deny".into(), &"rate_limited".into())
    );
    assert_eq!(
        (&decision["policy"], &decision["rule"]),
        (&"guard".into(), &"limits.requestsPerSecond".into())
    );
    assert_eq!(record["responseStatus"]["code"], 429);
    get(&world, PODS).await;
    assert_eq!(
        world.kube_events(),
        [("LimitExceeded", "guard/rate_limited".to_owned())]
    );
}

#[tokio::test]
async fn a_watch_is_a_request_under_way_until_it_ends() {
    let world = World::new().await;
    world
        .store
        .replace_for_tests(with("limits: {concurrentRequests: 1}"));
    for _ in 0..3 {
        assert_eq!(get(&world, PODS).await.status, StatusCode::OK, "one at a time");
    }
    let mut sender = world.connect().await;
    let watch = Request::get(target("/api/v1/namespaces/n/pods?watch=true"))
        .header(header::HOST, "kubernetes.default.svc")
        .body(Default::default());
    let watch = sender
        .send_request(watch.expect("a request"))
        .await
        .expect("an answer");
    assert_eq!(watch.status(), StatusCode::OK);
    let answer = get(&world, PODS).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        answer.json()["details"]["causes"][0]["reason"],
        "too_many_requests_at_once"
    );
    drop((watch, sender));
    world.ended(5).await;
    assert_eq!(get(&world, PODS).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_loop_is_told_and_recorded_once_with_the_number_of_its_requests() {
    let world = World::new().await;
    world
        .store
        .replace_for_tests(with("limits: {repeatedDenialsPerMinute: 2}"));
    for _ in 0..2 {
        assert_eq!(delete(&world, PODS).await.status, StatusCode::FORBIDDEN);
    }
    let first = delete(&world, PODS).await;
    assert_eq!(first.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u32 = first.headers[header::RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
    let message = first.json()["message"].as_str().unwrap_or_default().to_owned();
    assert!(
        message.contains("Ask SRE."),
        "the reason of the refusal: {message}"
    );
    for _ in 0..20 {
        let further = delete(&world, PODS).await;
        assert_eq!(further.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            further.headers["audit-id"], first.headers["audit-id"],
            "the record that has it"
        );
    }
    assert_eq!(
        delete(&world, "/api/v1/namespaces/n/pods/y").await.status,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        get(&world, PODS).await.status,
        StatusCode::OK,
        "what is allowed passes"
    );
    // Once it is allowed, it passes at once.
    world.store.replace_for_tests(policies(
        "match: {verbs: [delete]}",
        "match: {verbs: [delete], namespaces: [m]}",
    ));
    assert_eq!(delete(&world, PODS).await.status, StatusCode::OK);
    assert_eq!(world.kube_events(), [("LimitExceeded", "guard/loop".to_owned())]);

    let of_loop = |records: Vec<serde_json::Value>| -> Vec<_> {
        let is_loop = |record: &serde_json::Value| record["decision"]["reason"] == "loop";
        records.into_iter().filter(is_loop).collect()
    };
    let begun = of_loop(world.records().await);
    assert_eq!(begun.len(), 1, "{begun:#?}");
    assert_eq!(
        (&begun[0]["stage"], &begun[0]["decision"]["repeats"]),
        (&"ResponseStarted".into(), &0.into())
    );
    // The breaker's record ends with the agent, at the latest.
    world.drain.drain(std::time::Duration::from_secs(20)).await;
    let all = of_loop(world.records().await);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert_eq!(
        (&all[1]["stage"], &all[1]["decision"]["repeats"]),
        (&"ResponseComplete".into(), &20.into())
    );
    assert_eq!(all[1]["auditID"], all[0]["auditID"]);
    assert_eq!(all[1]["decision"]["outcome"], "deny");
}

#[tokio::test]
async fn in_mode_audit_the_record_says_what_would_have_been_refused() {
    let world = World::new().await;
    world.store.replace_for_tests(with(
        "mode: Audit\n  limits: {requestsPerSecond: 1, burst: 1, repeatedDenialsPerMinute: 1}",
    ));
    for _ in 0..2 {
        assert_eq!(get(&world, PODS).await.status, StatusCode::OK);
    }
    let records = world.ended(2).await;
    assert!(records[0]["decision"]["wouldDeny"].is_null(), "{:#}", records[0]);
    let noted = &records[1]["decision"]["wouldDeny"];
    assert_eq!(
        (&noted[0]["policy"], &noted[0]["rule"]),
        (&"guard".into(), &"limits.requestsPerSecond".into())
    );
    // Beside the rules that would have refused too.
    assert_eq!(delete(&world, PODS).await.status, StatusCode::OK);
    let deleted = world.ended(3).await.pop().unwrap_or_default();
    let noted: Vec<_> = deleted["decision"]["wouldDeny"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let rules: Vec<_> = noted.iter().map(|found| found["rule"].clone()).collect();
    assert_eq!(rules, ["keep", "limits.requestsPerSecond"]);
    assert!(world.kube_events().is_empty());
}
