//! Which users an agent may ask for, and what is kept of those who handed the token on.

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::jwt::AuthenticationConfiguration;

const FILE: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: 'https://i.example', \
                    audiences: [picket]}\n  claimMappings: {username: {claim: sub, prefix: ''}, groups: {claim: groups, prefix: ''}}\n";

/// The person of a token with these claims.
fn person(claims: Json) -> Result<Person, PersonError> {
    let configuration = AuthenticationConfiguration::read("a.yaml", FILE).expect("valid");
    let mut all = json!({"iss": "https://i.example", "aud": "picket", "exp": 2_000_000_000, "sub": "ann"});
    for (name, value) in claims.as_object().expect("an object") {
        all[name] = value.clone();
    }
    let Json::Object(all) = all else {
        panic!("an object")
    };
    let token = configuration.issuers[0]
        .judge(all, Timestamp::UNIX_EPOCH)
        .expect("a good token");
    Person::of(&token)
}

#[test]
fn a_person_is_the_user_of_the_issuers_mappings() {
    let ann = person(json!({"groups": ["sre", "system:authenticated"]})).expect("a person");
    assert_eq!(
        (ann.username(), ann.subject(), ann.issuer()),
        ("ann", "ann", "https://i.example")
    );
    let impersonate = ann.user().impersonate().expect("impersonated");
    assert_eq!((&*impersonate.user, impersonate.groups.len()), ("ann", 2));
    assert!(ann.actors().is_empty() && !ann.has_more_actors());
    let shown = format!("{ann:?}");
    assert!(!shown.contains("ann") && !shown.contains("sre"), "{shown}");
}

#[test]
fn no_agent_asks_for_users_and_groups_of_the_cluster_itself() {
    let many: Vec<_> = (0..=MAX_GROUPS).map(|number| format!("g{number}")).collect();
    for (claims, error) in [
        (json!({"sub": "system:admin"}), PersonError::SystemUser),
        (
            json!({"sub": "system:serviceaccount:kube-system:x"}),
            PersonError::SystemUser,
        ),
        (
            json!({"groups": ["a", "system:masters"]}),
            PersonError::SystemGroup,
        ),
        (json!({"groups": ["system:nodes"]}), PersonError::SystemGroup),
        (json!({"sub": "picket:node-1"}), PersonError::SystemUser),
        (json!({"groups": ["picket:nodes"]}), PersonError::SystemGroup),
        (json!({"sub": "añn"}), PersonError::Unprintable),
        (
            json!({"sub": "ann\nImpersonate-Group: x"}),
            PersonError::Unprintable,
        ),
        (json!({"groups": [" a"]}), PersonError::Unprintable),
        (json!({"groups": [""]}), PersonError::Unprintable),
        (json!({"groups": many}), PersonError::Groups(MAX_GROUPS + 1)),
    ] {
        assert_eq!(person(claims.clone()).expect_err("refused"), error, "{claims}");
    }
}

#[test]
fn the_actors_of_a_token_are_read_to_a_depth_and_a_size() {
    let mut act = json!({"sub": "deepest"});
    for depth in 0..MAX_ACTORS - 1 {
        act = json!({"sub": format!("s{depth}"), "iss": "https://i.example", "act": act});
    }
    let found = person(json!({"act": act})).expect("a person");
    assert_eq!(
        (found.actors().len(), found.has_more_actors()),
        (MAX_ACTORS, false)
    );
    assert_eq!(
        found.actors()[0].subject,
        format!("s{}", MAX_ACTORS - 2),
        "the last one first"
    );
    assert_eq!(found.actors()[0].issuer.as_deref(), Some("https://i.example"));
    let found = person(json!({"act": {"sub": "x".repeat(1000), "act": act}})).expect("a person");
    assert_eq!(
        (found.actors().len(), found.has_more_actors()),
        (MAX_ACTORS, true)
    );
    assert_eq!(found.actors()[0].subject.len(), ACTOR_BYTES);
    for none in [json!("x"), json!({"iss": "i"}), json!({"sub": 1}), json!([])] {
        assert!(
            person(json!({"act": none}))
                .expect("a person")
                .actors()
                .is_empty()
        );
    }
}
