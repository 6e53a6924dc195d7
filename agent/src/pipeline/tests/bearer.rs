//! Tokens as evidence, through the whole pipeline: who is let through, what the client reads, and what the record holds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use picket_policy::PolicySet;
use serde_json::{Value, json};

use super::sessions::{Seen, end, ends, rejudging, watch};
use super::world::{Answer, World, policies, target};
use crate::identity::jwt::testing::{IssuerBehaviour, TestIssuer, TestIssuers, TestKey};

const PODS: &str = "/api/v1/namespaces/n/pods/x";
const SUBJECT: &str = "system:serviceaccount:ns:fixer";

/// The agent is recognised by its pod and by its token.
fn objects(issuer: &TestIssuer, subject: &str) -> PolicySet {
    let jwt = format!(
        "serviceAccount: fixer}}, jwt: {{issuer: '{}', subject: '{subject}'",
        issuer.url()
    );
    policies("serviceAccount: fixer", &jwt)
}

struct Bed {
    world: World,
    issuer: TestIssuer,
    key: TestKey,
    issuers: TestIssuers,
}

impl Bed {
    async fn new() -> Self {
        let key = TestKey::new("RS256");
        let issuer = TestIssuer::start(vec![key.published("k")]).await;
        let issuers = TestIssuers::of(&issuer);
        let world = World::with_issuers(issuers.issuers.clone()).await;
        world.store.replace_for_tests(objects(&issuer, SUBJECT));
        Self {
            world,
            issuer,
            key,
            issuers,
        }
    }

    /// The claims of the token that is mounted into the pod.
    fn claims(&self) -> Value {
        let (name, uid) = self.world.pod_of_next();
        json!({
            "iss": self.issuer.url(), "sub": SUBJECT, "aud": ["picket"], "exp": Timestamp::now().as_second() + 600,
            "kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "fixer", "uid": "s"},
                "pod": {"name": name, "uid": uid}},
        })
    }

    async fn ask(&self, token: &str) -> Answer {
        let request = Request::get(target(PODS)).header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.world.ask(request, "").await
    }
}

#[tokio::test]
async fn a_token_that_the_identity_asks_for_is_evidence_and_one_that_contradicts_the_kernel_is_refused_on_record()
 {
    let bed = Bed::new().await;
    let change = |name: &str, value: Value| {
        let mut claims = bed.claims();
        claims[name] = value;
        bed.key.token("k", &claims)
    };
    let now = Timestamp::now().as_second();
    let mut other_pod = bed.claims();
    other_pod["kubernetes.io"]["pod"]["uid"] = "another".into();
    let mut unbound = bed.claims();
    unbound["kubernetes.io"]["pod"].take();
    let good = bed.key.token("k", &bed.claims());
    let (message, _) = good.rsplit_once('.').expect("parts");
    let (_, payload) = message.split_once('.').expect("parts");
    let none = format!("eyJhbGciOiJub25lIn0.{payload}.");
    let cases = [
        (good.clone(), 200, ""),
        (change("exp", (now - 50).into()), 200, ""),
        (change("exp", (now - 61).into()), 401, "jwt_expired"),
        (change("nbf", (now + 70).into()), 401, "jwt_not_yet_valid"),
        (
            change("aud", "https://kubernetes.default.svc".into()),
            401,
            "jwt_audience",
        ),
        (
            change("sub", "system:serviceaccount:ns:other".into()),
            401,
            "identity_incomplete",
        ),
        (
            change("iss", "https://other.example".into()),
            401,
            "jwt_unknown_issuer",
        ),
        (bed.key.token("k", &other_pod), 401, "jwt_pod"),
        (bed.key.token("k", &unbound), 401, "jwt_pod"),
        (
            TestKey::new("ES256").token("k", &bed.claims()),
            401,
            "jwt_unknown_key",
        ),
        (none, 401, "jwt_algorithm"),
        (format!("{message}.AAAA"), 401, "jwt_signature"),
        ("nonsense".to_owned(), 401, "jwt_malformed"),
    ];
    for (token, status, reason) in &cases {
        let answer = bed.ask(token).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), *status, "{reason}: {said}");
        if *status != 200 {
            assert_eq!(
                (&answer.json()["reason"], &answer.json()["code"]),
                (&json!("Unauthorized"), &json!(401))
            );
        }
    }
    let without = bed.world.ask(Request::get(target(PODS)), "").await;
    assert_eq!(without.status, StatusCode::UNAUTHORIZED);

    // The API server sees the node's credential, and never the client's.
    let seen = bed.world.seen();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|seen| seen.headers[header::AUTHORIZATION] == "Bearer node-token")
    );
    let records = bed.world.ended(cases.len() + 1).await;
    assert_eq!(records.len(), cases.len() + 1, "one record each");
    for (record, (_, status, reason)) in records.iter().zip(&cases) {
        assert_eq!(record["responseStatus"]["code"], *status, "{record}");
        if *status == 200 {
            assert_eq!(record["agent"]["attestation"], "pod+jwt", "{record}");
        } else {
            assert_eq!(record["decision"]["reason"], *reason, "{record}");
        }
    }
    let text = serde_json::to_string(&bed.world.records().await).expect("text");
    for (token, ..) in &cases {
        for part in token.split('.').filter(|part| part.len() > 20) {
            assert!(!text.contains(part), "a part of a token is on record");
        }
    }
}

/// What a record says of the token, for each of these.
#[tokio::test]
async fn a_record_says_whose_token_was_shown_and_what_of_that_the_issuer_signed() {
    let bed = Bed::new().await;
    let change = |name: &str, value: Value| {
        let mut claims = bed.claims();
        claims[name] = value;
        bed.key.token("k", &claims)
    };
    let now = Timestamp::now().as_second();
    let signed = json!({"issuer": bed.issuer.url(), "subject": SUBJECT, "verified": true});
    let taken = |subject: &str| json!({"issuer": bed.issuer.url(), "subject": subject, "username": subject, "verified": true});
    let unproven = |issuer: &str| json!({"issuer": issuer, "verified": false});
    let own = bed.issuer.url();
    let stranger = TestKey::new("ES256");
    let good = bed.key.token("k", &bed.claims());
    let (message, _) = good.rsplit_once('.').expect("parts");
    let (_, payload) = message.split_once('.').expect("parts");
    let long = format!("https://{}", "i".repeat(3000));
    let cases = [
        ("", good.clone(), taken(SUBJECT)),
        ("", good.clone(), taken(SUBJECT)),
        ("jwt_expired", change("exp", (now - 61).into()), signed.clone()),
        ("jwt_audience", change("aud", "x".into()), signed),
        (
            "identity_incomplete",
            change("sub", "somebody".into()),
            taken("somebody"),
        ),
        (
            "jwt_unknown_key",
            stranger.token("new", &bed.claims()),
            unproven(&own),
        ),
        ("jwt_signature", format!("{message}.AAAA"), unproven(&own)),
        (
            "jwt_algorithm",
            format!("eyJhbGciOiJub25lIn0.{payload}."),
            unproven(&own),
        ),
        (
            "jwt_unknown_issuer",
            change("iss", long.clone().into()),
            unproven(&format!("{}...TRUNCATED", &long[..512])),
        ),
        ("jwt_malformed", "nonsense".to_owned(), json!({"verified": false})),
    ];
    for (_, token, _) in &cases {
        bed.ask(token).await;
    }
    let records = bed.world.ended(cases.len()).await;
    for (record, (reason, _, token)) in records.iter().zip(&cases) {
        assert_eq!(
            record["decision"]["reason"].as_str().unwrap_or_default(),
            *reason,
            "{record:#}"
        );
        assert_eq!(record["agent"]["token"], *token, "{reason}: {record:#}");
        assert_eq!(
            record["user"]["username"], SUBJECT,
            "the pod's account: {record:#}"
        );
        // Each refusal says what to do, and no word of it is taken for a secret.
        let message = record["decision"]["message"].as_str().unwrap_or_default();
        let helps = [
            "Allowed instead",
            "A cluster operator",
            "All that its `attest` has must hold",
        ];
        let is_told = reason.is_empty() || helps.iter().any(|words| message.contains(words));
        assert!(is_told && !message.contains("***"), "{message}");
    }
    // Nothing is said of a token that nobody asks for.
    bed.world.store.replace_for_tests(policies("", ""));
    assert_eq!(bed.ask(&bed.world.token()).await.status, StatusCode::OK);
    let records = bed.world.ended(cases.len() + 1).await;
    assert!(
        records.last().expect("a record")["agent"]["token"].is_null(),
        "{records:#?}"
    );
}

/// Longer heads are refused before anybody looks at them: tests/heads.rs.
#[tokio::test]
async fn a_huge_token_and_ten_thousand_headers_are_answered_and_fill_no_record() {
    let bed = Bed::new().await;
    let good = format!("Bearer {}", bed.key.token("k", &bed.claims()));
    let huge = format!("{good}{}", "a".repeat(900_000));
    let crowd = |name: &str, value: &str| {
        let request = Request::get(target(PODS)).header(header::AUTHORIZATION, &good);
        (0..10_000).fold(request, |request, _| request.header(name, value))
    };
    let cases = [
        (
            Request::get(target(PODS)).header(header::AUTHORIZATION, &huge),
            401,
            "longer than 16384 bytes",
        ),
        (crowd("authorization", "Bearer other"), 403, "Allowed instead"),
        (crowd("x-more", "1"), 200, "done"),
    ];
    let count = cases.len();
    for (request, status, words) in cases {
        let answer = bed.world.ask(request, "").await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), status, "{said}");
        assert!(said.contains(words) && said.len() < 2048, "{said}");
    }
    let records = bed.world.ended(count).await;
    assert_eq!(records[0]["decision"]["reason"], "jwt_too_long");
    assert_eq!(records[0]["agent"]["token"], json!({"verified": false}));
    let longest = records.iter().map(|record| record.to_string().len()).max();
    assert!(longest < Some(4096), "{longest:?}");
}

#[tokio::test]
async fn the_tokens_user_is_who_asks_at_the_gateway() {
    let bed = Bed::new().await;
    let claims = json!({"iss": bed.issuer.url(), "sub": "ci:deploy", "aud": "picket", "exp": Timestamp::now().as_second() + 600});
    let token = bed.key.token("k", &claims);
    let attest = |subject: &str| {
        let jwt = format!(
            "attest: {{jwt: {{issuer: '{}', subject: '{subject}'}}}}",
            bed.issuer.url()
        );
        policies("attest: {pod: {namespace: ns, serviceAccount: fixer}}", &jwt)
    };
    for (named, status) in [("ci:deploy", 200), ("ci:other", 403)] {
        bed.world.store.replace_for_tests(attest(named));
        let request = Request::get(target(PODS)).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let answer = super::gateway::ask(&bed.world, request, false).await;
        assert_eq!(answer.status.as_u16(), status);
    }
    let records = bed.world.ended(2).await;
    for record in &records {
        assert_eq!(record["user"]["username"], "ci:deploy", "{record:#}");
        assert_eq!(record["agent"]["token"]["subject"], "ci:deploy", "{record:#}");
    }
    assert_eq!(records[0]["agent"]["attestation"], "jwt");
    // A credential that counts, of nobody: that is no matter of the credential's.
    assert_eq!(records[1]["decision"]["reason"], "identity_none");
    let message = records[1]["decision"]["message"].as_str().expect("text");
    assert!(
        message.contains("a token of subject ci:deploy of issuer https://127.0.0.1")
            && message.contains("A cluster operator can add one"),
        "{message}"
    );
}

#[tokio::test]
async fn each_request_of_a_connection_is_held_to_the_token_that_it_shows() {
    let bed = Bed::new().await;
    let good = bed.key.token("k", &bed.claims());
    let mut other = bed.claims();
    other["kubernetes.io"]["pod"]["uid"] = "another".into();
    let other = bed.key.token("k", &other);
    let mut sender = bed.world.connect().await;
    for (token, status) in [(&good, 200), (&other, 401), (&good, 200)] {
        let request = Request::get(target(PODS)).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let answer = super::world::ask_over(&mut sender, request, "").await;
        assert_eq!(answer.status.as_u16(), status);
    }
    // A second credential beside the one that counts is somebody else's.
    let request = Request::get(target(PODS))
        .header(header::AUTHORIZATION, format!("Bearer {good}"))
        .header(header::AUTHORIZATION, format!("Bearer {other}"));
    let answer = super::world::ask_over(&mut sender, request, "").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_issuer_that_is_away_is_answered_with_503_and_hinders_nobody_who_needs_no_token() {
    let bed = Bed::new().await;
    assert_eq!(
        bed.ask(&bed.key.token("k", &bed.claims())).await.status,
        StatusCode::OK
    );
    bed.issuer.behave(IssuerBehaviour::Failing);
    let new = TestKey::new("ES256").token("new", &bed.claims());
    let answer = bed.ask(&new).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    assert!(
        answer.json()["message"]
            .as_str()
            .expect("text")
            .contains(&bed.issuer.url())
    );
    // A key at hand counts, and an identity that asks for no token is no matter of the issuer's.
    let mut known = bed.claims();
    known["n"] = 1.into();
    assert_eq!(bed.ask(&bed.key.token("k", &known)).await.status, StatusCode::OK);
    bed.world.store.replace_for_tests(policies("", ""));
    let own = bed.world.token();
    assert_eq!(bed.ask(&own).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_judged_again_by_the_token_that_began_it() {
    let bed = Bed::new().await;
    let _pods = rejudging(&bed.world);
    let authorization = format!("Bearer {}", bed.key.token("k", &bed.claims()));
    let mut sender = bed.world.connect().await;
    let request = Request::get(target("/api/v1/namespaces/n/pods?watch=true"))
        .header(header::HOST, "kubernetes.default.svc")
        .header(header::AUTHORIZATION, authorization)
        .body(Full::new(Bytes::new()));
    let answer = sender
        .send_request(request.expect("a request"))
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let reading = tokio::spawn(answer.into_body().collect());
    // Another set that says the same.
    bed.world.store.replace_for_tests(objects(&bed.issuer, SUBJECT));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!reading.is_finished(), "its token is still the agent's");
    bed.world.store.replace_for_tests(objects(&bed.issuer, "another"));
    let ended = tokio::time::timeout(Duration::from_secs(5), reading).await;
    assert!(ended.is_ok(), "the identity no longer names its token");
}

#[tokio::test]
async fn a_watch_ends_with_its_token_its_key_and_its_issuer() {
    let bed = Bed::new().await;
    let pods = rejudging(&bed.world);
    pods.raise(bed.world.store.epoch());
    bed.issuers.issuers.when_changed(move || pods.changed());
    // The token's time, with the skew that clocks may have.
    let mut claims = bed.claims();
    let over = Timestamp::now().as_second() + 4;
    claims["exp"] = (over - 60).into();
    let brief = watch(&bed.world, &bed.key.token("k", &claims)).await;
    let lasting = watch(&bed.world, &bed.key.token("k", &bed.claims())).await;
    let at = Timestamp::from_second(over).expect("a moment");
    let left = at.duration_since(Timestamp::now()).unsigned_abs();
    let seen = end(brief, Instant::now() + left, "expiry").await;
    let last = String::from_utf8_lossy(&seen.rest).into_owned();
    assert!(last.contains("the token has expired"), "{last}");
    assert!(!lasting.is_finished());
    // The issuer's keys are fetched again for a token of another one.
    let other = TestKey::new("RS256");
    bed.issuer.publish(vec![other.published("other")]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        bed.ask(&other.token("other", &bed.claims())).await.status,
        StatusCode::OK
    );
    end(lasting, Instant::now(), "key").await;
    let last = watch(&bed.world, &other.token("other", &bed.claims())).await;
    bed.issuers
        .rewrite(|text| text.replace(&bed.issuer.url(), "https://other.example"));
    end_within(last, Duration::from_secs(10)).await;
    let causes: Vec<_> = ends(&bed.world)
        .await
        .into_iter()
        .map(|[.., cause]| cause)
        .collect();
    for cause in ["jwt_expired", "jwt_unknown_key", "jwt_unknown_issuer"] {
        assert_eq!(causes.iter().filter(|one| *one == cause).count(), 1, "{causes:?}");
    }
}

/// The file of the issuers is read every two seconds.
async fn end_within(running: tokio::task::JoinHandle<Seen>, limit: Duration) {
    tokio::time::timeout(limit, running)
        .await
        .expect("it goes on")
        .expect("no panic");
}
