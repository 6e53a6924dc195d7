//! What records tell of requests, and what a set would have decided of them.

use serde_json::{Value as Json, json};

use super::*;
use crate::api::read_documents;
use crate::engine::PolicySet;
use crate::testing::of_audit_record;

const OBJECTS: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec: {owner: a, attest: {pod: {namespace: agents, serviceAccount: fixer}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: gone}
spec: {owner: a, state: Suspended, attest: {pod: {namespace: agents, serviceAccount: gone}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: all}
spec:
  to: {identities: [fixer]}
  upstream: {impersonate: {user: u}}
  rules:
  - {verbs: ['*'], apiGroups: ['', apps], resources: ['*']}
  - {verbs: [patch], apiGroups: [batch], resources: [jobs]}
  - {verbs: [get], apiGroups: [''], resources: [services/proxy], proxyPaths: [/metrics]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: january}
spec:
  to: {identities: [fixer]}
  upstream: {impersonate: {user: u}}
  window: {notAfter: 2026-02-01T00:00:00Z}
  rules: [{verbs: [get], apiGroups: [batch], resources: [jobs]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: people}
spec:
  to: {identities: [fixer]}
  upstream: {onBehalfOf: {issuers: ['https://login.test'], groups: [sre]}}
  rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: p}
spec:
  rules:
  - {name: no-delete, action: Deny, match: {verbs: [delete], namespaces: [shop]}}
  - {name: kept, action: Deny, match: {verbs: [delete, update], resources: [secrets], namespaces: [kept]}, when: "oldObject.x == 1"}
  - {name: no-root, action: Deny, match: {verbs: [create, update], resources: [pods]}, when: "object.spec.hostNetwork"}
  - {name: z-none, action: Deny, match: {verbs: [create], resources: [pods], namespaces: [closed]}}
  - {name: no-secret, action: Deny, match: {verbs: [create], resources: [configmaps], names: [root]}}
  - name: no-everyone
    action: Deny
    match: {verbs: [get], names: [kept]}
    when: "'system:authenticated' in agent.?onBehalfOf.groups.orValue([])"
  - {name: noted, action: Warn, match: {verbs: [create], resources: [services]}, when: "object.spec.type == 'NodePort'"}
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: trial}
spec:
  mode: Audit
  rules:
  - {name: secrets, action: Deny, match: {resources: [secrets]}}
  - {name: marked, action: Deny, match: {verbs: [create], resources: [endpoints]}, when: "has(object.metadata.labels)"}
"#;

fn set() -> PolicySet {
    PolicySet::compile(read_documents("o.yaml", OBJECTS).expect("documents")).expect("a set")
}

/// A record of an allowed request of `fixer`.
fn allowed(verb: &str, uri: &str) -> Json {
    json!({
        "kind": "Event", "auditID": "1", "stage": "ResponseComplete", "verb": verb, "requestURI": uri,
        "requestReceivedTimestamp": "2026-01-02T03:04:05.000000Z",
        "impersonatedUser": {"username": "u", "groups": ["system:authenticated"]},
        "agent": {"identity": "fixer", "attestation": "pod", "pod": {"namespace": "agents", "name": "fixer-0", "uid": "u"}},
        "decision": {"outcome": "allow", "policy": "all", "rule": "rules[0]"},
    })
}

fn with(mut record: Json, pointer: &str, value: Json) -> Json {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = record.pointer_mut(parent).expect("the parent");
    parent[key] = value;
    record
}

fn event(record: &Json) -> AuditEvent {
    serde_json::from_str(&record.to_string()).expect("a record")
}

fn replayed(record: &Json) -> Replayed {
    replay(&set(), &event(record)).expect("a request")
}

fn told(record: &Json) -> Comparison {
    match replayed(record) {
        Replayed::Told(comparison) => *comparison,
        Replayed::Untold(untold) => panic!("{untold:?}: {record:#}"),
    }
}

#[track_caller]
fn is_untold(record: &Json, why: Untold) {
    assert_eq!(replayed(record), Replayed::Untold(why), "{record:#}");
}

#[test]
fn what_changes_is_told_with_what_decides() {
    let kept = told(&allowed("get", "/api/v1/namespaces/shop/pods/web"));
    assert!(!kept.is_change() && !kept.is_other_grant(), "{kept:?}");
    let lost = told(&allowed("delete", "/api/v1/namespaces/shop/pods/web"));
    assert!(lost.is_change(), "{lost:?}");
    assert_eq!(
        (lost.change().as_str(), lost.replayed.by.as_str()),
        ("allowed -> denied", "p/no-delete")
    );
    assert_eq!(
        (
            lost.verb.as_str(),
            lost.resource.as_str(),
            lost.namespace.as_deref(),
            lost.name.as_deref()
        ),
        ("delete", "pods", Some("shop"), Some("web"))
    );
    let denied =
        |uri: &str, verb: &str, decision: Json| told(&with(allowed(verb, uri), "/decision", decision));
    let won = denied(
        "/api/v1/pods",
        "list",
        json!({"outcome": "deny", "reason": "no_grant"}),
    );
    assert_eq!(won.change(), "denied -> allowed");
    let by_other = json!({"outcome": "deny", "reason": "policy", "policy": "old", "rule": "r"});
    let other = denied("/api/v1/namespaces/shop/pods/web", "delete", by_other);
    assert!(other.is_change() && other.change() == "other rule", "{other:?}");
    let by_same = json!({"outcome": "deny", "reason": "policy", "policy": "p", "rule": "no-delete"});
    assert!(!denied("/api/v1/namespaces/shop/pods/web", "delete", by_same).is_change());
    let by_builtin =
        json!({"outcome": "deny", "reason": "builtin", "policy": "builtin", "rule": "builtin/nodes-proxy"});
    assert!(!denied("/api/v1/nodes/n/proxy/pods", "get", by_builtin).is_change());
    // Another grant that allows it too changes nothing.
    let renamed = told(&with(
        allowed("get", "/api/v1/namespaces/shop/pods/web"),
        "/decision/policy",
        json!("old"),
    ));
    assert!(!renamed.is_change() && renamed.is_other_grant(), "{renamed:?}");
    // A rule in mode Audit changes nothing, and is told.
    let noted = told(&allowed("get", "/api/v1/namespaces/shop/secrets/s"));
    assert!(
        !noted.is_change() && noted.would_deny == ["trial/secrets"],
        "{noted:?}"
    );
}

#[test]
fn the_moment_is_that_of_the_request() {
    let record = allowed("get", "/apis/batch/v1/namespaces/shop/jobs/j");
    assert!(!told(&record).is_change());
    let later = with(
        record.clone(),
        "/requestReceivedTimestamp",
        json!("2026-03-01T00:00:00Z"),
    );
    assert_eq!(told(&later).replayed.by, "no_grant");
    is_untold(
        &with(record, "/requestReceivedTimestamp", Json::Null),
        Untold::NoTime,
    );
}

#[test]
fn a_body_that_matters_is_not_guessed() {
    let pods = allowed("create", "/api/v1/namespaces/shop/pods");
    is_untold(&pods, Untold::Object);
    // A patch's object is known to the API server alone, whatever the record has.
    let patch = with(
        allowed("patch", "/api/v1/namespaces/shop/pods/web"),
        "/requestObject",
        json!({"spec": {"hostNetwork": false}}),
    );
    is_untold(&patch, Untold::Object);
    // An API server's record can have the object.
    for (host, outcome) in [(true, ReplayOutcome::Denied), (false, ReplayOutcome::Allowed)] {
        let whole = with(
            pods.clone(),
            "/requestObject",
            json!({"spec": {"hostNetwork": host}}),
        );
        assert_eq!(told(&whole).replayed.outcome, outcome);
    }
    // Another rule fires whatever the body is. Which of the two was told before is not known then.
    let closed = allowed("create", "/api/v1/namespaces/closed/pods");
    assert_eq!(told(&closed).replayed.by, "p/z-none");
    let by_policy = json!({"outcome": "deny", "reason": "policy", "policy": "p", "rule": "no-root"});
    is_untold(&with(closed, "/decision", by_policy), Untold::Object);
    // The name of a new object is in the body too.
    is_untold(
        &allowed("create", "/api/v1/namespaces/shop/configmaps"),
        Untold::Object,
    );
    // A rule that only warns cannot change the outcome.
    assert!(!told(&allowed("create", "/api/v1/namespaces/shop/services")).is_change());
    // Without a grant no body is read.
    assert_eq!(
        told(&allowed("create", "/apis/batch/v1/namespaces/shop/jobs"))
            .replayed
            .by,
        "no_grant"
    );
}

#[test]
fn a_built_in_that_looks_into_the_object_is_named() {
    let secrets = allowed("create", "/api/v1/namespaces/shop/secrets");
    let Replayed::Untold(untold) = replayed(&secrets) else {
        panic!("the type decides")
    };
    assert_eq!(untold.word(), "secret_type");
    assert!(untold.explain().contains("builtin/token-secrets"), "{untold:?}");
    // With the object it is told.
    let whole = with(secrets, "/requestObject", json!({"type": "Opaque"}));
    assert!(!told(&whole).is_change());
}

#[test]
fn a_body_that_a_rule_in_mode_audit_looks_into_is_not_guessed_either() {
    let create = allowed("create", "/api/v1/namespaces/shop/endpoints");
    let untold = told(&create);
    assert!(!untold.is_change() && untold.would_deny.is_empty(), "{untold:?}");
    assert!(untold.would_deny_untold);
    for (metadata, would_deny) in [(json!({"labels": {}}), true), (json!({}), false)] {
        let whole = told(&with(
            create.clone(),
            "/requestObject",
            json!({"metadata": metadata}),
        ));
        assert_eq!(!whole.would_deny.is_empty(), would_deny);
        assert!(!whole.would_deny_untold);
    }
    // What is denied in any case is told.
    let read = told(&allowed("get", "/api/v1/namespaces/shop/secrets/s"));
    assert!(!read.would_deny_untold);
}

#[test]
fn a_patch_that_may_be_an_apply_is_judged_as_both() {
    let jobs = "/apis/batch/v1/namespaces/shop/jobs/j";
    let plain = allowed("patch", jobs);
    assert_eq!(told(&plain).replayed.outcome, ReplayOutcome::Allowed);
    let managed = allowed("patch", &format!("{jobs}?fieldManager=me"));
    is_untold(&managed, Untold::Apply);
    let by_kubectl = with(managed, "/userAgent", json!("kubectl/v1.36.0 (linux/amd64)"));
    assert_eq!(told(&by_kubectl).replayed.outcome, ReplayOutcome::Allowed);
    let applied = allowed("patch", &format!("{jobs}?fieldManager=me&force=false"));
    assert_eq!(told(&applied).replayed.by, "no_grant");
    // Where both come to the same, it is told.
    let both = allowed(
        "patch",
        "/apis/apps/v1/namespaces/dev/deployments/web?fieldManager=me",
    );
    assert!(!told(&both).is_change());
}

#[test]
fn an_upgrade_that_nobody_recorded_is_not_guessed() {
    let uri = "/api/v1/namespaces/shop/services/web/proxy/metrics";
    let proxied = with(allowed("get", uri), "/objectRef", json!({"subresource": "proxy"}));
    assert_eq!(told(&proxied).replayed.outcome, ReplayOutcome::Allowed);
    let refused = with(
        proxied.clone(),
        "/decision",
        json!({"outcome": "deny", "reason": "no_grant"}),
    );
    is_untold(&refused, Untold::Upgrade);
    let upgraded = with(proxied, "/session", json!({"protocol": "websocket"}));
    assert_eq!(told(&upgraded).replayed.by, "builtin/services-proxy");
}

#[test]
fn what_objects_did_not_decide_is_not_compared() {
    let record = allowed("get", "/api/v1/namespaces/shop/pods/web");
    let denied = |reason: &str| {
        with(
            record.clone(),
            "/decision",
            json!({"outcome": "deny", "reason": reason}),
        )
    };
    is_untold(&denied("loop"), Untold::Limits);
    is_untold(&denied("no_longer_permitted"), Untold::Ended);
    is_untold(&denied("identity_none"), Untold::Undecided);
    let failed = with(
        record.clone(),
        "/decision",
        json!({"outcome": "error", "reason": "upstream_broken"}),
    );
    is_untold(&failed, Untold::Undecided);
    let permitted = with(
        failed,
        "/annotations",
        json!({"authorization.k8s.io/decision": "allow"}),
    );
    assert!(!told(&permitted).is_change());
    is_untold(
        &with(record.clone(), "/agent/identity", json!("nobody")),
        Untold::UnknownIdentity,
    );
    is_untold(&with(record.clone(), "/agent", json!({})), Untold::NoIdentity);
    for uri in [
        "/api/v1/pods?labelSelector=a...TRUNCATED",
        "/api/v1/namespaces/***12:abcd***/pods",
        "/api/v1/namespaces/%2a%2A%2a12:abcd%2a%2a%2a/pods",
    ] {
        is_untold(&allowed("list", uri), Untold::RequestLine);
        let error = of_audit_record(&allowed("list", uri)).expect_err(uri);
        assert!(error.to_string().contains("cannot be told"), "{error}");
    }
    // An identity that may not act is denied by that.
    let gone = told(&with(record, "/agent/identity", json!("gone")));
    assert_eq!(gone.replayed.by, "identity");
}

#[test]
fn a_person_is_who_the_record_says() {
    let record = with(
        allowed("get", "/api/v1/namespaces/shop/pods/web"),
        "/agent/onBehalfOf",
        json!({"issuer": "https://login.test", "subject": "1", "username": "ann"}),
    );
    assert_eq!(told(&record).replayed.by, "no_grant");
    let of_group = with(
        record.clone(),
        "/impersonatedUser/groups",
        json!(["sre", "system:authenticated"]),
    );
    assert_eq!(told(&of_group).replayed.by, "people");
    // The API server's own groups are none of the person's.
    let uri = json!("/api/v1/namespaces/shop/pods/kept");
    assert_eq!(
        told(&with(of_group.clone(), "/requestURI", uri)).replayed.by,
        "people"
    );
    // A denied request has no user upstream, and so no groups.
    is_untold(&with(of_group, "/impersonatedUser", Json::Null), Untold::Person);
}

#[test]
fn each_request_is_taken_once() {
    let line = |id: &str, stage: &str| {
        event(&with(
            with(allowed("get", "/x"), "/auditID", json!(id)),
            "/stage",
            json!(stage),
        ))
    };
    let mut once = Once::default();
    let taken: Vec<_> = [
        ("read", "ResponseComplete"),
        ("write", "RequestReceived"),
        ("write", "ResponseComplete"),
        ("watch", "ResponseStarted"),
        ("watch", "ResponseStarted"),
        ("still", "ResponseStarted"),
        ("watch", "ResponseComplete"),
        ("crash", "Panic"),
    ]
    .map(|(id, stage)| once.takes(&line(id, stage)))
    .into();
    assert_eq!(taken, [true, false, true, true, false, true, false, true]);
    assert!(!once.takes(&event(&with(
        allowed("connect", ""),
        "/stage",
        json!("ResponseComplete")
    ))));
    assert!(!once.takes(&event(&json!({"kind": "Pod", "requestURI": "/x"}))));
}

#[test]
fn what_was_stored_before_stands_in_no_record() {
    let secrets = "/api/v1/namespaces/kept/secrets";
    is_untold(&allowed("delete", &format!("{secrets}/x")), Untold::OldObject);
    let updated = with(
        allowed("update", &format!("{secrets}/x")),
        "/requestObject",
        json!({"data": {}}),
    );
    is_untold(&updated, Untold::OldObject);
    // Such a rule fires for many at once whatever they are.
    assert_eq!(told(&allowed("deletecollection", secrets)).replayed.by, "p/kept");
    assert!(!told(&allowed("get", &format!("{secrets}/x"))).is_change());
}

#[test]
fn labels_that_matter_are_not_guessed() {
    let policy = "---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: ns}\nspec:\n  rules:\n  \
                  - {name: prod, action: Deny, match: {verbs: [update], namespaceSelector: {matchLabels: {env: prod}}}}\n  \
                  - {name: frozen, action: Deny, match: {verbs: [patch]}, when: namespaceObject.metadata.annotations.frozen == 'yes'}\n  \
                  - {name: hidden, action: Filter, match: {verbs: [list], namespaceSelector: {matchLabels: {env: prod}}}}\n";
    let documents = read_documents("o.yaml", &format!("{OBJECTS}{policy}")).expect("documents");
    let set = PolicySet::compile(documents).expect("a set");
    let replayed = |record: &Json| replay(&set, &event(record)).expect("a request");
    for (verb, uri) in [
        ("update", "/api/v1/namespaces/shop/configmaps/c"),
        ("patch", "/api/v1/namespaces/shop/configmaps/c"),
        ("list", "/api/v1/namespaces/shop/pods"),
    ] {
        let record = allowed(verb, uri);
        assert_eq!(
            replayed(&record),
            Replayed::Untold(Untold::Namespace),
            "{verb} {uri}"
        );
    }
    // Where no such rule can make a difference the outcome is told.
    for (verb, uri, by) in [
        ("get", "/api/v1/namespaces/shop/pods/web", "all"),
        ("delete", "/api/v1/namespaces/shop/pods/web", "p/no-delete"),
        ("list", "/api/v1/nodes", "all"),
        // The list passes without what is hidden, whatever the labels are.
        ("list", "/api/v1/pods", "all"),
    ] {
        let Replayed::Told(comparison) = replayed(&allowed(verb, uri)) else {
            panic!("{verb} {uri} is not told");
        };
        assert_eq!(comparison.replayed.by, by, "{verb} {uri}");
    }
}
