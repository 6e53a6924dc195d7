//! CustomResourceDefinitions of the objects, generated from their types.
//!
//! In: the schema of each kind, and its [`CelRule`]s. Out: a CRD a kind, and the files of `deploy/crds`.
//!
//! A CRD takes a structural schema, which has fewer keywords than JSON Schema. [`structural`] translates, and takes out what an
//! API server does by itself: it drops unknown fields, or refuses them where the client asks for strict validation, as kubectl
//! does.

use serde_json::{Map, Value, json};

use super::GROUP;
use super::schema::{FREE, VALIDATED, schema_of, spec_schema};
use super::v1alpha1::{
    AgentGrantSpec, AgentIdentitySpec, AgentPolicySpec, CelRule, GrantStatus, IdentityStatus,
    PICKET_NODE_KIND, PICKET_NODE_PLURAL, PicketNodeStatus, PolicyStatus, Spec,
};
use crate::yaml::to_yaml;

/// The version that is served and stored.
const VERSION: &str = "v1alpha1";

/// The condition that `kubectl get` shows as Ready.
const READY: &str = r#".status.conditions[?(@.type=="Ready")].status"#;

/// A column of `kubectl get`: its name, its type, and the path of what it shows.
type Column = (&'static str, &'static str, &'static str);

/// What people call a kind.
struct Names {
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
}

const IDENTITY_COLUMNS: [Column; 6] = [
    ("Owner", "string", ".spec.owner"),
    ("State", "string", ".spec.state"),
    // Text and not a date: kubectl shows dates as an age, and these lie ahead.
    ("Expires", "string", ".spec.expiresAt"),
    ("Review", "string", ".spec.reviewBy"),
    ("Ready", "string", READY),
    ("Age", "date", ".metadata.creationTimestamp"),
];

const GRANT_COLUMNS: [Column; 5] = [
    ("Identities", "string", ".spec.to.identities"),
    ("Groups", "string", ".spec.to.groups"),
    ("User", "string", ".spec.upstream.impersonate.user"),
    ("Ready", "string", READY),
    ("Age", "date", ".metadata.creationTimestamp"),
];

const POLICY_COLUMNS: [Column; 3] = [
    ("Mode", "string", ".spec.mode"),
    ("Ready", "string", READY),
    ("Age", "date", ".metadata.creationTimestamp"),
];

const NODE_COLUMNS: [Column; 7] = [
    ("Ready", "string", READY),
    ("Version", "string", ".status.version"),
    ("Enforced", "integer", ".status.pods.enforced"),
    ("Not-Covered", "integer", ".status.pods.notCovered"),
    ("Policy", "string", ".status.policy.hash"),
    // How long ago the agent wrote: a node whose agent is gone stays Ready here.
    ("Heard", "date", ".status.lastHeartbeat"),
    ("Age", "date", ".metadata.creationTimestamp"),
];

/// What a PicketNode is, for `kubectl explain`.
const NODE_DESCRIPTION: &str =
    "What the agent of a node says of itself. The agent writes it; its name is the Node's. It has no spec.";

/// Every CRD with its kind.
#[must_use]
pub fn custom_resource_definitions() -> Vec<(&'static str, Value)> {
    let identity = Names {
        plural: AgentIdentitySpec::PLURAL,
        singular: "agentidentity",
        short: "agid",
    };
    let grant = Names {
        plural: AgentGrantSpec::PLURAL,
        singular: "agentgrant",
        short: "aggr",
    };
    let policy = Names {
        plural: AgentPolicySpec::PLURAL,
        singular: "agentpolicy",
        short: "agpol",
    };
    let node = Names {
        plural: PICKET_NODE_PLURAL,
        singular: "picketnode",
        short: "pn",
    };
    vec![
        definition::<AgentIdentitySpec>(&identity, &IDENTITY_COLUMNS, schema_of::<IdentityStatus>()),
        definition::<AgentGrantSpec>(&grant, &GRANT_COLUMNS, schema_of::<GrantStatus>()),
        definition::<AgentPolicySpec>(&policy, &POLICY_COLUMNS, schema_of::<PolicyStatus>()),
        node_definition(&node),
    ]
}

/// The files under `deploy/crds` and what they hold.
#[must_use]
pub fn crd_files() -> Vec<(String, String)> {
    let file = |(_, definition): &(&str, Value)| {
        let plural = definition["spec"]["names"]["plural"].as_str().unwrap_or_default();
        (format!("{GROUP}_{plural}.yaml"), to_yaml(definition))
    };
    custom_resource_definitions().iter().map(file).collect()
}

fn definition<S: Spec>(names: &Names, columns: &[Column], mut status: Value) -> (&'static str, Value) {
    let mut spec = spec_schema::<S>();
    let description = spec["description"].clone();
    structural(&mut spec);
    structural(&mut status);
    let mut schema = json!({
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The group and version of the object."},
            "kind": {"type": "string", "description": "The kind of the object."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    });
    for rule in S::CEL_RULES {
        if let Some(schema) = field(&mut schema, rule.path) {
            add_rule(schema, rule);
        }
    }
    (S::KIND, named(S::KIND, names, columns, schema))
}

/// The CRD of the kind that agents write about themselves, which has no spec.
fn node_definition(names: &Names) -> (&'static str, Value) {
    let mut status = schema_of::<PicketNodeStatus>();
    structural(&mut status);
    let schema = json!({
        "type": "object",
        "description": NODE_DESCRIPTION,
        "properties": {
            "apiVersion": {"type": "string", "description": "The group and version of the object."},
            "kind": {"type": "string", "description": "The kind of the object."},
            "metadata": {"type": "object"},
            "status": status,
        },
    });
    let definition = named(PICKET_NODE_KIND, names, &NODE_COLUMNS, schema);
    (PICKET_NODE_KIND, definition)
}

/// The CRD of a kind with this schema.
fn named(kind: &str, names: &Names, columns: &[Column], schema: Value) -> Value {
    let column = |(name, kind, path): &Column| json!({"name": name, "type": kind, "jsonPath": path});
    let mut definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{GROUP}", names.plural)},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": names.plural,
                "singular": names.singular,
                "shortNames": [names.short],
                "categories": ["picket"],
            },
            "scope": "Cluster",
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "additionalPrinterColumns": columns.iter().map(column).collect::<Vec<_>>(),
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    });
    definition.sort_all_objects();
    definition
}

/// Makes a schema one that a CRD takes.
fn structural(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for keyword in [VALIDATED, "title", "$schema"] {
        map.remove(keyword);
    }
    if map.contains_key("properties") {
        map.remove("additionalProperties");
    }
    if map.remove("uniqueItems").is_some() {
        map.insert("x-kubernetes-list-type".to_owned(), json!("set"));
    }
    match map.get("type").and_then(Value::as_str) {
        Some("integer") => drop(map.insert("format".to_owned(), json!("int64"))),
        None => drop(map.insert(FREE.to_owned(), json!(true))),
        Some(_) => {}
    }
    if let Some(Value::Object(fields)) = map.get_mut("properties") {
        fields.values_mut().for_each(structural);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = map.get_mut(inner) {
            structural(schema);
        }
    }
}

/// The schema of a field, by its path with `[]` for an index.
fn field<'s>(schema: &'s mut Value, path: &str) -> Option<&'s mut Value> {
    path.split('.').try_fold(schema, |schema, step| {
        let (name, lists) = step.split_once("[]").map_or((step, 0), |(name, _)| (name, 1));
        let found = schema.get_mut("properties")?.get_mut(name)?;
        if lists == 0 {
            Some(found)
        } else {
            found.get_mut("items")
        }
    })
}

fn add_rule(schema: &mut Value, rule: &CelRule) {
    let Value::Object(map) = schema else { return };
    let rules = map.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Value::Array(rules) = rules {
        let mut entry = Map::new();
        entry.insert("rule".to_owned(), json!(rule.rule));
        entry.insert("message".to_owned(), json!(rule.message));
        rules.push(entry.into());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::schema_cases::{
        admitted, changed, objects, refused_by_knowledge, refused_by_the_reader,
    };
    use super::*;
    use crate::cel::{CelOutcome, Expression};
    use crate::kubernetes::verbs::Verb;
    use crate::yaml::parse;

    fn check(at: &str, schema: &Value) {
        let Value::Object(map) = schema else { return };
        let known = [
            "anyOf",
            "default",
            "description",
            "enum",
            "format",
            "items",
            "maxItems",
            "maxLength",
            "maxProperties",
            "minItems",
            "minLength",
            "minProperties",
            "minimum",
            "maximum",
            "not",
            "pattern",
            "properties",
            "additionalProperties",
            "required",
            "type",
            "x-kubernetes-list-type",
            "x-kubernetes-list-map-keys",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-validations",
        ];
        for keyword in map.keys() {
            assert!(known.contains(&keyword.as_str()), "{at} has {keyword}");
        }
        assert!(
            !(map.contains_key("properties") && map.contains_key("additionalProperties")),
            "{at} has both properties and additionalProperties"
        );
        if let Some(Value::Object(fields)) = map.get("properties") {
            for (name, field) in fields {
                check(&format!("{at}.{name}"), field);
            }
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(schema) = map.get(inner) {
                check(&format!("{at}[]"), schema);
            }
        }
        // The API server refuses a CRD whose CEL rules could cost too much, which bounds on what they read keep small.
        let bound = match (map.get("type").and_then(Value::as_str), map.contains_key("enum")) {
            (Some("array"), _) => Some("maxItems"),
            (Some("string"), false) if !map.contains_key("format") => Some("maxLength"),
            (Some("object"), _) if !map.contains_key("properties") => Some("maxProperties"),
            _ => None,
        };
        if let (Some(bound), true) = (bound, at.contains(".spec.")) {
            assert!(map.contains_key(bound), "{at} has no {bound}");
        }
    }

    #[test]
    fn a_crd_has_structural_keywords_alone_and_a_bound_on_everything() {
        for (kind, definition) in custom_resource_definitions() {
            check(
                kind,
                &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
            );
        }
    }

    #[test]
    fn every_rule_in_cel_has_its_field() {
        let mut rules = 0;
        for (kind, mut definition) in custom_resource_definitions() {
            let (all, schema) = (
                match kind {
                    AgentIdentitySpec::KIND => AgentIdentitySpec::CEL_RULES,
                    AgentGrantSpec::KIND => AgentGrantSpec::CEL_RULES,
                    AgentPolicySpec::KIND => AgentPolicySpec::CEL_RULES,
                    _ => &[],
                },
                &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
            );
            for rule in all {
                let schema = field(schema, rule.path).unwrap_or_else(|| panic!("{kind}: {}", rule.path));
                let said = schema["x-kubernetes-validations"].to_string();
                assert!(said.contains(&json!(rule.rule).to_string()), "{kind}: {said}");
                rules += 1;
            }
        }
        assert!(rules > 10, "{rules}");
    }

    /// Adds what an API server adds to an object that leaves it out.
    fn add_defaults(schema: &Value, object: &mut Value) {
        match (object, schema.get("properties"), schema.get("items")) {
            (Value::Object(map), Some(Value::Object(fields)), _) => {
                for (name, field) in fields {
                    if let Some(default) = field.get("default").filter(|_| !map.contains_key(name)) {
                        map.insert(name.clone(), default.clone());
                    }
                    if let Some(value) = map.get_mut(name) {
                        add_defaults(field, value);
                    }
                }
            }
            (Value::Array(list), _, Some(items)) => {
                list.iter_mut().for_each(|item| add_defaults(items, item))
            }
            _ => {}
        }
    }

    /// What a rule says of a value, in place of another one where it is about a change.
    fn holds(rule: &str, value: &Value, old: &Value) -> bool {
        let compiled = Expression::compile(rule, &["self", "oldSelf"]).expect(rule);
        match compiled.evaluate(&[("self", value), ("oldSelf", old)]) {
            Ok(CelOutcome::Bool(holds)) => holds,
            other => panic!("{rule} of {value}: {other:?}"),
        }
    }

    /// The rules of a schema that refuse a new object, by their text.
    fn refusing(schema: &Value, value: &Value, found: &mut BTreeSet<String>) {
        let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array);
        let texts = rules
            .into_iter()
            .flatten()
            .filter_map(|rule| rule["rule"].as_str());
        for rule in texts.filter(|rule| !rule.contains("oldSelf")) {
            if !holds(rule, value, &Value::Null) {
                found.insert(rule.to_owned());
            }
        }
        match (value, schema.get("properties"), schema.get("items")) {
            (Value::Object(map), Some(Value::Object(fields)), _) => {
                for (name, value) in map {
                    if let Some(field) = fields.get(name) {
                        refusing(field, value, found);
                    }
                }
            }
            (Value::Array(list), _, Some(items)) => list.iter().for_each(|item| refusing(items, item, found)),
            _ => {}
        }
    }

    #[test]
    fn the_rules_in_cel_refuse_what_the_reader_refuses_and_nothing_else() {
        let (definitions, objects) = (custom_resource_definitions(), objects());
        let refused_by = |(number, pointer, value): (usize, &str, Value)| {
            let schema = &definitions[number].1["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let mut object = changed(&objects[number], pointer, value);
            add_defaults(schema, &mut object);
            let mut found = BTreeSet::new();
            refusing(schema, &object, &mut found);
            found
        };
        let mut needed = BTreeSet::new();
        for case in refused_by_the_reader() {
            let found = refused_by(case.clone());
            assert!(!found.is_empty(), "no rule refuses {} {}", case.1, case.2);
            needed.extend(found);
        }
        for case in admitted().into_iter().chain(refused_by_knowledge()) {
            assert_eq!(refused_by(case.clone()), BTreeSet::new(), "{} {}", case.1, case.2);
        }
        let of_kinds = [
            AgentIdentitySpec::CEL_RULES,
            AgentGrantSpec::CEL_RULES,
            AgentPolicySpec::CEL_RULES,
        ];
        for rule in of_kinds
            .into_iter()
            .flatten()
            .filter(|rule| !rule.rule.contains("oldSelf"))
        {
            assert!(needed.contains(rule.rule), "no case needs {}", rule.rule);
        }
    }

    #[test]
    fn a_rule_in_cel_keeps_a_revoked_identity_revoked() {
        let of_changes = AgentIdentitySpec::CEL_RULES
            .iter()
            .filter(|rule| rule.rule.contains("oldSelf"));
        let rules: Vec<_> = of_changes.map(|rule| rule.rule).collect();
        let may = |from: &str, to: &str| {
            rules
                .iter()
                .all(|rule| holds(rule, &json!({"state": to}), &json!({"state": from})))
        };
        for to in ["Active", "Suspended"] {
            assert!(
                !may("Revoked", to) && may("Active", to) && may("Suspended", to),
                "{to}"
            );
        }
        assert!(may("Active", "Revoked") && may("Revoked", "Revoked"));
    }

    #[test]
    fn the_verbs_in_cel_are_those_that_requests_have() {
        let list = |verbs: &mut dyn Iterator<Item = Verb>| {
            let words: Vec<_> = verbs.map(|verb| format!("'{}'", verb.as_str())).collect();
            format!("[{}, '*']", words.join(", "))
        };
        for rules in [AgentGrantSpec::CEL_RULES, AgentPolicySpec::CEL_RULES] {
            let said: String = rules.iter().map(|rule| rule.rule).collect();
            assert!(said.contains(&list(&mut Verb::of_resources())), "{said}");
            assert!(said.contains(&list(&mut Verb::of_paths())), "{said}");
        }
    }

    #[test]
    fn the_text_of_a_crd_is_the_crd() {
        for ((_, definition), (file, text)) in custom_resource_definitions().iter().zip(crd_files()) {
            let nodes = parse(&file, &text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(nodes.len(), 1, "{file}");
            assert_eq!(super::super::shape::plain(&nodes[0]), *definition, "{file}");
        }
    }

    #[test]
    fn the_crds_under_deploy_are_current() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
        for (file, text) in crd_files() {
            let kept = std::fs::read_to_string(folder.join(&file)).unwrap_or_default();
            assert!(
                kept == text,
                "deploy/crds/{file} is not what the types say: run `cargo xtask generate`"
            );
        }
    }
}
