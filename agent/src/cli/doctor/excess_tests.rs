//! Unit tests: rules that are too wide are named, and those of deploy/rbac.yaml are not.

use serde_json::{Value, json};

use super::*;
use crate::cluster::Connector;
use crate::cluster::testing::reviewing_with_rules;

const RBAC: &str = include_str!("../../../../deploy/rbac.yaml");

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What the example's grants name.
fn granted() -> Granted {
    Granted {
        users: set(&["agent:triage", "agent:janitor"]),
        groups: set(&["agents:readers", "agents:writers"]),
        accounts: set(&["bot"]),
        tokens: set(&["deployer"]),
        namespaces: set(&["ci"]),
        reviews: false,
        is_complete: true,
        others: Others::default(),
    }
}

fn rule(rule: Value) -> ResourceRule {
    serde_json::from_value(rule).expect("a rule")
}

/// What `rule` gives too much.
fn much(value: Value) -> String {
    of_rule(&rule(value), &granted()).join(", and ")
}

#[test]
fn the_rules_of_the_deployment_are_not_too_wide() {
    let mut seen = 0;
    for document in serde_saphyr::from_multiple::<Value>(RBAC).expect("YAML") {
        for value in document["rules"].as_array().into_iter().flatten() {
            if value.get("nonResourceURLs").is_none() {
                assert_eq!(much(value.clone()), "", "{value}");
                seen += 1;
            }
        }
    }
    assert!(seen > 8, "{seen} rules");
}

#[test]
fn reviews_of_callers_are_needed_where_metrics_are_served_over_tls() {
    const METRICS: &str = include_str!("../../../../deploy/metrics.yaml");
    let with = Granted {
        reviews: true,
        ..granted()
    };
    let mut seen = 0;
    for document in serde_saphyr::from_multiple::<Value>(METRICS).expect("YAML") {
        for value in document["rules"].as_array().into_iter().flatten() {
            if value.get("nonResourceURLs").is_none() {
                assert_eq!(of_rule(&rule(value.clone()), &with), [""; 0], "{value}");
                assert!(much(value.clone()).starts_with("create "), "{value}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 2, "a rule for each review");
    let other = json!({"verbs": ["create", "get"], "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"]});
    assert_eq!(of_rule(&rule(other), &with), ["get tokenreviews"]);
}

#[test]
fn each_rule_that_is_too_wide_is_said_in_words() {
    let constrained = ["authentication.k8s.io"];
    for (value, said) in [
        (
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            "do everything",
        ),
        (
            json!({"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users", "groups", "serviceaccounts"]}),
            "impersonate every user, and impersonate every group, and impersonate every service account",
        ),
        (
            json!({"verbs": ["impersonate:user-info"], "apiGroups": constrained, "resources": ["users"]}),
            "impersonate every user",
        ),
        (
            json!({"verbs": ["impersonate:user-info"], "apiGroups": constrained, "resources": ["groups"],
                "resourceNames": ["agents:readers", "system:masters"]}),
            "impersonate group system:masters, which no AgentGrant names",
        ),
        (
            json!({"verbs": ["impersonate:user-info"], "apiGroups": constrained, "resources": ["users"],
                "resourceNames": ["agent:triage", "agent:gone"]}),
            "impersonate user agent:gone, which no AgentGrant names",
        ),
        (
            json!({"verbs": ["impersonate"], "apiGroups": constrained, "resources": ["userextras/scopes"]}),
            "impersonate every userextra",
        ),
        (
            json!({"verbs": ["impersonate"], "apiGroups": constrained, "resources": ["uids"], "resourceNames": ["7"]}),
            "impersonate UID 7, which no AgentGrant names",
        ),
        (
            json!({"verbs": ["impersonate:arbitrary-node"], "apiGroups": constrained, "resources": ["nodes"]}),
            "impersonate by the verb impersonate:arbitrary-node, which Picket does not use",
        ),
        (
            json!({"verbs": ["create"], "apiGroups": [""], "resources": ["serviceaccounts/token"]}),
            "request tokens of every service account",
        ),
        (
            json!({"verbs": ["create"], "apiGroups": [""], "resources": ["serviceaccounts/token"],
                "resourceNames": ["deployer", "admin"]}),
            "request tokens of service account admin, which no AgentGrant names",
        ),
        (
            json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets", "pods"]}),
            "get, list pods, secrets",
        ),
    ] {
        assert_eq!(much(value.clone()), said, "{value}");
    }
    // Names that no grant has may be another store's.
    let elsewhere = Granted {
        is_complete: false,
        ..granted()
    };
    let value = json!({"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["agent:gone"]});
    assert_eq!(of_rule(&rule(value), &elsewhere), Vec::<String>::new());
}

/// People who are named one by one are known, whatever their groups are.
#[test]
fn a_grant_on_behalf_of_people_hides_no_user_that_is_too_much() {
    let objects = |people: &str, more: bool| {
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a}}\nspec: {{owner: o, attest: {{pod: {{namespace: n, \
             serviceAccount: a}}}}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: g}}\nspec:\n  to: \
             {{identities: [a]}}\n  upstream: {{onBehalfOf: {{issuers: ['https://i.example'], {people}}}}}\n  rules: [{{verbs: [get], \
             apiGroups: [''], resources: [pods]}}]\n"
        );
        let documents = picket_policy::read_documents("f.yaml", &text).expect("valid");
        Granted::of(
            Some(Arc::new(PolicySet::compile(documents).expect("a set"))),
            more,
        )
    };
    let rule = |resource: &str, name: &str| {
        rule(
            json!({"verbs": ["impersonate"], "apiGroups": [""], "resources": [resource], "resourceNames": [name]}),
        )
    };
    for (people, resource, name, is_told) in [
        ("users: [ann]", "users", "ann", false),
        ("users: [ann]", "users", "cluster-admin-bot", true),
        ("users: [ann]", "groups", "sre", false),
        ("users: ['a*']", "users", "anna", false),
        ("groups: [sre]", "users", "anna", false),
    ] {
        let much = of_rule(&rule(resource, name), &objects(people, false));
        assert_eq!(!much.is_empty(), is_told, "{people} {name}: {much:?}");
        // Grants that are not known may name anybody.
        let much = of_rule(&rule(resource, name), &objects(people, true));
        assert!(much.is_empty(), "{people} {name}: {much:?}");
        let masters = of_rule(&rule("groups", MASTERS), &objects(people, true));
        assert!(!masters.is_empty(), "no grant can name them");
    }
}

/// The check of a credential with these rules in every namespace, to whose reviews the server answers so.
async fn checked(
    answer: impl Fn(&Value) -> Result<bool, u16> + Send + Sync + 'static,
    rules: Value,
    fault: Option<&str>,
) -> Check {
    let status = json!({"resourceRules": rules, "nonResourceRules": [],
        "incomplete": fault.is_some(), "evaluationError": fault.unwrap_or_default()});
    let server = reviewing_with_rules(answer, status).await;
    let (_folder, connector) = Connector::for_tests(&server);
    let client = connector.connect().await.expect("a client");
    check(&client, &granted()).await
}

#[tokio::test]
async fn a_rule_is_shown_as_it_stands_in_its_role() {
    let rules = json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"]}]);
    let check = checked(|_| Ok(false), rules, None).await;
    assert_eq!(check.status, CheckStatus::Degraded);
    assert_eq!(
        check.detail,
        r#"may impersonate every user, by the rule {"apiGroups":[""],"resources":["users"],"verbs":["impersonate"]} of a ClusterRole"#
    );
    // A listed rule explains what the API server allows, so that nothing is told twice.
    let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    let check = checked(|_| Ok(true), all, None).await;
    assert_eq!(check.detail.lines().count(), 1, "{}", check.detail);
    let check = checked(|_| Ok(false), json!([]), None).await;
    assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
    assert!(!check.detail.contains("grant rbac"), "{check:?}");
    // That of deploy/rbac.yaml: the users' own rights bound it, and there is a narrower one.
    let on = |resource: &str| json!([{"verbs": ["impersonate-on:user-info:get"], "apiGroups": ["*"], "resources": [resource]}]);
    for (resource, is_told) in [("*", true), ("pods", false)] {
        let check = checked(|_| Ok(false), on(resource), None).await;
        assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
        assert_eq!(
            check.detail.contains("`picket grant rbac` prints"),
            is_told,
            "{check:?}"
        );
    }
    let check = checked(|_| Err(401), json!([]), None).await;
    assert!(check.detail.starts_with("not tested: "), "{check:?}");
}

#[tokio::test]
async fn what_an_authorizer_does_not_list_is_asked_about_without_a_name() {
    for (resource, said) in [
        ("users", "every user"),
        ("groups", "every group"),
        ("serviceaccounts", "every service account"),
        ("uids", "every UID"),
        ("userextras", "every userextra"),
    ] {
        for verb in ["impersonate", "impersonate:user-info"] {
            let answer = move |of: &Value| {
                Ok(of["resource"] == resource && of["verb"] == verb && of["name"].is_null())
            };
            let check = checked(answer, json!([]), Some("a webhook does not list its rules")).await;
            assert_eq!(check.status, CheckStatus::Degraded, "{check:?}");
            assert_eq!(
                check.detail,
                format!(
                    "may impersonate {said} by the verb {verb}, by an authorizer that does not list the rule"
                )
            );
        }
    }
    let check = checked(
        |_| Ok(false),
        json!([]),
        Some("a webhook does not list its rules"),
    )
    .await;
    assert_eq!(check.status, CheckStatus::Ok);
    assert!(check.detail.contains("does not list its own"), "{check:?}");
}

#[tokio::test]
async fn many_rules_are_counted() {
    let rules: Vec<_> = (0..MAX_RULES + 3)
        .map(|number| json!({"verbs": ["get"], "apiGroups": [""], "resources": [format!("kind-{number}")]}))
        .collect();
    let check = checked(|_| Ok(false), json!(rules), None).await;
    assert!(check.detail.ends_with("\nand 3 more"), "{}", check.detail);
}
