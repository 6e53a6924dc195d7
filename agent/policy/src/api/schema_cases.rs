//! Objects with one thing changed: what each part that judges objects must say of them.
//!
//! In: nothing. Out: tables, for the tests of schema and reader here, and for those of the CRDs at an API server (tests/e2e).

use serde_json::{Value, json};

/// An object with one thing changed, by its JSON pointer; `null` takes it away.
pub(crate) fn changed(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    match object.pointer_mut(parent) {
        Some(Value::Object(map)) if value.is_null() => drop(map.remove(name)),
        Some(Value::Object(map)) => drop(map.insert(name.to_owned(), value)),
        Some(Value::Array(list)) => list[name.parse::<usize>().expect("an index")] = value,
        _ => panic!("{pointer}"),
    }
    object
}

pub(crate) fn objects() -> [Value; 3] {
    let object = |kind: &str, spec: Value| json!({"apiVersion": "picket.dev/v1alpha1", "kind": kind, "metadata": {"name": "a"}, "spec": spec});
    [
        object(
            "AgentIdentity",
            json!({
                "owner": "team", "groups": ["g"], "state": "Active", "expiresAt": "2027-01-31T00:00:00Z",
                "attest": {"pod": {
                    "namespace": "ns", "serviceAccount": "sa",
                    "selector": {
                        "matchLabels": {"app": "x"},
                        "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}],
                    },
                }},
            }),
        ),
        object(
            "AgentGrant",
            json!({
                "to": {"identities": ["a"]},
                "upstream": {"impersonate": {"user": "u", "groups": ["h"]}},
                "rules": [
                    {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["n"]},
                    {"verbs": ["get"], "nonResourceURLs": ["/metrics"]},
                ],
            }),
        ),
        object(
            "AgentPolicy",
            json!({
                "subjects": {"groups": ["g"]}, "mode": "Enforce", "exceptions": ["builtin/nodes-proxy"],
                "rules": [
                    {"name": "r", "match": {"resources": ["pods"], "verbs": ["get"]}, "action": "Deny", "message": "m"},
                ],
            }),
        ),
    ]
}

/// What both refuse: the object's number, where, and what is put there.
pub(crate) fn refused_by_both() -> Vec<(usize, &'static str, Value)> {
    vec![
        (0, "/apiVersion", json!("picket.dev/v1")),
        (0, "/kind", json!("Agent")),
        (0, "/metadata", Value::Null),
        (0, "/metadata/name", json!("A")),
        (0, "/metadata/name", json!("a".repeat(254))),
        (0, "/metadata/colour", json!("red")),
        (0, "/metadata/labels", json!({"a": 7})),
        (0, "/spec", Value::Null),
        (0, "/spec/owner", Value::Null),
        (0, "/spec/owner", json!("")),
        (0, "/spec/owner", json!("  ")),
        (0, "/spec/owner", json!(7)),
        (0, "/spec/colour", json!("red")),
        (0, "/spec/groups", json!([])),
        (0, "/spec/groups", json!("g")),
        (0, "/spec/groups", json!(["system:masters"])),
        (0, "/spec/groups", json!([" g"])),
        (0, "/spec/groups", json!([""])),
        (0, "/spec/state", json!("Gone")),
        (0, "/spec/exclusive", json!("yes")),
        (0, "/spec/expiresAt", json!("soon")),
        (0, "/spec/attest", json!({})),
        (0, "/spec/attest/jwt", json!({})),
        (0, "/spec/attest/spiffe", json!({})),
        (0, "/spec/attest/spiffe", json!({"id": "triage"})),
        (0, "/spec/attest/spiffe", json!({"id": "spiffe://example.org"})),
        (0, "/spec/attest/spiffe", json!({"id": "spiffe://example.org/*"})),
        (
            0,
            "/spec/attest/spiffe",
            json!({"id": "spiffe://example.org/a/.."}),
        ),
        (
            0,
            "/spec/attest/spiffe",
            json!({"id": "spiffe://example.org/./a"}),
        ),
        (0, "/spec/attest/pod/namespace", json!("*")),
        (0, "/spec/attest/pod/serviceAccount", json!("A")),
        (0, "/spec/attest/pod/selector/matchLabels", json!({"a": true})),
        (
            0,
            "/spec/attest/pod/selector/matchExpressions/0/operator",
            json!("Near"),
        ),
        (0, "/spec/attest/pod/selector/matchExpressions/0/key", json!("")),
        (
            0,
            "/spec/attest/pod/selector/matchExpressions/0/values",
            json!([]),
        ),
        (1, "/spec/to", Value::Null),
        (1, "/spec/to", json!({})),
        (1, "/spec/to/identities", json!([])),
        (1, "/spec/to/groups", json!(["a*"])),
        (1, "/spec/upstream", json!({})),
        (1, "/spec/upstream/eks", json!({})),
        (1, "/spec/upstream/impersonate/user", json!("system:admin")),
        (
            1,
            "/spec/upstream/impersonate/user",
            json!("system:serviceaccount:a"),
        ),
        (1, "/spec/upstream/impersonate/user", json!("é")),
        (1, "/spec/upstream/impersonate/user", json!(" u")),
        (1, "/spec/upstream/impersonate/groups", json!(["system:masters"])),
        (1, "/spec/upstream/impersonate/groups", json!(["system:nodes"])),
        (1, "/spec/upstream/impersonate/groups", json!(["a\nb"])),
        (
            1,
            "/spec/upstream/serviceAccount",
            json!({"namespace": "ci", "name": "bot"}),
        ),
        (1, "/spec/upstream", json!({"serviceAccount": {}})),
        (1, "/spec/upstream", json!({"serviceAccount": {"name": "bot"}})),
        (
            1,
            "/spec/upstream",
            json!({"serviceAccount": {"namespace": "c*", "name": "bot"}}),
        ),
        (
            1,
            "/spec/upstream",
            json!({"serviceAccount": {"namespace": "ci", "name": "../a"}}),
        ),
        (
            1,
            "/spec/upstream",
            json!({"serviceAccount": {"namespace": "ci", "name": "bot", "audience": "x"}}),
        ),
        (
            1,
            "/spec/upstream/onBehalfOf",
            json!({"issuers": ["https://i.example"], "users": ["ann"]}),
        ),
        (1, "/spec/upstream", json!({"onBehalfOf": {}})),
        (1, "/spec/upstream", json!({"onBehalfOf": {"users": ["ann"]}})),
        (
            1,
            "/spec/upstream",
            json!({"onBehalfOf": {"issuers": ["https://i.example"]}}),
        ),
        (
            1,
            "/spec/upstream",
            json!({"onBehalfOf": {"issuers": [], "users": ["ann"]}}),
        ),
        (
            1,
            "/spec/upstream",
            json!({"onBehalfOf": {"issuers": ["http://i.example"], "users": ["ann"]}}),
        ),
        (
            1,
            "/spec/upstream",
            json!({"onBehalfOf": {"issuers": ["https://i.example"], "users": ["system:*"]}}),
        ),
        (
            1,
            "/spec/upstream",
            json!({"onBehalfOf": {"issuers": ["https://i.example"], "groups": ["system:masters"]}}),
        ),
        (
            1,
            "/spec/upstream",
            json!({"onBehalfOf": {"issuers": ["https://i.example"], "users": [""]}}),
        ),
        (1, "/spec/namespaces", json!([])),
        (1, "/spec/window", json!({})),
        (1, "/spec/rules", json!([])),
        (1, "/spec/rules/0/verbs", Value::Null),
        (1, "/spec/rules/0/verbs", json!(["lst"])),
        (1, "/spec/rules/0/resources", json!(["pods/*"])),
        (1, "/spec/rules/0/resources", json!(["Pods"])),
        (1, "/spec/rules/0/resources", json!(["a/b/c"])),
        (1, "/spec/rules/0/resourceNames", json!(["a*"])),
        (1, "/spec/rules/0/resourceNames", json!([""])),
        (1, "/spec/rules/1/nonResourceURLs", json!(["metrics"])),
        (1, "/spec/rules/1/nonResourceURLs", json!(["/a*b"])),
        (0, "/spec/groups", json!(["g", "g"])),
        (0, "/spec/groups", json!(vec!["g"; 257])),
        (0, "/spec/owner", json!("o".repeat(1025))),
        (1, "/spec/to/identities", json!(["a", "a"])),
        (1, "/spec/rules/0/resources", json!(many("r", 257))),
        (1, "/spec/rules/0/resources", json!(["r".repeat(129)])),
        (1, "/spec/rules/0/resourceNames", json!(many("n", 257))),
        (2, "/spec/subjects/groups", json!(["g", "g"])),
        (2, "/spec/rules/0/message", json!("a\u{1b}[31m")),
        (2, "/spec/lift", json!(["builtin/nodes-proxy"])),
        (2, "/spec/mode", json!("Adit")),
        (2, "/spec/subjects", json!({})),
        (2, "/spec/subjects/groups", json!([""])),
        (2, "/spec/subjects/namespaces", json!(["A"])),
        (2, "/spec/exceptions", json!(["builtin/none"])),
        (2, "/spec/exceptions", json!([])),
        (2, "/spec/variables", json!([])),
        (2, "/spec/limits", json!({})),
        (2, "/spec/limits", json!({"qps": 5})),
        (2, "/spec/limits", json!({"requestsPerSecond": 0})),
        (2, "/spec/limits", json!({"requestsPerSecond": -1})),
        (2, "/spec/limits", json!({"requestsPerSecond": 10_001})),
        (2, "/spec/limits", json!({"requestsPerSecond": 1.5})),
        (2, "/spec/limits", json!({"requestsPerSecond": "5"})),
        (2, "/spec/limits", json!({"requestsPerSecond": 5, "burst": 0})),
        (
            2,
            "/spec/limits",
            json!({"requestsPerSecond": 5, "burst": 100_001}),
        ),
        (2, "/spec/limits", json!({"concurrentRequests": 0})),
        (2, "/spec/limits", json!({"concurrentRequests": 8_193})),
        (2, "/spec/limits", json!({"repeatedDenialsPerMinute": 0})),
        (2, "/spec/limits", json!({"repeatedDenialsPerMinute": 1_001})),
        (2, "/spec/rules/0/name", json!("")),
        (2, "/spec/rules/0/name", Value::Null),
        (2, "/spec/variables", json!([{"name": "1a", "expression": "1"}])),
        (2, "/spec/variables", json!([{"name": "a", "expression": ""}])),
        (2, "/spec/variables", json!([{"name": "a"}])),
        (2, "/spec/failurePolicy", json!("Maybe")),
        (2, "/spec/params", json!([])),
        (2, "/spec/params", json!("a")),
        (2, "/spec/params", json!(7)),
        (2, "/spec/params", params(65)),
        (2, "/spec/rules/0/when", json!("")),
        (2, "/spec/rules/0/when", json!("a".repeat(4097))),
        (2, "/spec/rules/0/action", json!("Mask")),
        (2, "/spec/rules/0/action", json!("RequireApproval")),
        (2, "/spec/rules/0/match", json!({})),
        (2, "/spec/rules/0/match/verbs", json!(["GET"])),
        (2, "/spec/rules/0/match/verbs", json!([])),
        (2, "/spec/rules/0/match/resources", json!(["Pods"])),
        (2, "/spec/rules/0/match/resources", json!(["a/b/c"])),
        (2, "/spec/rules/0/match/names", json!(["a/b"])),
        (2, "/spec/rules/0/match", json!({"nonResourceURLs": ["x"]})),
        (2, "/spec/rules/0/match/namespaceSelector", json!("env=prod")),
        (2, "/spec/rules/0/match/namespaceSelector", json!({"env": "prod"})),
        (
            2,
            "/spec/rules/0/match/namespaceSelector",
            json!({"matchExpressions": [{"key": "env", "operator": "Is"}]}),
        ),
        (2, "/spec/rules/0/match/exceptArgv", json!([[]])),
        (2, "/spec/rules/0/match/exceptResources", json!(["Pods"])),
        (2, "/spec/rules/0/match/exceptNamespaces", json!([""])),
        (2, "/spec/rules/0/match/exceptNames", json!(["a/b"])),
        (2, "/spec/rules/0/match/exceptArgv", json!(["x"])),
        (2, "/spec/rules/0/match/exceptArgv", json!([])),
        (2, "/spec/rules/0/match/tty", json!("true")),
    ]
}

/// What the reader refuses and no schema can, since it takes two fields. An API server refuses it by a CRD's rules in CEL.
pub(crate) fn refused_by_the_reader() -> Vec<(usize, &'static str, Value)> {
    vec![
        (0, "/spec/whenOverdue", json!("Suspend")),
        (
            0,
            "/spec",
            json!({"owner": "team", "exclusive": true, "attest": {"spiffe": {"id": "spiffe://example.org/ci"}}}),
        ),
        (
            0,
            "/spec/attest/pod/selector/matchExpressions/0/values",
            Value::Null,
        ),
        (
            0,
            "/spec/attest/pod/selector/matchExpressions/0/operator",
            json!("Exists"),
        ),
        (1, "/spec/namespaces", json!(["prod-*"])),
        (1, "/spec/rules/0/apiGroups", Value::Null),
        (1, "/spec/rules/1/apiGroups", json!([""])),
        (2, "/spec/subjects", Value::Null),
        (2, "/spec/mode", json!("Audit")),
        (2, "/spec/limits", json!({"burst": 5})),
        (2, "/spec/rules/0/match/commands", json!(["x"])),
        (2, "/spec/rules/0/match/exceptArgv", json!([["x"]])),
        (2, "/spec/rules/0/match/stdin", json!(true)),
        (2, "/spec/rules/0/match/nonResourceURLs", json!(["/x"])),
        (2, "/spec/rules/0/action", json!("Filter")),
        (
            2,
            "/spec/rules/0/match/namespaceSelector",
            json!({"matchExpressions": [{"key": "env", "operator": "In"}]}),
        ),
        (
            2,
            "/spec/rules/0/match",
            json!({"nonResourceURLs": ["/x"], "namespaceSelector": {"matchLabels": {"env": "prod"}}}),
        ),
        (
            2,
            "/spec/rules/0",
            json!({"name": "r", "action": "Filter", "match": {"verbs": ["delete"], "namespaces": ["x"]}}),
        ),
        (
            2,
            "/spec/rules/0/match",
            json!({"nonResourceURLs": ["/x"], "verbs": ["list"]}),
        ),
        (
            2,
            "/spec/rules/0/match",
            json!({"resources": ["pods"], "verbs": ["post"]}),
        ),
        (2, "/spec", json!({"subjects": {"groups": ["g"]}})),
        (2, "/spec/subjects/identities", json!(["a?"])),
        (2, "/spec/subjects/groups", json!(["g*"])),
        (2, "/spec/subjects", json!({"namespaces": ["a"]})),
        (1, "/spec/rules/0/verbs", json!(["post"])),
        (1, "/spec/rules/1/verbs", json!(["list"])),
        (1, "/spec/rules/1/resourceNames", json!(["a"])),
        (1, "/spec/rules/0/resources", Value::Null),
    ]
}

/// What the reader alone refuses, since it takes knowledge that neither a schema nor a rule in CEL has.
pub(crate) fn refused_by_knowledge() -> Vec<(usize, &'static str, Value)> {
    vec![
        (2, "/spec/rules/0/match/exceptNamespaces", json!(["*"])),
        (
            2,
            "/spec/rules/0/match/namespaceSelector",
            json!({"matchLabels": {"env": "prod*"}}),
        ),
        (
            2,
            "/spec/rules/0/match/namespaceSelector",
            json!({"matchExpressions": [{"key": "a b", "operator": "Exists"}]}),
        ),
        (
            2,
            "/spec/rules/0/match/namespaceSelector",
            json!({"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod*"]}]}),
        ),
        (
            2,
            "/spec/rules/0/match/namespaceSelector",
            json!({"matchLabels": {"a".repeat(64): "prod"}}),
        ),
        (
            2,
            "/spec/rules/0/match/namespaceSelector",
            json!({"matchLabels": {"env": "a".repeat(64)}}),
        ),
        (
            2,
            "/spec/rules/0",
            json!({"name": "r", "action": "Filter", "match": {"resources": ["pods"], "namespaceSelector": {}}}),
        ),
        (
            2,
            "/spec/rules/0",
            json!({"name": "r", "action": "Filter", "match": {"namespaces": ["x"]}, "when": "namespaceObject != null"}),
        ),
        (
            2,
            "/spec/rules/0/match",
            json!({"apiGroups": [""], "resources": ["nodes"], "namespaceSelector": {"matchLabels": {"env": "prod"}}}),
        ),
        (1, "/spec/rules/0/resources", json!(["pod"])),
        (2, "/spec/rules/0/match/apiGroups", json!(["v1"])),
        (2, "/spec/rules/0/when", json!("request.verb ==")),
        (
            2,
            "/spec/variables",
            json!([{"name": "a", "expression": "nobody"}]),
        ),
        (2, "/spec/rules/0/when", json!("params.a == 1")),
    ]
}

/// What both admit.
pub(crate) fn admitted() -> Vec<(usize, &'static str, Value)> {
    vec![
        (0, "/metadata/labels", json!({"a": "b"})),
        (
            0,
            "/status",
            json!({"conditions": [{"type": "Ready"}], "colour": "red"}),
        ),
        (1, "/status", json!(7)),
        (2, "/spec/rules/0/match/namespaceSelector", json!({})),
        (
            2,
            "/spec/rules/0/match/namespaceSelector",
            json!({
                "matchLabels": {"env": "prod", "example.com/tier": ""},
                "matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}],
            }),
        ),
        (
            2,
            "/spec/rules/0",
            json!({"name": "r", "action": "Filter", "match": {"namespaceSelector": {"matchLabels": {"env": "prod"}}}}),
        ),
        (
            2,
            "/spec/rules/0/when",
            json!("namespaceObject.metadata.?labels.?env.orValue('') == 'prod'"),
        ),
        (0, "/metadata/name", json!("a.b-1")),
        (0, "/spec/state", Value::Null),
        (0, "/spec/reviewBy", json!("2026-12-01T00:00:00+02:00")),
        (0, "/spec/whenOverdue", json!("Warn")),
        (0, "/spec/exclusive", json!(true)),
        (0, "/spec/exclusive", json!(false)),
        (0, "/spec/attest/pod/selector", Value::Null),
        (
            0,
            "/spec/attest/spiffe",
            json!({"id": "spiffe://example.org/ci/deploy"}),
        ),
        (
            1,
            "/spec/upstream/impersonate/user",
            json!("system:serviceaccount:a:b"),
        ),
        (
            1,
            "/spec/upstream/impersonate/groups",
            json!(["system:authenticated", "a b"]),
        ),
        (
            1,
            "/spec/upstream",
            json!({"serviceAccount": {"namespace": "ci", "name": "bot.a-1"}}),
        ),
        (
            1,
            "/spec/upstream",
            json!({"onBehalfOf": {"issuers": ["https://i.example/a"], "users": ["*", "a b"], "groups": ["sre?"]}}),
        ),
        (1, "/spec/rules/0/verbs", json!(["*", "deletecollection"])),
        (1, "/spec/rules/0/resources", json!(["*"])),
        (1, "/spec/rules/1/nonResourceURLs", json!(["*", "/a/*"])),
        (1, "/spec/rules/0/resourceNames", json!(many("n", 256))),
        (2, "/spec/exceptions", Value::Null),
        (
            2,
            "/spec/limits",
            json!({"requestsPerSecond": 10_000, "burst": 1, "concurrentRequests": 8_192, "repeatedDenialsPerMinute": 1}),
        ),
        (2, "/spec", json!({"limits": {"concurrentRequests": 1}})),
        (2, "/spec/rules/0/message", Value::Null),
        (2, "/spec/rules/0/message", json!("two\nlines")),
        (2, "/spec/rules/0/action", json!("Warn")),
        (2, "/spec/rules/0/when", json!("request.namespace == 'a'")),
        (
            2,
            "/spec/rules/0/match",
            json!({"resources": ["pods"], "names": ["a"], "verbs": ["create"]}),
        ),
        (
            2,
            "/spec/rules/0/match",
            json!({"resources": ["pods"], "names": ["a"], "verbs": ["*"]}),
        ),
        (
            2,
            "/spec/rules/0/match",
            json!({"resources": ["pods", "pods/exec"], "names": ["a"]}),
        ),
        (2, "/spec/failurePolicy", json!("Ignore")),
        (2, "/spec/params", json!({})),
        (2, "/spec/params", params(64)),
        (
            2,
            "/spec/params",
            json!({"data": {"max-replicas": "5", "b": [1, 1.5, true, {"c": []}]}, "kind": "ConfigMap"}),
        ),
        (
            2,
            "/spec/variables",
            json!([{"name": "a", "expression": "request.name"}]),
        ),
        (
            2,
            "/spec/rules/0/match/resources",
            json!(["p?ds/*", "*/scale", "*"]),
        ),
        (2, "/spec/rules/0/match", json!({"nonResourceURLs": ["/x*", "*"]})),
    ]
}

/// So many fields of `params`.
fn params(count: usize) -> Value {
    let field = |name| (name, json!("x"));
    many("p", count)
        .into_iter()
        .map(field)
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// So many different texts.
fn many(text: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{text}{index}")).collect()
}
