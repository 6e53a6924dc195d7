//! A person's token from a pod: whom the API server is asked as, what is refused, and what the record holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode, header};
use jiff::Timestamp;
use picket_policy::PolicySet;
use serde_json::{Value, json};

use super::sessions::{end, ends, rejudging, watch};
use super::world::{Answer, World, ask_over, policies, target};
use crate::identity::jwt::testing::{IssuerBehaviour, TestIssuer, TestIssuers, TestKey};
use crate::pki::TrustBundles;

pub(super) const POD: &str = "/api/v1/namespaces/n/pods/x";
const CONFIGMAP: &str = "/api/v1/namespaces/n/configmaps/x";

/// The agent's own grant, and one that gives pods on behalf of these people.
fn objects(issuer: &str, people: &str) -> PolicySet {
    let grant = format!(
        "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: people}}\nspec:\n  to: {{identities: [fixer]}}\n  \
         upstream: {{onBehalfOf: {{issuers: ['{issuer}'], {people}}}}}\n  rules: [{{verbs: [get, list, watch], apiGroups: [''], \
         resources: [pods]}}]\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy"
    );
    policies("---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy", &grant)
}

pub(super) struct Bed {
    pub(super) world: World,
    pub(super) issuer: TestIssuer,
    pub(super) key: TestKey,
    issuers: TestIssuers,
}

impl Bed {
    async fn new() -> Self {
        Self::with_clients(Arc::default()).await
    }

    /// Likewise, where these certificates of clients count.
    pub(super) async fn with_clients(clients: Arc<TrustBundles>) -> Self {
        let key = TestKey::new("RS256");
        let issuer = TestIssuer::start(vec![key.published("k")]).await;
        let issuers = TestIssuers::of(&issuer);
        issuers
            .rewrite(|text| text.replace("prefix: ''}", "prefix: ''}, groups: {claim: groups, prefix: ''}"));
        // Read once more, by an agent of its own, so that the mapping of groups is there from the beginning.
        let issuers = issuers.again();
        let world = World::with_clients(issuers.issuers.clone(), clients).await;
        let bed = Self {
            world,
            issuer,
            key,
            issuers,
        };
        bed.allow("users: [ann, 'b*'], groups: [sre]");
        bed
    }

    fn allow(&self, people: &str) {
        self.world
            .store
            .replace_for_tests(objects(&self.issuer.url(), people));
    }

    pub(super) fn claims(&self, subject: &str) -> Value {
        json!({"iss": self.issuer.url(), "sub": subject, "aud": "picket", "exp": Timestamp::now().as_second() + 600})
    }

    fn token(&self, subject: &str, groups: &[&str]) -> String {
        let mut claims = self.claims(subject);
        claims["groups"] = json!(groups);
        self.key.token("k", &claims)
    }

    pub(super) async fn ask(&self, path: &'static str, token: &str) -> Answer {
        let request = Request::get(target(path)).header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.world.ask(request, "").await
    }
}

/// Whatever the grants say of whom it names.
#[tokio::test]
async fn the_token_that_proves_the_agent_is_no_persons() {
    let bed = Bed::new().await;
    let url = bed.issuer.url();
    let attested = format!(
        "serviceAccount: fixer}}, jwt: {{issuer: '{url}', subject: ann}}}}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: \
         AgentGrant\nmetadata: {{name: people}}\nspec:\n  to: {{identities: [fixer]}}\n  upstream: {{onBehalfOf: {{issuers: \
         ['{url}'], users: [ann]}}}}\n  rules: [{{verbs: [get], apiGroups: [''], resources: [pods]}}]"
    );
    let attested = policies("serviceAccount: fixer}}}", &attested);
    bed.world.store.replace_for_tests(attested);
    let token = bed.token("ann", &[]);
    assert_eq!(bed.ask(POD, &token).await.status, StatusCode::OK);
    let seen = bed.world.seen();
    assert_eq!(seen[0].headers["impersonate-user"], "agent:fixer");
}

#[tokio::test]
async fn the_api_server_is_asked_as_the_person_and_the_record_has_the_chain() {
    let bed = Bed::new().await;
    let mut claims = bed.claims("ann");
    claims["groups"] = json!(["sre", "dev"]);
    claims["act"] = json!({"sub": "portal", "act": {"sub": "frontend", "iss": "https://other.example"}});
    let token = bed.key.token("k", &claims);
    assert_eq!(bed.ask(POD, &token).await.status, StatusCode::OK);
    let seen = bed.world.seen();
    let [got] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(got.headers["impersonate-user"], "ann");
    let groups: Vec<_> = got.headers.get_all("impersonate-group").iter().collect();
    assert_eq!(groups, ["sre", "dev"]);
    assert_eq!(got.headers["impersonate-extra-picket.dev%2fidentity"], "fixer");
    assert!(got.headers.contains_key("impersonate-extra-picket.dev%2fpod"));
    assert_eq!(got.headers[header::AUTHORIZATION], "Bearer node-token");

    let records = bed.world.ended(1).await;
    let record = &records[0];
    assert_eq!(record["agent"]["identity"], "fixer");
    assert_eq!(record["agent"]["attestation"], "pod");
    assert_eq!(record["impersonatedUser"]["username"], "ann");
    assert_eq!(record["decision"]["policy"], "people");
    assert_eq!(
        record["agent"]["onBehalfOf"],
        json!({"issuer": bed.issuer.url(), "subject": "ann", "username": "ann",
            "actors": [{"subject": "portal"}, {"issuer": "https://other.example", "subject": "frontend"}]})
    );
    let text = record.to_string();
    let parts = token.split('.').filter(|part| part.len() > 20);
    assert!(
        parts.into_iter().all(|part| !text.contains(part)),
        "a part of a token is on record"
    );
}

#[tokio::test]
async fn a_persons_token_takes_a_grant_on_behalf_of_that_person() {
    let bed = Bed::new().await;
    let now = Timestamp::now().as_second();
    let change = |name: &str, value: Value| {
        let mut claims = bed.claims("ann");
        claims[name] = value;
        bed.key.token("k", &claims)
    };
    let own = bed.world.token();
    let service_account = bed.key.token(
        "k",
        &json!({"iss": bed.issuer.url(), "sub": "system:serviceaccount:x:y", "aud": "picket", "exp": now + 600,
            "kubernetes.io": {"namespace": "x", "serviceaccount": {"name": "y", "uid": "s"}}}),
    );
    let cases = [
        (POD, bed.token("ann", &[]), 200, ""),
        (POD, bed.token("bob", &[]), 200, ""),
        (POD, bed.token("eve", &["sre"]), 200, ""),
        (POD, bed.token("eve", &["dev"]), 403, "not_on_behalf_of"),
        // The agent's own grant gives nothing to a person, nor a person's to the agent.
        (CONFIGMAP, bed.token("ann", &[]), 403, "no_grant"),
        (CONFIGMAP, own, 200, ""),
        (POD, bed.token("system:admin", &["sre"]), 403, "person_unfit"),
        (POD, bed.token("ann", &["system:masters"]), 403, "person_unfit"),
        // By its group a person of the grant, but named as an agent's own user.
        (POD, bed.token("agent:fixer", &["sre"]), 403, "person_unfit"),
        (POD, change("exp", (now - 61).into()), 401, "jwt_expired"),
        (POD, change("aud", "other".into()), 401, "jwt_audience"),
        (
            POD,
            change("iss", "https://other.example".into()),
            401,
            "jwt_unknown_issuer",
        ),
        (
            POD,
            TestKey::new("ES256").token("k", &bed.claims("ann")),
            401,
            "jwt_unknown_key",
        ),
        (POD, "nonsense".to_owned(), 401, "jwt_malformed"),
        // No people's, though the issuer signed it.
        (POD, service_account, 403, "client_credential"),
    ];
    for (path, token, status, reason) in &cases {
        let answer = bed.ask(path, token).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), *status, "{reason}: {said}");
    }
    let records = bed.world.ended(cases.len()).await;
    for (record, (.., status, reason)) in records.iter().zip(&cases) {
        assert_eq!(record["responseStatus"]["code"], *status, "{record:#}");
        let got = record["decision"]["reason"].as_str().unwrap_or_default();
        assert_eq!(got, *reason, "{record:#}");
        assert_eq!(record["agent"]["identity"], "fixer", "{record:#}");
        assert_eq!(
            record["agent"]["onBehalfOf"].is_object(),
            *status == 200 && record["decision"]["policy"] == "people" || *reason == "no_grant",
            "{record:#}"
        );
    }
    // What is told of a token that its issuer signed names its user.
    assert_eq!(records[3]["agent"]["token"]["subject"], "eve");
    let message = records[3]["decision"]["message"].as_str().expect("text");
    assert!(message.contains("may not ask on behalf of eve"), "{message}");
    let message = records[4]["decision"]["message"].as_str().expect("text");
    assert!(
        message.contains("agent fixer on behalf of ann may not get configmaps"),
        "{message}"
    );
    let asked = bed.world.seen().len();
    assert_eq!(
        asked,
        cases.iter().filter(|(.., status, _)| *status == 200).count()
    );
    assert_eq!(bed.issuers.failures("jwt_unknown_key"), 1);
    // Who is known and may not act has proved who it is.
    for reason in ["not_on_behalf_of", "person_unfit"] {
        assert_eq!(bed.issuers.failures(reason), 0, "{reason}");
    }
}

/// Nothing is told of a token to an agent that may ask for nobody: nobody looks at it.
#[tokio::test]
async fn without_a_grant_on_behalf_of_people_no_token_is_verified() {
    let bed = Bed::new().await;
    bed.world.store.replace_for_tests(policies("", ""));
    bed.issuer.behave(IssuerBehaviour::Failing);
    let good = bed.token("ann", &[]);
    let unknown = TestKey::new("ES256").token("new", &bed.claims("ann"));
    let mut told = Vec::new();
    for token in [&*good, &unknown, "nonsense"] {
        let answer = bed.ask(POD, token).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        told.push(answer.json()["message"].clone());
    }
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    assert!(told[0].as_str().expect("text").contains("onBehalfOf"), "{told:?}");
    let records = bed.world.ended(3).await;
    assert!(
        records
            .iter()
            .all(|record| record["decision"]["reason"] == "client_credential")
    );
    assert!(bed.world.seen().is_empty());
}

#[tokio::test]
async fn each_request_of_a_connection_is_the_persons_whose_token_it_shows() {
    let bed = Bed::new().await;
    let (ann, bob, own) = (bed.token("ann", &[]), bed.token("bob", &[]), bed.world.token());
    let mut sender = bed.world.connect().await;
    for token in [&ann, &bob, &own, &ann] {
        let request = Request::get(target(POD)).header(header::AUTHORIZATION, format!("Bearer {token}"));
        assert_eq!(ask_over(&mut sender, request, "").await.status, StatusCode::OK);
    }
    let both = Request::get(target(POD))
        .header(header::AUTHORIZATION, format!("Bearer {ann}"))
        .header(header::AUTHORIZATION, format!("Bearer {bob}"));
    assert_eq!(
        ask_over(&mut sender, both, "").await.status,
        StatusCode::FORBIDDEN
    );
    let claims = Request::get(target(POD))
        .header(header::AUTHORIZATION, format!("Bearer {ann}"))
        .header("impersonate-user", "bob");
    assert_eq!(
        ask_over(&mut sender, claims, "").await.status,
        StatusCode::FORBIDDEN
    );
    let seen = bed.world.seen();
    let users: Vec<_> = seen
        .iter()
        .map(|seen| seen.headers["impersonate-user"].clone())
        .collect();
    assert_eq!(users, ["ann", "bob", "agent:fixer", "ann"]);
    let records = bed.world.ended(6).await;
    let people: Vec<_> = records
        .iter()
        .map(|record| record["agent"]["onBehalfOf"]["username"].clone())
        .collect();
    assert_eq!(
        people[..4],
        [json!("ann"), json!("bob"), Value::Null, json!("ann")]
    );
}

#[tokio::test]
async fn a_persons_watch_ends_with_the_token_the_grant_and_the_issuer() {
    let bed = Bed::new().await;
    let pods = rejudging(&bed.world);
    pods.raise(bed.world.store.epoch());
    bed.issuers.issuers.when_changed(move || pods.changed());
    // The token's time, with the skew that clocks may have.
    let mut claims = bed.claims("ann");
    let over = Timestamp::now().as_second() + 2;
    claims["exp"] = (over - 60).into();
    let brief = watch(&bed.world, &bed.key.token("k", &claims)).await;
    let ann = watch(&bed.world, &bed.token("ann", &[])).await;
    let bob = watch(&bed.world, &bed.token("bob", &[])).await;
    let at = Timestamp::from_second(over).expect("a moment");
    let left = at.duration_since(Timestamp::now()).unsigned_abs();
    end(brief, Instant::now() + left, "expiry").await;
    assert!(!ann.is_finished() && !bob.is_finished());
    bed.allow("users: [bob]");
    end(ann, Instant::now(), "grant").await;
    assert!(!bob.is_finished());
    bed.issuers
        .rewrite(|text| text.replace(&bed.issuer.url(), "https://other.example"));
    tokio::time::timeout(Duration::from_secs(10), bob)
        .await
        .expect("it goes on")
        .expect("no panic");
    let mut causes: Vec<_> = ends(&bed.world)
        .await
        .into_iter()
        .map(|[.., cause]| cause)
        .collect();
    causes.sort();
    assert_eq!(causes, ["jwt_expired", "jwt_unknown_issuer", "not_on_behalf_of"]);
}
