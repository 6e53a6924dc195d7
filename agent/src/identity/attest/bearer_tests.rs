//! Which caller a token proves to be an agent, alone and with its pod.

use std::net::Ipv4Addr;
use std::sync::Arc;

use picket_policy::PolicySet;
use picket_policy::jwt::{AuthenticationConfiguration, TokenError, VerifiedToken};
use serde_json::{Value, json};

use crate::identity::attest::Evidence;
use crate::identity::jwt::JwtError;
use crate::identity::resolve::testing::{at, evidence};
use crate::identity::{IdentityError, PrincipalCache, resolve};
use crate::workload::Pod;

const OBJECTS: &str = r"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: ci}
spec:
  owner: o
  attest: {jwt: {issuer: 'https://i.example', subject: ci, audience: extra, claims: {repository: org/a}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: both}
spec:
  owner: o
  attest:
    pod: {namespace: ns, serviceAccount: both}
    jwt: {issuer: 'https://i.example', subject: 'system:serviceaccount:ns:both'}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: plain}
spec: {owner: o, attest: {pod: {namespace: ns, serviceAccount: plain}}}
";

const FILE: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: 'https://i.example', \
                    audiences: [picket]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n";

fn policies() -> PolicySet {
    let documents = picket_policy::read_documents("f.yaml", OBJECTS).expect("valid");
    PolicySet::compile(documents).expect("a policy set")
}

fn token(claims: &Value) -> Arc<VerifiedToken> {
    let configuration = AuthenticationConfiguration::read("a.yaml", FILE).expect("valid");
    let Value::Object(mut all) =
        json!({"iss": "https://i.example", "aud": ["picket", "extra"], "exp": 2_000_000_000})
    else {
        panic!("an object")
    };
    all.extend(claims.as_object().expect("an object").clone());
    let now = at("2027-01-01T00:00:00Z");
    Arc::new(configuration.issuers[0].judge(all, now).expect("a good token"))
}

fn account(pod: Option<&str>) -> Value {
    let mut bound = json!({"namespace": "ns", "serviceaccount": {"name": "both", "uid": "s"}});
    if let Some(uid) = pod {
        bound["pod"] = json!({"name": "p", "uid": uid});
    }
    json!({"sub": "system:serviceaccount:ns:both", "kubernetes.io": bound})
}

fn pod(service_account: &str) -> Arc<Pod> {
    Arc::new(Pod {
        service_account: service_account.to_owned(),
        ..Pod::for_tests("ns", "p")
    })
}

/// The agent that a caller is, with how it was proven, or the refusal's reason.
fn who(pod: Option<&Arc<Pod>>, token: Option<Result<&Arc<VerifiedToken>, &JwtError>>) -> String {
    let any = self::pod("any");
    let evidence = Evidence {
        pod,
        peer: Ipv4Addr::new(192, 0, 2, 7).into(),
        token,
        ..evidence(&any)
    };
    match resolve(&policies(), &evidence, at("2027-01-01T00:00:00Z")) {
        Ok(principal) => format!("{} by {}", principal.name(), principal.attestation()),
        Err(error) => error.code().to_owned(),
    }
}

#[test]
fn a_token_alone_proves_an_identity_whose_every_demand_it_meets() {
    let ci = |changes: Value| {
        let mut claims = json!({"sub": "ci", "repository": "org/a"});
        claims
            .as_object_mut()
            .expect("an object")
            .extend(changes.as_object().expect("an object").clone());
        who(None, Some(Ok(&token(&claims))))
    };
    assert_eq!(ci(json!({})), "ci by jwt");
    assert_eq!(ci(json!({"sub": "other"})), "identity_none");
    assert_eq!(ci(json!({"repository": "org/b"})), "identity_none");
    assert_eq!(ci(json!({"repository": ["org/a"]})), "identity_none");
    assert_eq!(ci(json!({"repository": null})), "identity_none");
    assert_eq!(ci(json!({"aud": ["picket"]})), "identity_none");
    assert_eq!(who(None, None), "no_credential");
    // From a pod that no identity names by itself as well.
    let good = token(&json!({"sub": "ci", "repository": "org/a"}));
    assert_eq!(who(Some(&pod("unknown")), Some(Ok(&good))), "ci by jwt");
}

#[test]
fn pod_and_token_must_be_of_one_another() {
    let (own, other) = (pod("both"), pod("plain"));
    let uid = own.uid.0.as_str();
    let bound = token(&account(Some(uid)));
    assert_eq!(who(Some(&own), Some(Ok(&bound))), "both by pod+jwt");
    assert_eq!(who(Some(&own), None), "identity_incomplete");
    assert_eq!(
        who(Some(&own), Some(Ok(&token(&account(Some("another")))))),
        "jwt_pod"
    );
    assert_eq!(who(Some(&own), Some(Ok(&token(&account(None))))), "jwt_pod");
    assert_eq!(
        who(
            Some(&own),
            Some(Ok(&token(&json!({"sub": "system:serviceaccount:ns:both"}))))
        ),
        "jwt_pod"
    );
    assert_eq!(who(Some(&pod("unknown")), Some(Ok(&bound))), "jwt_pod");
    assert_eq!(who(Some(&other), Some(Ok(&bound))), "jwt_pod");
    // Another identity's token from this pod.
    let ci = token(&json!({"sub": "ci", "repository": "org/a"}));
    assert_eq!(who(Some(&own), Some(Ok(&ci))), "identity_incomplete");
    // At the gateway there is no pod.
    assert_eq!(who(None, Some(Ok(&bound))), "identity_incomplete");
}

#[test]
fn a_token_that_is_refused_refuses_whoever_is_asked_for_one() {
    let (expired, away) = (
        JwtError::from(TokenError::Expired),
        JwtError::Unavailable {
            issuer: "https://i.example".to_owned(),
        },
    );
    assert_eq!(who(None, Some(Err(&expired))), "jwt_expired");
    assert_eq!(who(Some(&pod("both")), Some(Err(&expired))), "jwt_expired");
    assert_eq!(who(Some(&pod("plain")), Some(Err(&expired))), "plain by pod");
    assert_eq!(who(Some(&pod("unknown")), Some(Err(&expired))), "identity_none");
    assert_eq!(
        who(Some(&pod("unknown")), Some(Err(&away))),
        "jwt_issuer_unavailable"
    );
    assert_eq!(
        who(Some(&pod("unknown")), Some(Err(&JwtError::NoConfiguration))),
        "jwt_no_configuration"
    );
    let said = IdentityError::from(expired.clone()).to_string();
    assert!(
        said.ends_with("Allowed instead: the same request with a new token of a configured issuer"),
        "{said}"
    );
    assert!(IdentityError::from(away.clone()).to_string().contains("later"));
    assert!(IdentityError::from(expired).is_unauthenticated());
    assert!(!IdentityError::from(away).is_unauthenticated());
}

#[test]
fn whose_token_is_read_is_decided_by_the_identities() {
    let reads = |account: &str| policies().reads_token_of_pod("ns", account, &Default::default());
    assert!(reads("both") && reads("unknown") && !reads("plain"));
    assert!(!PolicySet::default().reads_token_of_pod("ns", "both", &Default::default()));
}

#[test]
fn a_connections_principal_is_of_the_token_that_each_request_shows() {
    let (cache, policies) = (PrincipalCache::default(), Arc::new(policies()));
    let own = pod("both");
    let good = token(&account(Some(own.uid.0.as_str())));
    let bad = token(&account(Some("another")));
    let ask = |token: Option<&Arc<VerifiedToken>>| {
        let evidence = Evidence {
            token: token.map(Ok),
            ..evidence(&own)
        };
        cache.principal(&policies, &evidence, at("2027-01-01T00:00:00Z"))
    };
    let first = ask(Some(&good)).expect("both");
    assert!(
        Arc::ptr_eq(&first, &ask(Some(&good)).expect("both")),
        "found once"
    );
    assert!(first.token.is_some(), "kept for its sessions");
    assert!(ask(Some(&bad)).is_err() && ask(None).is_err());
    assert!(ask(Some(&good)).is_ok());
}
