//! Unit tests: rights that a Role in one namespace gives, and that are missing there.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use picket_policy::{PolicySet, read_documents};
use serde_json::{Value, json};

use super::super::objects::KnownObjects;
use super::*;
use crate::cluster::Connector;
use crate::cluster::testing::reviewing_with_rules;

const OBJECTS: &str = "\
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: a}
spec: {owner: o, attest: {pod: {namespace: n, serviceAccount: a}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: gone}
spec: {owner: o, state: Revoked, attest: {pod: {namespace: n, serviceAccount: gone}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: named}
spec:
  to: {identities: [a]}
  namespaces: [shop, vault]
  upstream: {impersonate: {user: 'agent:a'}}
  rules:
  - {apiGroups: [''], resources: [secrets], resourceNames: [crown], verbs: [get]}
  - {apiGroups: [apps], resources: [deployments/scale], verbs: [patch]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: globs}
spec:
  to: {identities: [a]}
  namespaces: [team-*, other]
  upstream: {impersonate: {user: 'agent:a'}}
  rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: of-nobody}
spec:
  to: {identities: [gone]}
  namespaces: [attic]
  upstream: {impersonate: {user: 'agent:gone'}}
  rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: past}
spec:
  to: {identities: [a]}
  expiresAt: '2020-01-01T00:00:00Z'
  namespaces: [yesterday]
  upstream: {impersonate: {user: 'agent:a'}}
  rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: resting}
spec: {owner: o, state: Suspended, attest: {pod: {namespace: n, serviceAccount: resting}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: of-resting}
spec:
  to: {identities: [resting]}
  namespaces: [rest]
  upstream: {impersonate: {user: 'agent:resting'}}
  rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
";

fn grants(text: &str) -> Vec<Arc<Grant>> {
    let documents = read_documents("f", text).expect("valid");
    let set = PolicySet::compile(documents).expect("a policy set");
    let known = KnownObjects {
        set: Some(Arc::new(set)),
        unlisted: None,
    };
    known.usable(Timestamp::now())
}

/// What a credential lacks that has these rules in every namespace, and of single questions what `answer` says; and those questions.
async fn lacked(
    text: &str,
    rules: &[Value],
    users: &[&str],
    answer: impl Fn(&Value) -> bool + Send + Sync + 'static,
) -> (Vec<String>, Vec<Value>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let server = reviewing_with_rules(
        move |of| {
            if of.is_object() {
                seen.lock().push(of.clone());
            }
            Ok(answer(of))
        },
        json!({}),
    )
    .await;
    let (_folder, connector) = Connector::for_tests(&server);
    let client = connector.connect().await.expect("a client");
    let bound = Bound::of(&grants(text));
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| serde_json::from_value(rule.clone()).expect("a rule"))
        .collect();
    let listed = bound.namespaces.iter().map(|namespace| {
        let rules = rules.clone();
        (
            namespace.clone(),
            Rules {
                rules,
                complete: true,
            },
        )
    });
    let users = users.iter().copied().collect();
    let lines = bound.lacked(&client, &users, &listed.collect()).await;
    let asked = asked.lock().clone();
    (lines.expect("answered"), asked)
}

fn on(verb: &str) -> String {
    format!("{CONSTRAINED_ON}{verb}")
}

#[test]
fn grants_of_nobody_take_nothing_and_globs_take_no_role() {
    let grants = grants(OBJECTS);
    let bound = Bound::of(&grants);
    // One that is suspended may be resumed.
    assert_eq!(bound.namespaces, ["other", "rest", "shop", "vault"]);
    let of_grants: Vec<_> = bound
        .grants
        .iter()
        .map(|grant| grant.namespaces.join(" "))
        .collect();
    assert_eq!(of_grants, ["shop vault", "rest"]);
}

#[test]
fn a_service_accounts_grant_takes_nothing_in_its_namespaces() {
    let account = OBJECTS.replace("agent:a", "system:serviceaccount:ci:bot");
    let bound = Bound::of(&grants(&account));
    let of_grants: Vec<_> = bound
        .grants
        .iter()
        .map(|grant| grant.namespaces.join(" "))
        .collect();
    assert_eq!(of_grants, ["rest"]);
}

#[tokio::test]
async fn a_grant_on_behalf_of_people_takes_what_it_gives_where_anybody_is_acted_as() {
    const PEOPLE: &str = "\
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: people}
spec:
  to: {identities: [a]}
  namespaces: [desk]
  upstream: {onBehalfOf: {issuers: ['https://i.example'], users: [ann]}}
  rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
";
    let objects = format!("{OBJECTS}{PEOPLE}");
    let (lines, asked) = lacked(&objects, &[], &[], |_| false).await;
    assert!(lines.is_empty() && asked.is_empty(), "{lines:?} {asked:?}");
    let (lines, _) = lacked(&objects, &[], &["agent:a"], |of| of["namespace"] != "desk").await;
    assert!(
        lines.len() == 1 && lines[0].contains("in namespace desk, as the grants' users: get pods; "),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_namespace_without_its_role_is_named_with_what_is_missing() {
    let (lines, asked) = lacked(OBJECTS, &[], &["agent:a"], |of| of["namespace"] != "vault").await;
    assert_eq!(
        lines,
        [
            "may not send in namespace vault, as the grants' users: get secrets crown, patch deployments/scale.apps; no right \
             impersonate-on:user-info:VERB there"
        ]
    );
    assert_eq!(asked.len(), 4, "{asked:?}");
    let scale = asked
        .iter()
        .find(|of| of["subresource"] == "scale")
        .expect("asked");
    assert_eq!(
        (&scale["verb"], &scale["group"], &scale["resource"]),
        (&json!(on("patch")), &json!("apps"), &json!("deployments"))
    );
}

#[tokio::test]
async fn what_the_listed_rules_give_is_not_asked_about() {
    let own = [
        json!({"verbs": [on("get")], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["crown"]}),
        json!({"verbs": [on("patch")], "apiGroups": ["apps"], "resources": ["*/scale"]}),
    ];
    let (lines, asked) = lacked(OBJECTS, &own, &["agent:a"], |_| false).await;
    assert!(lines.is_empty() && asked.is_empty(), "{lines:?} {asked:?}");
    // A rule of another name, or of another verb, is none.
    let other = [
        json!({"verbs": [on("get")], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["other"]}),
        json!({"verbs": [on("get")], "apiGroups": ["apps"], "resources": ["*"]}),
    ];
    let (lines, _) = lacked(OBJECTS, &other, &["agent:a"], |_| false).await;
    let both = ": get secrets crown, patch deployments/scale.apps; ";
    assert!(
        lines.len() == 2 && lines.iter().all(|line| line.contains(both)),
        "{lines:?}"
    );
    // A credential that acts as the user by the plain verb takes none of these.
    let (lines, asked) = lacked(OBJECTS, &[], &[], |_| false).await;
    assert!(lines.is_empty() && asked.is_empty(), "{lines:?} {asked:?}");
}

#[tokio::test]
async fn of_many_missing_rights_the_first_are_named() {
    let many = OBJECTS
        .replace("verbs: [get]}\n  - ", "verbs: ['*']}\n  - ")
        .replace(
            "resources: [deployments/scale], verbs: [patch]",
            "resources: [deployments/scale, deployments], verbs: ['*']",
        );
    let (lines, asked) = lacked(&many, &[], &["agent:a"], |_| false).await;
    assert_eq!((lines.len(), asked.len()), (2, 2 * MAX_ASKED));
    assert!(lines[0].contains(", and perhaps more; "), "{lines:?}");
}
