//! Tokens of an issuer with real keys: which are taken, what rotation and outages do, and what no error repeats.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::testing::{IssuerBehaviour, TestIssuer, TestKey};
use super::*;

const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("a moment")
}

/// Limits that a test can wait for.
fn quick() -> Limits {
    Limits {
        refresh: Duration::from_secs(60),
        refetch: Duration::from_millis(150),
        wait: Duration::from_secs(1),
        retry: (Duration::from_millis(20), Duration::from_millis(40)),
        ..Limits::default()
    }
}

struct Bed {
    issuer: TestIssuer,
    issuers: Issuers,
    folder: TempDir,
    _running: tokio_util::task::AbortOnDropHandle<()>,
}

impl Bed {
    async fn start(keys: Vec<Value>, limits: Limits) -> Self {
        Self::of(TestIssuer::start(keys).await, limits)
    }

    fn of(issuer: TestIssuer, limits: Limits) -> Self {
        let configuration = issuer.configuration();
        Self::with(issuer, &configuration, limits)
    }

    fn with(issuer: TestIssuer, configuration: &str, limits: Limits) -> Self {
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("auth.yaml");
        std::fs::write(&file, configuration).expect("written");
        let metrics = JwtMetrics::register(&MetricsRegistry::default());
        let issuers = Issuers::open_with(Some(file), metrics, limits);
        let running = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(issuers.clone().run()));
        Self {
            issuer,
            issuers,
            folder,
            _running: running,
        }
    }

    fn claims(&self) -> Value {
        json!({"iss": self.issuer.url(), "sub": "jane", "aud": "picket", "exp": NOW + 100})
    }

    async fn verify(&self, token: &str) -> Result<Arc<VerifiedToken>, RefusedToken> {
        self.verify_at(token, NOW).await
    }

    async fn verify_at(&self, token: &str, second: i64) -> Result<Arc<VerifiedToken>, RefusedToken> {
        let header = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
        let now = Timestamp::from_second(second).expect("a moment");
        self.issuers.verify(&header, now).await.expect("a bearer token")
    }
}

fn code<T>(result: Result<T, RefusedToken>) -> &'static str {
    result.map_or_else(|refused| refused.error.code(), |_| "taken")
}

#[tokio::test]
async fn every_algorithm_that_counts_is_verified_by_its_key() {
    for algorithm in ["ES256", "ES384", "EdDSA", "RS256", "PS512"] {
        let key = TestKey::new(algorithm);
        let bed = Bed::start(
            vec![TestKey::new("ES256").published("other"), key.published("k")],
            quick(),
        )
        .await;
        let verified = bed.verify(&key.token("k", &bed.claims())).await.expect(algorithm);
        assert_eq!(
            (verified.subject(), verified.user().username.as_str()),
            ("jane", "jane")
        );
        // Without a key id every key that fits is tried.
        let header = json!({"alg": algorithm});
        assert_eq!(
            code(bed.verify(&key.token_with(&header, &bed.claims())).await),
            "taken"
        );
    }
}

#[tokio::test]
async fn what_is_not_signed_by_a_key_of_the_issuer_is_refused() {
    let (key, stranger) = (TestKey::new("RS256"), TestKey::new("ES256"));
    let published = key.published("k");
    let bed = Bed::start(
        vec![published.clone(), TestKey::new("ES256").published("e")],
        quick(),
    )
    .await;
    let claims = bed.claims();
    let part = |value: &Value| {
        use base64::Engine as _;
        base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
    };
    let good = key.token("k", &claims);
    let (message, signature) = good.rsplit_once('.').expect("parts");
    let (header, _) = message.split_once('.').expect("parts");
    let unsigned = |alg: &str| format!("{}.{}.", part(&json!({"alg": alg, "kid": "k"})), part(&claims));
    // The public key as the secret of an HMAC, in the forms that libraries have confused.
    let hmac = |secret: &[u8]| {
        use base64::Engine as _;
        let message = format!("{}.{}", part(&json!({"alg": "HS256", "kid": "k"})), part(&claims));
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let signature = ring::hmac::sign(&secret, message.as_bytes());
        format!(
            "{message}.{}",
            base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(signature)
        )
    };
    let mut changed = claims.clone();
    changed["sub"] = "admin".into();
    for (what, token, expected) in [
        ("alg none", unsigned("none"), "jwt_algorithm"),
        ("alg None", unsigned("None"), "jwt_algorithm"),
        (
            "no alg",
            format!("{}.{}.", part(&json!({})), part(&claims)),
            "jwt_malformed",
        ),
        (
            "HS256 by n",
            hmac(published["n"].as_str().expect("n").as_bytes()),
            "jwt_algorithm",
        ),
        (
            "HS256 by the JWK",
            hmac(published.to_string().as_bytes()),
            "jwt_algorithm",
        ),
        ("ES512", unsigned("ES512"), "jwt_algorithm"),
        ("no signature", unsigned("RS256"), "jwt_signature"),
        (
            "other claims",
            format!("{header}.{}.{signature}", part(&changed)),
            "jwt_signature",
        ),
        (
            "a stranger's key by a known id",
            stranger.token("e", &claims),
            "jwt_signature",
        ),
        (
            "a stranger's key",
            stranger.token_with(&json!({"alg": "ES256"}), &claims),
            "jwt_signature",
        ),
        (
            "a key of another kind",
            stranger.token("k", &claims),
            "jwt_unknown_key",
        ),
        ("two parts", message.to_owned(), "jwt_malformed"),
        ("four parts", format!("{good}.a"), "jwt_malformed"),
        ("no base64", format!("{good}!"), "jwt_malformed"),
        ("padding", format!("{good}="), "jwt_malformed"),
        (
            "an unknown critical header",
            key.token_with(
                &json!({"alg": "RS256", "kid": "k", "crit": ["x"], "x": 1}),
                &claims,
            ),
            "jwt_malformed",
        ),
        (
            "two issuers",
            key.token("k", &json!({"iss": ["https://a.example"]})),
            "jwt_malformed",
        ),
        (
            "another issuer",
            key.token("k", &json!({"iss": "https://a.example"})),
            "jwt_unknown_issuer",
        ),
        (
            "another audience",
            key.token(
                "k",
                &json!({"iss": bed.issuer.url(), "sub": "jane", "exp": NOW, "aud": "x"}),
            ),
            "jwt_audience",
        ),
        (
            "a megabyte",
            format!("{good}{}", "a".repeat(1 << 20)),
            "jwt_too_long",
        ),
    ] {
        let result = bed.verify(&token).await;
        let said = format!("{result:?}");
        assert_eq!(code(result), expected, "{what}");
        // Neither the token nor what it says is in the error.
        assert!(
            !said.contains(signature) && !said.contains("jane") && !said.contains(&part(&claims)),
            "{said}"
        );
    }
    assert_eq!(code(bed.verify(&good).await), "taken");
    let shown = format!("{:?} {:?}", bed.issuers, bed.verify(&good).await);
    assert!(!shown.contains(signature) && !shown.contains("jane"), "{shown}");
}

#[tokio::test]
async fn a_token_that_is_known_is_held_to_its_times_again() {
    let key = TestKey::new("ES256");
    let bed = Bed::start(vec![key.published("k")], quick()).await;
    let token = key.token("k", &bed.claims());
    for (second, expected) in [
        (NOW, "taken"),
        (NOW + 159, "taken"),
        (NOW + 161, "jwt_expired"),
        (NOW, "taken"),
    ] {
        assert_eq!(code(bed.verify_at(&token, second).await), expected);
    }
    let (first, second) = (
        bed.verify(&token).await.expect("taken"),
        bed.verify(&token).await.expect("taken"),
    );
    assert!(Arc::ptr_eq(&first, &second), "verified once");
    assert_eq!(bed.issuers.0.cache.len(), 1);
}

#[tokio::test]
async fn a_connection_finds_its_last_token_without_the_lock_of_all_and_only_while_it_counts() {
    let key = TestKey::new("ES256");
    let bed = Bed::start(vec![key.published("k")], quick()).await;
    let token = key.token("k", &bed.claims());
    let header = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
    let last = LastToken::default();
    let known = |second: i64| {
        let now = Timestamp::from_second(second).expect("a moment");
        bed.issuers.known(&header, &last, now)
    };
    assert!(known(NOW).is_none(), "nobody verified it");
    // The first one waits for the keys, and is not kept: they came after it.
    assert!(bed.verify(&token).await.is_ok());
    let verified = bed.verify(&token).await.expect("taken");
    assert!(known(NOW).is_some_and(|known| Arc::ptr_eq(&known, &verified)));
    let held = bed.issuers.0.cache.hold();
    assert!(known(NOW).is_some_and(|known| Arc::ptr_eq(&known, &verified)));
    assert!(known(NOW + 161).is_none(), "it expired");
    drop(held);
    bed.issuers.0.generation.advance();
    assert!(known(NOW).is_none(), "other keys are in force");
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_once_for_all_and_one_that_was_taken_back_counts_no_more() {
    let (old, new) = (TestKey::new("ES256"), TestKey::new("ES256"));
    let bed = Bed::start(vec![old.published("old")], quick()).await;
    let (of_old, of_new) = (old.token("old", &bed.claims()), new.token("new", &bed.claims()));
    assert_eq!(code(bed.verify(&of_old).await), "taken");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = bed.issuer.asked();
    bed.issuer.publish(vec![new.published("new")]);
    let all = futures::future::join_all((0..50).map(|_| bed.verify(&of_new))).await;
    assert!(all.into_iter().all(|verified| verified.is_ok()));
    assert_eq!(bed.issuer.asked(), before + 1, "one fetch for all");
    assert_eq!(code(bed.verify(&of_old).await), "jwt_unknown_key");
    assert_eq!(code(bed.verify(&of_new).await), "taken");
}

#[tokio::test]
async fn what_a_token_permitted_lasts_as_long_as_its_issuer_and_its_key_are_trusted() {
    let (key, next) = (TestKey::new("ES256"), TestKey::new("ES256"));
    let limits = Limits {
        refresh: Duration::from_millis(50),
        ..quick()
    };
    let bed = Bed::start(vec![key.published("k")], limits).await;
    let changes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&changes);
    bed.issuers.when_changed(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let token = bed.verify(&key.token("k", &bed.claims())).await.expect("taken");
    let again = |second: i64| {
        let now = Timestamp::from_second(second).expect("a moment");
        match bed.issuers.verify_again(&token, now) {
            Ok(()) => "taken",
            Err(error) => error.code(),
        }
    };
    // Waits until the token is judged so, and wants that a change was told since.
    let judged = async |expected: &str, before: usize| {
        let waiting = async {
            while changes.load(Ordering::SeqCst) == before || again(NOW) != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(waited.is_ok(), "{} and not {expected}", again(NOW));
    };
    assert_eq!(again(NOW), "taken");
    assert_eq!((again(NOW + 159), again(NOW + 160)), ("taken", "jwt_expired"));
    let until = Timestamp::from_second(NOW + 160).expect("a moment");
    assert_eq!(token.until(), Some(until));
    // A further key, and none beside it.
    for (keys, code) in [
        (vec![key.published("k"), next.published("next")], "taken"),
        (vec![next.published("next")], "jwt_unknown_key"),
        (vec![key.published("k")], "taken"),
        // An empty set takes all back.
        (vec![], "jwt_unknown_key"),
        (vec![key.published("k")], "taken"),
    ] {
        let before = changes.load(Ordering::SeqCst);
        bed.issuer.publish(keys);
        judged(code, before).await;
    }
    // An issuer that fails has taken nothing back.
    bed.issuer.behave(IssuerBehaviour::Failing);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(again(NOW), "taken");
    // Other audiences, and no such issuer.
    let file = bed.folder.path().join("auth.yaml");
    let configuration = bed.issuer.configuration();
    bed.issuer.behave(IssuerBehaviour::Good);
    for (text, code) in [
        (configuration.replace("[picket]", "[other]"), "jwt_audience"),
        (configuration.clone(), "taken"),
        (
            configuration.replace(&bed.issuer.url(), "https://other.example"),
            "jwt_unknown_issuer",
        ),
    ] {
        let before = changes.load(Ordering::SeqCst);
        std::fs::write(&file, text).expect("written");
        judged(code, before).await;
    }
}

#[tokio::test]
async fn tokens_that_name_keys_at_will_cause_few_fetches() {
    let (key, stranger) = (TestKey::new("ES256"), TestKey::new("ES256"));
    let bed = Bed::start(vec![key.published("k")], quick()).await;
    assert_eq!(code(bed.verify(&key.token("k", &bed.claims())).await), "taken");
    let began = Instant::now();
    for round in 0..5 {
        let tokens = (0..100).map(|number| stranger.token(&format!("{round}-{number}"), &bed.claims()));
        let tokens: Vec<_> = tokens.collect();
        let all = futures::future::join_all(tokens.iter().map(|token| bed.verify(token))).await;
        assert!(all.into_iter().all(|result| code(result) == "jwt_unknown_key"));
    }
    // The first fetch, and one for each 150 ms.
    let limit = 2 + usize::try_from(began.elapsed().as_millis() / 150).expect("short");
    assert!(bed.issuer.asked() <= limit, "{} of {limit}", bed.issuer.asked());
}

#[tokio::test]
async fn an_issuer_that_fails_leaves_known_keys_for_a_time_and_is_unavailable_for_others() {
    let (key, new) = (TestKey::new("ES256"), TestKey::new("ES256"));
    let limits = Limits {
        refresh: Duration::from_millis(50),
        keys: Duration::from_secs(5),
        ..quick()
    };
    let bed = Bed::start(vec![key.published("k")], limits).await;
    let token = key.token("k", &bed.claims());
    assert_eq!(code(bed.verify(&token).await), "taken");
    for behaviour in [IssuerBehaviour::Failing, IssuerBehaviour::Other] {
        bed.issuer.behave(behaviour);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut other = bed.claims();
        other["n"] = 1.into();
        assert_eq!(
            code(bed.verify(&key.token("k", &other)).await),
            "taken",
            "by a key at hand"
        );
        assert_eq!(
            code(bed.verify(&new.token("new", &bed.claims())).await),
            "jwt_issuer_unavailable"
        );
    }
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert_eq!(
        code(bed.verify(&token).await),
        "jwt_issuer_unavailable",
        "its keys are too old"
    );
    bed.issuer.behave(IssuerBehaviour::Good);
    let again = async {
        while code(bed.verify(&token).await) != "taken" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(20), again).await;
    assert!(again.is_ok(), "it answers again");
}

#[tokio::test]
async fn an_issuer_that_never_answers_holds_no_request_for_long() {
    let key = TestKey::new("ES256");
    let issuer = TestIssuer::start(vec![key.published("k")]).await;
    issuer.behave(IssuerBehaviour::Silent);
    let bed = Bed::of(issuer, quick());
    let token = key.token("k", &bed.claims());
    let all = futures::future::join_all((0..50).map(|_| bed.verify(&token))).await;
    assert!(
        all.into_iter()
            .all(|result| code(result) == "jwt_issuer_unavailable")
    );
    assert_eq!(bed.issuer.asked(), 1);
}

#[tokio::test]
async fn the_file_is_read_again_and_a_bad_one_changes_nothing() {
    let key = TestKey::new("ES256");
    let bed = Bed::start(vec![key.published("k")], quick()).await;
    let token = key.token("k", &bed.claims());
    assert_eq!(code(bed.verify(&token).await), "taken");
    let file = bed.folder.path().join("auth.yaml");
    let settle = || tokio::time::sleep(Duration::from_millis(2500));
    for bad in ["jwt: [", "kind: Nothing", ""] {
        std::fs::write(&file, bad).expect("written");
        settle().await;
        assert_eq!(code(bed.verify(&token).await), "taken", "{bad}");
    }
    std::fs::write(&file, bed.issuer.configuration().replace("[picket]", "[other]")).expect("written");
    settle().await;
    assert_eq!(code(bed.verify(&token).await), "jwt_audience");
    let none = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
    std::fs::write(&file, none).expect("written");
    settle().await;
    assert_eq!(code(bed.verify(&token).await), "jwt_unknown_issuer");
    assert_eq!(bed.issuers.fault(), None);
}

#[tokio::test]
async fn a_file_that_was_never_good_has_no_token_verified_until_it_is() {
    let key = TestKey::new("ES256");
    let issuer = TestIssuer::start(vec![key.published("k")]).await;
    let good = issuer.configuration();
    let bed = Bed::with(issuer, "jwt: [{}]\n", quick());
    let token = key.token("k", &bed.claims());
    assert_eq!(code(bed.verify(&token).await), "jwt_no_configuration");
    let fault = bed.issuers.fault().expect("a fault");
    assert!(fault.contains("auth.yaml:1:"), "{fault}");
    std::fs::write(bed.folder.path().join("auth.yaml"), good).expect("written");
    let verified = async {
        while bed.verify(&token).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), verified)
        .await
        .expect("the file is read again");
    assert_eq!(bed.issuers.fault(), None);
}

#[test]
fn keys_that_are_not_used_are_counted() {
    let key = TestKey::new("ES256");
    let mut published: Vec<_> = (0..keys::MAX_KEYS + 2)
        .map(|number| key.published(&number.to_string()))
        .collect();
    for (member, value) in [("use", "enc"), ("crv", "P-521"), ("alg", "ES512")] {
        let mut other = key.published("other");
        other[member] = value.into();
        published.insert(0, other);
    }
    let document = json!({"keys": published}).to_string();
    let set = keys::KeySet::read(document.as_bytes()).expect("a key set");
    let left_out = keys::LeftOut {
        unusable: 3,
        beyond_limit: 2,
    };
    assert_eq!((set.len(), set.left_out()), (keys::MAX_KEYS, left_out));
}

#[tokio::test]
async fn a_changed_rule_leaves_the_keys_of_an_issuer_that_is_away() {
    let key = TestKey::new("ES256");
    let bed = Bed::start(vec![key.published("k")], quick()).await;
    let token = key.token("k", &bed.claims());
    assert_eq!(code(bed.verify(&token).await), "taken");
    bed.issuer.behave(IssuerBehaviour::Failing);
    let file = bed.folder.path().join("auth.yaml");
    let rule = |claim: &str| {
        let rule = format!("  claimValidationRules: [{{claim: {claim}, requiredValue: jane}}]\n");
        std::fs::write(&file, bed.issuer.configuration() + &rule).expect("written");
    };
    for (claim, expected) in [("sub", "taken"), ("aud2", "jwt_claim"), ("sub", "taken")] {
        rule(claim);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(code(bed.verify(&token).await), expected, "{claim}");
    }
    // From elsewhere they are not the same keys.
    let elsewhere = bed.issuer.configuration().replace(
        "    audiences:",
        "    discoveryURL: https://127.0.0.1:9/.well-known/openid-configuration\n    audiences:",
    );
    std::fs::write(&file, elsewhere).expect("written");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(code(bed.verify(&token).await), "jwt_issuer_unavailable");
}

#[test]
fn a_file_that_cannot_be_used_says_where() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("auth.yaml");
    assert!(matches!(check(&file), Err(AuthenticationError::Read { .. })));
    assert!(matches!(
        check(folder.path()),
        Err(AuthenticationError::Unfit { .. })
    ));
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: 'https://a.example', \
                audiences: [a], certificateAuthority: nonsense}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n";
    std::fs::write(&file, text).expect("written");
    let said = check(&file).expect_err("no certificate").to_string();
    assert!(
        said.contains("auth.yaml:4:") && said.contains("certificateAuthority"),
        "{said}"
    );
}

#[test]
fn only_a_bearer_token_is_taken() {
    for (header, token) in [
        ("Bearer abc", Some("abc")),
        ("bearer  abc ", Some("abc")),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic abc", None),
        ("", None),
    ] {
        assert_eq!(bearer(header.as_bytes()), token.map(str::as_bytes), "{header}");
    }
}

/// Not a measurement, which `cargo xtask bench` is for: a bound that only another order of magnitude breaks.
#[tokio::test]
async fn a_known_token_costs_no_signature() {
    let key = TestKey::new("RS256");
    let bed = Bed::start(vec![key.published("k")], quick()).await;
    let header =
        HeaderValue::from_str(&format!("Bearer {}", key.token("k", &bed.claims()))).expect("a header");
    let verify = || bed.issuers.verify(&header, now());
    assert!(verify().await.expect("a token").is_ok());
    // Of this thread alone: others may keep the machine busy.
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("usage");
        let time = usage.user_time() + usage.system_time();
        Duration::from_micros(u64::try_from(time.num_microseconds()).expect("positive"))
    };
    let rounds = 10_000;
    let began = used();
    for _ in 0..rounds {
        assert!(verify().await.expect("a token").is_ok());
    }
    let each = (used() - began) / rounds;
    println!("cached: {each:?}");
    assert!(each < Duration::from_micros(100), "{each:?}");
}
