//! Grants on behalf of people: for whom they are, and that they and an agent's own grants are kept apart.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::decision::Recheck;
use crate::jwt::AuthenticationConfiguration;
use crate::person::Person;

const FILE: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: 'https://i.example', \
                    audiences: [picket]}\n  claimMappings: {username: {claim: sub, prefix: ''}, groups: {claim: groups, prefix: ''}}\n";

pub(super) fn person(name: &str, groups: &[&str]) -> Person {
    let configuration = AuthenticationConfiguration::read("a.yaml", FILE).expect("valid");
    let claims = json!({"iss": "https://i.example", "aud": "picket", "exp": 2_000_000_000, "sub": name, "groups": groups});
    let claims = claims.as_object().expect("an object").clone();
    let token = configuration.issuers[0]
        .judge(claims, Timestamp::UNIX_EPOCH)
        .expect("a good token");
    Person::of(&token).expect("a person")
}

fn for_people(name: &str, people: &str, resource: &str) -> String {
    format!(
        "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: {name}}}\nspec:\n  to: {{identities: [fixer]}}\n  \
         upstream: {{onBehalfOf: {{{people}}}}}\n  rules: [{{verbs: [get], apiGroups: [''], resources: [{resource}]}}]\n"
    )
}

/// As whom the API server is asked for a resource by the fixer, for a person; nothing where that is refused.
fn asked_as(set: &PolicySet, person: Option<Person>, resource: &str) -> Option<String> {
    let identity = set.identities().iter().find(|identity| identity.name == "fixer");
    let identity = Arc::clone(identity.expect("the fixer"));
    let agent = Principal::new(
        identity,
        PrincipalOrigin::pod("ns", "p"),
        "pod",
        Timestamp::UNIX_EPOCH,
    )
    .expect("active");
    let agent = match person {
        Some(person) => agent.on_behalf_of(Arc::new(person)),
        None => agent,
    };
    let uri = format!("/api/v1/namespaces/n/{resource}/x");
    let (head, ()) = http::Request::get(uri).body(()).expect("a request").into_parts();
    let request = CanonicalRequest::read(head).expect("readable");
    match set.recheck(&agent, request.kube(), NOW) {
        Recheck::Permit { user, .. } => Some(user.username().to_owned()),
        _ => None,
    }
}

fn set(grants: &[String]) -> PolicySet {
    let text = format!("{BASE}{}", grants.concat());
    PolicySet::compile(read_documents("f.yaml", &text).expect("valid")).expect("a set")
}

#[test]
fn a_grant_is_for_people_of_its_issuers_by_name_or_by_group() {
    let grant = |people: &str| set(&[for_people("g", people, "pods")]);
    let mine = "issuers: ['https://i.example']";
    for (people, name, groups, is_for) in [
        (format!("{mine}, users: [ann]"), "ann", &[][..], true),
        (format!("{mine}, users: [ann]"), "anna", &[], false),
        (
            format!("{mine}, users: ['*@example.com']"),
            "ann@example.com",
            &[],
            true,
        ),
        (format!("{mine}, users: ['*']"), "ann", &[], true),
        (format!("{mine}, groups: [sre]"), "ann", &["dev", "sre"], true),
        (format!("{mine}, groups: [sre]"), "sre", &["dev"], false),
        (
            format!("{mine}, users: [bob], groups: ['s*']"),
            "ann",
            &["sre"],
            true,
        ),
        (
            "issuers: ['https://other.example'], users: ['*']".to_owned(),
            "ann",
            &[],
            false,
        ),
    ] {
        let set = grant(&people);
        let ann = person(name, groups);
        assert_eq!(set.acts_for("fixer", &ann), is_for, "{people} {name}");
        assert_eq!(
            asked_as(&set, Some(ann), "pods").as_deref(),
            is_for.then_some(name),
            "{people}"
        );
        assert!(set.acts_for_people("fixer") && !set.acts_for_people("other"));
    }
}

/// Neither widens the other, and together they make no identity two users.
#[test]
fn an_agents_own_grants_and_those_on_behalf_of_people_are_apart() {
    let own = grant("[{verbs: [get], apiGroups: [''], resources: [services]}]");
    let of_ann = for_people("ann", "issuers: ['https://i.example'], users: [ann]", "pods");
    let of_bob = for_people("bob", "issuers: ['https://i.example'], users: [bob]", "secrets");
    let all = set(&[own.clone(), of_ann, of_bob]);
    let ann = || Some(person("ann", &[]));
    for (who, resource, user) in [
        (None, "services", Some("u")),
        (None, "pods", None),
        (ann(), "pods", Some("ann")),
        (ann(), "services", None),
        (ann(), "secrets", None),
        (Some(person("bob", &[])), "secrets", Some("bob")),
        (Some(person("eve", &[])), "pods", None),
    ] {
        assert_eq!(asked_as(&all, who, resource).as_deref(), user, "{resource}");
    }
    assert!(all.is_agents_user("u") && !all.is_agents_user("ann"));
    let only_own = set(&[own]);
    assert!(!only_own.acts_for_people("fixer"));
    assert_eq!(asked_as(&only_own, ann(), "services"), None);
}

/// As the first request of each client does: its pod's own token, or none.
#[test]
fn an_agent_of_people_alone_is_told_that_a_persons_token_is_missing() {
    let refusal = |grants: &[String]| denied(&set(grants), "GET /api/v1/namespaces/n/pods/x");
    let told = refusal(&[for_people(
        "g",
        "issuers: ['https://i.example'], users: [ann]",
        "pods",
    )]);
    assert!(
        told.message()
            .contains("without the bearer token of such a person"),
        "{told:?}"
    );
    let told = refusal(&[]);
    assert!(
        told.message().contains("no AgentGrant names this agent"),
        "{told:?}"
    );
}
