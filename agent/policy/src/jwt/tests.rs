//! Which files are taken, what is said of others, and which tokens their rules let through.

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};

use super::*;

/// A file with all that there is.
const FULL: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous: {enabled: false}
jwt:
- issuer:
    url: https://issuer.example/tenant
    discoveryURL: https://inside.example/.well-known/openid-configuration
    certificateAuthority: |
      -----BEGIN CERTIFICATE-----
    audiences: [picket, other]
    audienceMatchPolicy: MatchAny
  claimValidationRules:
  - claim: hd
    requiredValue: example.com
  - expression: 'claims.exp - claims.nbf <= 86400'
    message: total token lifetime must not exceed 24 hours
  claimMappings:
    username: {claim: sub, prefix: 'oidc:'}
    groups: {claim: roles, prefix: ''}
    uid: {claim: uid}
    extra:
    - key: example.org/tenant
      valueExpression: claims.tenant
  userValidationRules:
  - expression: "!user.username.startsWith('system:')"
    message: username cannot used reserved system prefix
- issuer: {url: 'https://second.example', audiences: [picket]}
  claimMappings:
    username: {expression: claims.email}
    groups: {expression: 'claims.roles.split(",")'}
    extra: [{key: example.org/verified, valueExpression: 'string(claims.email_verified)'}]
"#;

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a moment")
}

fn read(text: &str) -> AuthenticationConfiguration {
    AuthenticationConfiguration::read("auth.yaml", text).expect("valid")
}

/// The full file with something replaced, and all that is said of it.
fn faults(from: &str, to: &str) -> Vec<String> {
    assert!(FULL.contains(from), "{from}");
    let read = AuthenticationConfiguration::read("auth.yaml", &FULL.replacen(from, to, 1));
    let errors = read.expect_err(to);
    errors.iter().map(ToString::to_string).collect()
}

fn claims() -> Json {
    json!({
        "iss": "https://issuer.example/tenant", "sub": "jane", "aud": ["x", "picket"], "hd": "example.com",
        "exp": NOW + 100, "nbf": NOW - 100, "roles": ["a", "b"], "uid": "u1", "tenant": "t",
    })
}

/// Judges the claims with some of them set, or taken out where they are null.
fn judge(changes: &Json, now: i64) -> Result<VerifiedToken, TokenError> {
    let Json::Object(mut claims) = claims() else {
        panic!("an object")
    };
    let Json::Object(changes) = changes else {
        panic!("an object")
    };
    for (name, value) in changes {
        match value {
            Json::Null => drop(claims.remove(name)),
            value => drop(claims.insert(name.clone(), value.clone())),
        }
    }
    read(FULL).issuers[0].judge(claims, at(now))
}

fn judge_now(changes: &Json) -> Result<VerifiedToken, TokenError> {
    judge(changes, NOW)
}

#[test]
fn a_file_of_the_api_server_is_read_as_it_is() {
    for version in ["v1", "v1beta1"] {
        let text = FULL.replacen("k8s.io/v1", &format!("k8s.io/{version}"), 1);
        let configuration = read(&text);
        let [first, second] = configuration.issuers.as_slice() else {
            panic!("two issuers")
        };
        assert_eq!(first.url, "https://issuer.example/tenant");
        assert_eq!(
            first.discovery(),
            "https://inside.example/.well-known/openid-configuration"
        );
        assert_eq!(first.audiences, ["picket", "other"]);
        assert_eq!(
            second.discovery(),
            "https://second.example/.well-known/openid-configuration"
        );
        assert_eq!(
            (first.claim_rules.len(), first.user_rules.len(), first.extra.len()),
            (2, 1, 1)
        );
    }
    let empty = read("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n");
    assert!(empty.issuers.is_empty());
}

#[test]
fn what_the_api_server_refuses_in_a_file_is_refused_with_its_place() {
    let many: String = (0..=MAX_ISSUERS).map(|_| "- {}\n").collect();
    for (from, to, line, said) in [
        (
            "k8s.io/v1",
            "k8s.io/v2",
            2,
            "it can be apiserver.config.k8s.io/v1 or",
        ),
        (
            "kind: Auth",
            "kind: Author",
            3,
            "it can be AuthenticationConfiguration",
        ),
        (
            "url: https://issuer.example/tenant",
            "url: http://issuer.example",
            7,
            "begin with https://",
        ),
        (
            "url: https://issuer.example/tenant",
            "url: https://u:p@issuer.example",
            7,
            "no user name",
        ),
        (
            "url: https://issuer.example/tenant",
            "url: https://issuer.example/?a=b",
            7,
            "no query",
        ),
        (
            "url: https://issuer.example/tenant",
            "url: https://issuer.example/#a",
            7,
            "no fragment",
        ),
        (
            "url: https://issuer.example/tenant",
            "url: ''",
            7,
            "must not be empty",
        ),
        (
            "https://second.example",
            "https://issuer.example/tenant",
            28,
            "is given twice",
        ),
        (
            "https://inside.example/.well-known/openid-configuration",
            "https://issuer.example/tenant/",
            8,
            "must differ",
        ),
        ("[picket, other]", "[]", 11, "at least one audience"),
        ("[picket, other]", "[picket, picket]", 11, "given twice"),
        ("[picket, other]", "[picket, '']", 11, "must not be empty"),
        (
            "    audienceMatchPolicy: MatchAny\n",
            "",
            11,
            "must be MatchAny where",
        ),
        ("MatchAny", "MatchAll", 12, "can be MatchAny only"),
        (
            "audienceMatchPolicy: MatchAny",
            "egressSelectorType: cluster",
            12,
            "Picket dials the issuer from the node",
        ),
        (
            "    requiredValue: example.com",
            "    message: m",
            15,
            "cannot stand beside `claim`",
        ),
        (
            "    message: total",
            "    requiredValue: total",
            17,
            "cannot stand beside `expression`",
        ),
        (
            "  - claim: hd\n    requiredValue: example.com",
            "  - message: m",
            14,
            "give either",
        ),
        ("- claim: hd", "- {claim: hd}\n  - claim: hd", 15, "given twice"),
        ("claims.nbf <= 86400", "claims.nbf <=", 16, "not valid CEL"),
        (
            "claims.exp - ",
            "claim.exp - ",
            16,
            "variable `claim` is not known; known here: claims",
        ),
        (
            "!user.username",
            "!claims.username",
            26,
            "variable `claims` is not known; known here: user",
        ),
        (
            "{claim: sub, prefix: 'oidc:'}",
            "{claim: sub}",
            19,
            "`jwt[0].claimMappings.username.prefix` is required",
        ),
        (
            "{claim: sub, prefix: 'oidc:'}",
            "{expression: claims.sub, prefix: a}",
            19,
            "cannot stand beside",
        ),
        ("{claim: sub, prefix: 'oidc:'}", "{prefix: a}", 19, "give either"),
        (
            "{claim: sub, prefix: 'oidc:'}",
            "{claim: sub, prefix: a, expression: b}",
            19,
            "give either",
        ),
        (
            "    username: {claim: sub, prefix: 'oidc:'}\n",
            "",
            19,
            "`jwt[0].claimMappings.username` is required",
        ),
        (
            "{claim: uid}",
            "{claim: uid, prefix: a}",
            21,
            "unknown field `jwt[0].claimMappings.uid.prefix`",
        ),
        ("example.org/tenant", "tenant", 23, "a domain and a path"),
        ("example.org/tenant", "Example.org/tenant", 23, "lower case"),
        (
            "example.org/tenant",
            "a.k8s.io/tenant",
            23,
            "Kubernetes keeps for itself",
        ),
        (
            "string(claims.email_verified)",
            "claims.sub",
            30,
            "claims.email_verified must be used",
        ),
        ("anonymous:", "anonymus:", 4, "unknown field `anonymus`"),
        ("jwt:\n", &format!("jwt:\n{many}"), 6, "more than 64 issuers"),
    ] {
        let said_of = faults(from, to);
        let place = format!("auth.yaml:{line}:");
        assert!(
            said_of
                .iter()
                .any(|fault| fault.starts_with(&place) && fault.contains(said)),
            "{to}: {place} {said}: {said_of:?}"
        );
    }
    for text in ["", "a: [", "---\na: 1\n---\nb: 1\n", "[]"] {
        assert!(
            AuthenticationConfiguration::read("auth.yaml", text).is_err(),
            "{text}"
        );
    }
}

#[test]
fn a_token_becomes_the_user_of_the_mappings() {
    let token = judge_now(&json!({})).expect("a good token");
    let user = token.user();
    assert_eq!((user.username.as_str(), user.uid.as_str()), ("oidc:jane", "u1"));
    assert_eq!(user.groups, ["a", "b"]);
    assert_eq!(user.extra["example.org/tenant"], ["t"]);
    assert_eq!(
        (token.issuer(), token.subject()),
        ("https://issuer.example/tenant", "jane")
    );
    assert!(token.is_for("picket") && token.is_for("x") && !token.is_for("other"));
    // One text is a list of one, and a claim that is missing is none.
    assert_eq!(
        judge_now(&json!({"roles": "a"})).expect("good").user().groups,
        ["a"]
    );
    assert!(
        judge_now(&json!({"roles": null}))
            .expect("good")
            .user()
            .groups
            .is_empty()
    );
    assert!(
        judge_now(&json!({"tenant": ""}))
            .expect("good")
            .user()
            .extra
            .is_empty()
    );
    assert!(judge_now(&json!({"aud": "other"})).is_ok());
}

#[test]
fn the_second_issuer_maps_by_expressions() {
    let issuer = &read(FULL).issuers[1];
    let Json::Object(claims) = json!({
        "iss": "https://second.example", "aud": "picket", "exp": NOW, "email": "j@x.test", "email_verified": true,
        "roles": "a,,b",
    }) else {
        panic!("an object")
    };
    let token = issuer.judge(claims, at(NOW)).expect("a good token");
    assert_eq!(token.user().username, "j@x.test");
    assert_eq!(token.user().groups, ["a", "b"]);
    assert_eq!(token.user().extra["example.org/verified"], ["true"]);
}

#[test]
fn each_claim_that_does_not_hold_refuses_the_token_for_its_own_reason() {
    for (changes, code) in [
        (json!({"iss": "https://other.example"}), "jwt_unknown_issuer"),
        (
            json!({"iss": "https://issuer.example/tenant/"}),
            "jwt_unknown_issuer",
        ),
        (
            json!({"iss": ["https://issuer.example/tenant"]}),
            "jwt_unknown_issuer",
        ),
        (json!({"aud": "x"}), "jwt_audience"),
        (json!({"aud": null}), "jwt_audience"),
        (json!({"aud": {"picket": true}}), "jwt_audience"),
        (json!({"aud": [1, ["picket"]]}), "jwt_audience"),
        (json!({"exp": null}), "jwt_claim"),
        (json!({"exp": "1900000000"}), "jwt_claim"),
        (json!({"exp": 1e300}), "jwt_claim"),
        (json!({"exp": -1}), "jwt_expired"),
        (json!({"nbf": true}), "jwt_claim"),
        (json!({"hd": null}), "jwt_claim"),
        (json!({"hd": "example.org"}), "jwt_rule"),
        (json!({"hd": ["example.com"]}), "jwt_rule"),
        (json!({"nbf": NOW - 86400}), "jwt_rule"),
        (json!({"nbf": null}), "jwt_rule"),
        (json!({"sub": null}), "jwt_claim"),
        (json!({"sub": 7}), "jwt_claim"),
        (json!({"roles": [1]}), "jwt_claim"),
        (json!({"uid": null}), "jwt_claim"),
        (json!({"tenant": null}), "jwt_rule"),
        (json!({"tenant": 1}), "jwt_rule"),
    ] {
        let error = judge_now(&changes).expect_err(&changes.to_string());
        assert_eq!(error.code(), code, "{changes}: {error}");
    }
    let refused = FULL.replacen("prefix: 'oidc:'", "prefix: 'system:'", 1);
    let Json::Object(claims) = claims() else {
        panic!("an object")
    };
    let error = read(&refused).issuers[0]
        .judge(claims, at(NOW))
        .expect_err("reserved");
    assert!(
        error
            .to_string()
            .ends_with("username cannot used reserved system prefix"),
        "{error}"
    );
}

#[test]
fn clocks_may_differ_by_less_than_a_minute() {
    let times = json!({"exp": NOW, "nbf": NOW});
    for (now, expected) in [
        (NOW + 59, Ok(())),
        (NOW + 60, Err(TokenError::Expired)),
        (NOW + 61, Err(TokenError::Expired)),
        (NOW - 59, Ok(())),
        (NOW - 60, Ok(())),
        (NOW - 61, Err(TokenError::NotYetValid)),
    ] {
        assert_eq!(judge(&times, now).map(|_| ()), expected, "{}", now - NOW);
    }
    // A token that was verified before is held to the same times.
    let token = judge(&times, NOW).expect("good");
    assert_eq!(token.check_times(at(NOW + 59)), Ok(()));
    assert_eq!(token.check_times(at(NOW + 61)), Err(TokenError::Expired));
}

#[test]
fn an_email_as_user_name_must_be_verified_where_the_token_says_so() {
    let file = FULL.replacen("{claim: sub, prefix: 'oidc:'}", "{claim: email, prefix: ''}", 1);
    let judge = |verified: &Json| {
        let mut claims: Map<String, Json> = serde_json::from_value(claims()).expect("an object");
        claims.insert("email".to_owned(), json!("j@x.test"));
        if !verified.is_null() {
            claims.insert("email_verified".to_owned(), verified.clone());
        }
        read(&file).issuers[0].judge(claims, at(NOW)).map(|_| ())
    };
    assert_eq!(judge(&json!(null)), Ok(()));
    assert_eq!(judge(&json!(true)), Ok(()));
    assert_eq!(judge(&json!(false)), Err(TokenError::EmailNotVerified));
    assert_eq!(judge(&json!("true")), Err(TokenError::EmailNotVerified));
}

#[test]
fn a_service_accounts_token_names_its_pod_and_no_debug_output_names_claims() {
    let bound = json!({"kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "sa", "uid": "s"},
        "pod": {"name": "p", "uid": "pu"}}});
    let token = judge_now(&bound).expect("good");
    let account = token.service_account().expect("a service account's");
    assert_eq!(
        (account.namespace.as_str(), account.service_account.as_str()),
        ("ns", "sa")
    );
    assert_eq!(account.pod.expect("bound").uid, "pu");
    assert!(judge_now(&json!({})).expect("good").service_account().is_none());
    assert!(!format!("{token:?}").contains("jane"), "{token:?}");
}

#[test]
fn every_refusal_of_a_token_says_what_to_do() {
    let name = || "c".to_owned();
    for error in [
        TokenError::TooLong,
        TokenError::Malformed,
        TokenError::Algorithm,
        TokenError::UnknownIssuer,
        TokenError::UnknownKey,
        TokenError::Signature,
        TokenError::Expired,
        TokenError::NotYetValid,
        TokenError::Audience,
        TokenError::MissingClaim(name()),
        TokenError::ClaimType(name()),
        TokenError::EmailNotVerified,
        TokenError::RequiredClaim(name()),
        TokenError::Expression("e"),
        TokenError::Rule(name()),
    ] {
        let remedy = error.remedy();
        assert!(
            remedy.starts_with("Allowed instead: the same request with a ") && !remedy.ends_with('.'),
            "{error}: {remedy}"
        );
    }
}
