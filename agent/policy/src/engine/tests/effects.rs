//! What the author of a rule believes must hold: a request is judged by what it does and shows, whichever way it is asked.

use super::*;

const TABLE: &str = "
# A rule about reading covers what answers with the object or the list.
yes | PATCH /api/v1/namespaces/x/secrets/y   | verbs: [get], resources: [secrets]
yes | PATCH /api/v1/namespaces/x/configmaps/y content-type:application/apply-patch+yaml | verbs: [get], resources: [configmaps]
yes | PUT /api/v1/namespaces/x/secrets/y     | verbs: [get], resources: [secrets]
yes | PUT /api/v1/namespaces/x/secrets/y?dryRun=All | verbs: [get], resources: [secrets]
yes | DELETE /api/v1/namespaces/x/secrets/y  | verbs: [get], resources: [secrets]
yes | DELETE /api/v1/namespaces/x/secrets/y?dryRun=All | verbs: [get], resources: [secrets], names: ['y*']
yes | DELETE /api/v1/namespaces/x/secrets    | verbs: [get], resources: [secrets]
yes | DELETE /api/v1/namespaces/x/secrets    | verbs: [list], resources: [secrets]
no  | DELETE /api/v1/namespaces/x/secrets/y  | verbs: [list], resources: [secrets]
no  | DELETE /api/v1/namespaces/x/secrets    | verbs: [watch], resources: [secrets]
no  | POST /api/v1/namespaces/x/configmaps      | verbs: [get], resources: [configmaps]
no  | POST /api/v1/namespaces/x/configmaps?dryRun=All | verbs: [get], resources: [configmaps]
no  | POST /api/v1/namespaces/x/pods/y/eviction | verbs: [get], resources: [pods]
no  | GET /api/v1/namespaces/x/secrets/y     | verbs: [update, delete], resources: [secrets]
yes | GET /api/v1/namespaces/x/pods/y/status | verbs: [get], resources: [pods]
yes | GET /api/v1/namespaces/x/pods/y/resize | verbs: [get], resources: [pods]
yes | GET /api/v1/namespaces/x/pods/y/ephemeralcontainers | verbs: [get], resources: [pods]
yes | PATCH /apis/apps/v1/namespaces/x/deployments/y/status | verbs: [get], resources: [deployments]
yes | GET /apis/example.com/v1/namespaces/x/things/y/status | verbs: [get], resources: [things]
no  | GET /apis/apps/v1/namespaces/x/deployments/y/scale | verbs: [get], resources: [deployments]
no  | GET /api/v1/namespaces/x/pods/y/log    | verbs: [get], resources: [pods]
no  | GET /api/v1/namespaces/x/pods/y/status | verbs: [update], resources: [pods]
# Labels come with a status and with a binding.
yes | PATCH /api/v1/namespaces/x/pods/y/status | verbs: [update], resources: [pods]
yes | PATCH /api/v1/namespaces/x/Pods/y/Status | verbs: [patch], resources: [pods]
yes | PUT /api/v1/nodes/n/status             | verbs: [update], resources: [nodes]
yes | PUT /api/v1/namespaces/x/status        | verbs: [update], resources: [namespaces]
no  | PUT /apis/example.com/v1/namespaces/x/things/y/status | verbs: [update], resources: [things]
no  | PATCH /api/v1/namespaces/x/pods/y/resize | verbs: [update], resources: [pods]
yes | POST /api/v1/namespaces/x/pods/y/binding | verbs: [update], resources: [pods], names: [y]
no  | POST /api/v1/namespaces/x/pods/y/binding | verbs: [update], resources: [pods], names: [z]
yes | POST /api/v1/namespaces/x/bindings     | verbs: [update], resources: [pods], names: [y]
# Two ways to one object.
yes | POST /api/v1/namespaces/x/bindings     | resources: [pods/binding]
yes | POST /api/v1/namespaces/x/bindings     | verbs: [create], resources: [pods/binding], names: [y]
yes | POST /api/v1/namespaces/x/pods/y/binding | verbs: [create], resources: [bindings]
no  | POST /api/v1/namespaces/x/pods         | resources: [pods/binding]
yes | GET /api/v1/namespaces/x/events        | apiGroups: [events.k8s.io], resources: [events]
yes | GET /apis/events.k8s.io/v1/namespaces/x/events | apiGroups: [''], resources: [events]
yes | DELETE /apis/events.k8s.io/v1/namespaces/x/Events/y | verbs: [delete], apiGroups: [''], resources: [events], names: [y]
yes | PUT /apis/events.k8s.io/v1/namespaces/x/events/y | verbs: [create], apiGroups: [''], resources: [events]
no  | GET /apis/example.com/v1/namespaces/x/events | apiGroups: [''], resources: [events]
# A debug container runs a command that is in the body.
yes | PATCH /api/v1/namespaces/x/pods/y/ephemeralcontainers | resources: [pods/exec]
yes | PUT /api/v1/namespaces/x/pods/y/ephemeralcontainers   | verbs: [create], resources: [pods/exec], names: [y]
yes | PATCH /api/v1/namespaces/x/pods/y/ephemeralcontainers | resources: [pods/exec], commands: [apk]
yes | PATCH /api/v1/namespaces/x/pods/y/ephemeralcontainers | resources: [pods/exec], exceptArgv: [[id]]
yes | PATCH /api/v1/namespaces/x/pods/y/ephemeralcontainers | resources: [pods/exec], stdin: true
no  | GET /api/v1/namespaces/x/pods/y/ephemeralcontainers   | resources: [pods/exec]
no  | PATCH /api/v1/namespaces/x/pods/y/ephemeralcontainers | resources: [pods/attach]
# What a rule leaves alone.
no  | GET /api/v1/namespaces/dev-1/pods/y    | resources: [pods], exceptNamespaces: ['dev-*']
no  | GET /api/v1/namespaces/DEV-1/pods/y    | resources: [pods], exceptNamespaces: ['dev-*']
yes | GET /api/v1/namespaces/x/pods/y        | resources: [pods], exceptNamespaces: ['dev-*']
yes | GET /api/v1/pods                       | resources: [pods], exceptNamespaces: ['dev-*']
yes | DELETE /api/v1/nodes/n                 | verbs: [delete], exceptNamespaces: ['dev-*']
no  | DELETE /api/v1/namespaces/dev-1        | verbs: [delete], exceptNamespaces: ['dev-*']
no  | GET /api/v1/namespaces/p-dev/pods/y    | resources: [pods], namespaces: ['p-*'], exceptNamespaces: ['*-dev']
yes | GET /api/v1/namespaces/p-x/pods/y      | resources: [pods], namespaces: ['p-*'], exceptNamespaces: ['*-dev']
no  | GET /api/v1/namespaces/x/secrets/y     | resources: [secrets], exceptNames: [y]
yes | GET /api/v1/namespaces/x/secrets/z     | resources: [secrets], exceptNames: [y]
yes | GET /api/v1/namespaces/x/secrets       | resources: [secrets], exceptNames: [y]
no  | GET /api/v1/namespaces/x/secrets?fieldSelector=metadata.name=y | resources: [secrets], exceptNames: [y]
yes | DELETE /api/v1/namespaces/x/secrets?fieldSelector=metadata.name=y | resources: [secrets], exceptNames: [y]
yes | POST /api/v1/namespaces/x/configmaps      | resources: [configmaps], exceptNames: [y]
no  | GET /api/v1/namespaces/x/services/http:y:80/proxy/ | resources: [services/proxy], exceptNames: [y]
yes | GET /api/v1/namespaces/x/services/y:z:80/proxy/ | resources: [services/proxy], exceptNames: [y]
no  | GET /api/v1/namespaces/x/pods/y/log    | resources: ['pods/*'], exceptResources: [pods/log]
no  | GET /api/v1/namespaces/x/Pods/y/Log    | resources: ['*'], exceptResources: ['*/log']
yes | GET /api/v1/namespaces/x/pods/y        | resources: ['*'], exceptResources: ['*/log']
yes | GET /api/v1/namespaces/x/pods/y/log    | resources: ['*'], exceptResources: [pods]
no  | PATCH /api/v1/namespaces/x/pods/y/status | verbs: [update], resources: ['*'], exceptResources: ['*/status']
no  | POST /api/v1/namespaces/x/pods/y/eviction | verbs: [delete], resources: ['*'], exceptResources: [pods]
yes | GET /api/v1/namespaces/x/pods/y        | exceptResources: [secrets]
no  | GET /api/v1/namespaces/x/secrets/y     | exceptResources: [secrets]
no  | GET /metrics                           | exceptResources: [secrets]
";

#[test]
fn a_rule_is_about_what_a_request_does_and_shows() {
    let exceptions =
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/services-proxy, builtin/unknown-paths]";
    for (fires, line, matches) in rows(TABLE) {
        let set = compile(&[&grant(ALL), &deny(matches), &policy("exceptions", exceptions)]);
        assert_eq!(!passes(&set, line), fires, "{matches} on {line}");
        if fires {
            assert_eq!(denied(&set, line).rule(), Some("r"), "{matches} on {line}");
        }
    }
}

#[test]
fn a_rule_that_a_request_meets_in_three_ways_is_told_once() {
    let warn = policy(
        "hint",
        "rules: [{name: w, action: Warn, message: Careful., match: {resources: ['pods', 'pods/*']}}]",
    );
    let set = compile(&[&grant(ALL), &warn]);
    for line in [
        "PATCH /api/v1/namespaces/x/pods/y/ephemeralcontainers",
        "PATCH /api/v1/namespaces/x/pods/y/status",
        "POST /api/v1/namespaces/x/bindings",
    ] {
        assert_eq!(permitted(&set, line).warnings().len(), 1, "{line}");
    }
}

#[test]
fn a_refusal_says_why_the_rule_is_about_the_request() {
    for (matches, line, why) in [
        (
            "resources: [pods], namespaces: [payments, 'pay-*']",
            "GET /api/v1/pods",
            ": the rule is about namespace \"payments\", \"pay-*\", which a list over all namespaces includes. Not so.",
        ),
        (
            "resources: [pods], exceptNamespaces: [dev]",
            "GET /api/v1/pods?watch=1",
            ": the rule leaves namespace \"dev\" alone, and a watch over all namespaces includes others. Not so.",
        ),
        (
            "verbs: [get, delete], resources: [secrets], names: [key]",
            "DELETE /api/v1/namespaces/x/secrets",
            ": the rule is about name \"key\", which a deletecollection without a name can include. Not so.",
        ),
        (
            "verbs: [get], resources: [secrets]",
            "PATCH /api/v1/namespaces/x/secrets/y",
            ": the rule is about reading, and the answer to patch has the object. Not so.",
        ),
        (
            "resources: [pods], namespaces: [payments]",
            "GET /api/v1/namespaces/payments/pods",
            " (policy p, rule r): Not so.",
        ),
    ] {
        let set = compile(&[&grant(ALL), &deny(matches)]);
        let denial = denied(&set, line);
        assert!(denial.message().contains(why), "{line}: {}", denial.message());
    }
}

#[test]
fn nothing_is_offered_that_answers_with_what_must_not_be_read() {
    let set = compile(&[&grant(ALL), &deny("verbs: [get], resources: [secrets]")]);
    for line in [
        "GET /api/v1/namespaces/x/secrets/y",
        "PATCH /api/v1/namespaces/x/secrets/y",
    ] {
        assert_eq!(denied(&set, line).allowed(), "create secrets", "{line}");
    }
}

#[test]
fn a_rule_that_looks_into_what_a_request_does_besides_is_given_the_object() {
    let set = compile(&[
        &grant(ALL),
        &conditions::when("verbs: [update], resources: [pods]", "has(object.spec)"),
    ]);
    for (line, source) in [
        ("PUT /api/v1/namespaces/n/pods/x/status", ObjectSource::Body),
        (
            "PATCH /api/v1/namespaces/n/pods/x/status content-type:application/merge-patch+json",
            ObjectSource::Probe,
        ),
    ] {
        let needs = set.needs(&principal(&set, "fixer"), &request(line), NOW);
        assert_eq!(
            (needs.object, needs.only_to_note),
            (Some(source), false),
            "{line}"
        );
    }
}
