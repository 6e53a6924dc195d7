//! Test files that say what a cluster has: stored objects, and the labels of namespaces.

use jiff::Timestamp;

use super::tests::{HEAD, OBJECTS};
use super::*;
use crate::api::read_documents;
use crate::engine::PolicySet;

/// Objects with a rule that nothing with the label `protected` is deleted or changed.
fn protecting() -> PolicySet {
    let rule = "---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: keep}\nspec:\n  rules:\n  - {name: protected, \
                action: Deny, match: {verbs: [update, delete], resources: [configmaps]}, when: \"oldObject != null && \
                has(oldObject.metadata.labels) && 'protected' in oldObject.metadata.labels\"}\n";
    PolicySet::compile(read_documents("o.yaml", &format!("{OBJECTS}{rule}")).expect("documents"))
        .expect("a set")
}

#[test]
fn a_case_says_which_object_the_cluster_has() {
    let labelled = "oldObject: {metadata: {labels: {protected: yes-it-is}}}";
    let plain = "oldObject: {metadata: {name: x}}";
    for (case, decision) in [
        (
            format!("kubectl: delete configmap x, {labelled}"),
            "deny, rule: keep/protected",
        ),
        (format!("kubectl: delete configmap x, {plain}"), "allow"),
        (
            "request: {method: DELETE, path: /api/v1/namespaces/agents/configmaps/x}, exists: false"
                .to_owned(),
            "allow",
        ),
        (
            format!(
                "request: {{method: PUT, path: /api/v1/namespaces/agents/configmaps/x, body: {{data: {{}}}}}}, {plain}"
            ),
            "allow",
        ),
        (
            format!(
                "request: {{method: PUT, path: /api/v1/namespaces/agents/configmaps/x, body: {{data: {{}}}}}}, {labelled}"
            ),
            "deny, rule: keep/protected",
        ),
        (format!("kubectl: label configmap x a=b, {plain}"), "allow"),
        // Not known, and said so.
        (
            "kubectl: delete configmap x".to_owned(),
            "deny, rule: keep/protected, message: the stored object is not known",
        ),
        // Other verbs have none.
        (format!("kubectl: get configmap x, {labelled}"), "allow"),
    ] {
        let text = format!("{HEAD}  cases: [{{{case}, expect: {{decision: {decision}}}}}]\n");
        let tests = read_tests("t.yaml", &text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        let results = run(&protecting(), &tests[0], Timestamp::UNIX_EPOCH, &|_| {
            Err("none".to_owned())
        });
        let results = results.unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        assert_eq!(results[0].failures, [""; 0], "{case}");
    }
    for (case, fault) in [
        (format!("exists: false, {plain}"), "take out `exists: false`"),
        ("oldObject: text".to_owned(), "must be an object"),
    ] {
        let text = format!(
            "{HEAD}  cases: [{{kubectl: delete configmap x, {case}, expect: {{decision: allow}}}}]\n"
        );
        let errors = read_tests("t.yaml", &text).expect_err(&case);
        assert!(errors[0].to_string().contains(fault), "{errors:?}");
    }
}

#[test]
fn a_test_names_the_namespaces_that_rules_select_by_labels() {
    let objects = format!(
        "{OBJECTS}---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: ns}}\nspec:\n  rules:\n  \
         - {{name: prod, action: Deny, match: {{verbs: [update], namespaceSelector: {{matchLabels: {{env: prod}}}}}}}}\n  \
         - {{name: frozen, action: Deny, match: {{verbs: [update]}}, when: \"'frozen' in \
         namespaceObject.metadata.annotations\"}}\n"
    );
    let set = PolicySet::compile(read_documents("o.yaml", &objects).expect("documents")).expect("a set");
    let update = |namespace: &str| {
        format!(
            "  - {{request: {{method: PUT, path: /api/v1/namespaces/{namespace}/configmaps/c}}, expect: {{decision: deny"
        )
    };
    let cases = format!(
        "  cases:\n{}, rule: ns/prod}}}}\n{}, rule: ns/frozen}}}}\n{}, rule: ns/frozen, message: it is none of the namespaces}}}}\n  \
         - {{kubectl: label configmap c a=b -n free, expect: {{decision: allow}}}}\n",
        update("pay"),
        update("ice"),
        update("other")
    );
    let namespaces = "  namespaces:\n  - {name: pay, labels: {env: prod}}\n  - {name: ice, annotations: {frozen: ''}}\n  - {name: free}\n";
    let tests = read_tests("t.yaml", &format!("{HEAD}{namespaces}{cases}")).expect("a test");
    let results = run(&set, &tests[0], Timestamp::UNIX_EPOCH, &|_| Err(String::new())).expect("results");
    for result in &results {
        assert!(
            result.failures.is_empty(),
            "{}: {:?}",
            result.input,
            result.failures
        );
    }
    let twice = format!("{HEAD}  namespaces: [{{name: a}}, {{name: a}}]\n{cases}");
    let errors = read_tests("t.yaml", &twice).expect_err("twice");
    assert!(
        errors[0].reason.contains("namespace \"a\" is there twice"),
        "{errors:?}"
    );
}
