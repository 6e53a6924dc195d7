//! The schemas are current, hold for the examples, and refuse what the reader refuses where a schema can say it.

use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::{any_object_schema, object_schema, read_documents, schemas};
use crate::api::v1alpha1::AgentGrantSpec;
use crate::yaml::parse;

fn deploy(folder: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(folder)
}

fn validator() -> Validator {
    jsonschema::options()
        .should_validate_formats(true)
        .build(&any_object_schema())
        .expect("a valid schema")
}

/// A document as a schema sees it.
fn as_json(text: &str) -> Vec<Value> {
    let nodes = parse("f.yaml", text).unwrap_or_else(|error| panic!("{error}"));
    nodes.iter().map(super::shape::plain).collect()
}

#[test]
fn the_schemas_under_deploy_are_current() {
    for (file, text) in schemas() {
        let path = deploy("schemas").join(&file);
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == text,
            "deploy/schemas/{file} is not what the types say: run `cargo xtask generate`"
        );
    }
}

#[test]
fn the_examples_hold_by_the_schema() {
    let (validator, mut objects) = (validator(), 0);
    for entry in std::fs::read_dir(deploy("examples")).expect("examples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        for document in as_json(&text) {
            let errors: Vec<_> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}\n{document:#}", path.display());
            objects += 1;
        }
    }
    assert!(objects >= 6, "{objects}");
}

/// An object with one thing changed, by its JSON pointer; `null` takes it away.
fn changed(object: &Value, pointer: &str, value: Value) -> Value {
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

fn objects() -> [Value; 3] {
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
fn refused_by_both() -> Vec<(usize, &'static str, Value)> {
    vec![
        (0, "/apiVersion", json!("picket.dev/v1")),
        (0, "/kind", json!("Agent")),
        (0, "/metadata", Value::Null),
        (0, "/metadata/name", json!("A")),
        (0, "/metadata/name", json!("a".repeat(254))),
        (0, "/metadata/colour", json!("red")),
        (0, "/metadata/labels", json!({"a": 7})),
        (0, "/spec", Value::Null),
        (0, "/status", json!({})),
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
        (0, "/spec/expiresAt", json!("soon")),
        (0, "/spec/attest", json!({})),
        (0, "/spec/attest/jwt", json!({})),
        (0, "/spec/attest/spiffe", json!({})),
        (0, "/spec/attest/spiffe", json!({"id": "triage"})),
        (0, "/spec/attest/spiffe", json!({"id": "spiffe://example.org"})),
        (0, "/spec/attest/spiffe", json!({"id": "spiffe://example.org/*"})),
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
        (2, "/spec/lift", json!(["builtin/nodes-proxy"])),
        (2, "/spec/mode", json!("Adit")),
        (2, "/spec/subjects", json!({})),
        (2, "/spec/subjects/groups", json!([""])),
        (2, "/spec/subjects/namespaces", json!(["A"])),
        (2, "/spec/exceptions", json!(["builtin/none"])),
        (2, "/spec/exceptions", json!([])),
        (2, "/spec/variables", json!([])),
        (2, "/spec/rules/0/name", json!("")),
        (2, "/spec/rules/0/name", Value::Null),
        (2, "/spec/rules/0/when", json!("true")),
        (2, "/spec/rules/0/action", json!("Mask")),
        (2, "/spec/rules/0/action", json!("RequireApproval")),
        (2, "/spec/rules/0/match", json!({})),
        (2, "/spec/rules/0/match/verbs", json!(["GET"])),
        (2, "/spec/rules/0/match/verbs", json!([])),
        (2, "/spec/rules/0/match/resources", json!(["Pods"])),
        (2, "/spec/rules/0/match/resources", json!(["a/b/c"])),
        (2, "/spec/rules/0/match/names", json!(["a/b"])),
        (2, "/spec/rules/0/match", json!({"nonResourceURLs": ["x"]})),
    ]
}

/// What only the reader can refuse, since it takes two fields, or knowledge that no schema has.
fn refused_by_the_reader() -> Vec<(usize, &'static str, Value)> {
    vec![
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
        (
            0,
            "/spec/attest/spiffe",
            json!({"id": "spiffe://example.org/a/.."}),
        ),
        (1, "/spec/namespaces", json!(["prod-*"])),
        (1, "/spec/rules/0/apiGroups", Value::Null),
        (1, "/spec/rules/0/resources", json!(["pod"])),
        (1, "/spec/rules/1/apiGroups", json!([""])),
        (2, "/spec/subjects", Value::Null),
        (2, "/spec/mode", json!("Audit")),
        (2, "/spec/rules/0/match/apiGroups", json!(["v1"])),
        (2, "/spec/rules/0/match/commands", json!(["x"])),
    ]
}

/// What both admit.
fn admitted() -> Vec<(usize, &'static str, Value)> {
    vec![
        (0, "/metadata/labels", json!({"a": "b"})),
        (0, "/metadata/name", json!("a.b-1")),
        (0, "/spec/state", Value::Null),
        (0, "/spec/reviewBy", json!("2026-12-01T00:00:00+02:00")),
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
        (1, "/spec/rules/0/verbs", json!(["*", "deletecollection"])),
        (1, "/spec/rules/0/resources", json!(["*"])),
        (1, "/spec/rules/1/nonResourceURLs", json!(["*", "/a/*"])),
        (2, "/spec/exceptions", Value::Null),
        (2, "/spec/rules/0/message", Value::Null),
        (2, "/spec/rules/0/action", json!("Warn")),
        (
            2,
            "/spec/rules/0/match/resources",
            json!(["p?ds/*", "*/scale", "*"]),
        ),
        (2, "/spec/rules/0/match", json!({"nonResourceURLs": ["/x*", "*"]})),
    ]
}

/// Whether schema and reader admit an object. YAML reads JSON as it is.
fn verdicts(validator: &Validator, object: &Value) -> (bool, bool, String) {
    let read = read_documents("f.yaml", &object.to_string());
    let said = format!("{read:?}");
    (validator.is_valid(object), read.is_ok(), said)
}

#[test]
fn schema_and_reader_agree() {
    let (validator, objects) = (validator(), objects());
    for object in &objects {
        let (schema, reader, said) = verdicts(&validator, object);
        assert!(schema && reader, "{object:#}\n{said}");
    }
    let cases = [
        (refused_by_both(), (false, false)),
        (refused_by_the_reader(), (true, false)),
        (admitted(), (true, true)),
    ];
    for (cases, expected) in cases {
        for (number, pointer, value) in cases {
            let object = changed(&objects[number], pointer, value.clone());
            let (schema, reader, said) = verdicts(&validator, &object);
            assert_eq!((schema, reader), expected, "{pointer} {value}\n{said}");
        }
    }
}

#[test]
fn a_schema_is_whole_and_plain_and_says_what_each_field_is() {
    fn check(at: &str, schema: &Value) {
        let Value::Object(map) = schema else { return };
        for keyword in ["$ref", "$defs", "oneOf", "nullable"] {
            assert!(!map.contains_key(keyword), "{at} has {keyword}");
        }
        assert!(map.keys().all(|keyword| !keyword.starts_with("x-")), "{at}");
        assert!(map.get("type").is_none_or(Value::is_string), "{at}");
        if let Some(Value::Object(fields)) = map.get("properties") {
            assert_eq!(map.get("additionalProperties"), Some(&json!(false)), "{at}");
            for (name, field) in fields {
                let at = format!("{at}.{name}");
                let said = field
                    .get("description")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                assert!(said.len() > 10 && !said.contains("[`"), "{at}: {said:?}");
                check(&at, field);
            }
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(schema) = map.get(inner) {
                check(&format!("{at}[]"), schema);
            }
        }
    }
    for (kind, schema) in super::object_schemas() {
        check(kind, &schema);
    }
    let grant = object_schema::<AgentGrantSpec>();
    assert_eq!(grant["properties"]["kind"]["enum"], json!(["AgentGrant"]));
    assert_eq!(
        grant.pointer("/properties/spec/required"),
        Some(&json!(["to", "upstream", "rules"]))
    );
}
