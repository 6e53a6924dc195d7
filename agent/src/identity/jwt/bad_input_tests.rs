//! What an issuer may answer that is too much, too late or not its own: each costs a bounded amount and is told in words.

use std::path::Path;
use std::sync::Arc;

use jsonwebtoken::Algorithm;
use picket_policy::jwt::{AuthenticationConfiguration, JwtIssuer};
use serde_json::{Value, json};

use super::fetch::{IssuerClient, MAX_DOCUMENT};
use super::keys::{KeySet, MAX_KEYS};
use super::testing::{IssuerBehaviour, TestIssuer, TestKey};

/// An issuer that does this, and a client that knows its CA.
async fn issuer(behaviour: IssuerBehaviour) -> (TestIssuer, IssuerClient) {
    let issuer = TestIssuer::start(vec![TestKey::new("ES256").published("k")]).await;
    issuer.behave(behaviour);
    let client = client(&configured(&issuer));
    (issuer, client)
}

fn configured(issuer: &TestIssuer) -> Arc<JwtIssuer> {
    let read = AuthenticationConfiguration::read("auth.yaml", &issuer.configuration());
    read.expect("a configuration").issuers.remove(0)
}

fn client(issuer: &JwtIssuer) -> IssuerClient {
    IssuerClient::new(issuer, Path::new("auth.yaml")).expect("a client")
}

/// Why its key set is not got.
async fn said(issuer: &TestIssuer, client: &IssuerClient) -> String {
    let got = client.get(&format!("{}/keys", issuer.url())).await;
    got.expect_err("no document").to_string()
}

#[tokio::test]
async fn a_key_set_of_a_hundred_megabytes_is_read_to_the_limit_and_the_error_names_it() {
    let (issuer, client) = issuer(IssuerBehaviour::Endless).await;
    let said = said(&issuer, &client).await;
    assert!(said.contains("larger than 1048576 bytes"), "{said}");
    // The rest is in the sockets' buffers.
    assert!(issuer.sent() < 16 * MAX_DOCUMENT, "{}", issuer.sent());
}

#[tokio::test]
async fn a_head_without_end_is_read_to_a_limit() {
    let (issuer, client) = issuer(IssuerBehaviour::EndlessHead).await;
    let said = said(&issuer, &client).await;
    assert!(said.contains(&issuer.url()) && said.contains("/keys: "), "{said}");
    assert!(issuer.sent() < 16 * MAX_DOCUMENT, "{}", issuer.sent());
}

/// Time stands still but for the limit, so whatever the test machine does in between takes none.
#[tokio::test(start_paused = true)]
async fn an_issuer_that_never_answers_is_given_up_at_the_limit() {
    let (issuer, client) = issuer(IssuerBehaviour::Silent).await;
    let said = said(&issuer, &client).await;
    assert!(said.contains("no answer within 4 s"), "{said}");
}

#[tokio::test]
async fn an_issuer_with_a_certificate_of_another_ca_is_not_asked_anything() {
    let (issuer, _) = issuer(IssuerBehaviour::Good).await;
    let (other, _) = self::issuer(IssuerBehaviour::Good).await;
    let said = said(&issuer, &client(&configured(&other))).await;
    assert!(
        said.contains("cannot connect: invalid peer certificate"),
        "{said}"
    );
    assert_eq!(issuer.asked(), 0);
}

#[test]
fn a_token_that_names_no_key_is_tried_with_few_and_each_key_with_its_own_algorithm_alone() {
    let set =
        |keys: Vec<Value>| KeySet::read(json!({"keys": keys}).to_string().as_bytes()).expect("a key set");
    let published = TestKey::new("ES256").published("k");
    let crowd = set(vec![published.clone(); 20]);
    assert_eq!(crowd.len(), 20);
    assert_eq!(crowd.candidates(None, Algorithm::ES256).count(), 8);
    assert_eq!(crowd.candidates(None, Algorithm::RS256).count(), 0);
    for algorithm in ["RS256", "ES384", "HS256"] {
        let mut odd = published.clone();
        odd["alg"] = algorithm.into();
        assert_eq!(set(vec![odd]).len(), 0, "{algorithm}");
    }
}

#[test]
fn of_a_crowd_of_keys_and_of_huge_ones_only_so_many_are_kept() {
    let published = TestKey::new("ES256").published("k");
    let set = |keys: Vec<Value>| KeySet::read(json!({"keys": keys}).to_string().as_bytes());
    assert_eq!(
        set(vec![published.clone(); 5000]).map(|set| set.len()),
        Some(MAX_KEYS)
    );
    let mut huge = TestKey::new("RS256").published("k");
    huge["n"] = "A".repeat(500_000).into();
    // A member of another type spoils its own key alone.
    let strange = json!({"kty": 7, "kid": ["k"], "x5c": [{"a": []}]});
    assert_eq!(set(vec![huge, strange, published]).map(|set| set.len()), Some(1));
    for no_set in ["", "[]", "{}", "{\"keys\": {}}", "\u{feff}{\"keys\": []}"] {
        assert!(KeySet::read(no_set.as_bytes()).is_none(), "{no_set}");
    }
    // Nested deeper than the parser goes.
    let deep = format!("{{\"keys\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(KeySet::read(deep.as_bytes()).is_none());
}
