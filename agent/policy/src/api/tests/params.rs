//! `spec.params` of an AgentPolicy: any mapping that JSON can say, of a bounded size, with the place of each fault.

use serde_json::json;

use super::*;
use crate::api::v1alpha1::AgentPolicySpec;
use crate::yaml::to_yaml;

/// A policy with `spec.params` from line 6 on, and a rule with this condition.
fn text(params: &str, when: &str) -> String {
    format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p}}\nspec:\n  failurePolicy: Fail\n{params}  rules:\n  - name: \
         r\n    match: {{verbs: [create], resources: [pods]}}\n    when: {when}\n    action: Deny\n"
    )
}

fn spec(text: &str) -> AgentPolicySpec {
    let documents = read_documents("f.yaml", text).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"));
    match &documents[0].object {
        AnyObject::Policy(policy) => policy.spec.clone(),
        other => panic!("{other:?}"),
    }
}

fn faults(text: &str) -> Vec<String> {
    let errors = read_documents("f.yaml", text).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

const PARAMS: &str = r#"  params:
    data: {maxReplicas: "5", "a.b/c": x}
    text: |
      two
      lines
    numbers: [1, -7, 1.5, 0.1, 9223372036854775807]
    flags: {yes: true, "no": false, none: , empty: {}, list: []}
    bare: no
"#;

#[test]
fn params_are_what_the_file_says() {
    let read = spec(&text(PARAMS, "params.data.maxReplicas == '5'"));
    assert_eq!(
        serde_json::to_value(&read.params).expect("JSON"),
        json!({
            "data": {"maxReplicas": "5", "a.b/c": "x"},
            "text": "two\nlines\n",
            "numbers": [1, -7, 1.5, 0.1, i64::MAX],
            "flags": {"yes": true, "no": false, "none": null, "empty": {}, "list": []},
            "bare": "no",
        })
    );
    let rule = "object.a == 1";
    assert_eq!(spec(&text("", rule)).params, None);
    assert_eq!(spec(&text("  params:\n", rule)).params, None);
    let empty = spec(&text("  params: {}\n", rule)).params;
    assert!(empty.is_some_and(|params| params.is_empty()));
}

/// As YAML and as JSON, which an API server has.
#[test]
fn params_survive_being_written_and_read_again() {
    let before = spec(&text(PARAMS, "params.data.maxReplicas == '5'"));
    let object = json!({
        "apiVersion": API_VERSION, "kind": "AgentPolicy", "metadata": {"name": "p"}, "spec": before,
    });
    for written in [to_yaml(&object), object.to_string(), format!("{object:#}")] {
        assert_eq!(spec(&written), before, "{written}");
    }
    assert_eq!(before.params.as_ref().map(serde_json::Map::len), Some(5));
}

#[test]
fn params_that_are_no_mapping_of_json_are_refused_where_they_stand() {
    for (params, faults_of) in [
        (
            "  params: 5\n",
            &["6:11: field `spec.params` must be a mapping, not the number 5"][..],
        ),
        (
            "  params: [a]\n",
            &["6:11: field `spec.params` must be a mapping, not a list"],
        ),
        (
            "  params: text\n",
            &["6:11: field `spec.params` must be a mapping, not text"],
        ),
        (
            "  params:\n    a: {b: [1, 9223372036854775808]}\n    7: x\n",
            &[
                "7:16: field `spec.params.a.b[1]`: a whole number has 64 bits",
                "8:5: field `spec.params`: a field's name must be text, not the number 7",
            ],
        ),
        (
            "  params: {a: 9223372036854775808, b: 12345678901234567890123}\n",
            &[
                "6:15: field `spec.params.a`: a whole number has 64 bits",
                "6:39: field `spec.params.b`: a whole number has 64 bits",
            ],
        ),
        ("  params:\n    a: {b: 1, b: 2}\n", &["7:15: `b` is given twice"]),
        (
            "  params: {a: .nan}\n",
            &["6:15: not valid YAML: value `.nan` is not a finite number"],
        ),
    ] {
        let found = faults(&text(params, "'true'"));
        assert_eq!(found.len(), faults_of.len(), "{found:#?}");
        for (found, fault) in found.iter().zip(faults_of) {
            assert!(found.starts_with(&format!("f.yaml:{fault}")), "{found}");
        }
    }
}

#[test]
fn params_have_a_bounded_size_and_depth() {
    let of_size = |bytes: usize| {
        // `{"a":""}` has 8 bytes.
        text(&format!("  params: {{a: {}}}\n", "x".repeat(bytes - 8)), "'true'")
    };
    assert!(spec(&of_size(64 * 1024)).params.is_some());
    assert_eq!(
        faults(&of_size(64 * 1024 + 1)),
        ["f.yaml:6:11: field `spec.params` has 65537 bytes as JSON; it can have 65536"]
    );
    let of_depth = |depth: usize| {
        let (open, close) = ("{a: ".repeat(depth - 1), "}".repeat(depth - 1));
        text(&format!("  params: {open}[]{close}\n"), "'true'")
    };
    assert!(spec(&of_depth(32)).params.is_some());
    let [fault] = &faults(&of_depth(33))[..] else {
        panic!("one fault")
    };
    // The list in 32 mappings.
    assert_eq!(
        fault,
        "f.yaml:6:139: mappings and lists are nested deeper than 32 here"
    );
    let many: String = (0..65).map(|at| format!("    k{at}: 1\n")).collect();
    assert_eq!(
        faults(&text(&format!("  params:\n{many}"), "'true'")),
        ["f.yaml:7:5: field `spec.params` has 65 entries; it can have 64"]
    );
}

#[test]
fn expressions_that_ask_for_params_in_vain_are_refused_where_they_stand() {
    assert_eq!(
        faults(&text("", "params.data.a == 'b'")),
        ["f.yaml:9:11: field `spec.rules[0].when`: the policy has no `params`: write them under spec.params"]
    );
    let variables = "  variables: [{name: a, expression: params.b}]\n";
    assert_eq!(
        faults(&text(variables, "variables.a")),
        [
            "f.yaml:6:37: field `spec.variables[0].expression`: the policy has no `params`: write them under spec.params"
        ]
    );
    assert_eq!(
        faults(&text(PARAMS, "params.data.maxReplica == 'b'")),
        [
            "f.yaml:17:11: field `spec.rules[0].when`: `params.data` has no field `maxReplica`; there are: a.b/c, maxReplicas. Ask for an \
             optional field by `has` or `.?`"
        ]
    );
    // A faulty value does not make its uses faulty too.
    let faults = faults(&text("  params:\n    a: 9223372036854775808\n", "params.a == 1"));
    assert_eq!(faults.len(), 1, "{faults:#?}");
}
