//! The schemas are current, hold for the examples, and refuse what the reader refuses where a schema can say it.

use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::schema_cases::{
    admitted, changed, objects, refused_by_both, refused_by_knowledge, refused_by_the_reader,
};
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
    let entries = std::fs::read_dir(deploy("examples")).expect("examples");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    // Folders beside hold objects of Kubernetes too.
    let files = paths.filter(|path| path.is_file());
    let policies = std::fs::read_dir(deploy("examples/policies")).expect("policies");
    let policies = policies.map(|entry| entry.expect("an entry").path());
    let policies = policies.filter(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    for path in files
        .chain(policies)
        .chain([deploy("examples/platform-team/agents.yaml")])
    {
        let text = std::fs::read_to_string(&path).expect("text");
        for document in as_json(&text) {
            let errors: Vec<_> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}\n{document:#}", path.display());
            objects += 1;
        }
    }
    assert!(objects >= 6, "{objects}");
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
        (refused_by_knowledge(), (true, false)),
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
