//! Words of rules that no request can have are refused, with what to write instead; what some request could have stays.

use super::*;

fn policy(matches: &str) -> String {
    format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p}}\nspec:\n  rules: [{{name: r, action: \
         Deny, match: {{{matches}}}}}]\n"
    )
}

fn grant(namespaces: &str, rule: &str) -> String {
    format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: g}}\nspec:\n  to: {{identities: [a]}}\n  \
         upstream: {{impersonate: {{user: u}}}}\n{namespaces}  rules: [{{verbs: [get], {rule}}}]\n"
    )
}

/// The reasons alone, one a line.
fn reasons(text: &str) -> String {
    let errors = read_documents("f.yaml", text).expect_err(text);
    let reasons: Vec<_> = errors.into_iter().map(|error| error.reason).collect();
    reasons.join("\n")
}

/// What is the same fault in a rule and in a grant.
const BOTH: [(&str, &str); 14] = [
    (
        "apiGroups: [core], resources: [pods]",
        "API group \"core\": the core group is \"\": write apiGroups: [\"\"]",
    ),
    (
        "apiGroups: [v1], resources: [pods]",
        "API group \"v1\": that is a version, and rules are about all versions of a group; the core group is \"\": write \
         apiGroups: [\"\"]",
    ),
    (
        "apiGroups: [apps/v1], resources: [deployments]",
        "API group \"apps/v1\": a group is named without its version: write apiGroups: [\"apps\"]",
    ),
    (
        "apiGroups: [core/v1], resources: [pods]",
        "API group \"core/v1\": a group is named without its version: write apiGroups: [\"\"]",
    ),
    (
        "apiGroups: [my_group], resources: [things]",
        "API group \"my_group\": no group has such a name; it is as in apiVersion, without the version",
    ),
    (
        "apiGroups: [apps], resources: [deploymnets/scale]",
        "resource \"deploymnets/scale\": no group named here has it; did you mean `deployments`?",
    ),
    (
        "apiGroups: ['', apps], resources: [pods, secretss]",
        "resource \"secretss\": no group named here has it; did you mean `secrets`?",
    ),
    (
        "apiGroups: [apps], resources: [pods]",
        "resource \"pods\": no group named here has it: write apiGroups: [\"\"]",
    ),
    (
        "apiGroups: [''], resources: [deployments]",
        "resource \"deployments\": no group named here has it: write apiGroups: [\"apps\"]",
    ),
    (
        "apiGroups: [apps], resources: [deployments.apps]",
        "resource \"deployments.apps\": its group stands apart: write apiGroups: [\"apps\"] and resources: [deployments]",
    ),
    (
        "apiGroups: [''], resources: [namespaces], NAMES: [namespace/shop]",
        "name \"namespace/shop\": no name has a /: write names: [\"shop\"], and what \"namespace\" says as resources or \
         namespaces",
    ),
    (
        "apiGroups: [''], resources: [namespaces], NAMES: [Shop]",
        "name \"Shop\": such names are in lower case: write \"shop\"",
    ),
    (
        "apiGroups: ['*'], resources: ['*'], NAMES: ['^shop-1$']",
        "name \"^shop-1$\": regular expressions are not understood: write \"shop-1\"",
    ),
    (
        "apiGroups: [''], resources: [pods/log], NAMES: [my_pod]",
        "name \"my_pod\": no object can be called so: names are of a-z, 0-9, - and .",
    ),
];

#[test]
fn rules_and_grants_are_told_what_to_write_instead() {
    for (words, reason) in BOTH {
        assert_eq!(
            reasons(&policy(&words.replace("NAMES", "verbs: [get], names"))),
            reason,
            "{words}"
        );
        let rule = words.replace("NAMES", "resourceNames");
        assert_eq!(reasons(&grant("", &rule)), reason, "{words}");
    }
}

#[test]
fn a_rule_that_can_never_fire_is_refused() {
    for (words, reason) in [
        (
            "verbs: [get], resources: [namespaces], names: ['^shop.*$']",
            "name \"^shop.*$\": regular expressions are not understood: write \"shop*\"",
        ),
        (
            "verbs: [get], names: ['prod/*']",
            "name \"prod/*\": no name has a /: write names: [\"*\"], and what \"prod\" says as resources or namespaces",
        ),
        (
            "verbs: [get], names: ['a%2fb']",
            "name \"a%2fb\": no name has a %",
        ),
        (
            "namespaces: ['Prod Env']",
            "namespace \"Prod Env\": no namespace can be called so: names are of a-z, 0-9 and -, globs have * and ? too",
        ),
        (
            "apiGroups: [''], resources: [pods, nodes/status], namespaces: [prod]",
            "resource \"nodes/status\" is in no namespace, so `namespaces` never matches it: make a rule without it",
        ),
        (
            "apiGroups: [storage.k8s.io], resources: [storageclasses], namespaces: ['*']",
            "resource \"storageclasses\" is in no namespace, so `namespaces` never matches it: make a rule without it",
        ),
    ] {
        assert_eq!(reasons(&policy(words)), reason, "{words}");
    }
    let subjects =
        policy("resources: [pods]").replace("  rules", "  subjects: {namespaces: [Agents]}\n  rules");
    assert_eq!(
        reasons(&subjects),
        "namespace \"Agents\": namespaces are in lower case: write \"agents\""
    );
}

#[test]
fn a_grant_that_gives_nothing_is_refused() {
    for (namespaces, rule, reason) in [
        (
            "",
            "apiGroups: [Apps], resources: [deployments]",
            "API group \"Apps\": groups are in lower case: write \"apps\"",
        ),
        (
            "",
            "apiGroups: ['*.k8s.io'], resources: [leases]",
            "API group \"*.k8s.io\": RBAC knows whole groups and `*`",
        ),
        (
            "  namespaces: [Prod]\n",
            "apiGroups: [''], resources: [pods]",
            "namespace \"Prod\": namespaces are in lower case: write \"prod\"",
        ),
        (
            "  namespaces: [prod]\n",
            "apiGroups: [''], resources: [pods, nodes]",
            "resource \"nodes\" is in no namespace, so `namespaces` never matches it: make a rule without it",
        ),
    ] {
        assert_eq!(reasons(&grant(namespaces, rule)), reason, "{rule}");
    }
}

#[test]
fn what_some_request_could_have_stays() {
    for words in [
        "apiGroups: [Apps], resources: [deployments]",
        "apiGroups: ['*'], resources: [deploymnets]",
        "resources: [deploymnets]",
        "apiGroups: [apps, example.com], resources: [deploymnets]",
        "apiGroups: [metrics.k8s.io], resources: [pods]",
        "apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshots]",
        "apiGroups: [''], resources: [widgets]",
        "apiGroups: ['', apps], resources: [deployments, pods]",
        "apiGroups: [extensions], resources: [deployments]",
        "apiGroups: [''], resources: ['sec*', '*/scale', 'p?ds']",
        "resources: [nodes], namespaces: [longhorn-system]",
        "resources: ['*'], namespaces: ['PROD-?']",
        "apiGroups: [''], resources: [namespaces], namespaces: [prod]",
        "verbs: [get], resources: [namespaces], names: ['shop-*', 'a.b']",
        "verbs: [get], apiGroups: [rbac.authorization.k8s.io], resources: [roles], names: ['System:Node']",
        "verbs: [get], resources: ['*'], names: [Shop]",
        "resources: [services/proxy], names: ['https:web:443']",
        "verbs: [get], names: [Shop]",
    ] {
        read(&policy(words));
    }
    for rule in [
        "apiGroups: [example.com], resources: [pods]",
        "apiGroups: ['*'], resources: [deploymnets], resourceNames: [Any]",
        "apiGroups: [rbac.authorization.k8s.io], resources: [roles], resourceNames: ['a:b']",
        "apiGroups: [certificates.k8s.io], resources: [signers], resourceNames: [kubernetes.io/kubelet-serving]",
    ] {
        read(&grant("", rule));
    }
    read(&grant(
        "  namespaces: ['prod-*']\n",
        "apiGroups: ['', apps], resources: ['*', namespaces, deployments]",
    ));
}
