//! Which headers name the pod, and which somebody else.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde_json::{Value, json};

use super::*;
use crate::identity::testing::token;

fn pod() -> Pod {
    Pod {
        service_account: "fixer".to_owned(),
        ..Pod::for_tests("ns", "p")
    }
}

/// The claims of the token that the kubelet mounts into the pod.
fn own(pod: &Pod) -> Value {
    json!({
        "aud": ["picket.dev"], "iss": "https://kubernetes.default.svc.cluster.local", "exp": 1, "sub": "s",
        "kubernetes.io": {"namespace": pod.namespace, "node": {"name": "n", "uid": "n"},
            "pod": {"name": pod.name, "uid": pod.uid.0}, "serviceaccount": {"name": pod.service_account, "uid": "s"}},
    })
}

fn check(pod: &Pod, headers: &[(&'static str, String)]) -> Result<(), ClaimError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    check_claims(&map, Some(pod), "fixer", &OwnToken::default(), None)
}

fn bearer(claims: &Value) -> (&'static str, String) {
    ("authorization", format!("Bearer {}", token(claims)))
}

fn refused(result: Result<(), ClaimError>) -> ForeignCredential {
    match result {
        Err(ClaimError::Credential { credential, .. }) => credential,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_pods_own_client_sends_passes() {
    let pod = pod();
    assert_eq!(check(&pod, &[]), Ok(()));
    for nobody in ["", " ", "Bearer", "bearer ", "Bearer   "] {
        assert_eq!(
            check(&pod, &[("authorization", nobody.to_owned())]),
            Ok(()),
            "{nobody:?}"
        );
    }
    assert_eq!(check(&pod, &[bearer(&own(&pod))]), Ok(()));
    assert_eq!(check(&pod, &[bearer(&own(&pod)), bearer(&own(&pod))]), Ok(()));
    let (name, value) = bearer(&own(&pod));
    assert_eq!(check(&pod, &[(name, value.replace("Bearer", "bearer"))]), Ok(()));
    // Tokens from before the pod's namespace was enrolled, and those that are bound to no pod.
    for audience in [
        json!("https://kubernetes.default.svc.cluster.local"),
        json!(["https://kubernetes.default.svc", "other"]),
        json!([]),
    ] {
        let mut claims = own(&pod);
        claims["aud"] = audience;
        assert_eq!(check(&pod, &[bearer(&claims)]), Ok(()), "{claims}");
    }
    // An API server whose audience is its issuer.
    let mut claims = own(&pod);
    claims["iss"] = json!("https://oidc.example/cluster");
    claims["aud"] = json!(["https://oidc.example/cluster"]);
    assert_eq!(check(&pod, &[bearer(&claims)]), Ok(()));
    let mut unbound = own(&pod);
    unbound["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    assert_eq!(check(&pod, &[bearer(&unbound)]), Ok(()));
    let from_secret = json!({"iss": "kubernetes/serviceaccount", "kubernetes.io/serviceaccount/namespace": "ns",
        "kubernetes.io/serviceaccount/service-account.name": "fixer"});
    assert_eq!(check(&pod, &[bearer(&from_secret)]), Ok(()));
    let subprotocol = format!(
        "base64url.bearer.authorization.k8s.io.{}, v5.channel.k8s.io",
        BASE64_URL_SAFE_NO_PAD.encode(token(&own(&pod)).as_bytes())
    );
    assert_eq!(check(&pod, &[("sec-websocket-protocol", subprotocol)]), Ok(()));
    // What only a proxy may say is dropped without a word.
    for name in [
        "cookie",
        "x-remote-user",
        "x-forwarded-for",
        "proxy-authorization",
        "impersonation",
    ] {
        assert_eq!(check(&pod, &[(name, "somebody".to_owned())]), Ok(()), "{name}");
    }
}

#[test]
fn a_token_of_somebody_else_is_refused_and_named() {
    let pod = pod();
    let changed = |at: &str, value: Value| {
        let mut claims = own(&pod);
        *claims.pointer_mut(at).unwrap() = value;
        refused(check(&pod, &[bearer(&claims)]))
    };
    let account = |name: &str| ForeignCredential::ServiceAccount(name.to_owned());
    assert_eq!(
        changed("/kubernetes.io/namespace", json!("other")),
        account("other/fixer")
    );
    assert_eq!(
        changed("/kubernetes.io/serviceaccount/name", json!("boss")),
        account("ns/boss")
    );
    let other = ForeignCredential::Pod("ns/q".to_owned());
    assert_eq!(changed("/kubernetes.io/pod/name", json!("q")), other);
    let earlier = ForeignCredential::Pod("ns/p".to_owned());
    assert_eq!(changed("/kubernetes.io/pod/uid", json!("before")), earlier);
    assert_eq!(changed("/aud", json!(["vault"])), ForeignCredential::Audience);
    // What cannot be a name is not repeated.
    for odd in ["", "a b", "x\nAllowed", "\u{202e}", &"x".repeat(254)] {
        assert_eq!(
            changed("/kubernetes.io/namespace", json!(odd)),
            ForeignCredential::Token
        );
    }
}

#[test]
fn every_other_credential_is_refused_wherever_it_stands() {
    let pod = pod();
    let own = bearer(&own(&pod));
    let foreign = ("authorization", "Bearer of-somebody-else".to_owned());
    assert_eq!(
        refused(check(&pod, std::slice::from_ref(&foreign))),
        ForeignCredential::Token
    );
    for pair in [[own.clone(), foreign.clone()], [foreign, own.clone()]] {
        assert_eq!(refused(check(&pod, &pair)), ForeignCredential::Token);
    }
    let twice = ("authorization", format!("{}, {}", own.1, own.1));
    assert_eq!(refused(check(&pod, &[twice])), ForeignCredential::Token);
    for value in [
        "Basic YWRtaW46YWRtaW4=",
        "Negotiate abc",
        "abc.def.ghi",
        "Bearer=abc",
        ", Bearer x",
    ] {
        let scheme = check(&pod, &[("authorization", value.to_owned())]);
        assert_eq!(refused(scheme), ForeignCredential::Scheme, "{value}");
    }
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(b"of-somebody-else");
    for value in [
        format!("base64url.bearer.authorization.k8s.io.{encoded}"),
        format!("v4.channel.k8s.io,BASE64URL.bearer.authorization.k8s.io.{encoded}"),
        "base64url.bearer.authorization.k8s.io.".to_owned(),
    ] {
        let subprotocol = check(&pod, &[own.clone(), ("sec-websocket-protocol", value.clone())]);
        assert_eq!(refused(subprotocol), ForeignCredential::Token, "{value}");
    }
}

#[test]
fn every_wish_to_act_as_another_is_refused() {
    let pod = pod();
    for (name, header) in [
        ("impersonate-user", "Impersonate-User"),
        ("impersonate-group", "Impersonate-Group"),
        ("impersonate-uid", "Impersonate-Uid"),
        ("impersonate-extra-scopes", "Impersonate-Extra"),
        ("impersonate_user", "Impersonate-User"),
        ("impersonate-of-next-year", "Impersonate-*"),
    ] {
        let error = check(&pod, &[bearer(&own(&pod)), (name, String::new())]).unwrap_err();
        assert_eq!(error.code(), "client_impersonation");
        assert!(
            error.to_string().starts_with(&format!("header {header} asks")),
            "{error}"
        );
    }
}

#[test]
fn a_token_is_read_once_a_connection_and_another_one_again() {
    let (pod, kept) = (pod(), OwnToken::default());
    let mut headers = HeaderMap::new();
    let mut shows = |value: &str| {
        headers.insert("authorization", value.parse().unwrap());
        check_claims(&headers, Some(&pod), "fixer", &kept, None)
    };
    let (_, own) = bearer(&own(&pod));
    assert_eq!(shows(&own), Ok(()));
    assert!(kept.is(own.as_bytes()) && !kept.is(b"") && !OwnToken::default().is(b""));
    assert!(shows("Bearer other").is_err() && shows("Bearer other").is_err());
    assert_eq!(shows(&own), Ok(()));
}

#[test]
fn the_message_fits_a_warning_and_says_what_to_do() {
    let pod = pod();
    let errors = [
        check(&pod, &[("impersonate-user", "u".to_owned())]),
        check(&pod, &[("authorization", "Bearer x".to_owned())]),
    ];
    for error in errors {
        let said = error.unwrap_err().to_string();
        assert!(said.contains("Allowed instead: the same request with"), "{said}");
        assert!(said.ends_with("It then runs as agent fixer"), "{said}");
        assert!("cannot list namespaces: ".len() + said.len() <= 300, "{said}");
    }
}

#[test]
fn a_second_credential_at_the_gateway_is_refused_in_words_for_callers_without_a_pod() {
    let check = |name: &'static str, value: &str, proof: Option<&HeaderValue>| {
        let mut map = HeaderMap::new();
        map.append(name, HeaderValue::from_str(value).unwrap());
        check_claims(&map, None, "ci", &OwnToken::default(), proof)
    };
    let (_, shown) = bearer(&own(&pod()));
    for (value, credential) in [
        (shown.as_str(), ForeignCredential::AnyToken),
        ("Basic x", ForeignCredential::Scheme),
    ] {
        let refused = check("authorization", value, None).unwrap_err();
        assert_eq!(refused.code(), "client_credential");
        let said = refused.to_string();
        assert!(
            said.contains("beside the credential that agent ci is known by") && !said.contains("pod"),
            "{said}"
        );
        let agent = "ci".to_owned();
        assert_eq!(refused, ClaimError::AtGateway { credential, agent });
    }
    // The token that proved who calls is none, and nobody is named by an empty one.
    let proof = HeaderValue::from_str(&shown).unwrap();
    assert_eq!(check("authorization", &shown, Some(&proof)), Ok(()));
    assert_eq!(check("authorization", "Bearer", None), Ok(()));
    assert!(check("impersonate-user", "someone", Some(&proof)).is_err());
}

#[test]
fn a_persons_token_is_of_no_service_account_and_not_the_pods_own() {
    let (pod, kept) = (pod(), OwnToken::default());
    let may = |value: &str| may_be_person_token(value.as_bytes(), Some(&pod), &kept);
    let (_, ann) = bearer(&json!({"iss": "https://i.example", "sub": "ann", "aud": "picket", "exp": 1}));
    assert!(may(&ann));
    let mut other = own(&pod);
    other["kubernetes.io"]["serviceaccount"]["name"] = json!("other");
    for account in [own(&pod), other] {
        assert!(!may(&bearer(&account).1), "{account}");
    }
    for nobody in ["", "Bearer ", "Basic YTpi"] {
        assert!(!may(nobody), "{nobody:?}");
    }
    // Without a pod no token is the client's own.
    let at_gateway = |value: &str| may_be_person_token(value.as_bytes(), None, &kept);
    assert!(at_gateway(&ann));
    for other in [&*bearer(&own(&pod)).1, "", "Bearer ", "Basic YTpi"] {
        assert!(!at_gateway(other), "{other:?}");
    }
    kept.keep(ann.as_bytes());
    assert!(!may(&ann));
}
