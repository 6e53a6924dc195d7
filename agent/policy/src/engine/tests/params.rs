//! Policies with `params`, from the file to the decision: those that were ValidatingAdmissionPolicies, and several at once.

use super::conditions::with_body;
use super::*;

const DEPLOYMENTS: &str = "POST /apis/apps/v1/namespaces/n/deployments";

/// A policy with params, whose rule fires where the expression of a ValidatingAdmissionPolicy's `validations` is not true.
fn moved(name: &str, params: &str, variables: &str, validation: &str) -> String {
    let when = format!("!({validation})");
    policy(
        name,
        &format!(
            "params: {params}\n  variables: [{variables}]\n  rules: [{{name: r, action: Deny, message: Not so., match: {{verbs: [create], \
             resources: ['*']}}, when: {when:?}}}]"
        )
        .replace("  variables: []\n", ""),
    )
}

fn is_denied(set: &PolicySet, line: &str, body: &str) -> bool {
    let decision = set.decide(principal(set, "fixer"), with_body(line, body), NOW);
    matches!(decision, Decision::Deny(_))
}

fn replicas(count: u32) -> String {
    format!(r#"{{"kind": "Deployment", "metadata": {{"name": "web"}}, "spec": {{"replicas": {count}}}}}"#)
}

fn image(image: &str) -> String {
    format!(
        r#"{{"kind": "Pod", "metadata": {{"name": "web"}}, "spec": {{"containers": [{{"name": "c", "image": "{image}"}}]}}}}"#
    )
}

/// Of each the params as the API server binds them, the expression as it stands there, what it lets pass, and what it refuses.
#[test]
fn validating_admission_policies_with_params_move_here_unchanged() {
    for (params, variables, validation, line, good, bad) in [
        // A ConfigMap has texts alone.
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: limits}, data: {maxReplicas: '5'}}",
            "",
            "object.spec.replicas <= int(params.data.maxReplicas)",
            DEPLOYMENTS,
            replicas(5),
            replicas(6),
        ),
        // A custom resource has numbers.
        (
            "{apiVersion: rules.example.com/v1, kind: ReplicaLimit, metadata: {name: limits}, maxReplicas: 3}",
            "",
            "object.spec.replicas <= params.maxReplicas",
            DEPLOYMENTS,
            replicas(3),
            replicas(4),
        ),
        (
            "{spec: {registries: [registry.example.com/, quay.example.com/team/]}}",
            "{name: images, expression: 'object.spec.containers.map(c, c.image)'}, {name: known, expression: 'params.spec.registries'}",
            "variables.images.all(i, variables.known.exists(r, i.startsWith(r)))",
            "POST /api/v1/namespaces/n/pods",
            image("quay.example.com/team/web:1"),
            image("quay.example.com/other/web:1"),
        ),
        (
            "{data: {pattern: '^registry[.]example[.]com/'}}",
            "",
            "object.spec.containers.all(c, c.image.matches(params.data.pattern))",
            "POST /api/v1/namespaces/n/pods",
            image("registry.example.com/web:1"),
            image("registry-example.com/web:1"),
        ),
        (
            "{data: {registries: 'a.example/,b.example/'}}",
            "",
            "object.spec.containers.all(c, params.data.registries.split(',').exists(r, c.image.startsWith(r)))",
            "POST /api/v1/namespaces/n/pods",
            image("b.example/web"),
            image("c.example/web"),
        ),
        (
            "{data: {}}",
            "",
            "object.spec.replicas <= (has(params.data.maxReplicas) ? int(params.data.maxReplicas) : 2)",
            DEPLOYMENTS,
            replicas(2),
            replicas(3),
        ),
    ] {
        let set = compile(&[&grant(ALL), &moved("p", params, variables, validation)]);
        assert!(!is_denied(&set, line, &good), "{validation}: {good}");
        assert!(is_denied(&set, line, &bad), "{validation}: {bad}");
    }
}

/// All of them are judged on the same values of one decision.
#[test]
fn policies_with_the_same_expressions_have_each_their_own_params() {
    let variables = "{name: most, expression: 'int(params.data.most)'}";
    let limit = |name: &str, most: u32, message: &str| {
        let params = format!("{{data: {{most: '{most}'}}}}");
        moved(name, &params, variables, "object.spec.replicas <= variables.most").replace("Not so.", message)
    };
    let warn = |policy: String| policy.replace("action: Deny", "action: Warn");
    let without = policy(
        "d",
        "variables: [{name: most, expression: '7'}]\n  rules: [{name: r, action: Warn, message: Of none., match: {verbs: [create], \
         resources: ['*']}, when: 'object.spec.replicas > variables.most'}]",
    );
    let parts = [
        warn(limit("a", 3, "Of a.")),
        warn(limit("b", 9, "Of b.")),
        warn(limit("c", 5, "Of c.")),
        without,
    ];
    // Whatever the order of the policies is.
    for turn in 0..parts.len() {
        let mut parts = parts.clone();
        parts.rotate_left(turn);
        let all = grant(ALL);
        let mut texts: Vec<&str> = vec![&all];
        texts.extend(parts.iter().map(String::as_str));
        let set = compile(&texts);
        for (count, told) in [
            (2, &[][..]),
            (4, &["Of a."]),
            (6, &["Of a.", "Of c."]),
            (8, &["Of a.", "Of c.", "Of none."]),
            (10, &["Of a.", "Of b.", "Of c.", "Of none."]),
        ] {
            let request = with_body(DEPLOYMENTS, &replicas(count));
            let Decision::Permit(permit) = set.decide(principal(&set, "fixer"), request, NOW) else {
                panic!("{count} was refused")
            };
            let warnings: Vec<_> = permit.warnings().iter().map(|found| &found.message).collect();
            assert_eq!(warnings, told, "{count}");
        }
    }
}

#[test]
fn params_that_an_expression_cannot_use_make_the_rule_fire() {
    let validation = "object.spec.replicas <= int(params.data.most)";
    let failing = moved("p", "{data: {most: five}}", "", validation);
    let set = compile(&[&grant(ALL), &failing]);
    assert!(is_denied(&set, DEPLOYMENTS, &replicas(1)));
    let ignoring = failing.replace("params:", "failurePolicy: Ignore\n  params:");
    assert!(!is_denied(
        &compile(&[&grant(ALL), &ignoring]),
        DEPLOYMENTS,
        &replicas(1)
    ));
}

/// A rule about lists has no object, but it has params.
#[test]
fn a_filter_rule_has_params() {
    let filter = |hidden: &str| {
        policy(
            "p",
            &format!(
                "params: {{hidden: [{hidden}]}}\n  rules: [{{name: r, action: Filter, match: {{resources: [pods], namespaces: [n]}}, when: \
                 'agent.name in params.hidden'}}]"
            ),
        )
    };
    let line = "GET /api/v1/namespaces/n/pods/web";
    assert!(!passes(&compile(&[&grant(ALL), &filter("fixer")]), line));
    assert!(passes(&compile(&[&grant(ALL), &filter("other")]), line));
}
