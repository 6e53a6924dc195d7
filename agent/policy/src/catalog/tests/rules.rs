//! Which requests a rule is about, and whom.

use super::*;

/// Whether the rule fires, the request, the match.
const TABLE: &str = "
yes | DELETE /api/v1/namespaces/x        | verbs: [delete], resources: [namespaces]
yes | DELETE /api/v1/namespaces/x/       | verbs: [delete], resources: [namespaces]
yes | DELETE /api/v1/%6eamespaces/x      | verbs: [delete], resources: [namespaces]
yes | DELETE /api/v1/Namespaces/x        | verbs: [delete], resources: [namespaces]
no  | GET /api/v1/namespaces/x           | verbs: [delete], resources: [namespaces]
no  | DELETE /api/v1/namespaces/x/pods/y | verbs: [delete], resources: [namespaces]
yes | DELETE /api/v1/namespaces/x/pods   | verbs: [delete], resources: [pods]
no  | DELETE /api/v1/namespaces/x/pods/y | verbs: [deletecollection], resources: [pods]
yes | PATCH /api/v1/namespaces/x/pods/y  | verbs: [update], resources: [pods]
yes | PUT /api/v1/namespaces/x/pods/y    | verbs: [patch], resources: [pods]
no  | PATCH /api/v1/namespaces/x/pods/y  | verbs: [create], resources: [pods]
yes | PATCH /api/v1/namespaces/x/pods/y content-type:application/apply-patch+yaml | verbs: [create], resources: [pods]
yes | GET /api/v1/namespaces/x/secrets   | verbs: [get], resources: [secrets]
yes | GET /api/v1/watch/secrets          | verbs: [get], resources: [secrets]
no  | GET /api/v1/namespaces/x/secrets/y | verbs: [list], resources: [secrets]
yes | GET /api/v1/secrets?watch=1        | verbs: [list], resources: [secrets]
no  | GET /api/v1/secrets                | verbs: [watch], resources: [secrets]
yes | POST /api/v1/namespaces/x/secrets  | resources: [secrets]
no  | GET /api/v1/namespaces/x/pods/y/log | resources: [pods]
yes | GET /api/v1/namespaces/x/pods/y/log | resources: [pods/log]
no  | GET /api/v1/namespaces/x/pods/y     | resources: [pods/log]
yes | GET /api/v1/namespaces/x/pods/y/log | resources: ['pods/*']
no  | GET /api/v1/namespaces/x/pods/y     | resources: ['pods/*']
yes | PUT /apis/apps/v1/namespaces/x/deployments/y/scale | resources: ['*/scale']
no  | PUT /apis/apps/v1/namespaces/x/deployments/y       | resources: ['*/scale']
yes | GET /api/v1/namespaces/x/pods/y/log | resources: ['*']
no  | GET /metrics                        | resources: ['*']
yes | GET /api/v1/namespaces/x/secrets/y  | resources: ['sec*']
no  | GET /apis/apps/v1/deployments       | apiGroups: ['']
yes | GET /apis/networking.k8s.io/v1/networkpolicies | apiGroups: ['*.k8s.io']
no  | GET /api/v1/namespaces/x/pods/y     | apiGroups: [apps], resources: [pods]
yes | GET /api/v1/namespaces/prod-eu/pods | namespaces: ['prod-*']
yes | GET /api/v1/namespaces/PROD-eu/pods | namespaces: ['prod-*']
no  | GET /api/v1/namespaces/dev/pods     | namespaces: ['prod-*']
yes | DELETE /api/v1/namespaces/prod-eu   | namespaces: ['prod-*']
# All namespaces at once are those too, but what has no namespace is not.
yes | GET /api/v1/pods                    | namespaces: ['prod-*']
yes | GET /apis/example.com/v1/things     | namespaces: ['prod-*']
no  | GET /api/v1/nodes                   | namespaces: ['prod-*']
no  | GET /api/v1/nodes/n1                | namespaces: ['prod-*']
# A whole collection holds the named ones among the rest.
yes | GET /api/v1/namespaces/x/secrets/prod | resources: [secrets], names: [prod]
no  | GET /api/v1/namespaces/x/secrets/dev  | resources: [secrets], names: [prod]
yes | GET /api/v1/namespaces/x/secrets      | resources: [secrets], names: [prod]
no  | GET /api/v1/namespaces/x/secrets?fieldSelector=metadata.name=dev    | resources: [secrets], names: [prod]
yes | DELETE /api/v1/namespaces/x/secrets   | resources: [secrets], names: [prod]
yes | DELETE /api/v1/namespaces/x/secrets?fieldSelector=metadata.name=dev | resources: [secrets], names: [prod]
no  | POST /api/v1/namespaces/x/secrets     | resources: [secrets], names: [prod]
# WebSocket clients ask for a session by GET, SPDY clients by POST.
yes | GET /api/v1/namespaces/x/pods/y/exec?command=id  | verbs: [create], resources: [pods/exec]
yes | POST /api/v1/namespaces/x/pods/y/exec?command=id | verbs: [get], resources: [pods/exec]
no  | GET /api/v1/namespaces/x/pods/y/attach           | resources: [pods/exec]
yes | GET /api/v1/namespaces/x/pods/y/exec?command=cat&command=/etc/passwd | resources: [pods/exec], commands: ['cat *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=/bin/cat&command=x      | resources: [pods/exec], commands: ['cat *']
no  | GET /api/v1/namespaces/x/pods/y/exec?command=ls                      | resources: [pods/exec], commands: ['cat *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=sh&command=-c&command=a%20b | resources: [pods/exec], commands: ['sh -c a b']
# What cannot be told counts as matching.
yes | GET /api/v1/namespaces/x/pods/y/exec              | resources: [pods/exec], commands: ['cat *']
yes | GET /api/v1/namespaces/x/pods/y/attach            | resources: [pods/attach], commands: ['cat *']
yes | GET /api/v1/namespaces/x/pods/y/attach            | resources: [pods/exec, pods/attach], exceptCommands: [id]
no  | GET /api/v1/namespaces/x/pods/y/exec?command=id   | resources: [pods/exec], exceptCommands: ['ls *', id]
yes | GET /api/v1/namespaces/x/pods/y/exec?command=/tmp/id | resources: [pods/exec], exceptCommands: ['ls *', id]
yes | GET /api/v1/namespaces/x/pods/y/exec?command=sh   | resources: [pods/exec], exceptCommands: ['ls *', id]
yes | GET /metrics/slis  | nonResourceURLs: ['/metrics*']
yes | GET /metrics/      | nonResourceURLs: [/metrics]
yes | HEAD /metrics      | nonResourceURLs: [/metrics], verbs: [get]
no  | GET /readyz        | nonResourceURLs: [/metrics]
no  | GET /api/v1/pods   | nonResourceURLs: ['*']
";

#[test]
fn rules_match_what_has_their_effect_and_nothing_else() {
    let lift = "subjects: {identities: [fixer]}\n  lift: [builtin/unknown-paths, builtin/picket-namespace]";
    for (fires, line, matches) in rows(TABLE) {
        let catalog = compile(&[&grant(ALL), &deny(matches), &policy("lift", lift)]);
        assert_eq!(!passes(&catalog, line), fires, "{matches} on {line}");
        if fires {
            let denial = denied(&catalog, line);
            assert_eq!(
                (denial.cause, denial.policy.as_deref()),
                (Cause::Policy, Some("p"))
            );
            assert_eq!(denial.rule.as_deref(), Some("r"));
        }
    }
}

#[test]
fn subjects_say_whom_a_policy_is_about() {
    for (subjects, fires) in [
        ("identities: [fixer]", true),
        ("identities: ['fix*']", true),
        ("identities: [other]", false),
        ("groups: [agents]", true),
        ("groups: ['b*']", false),
        ("namespaces: [ns]", true),
        ("namespaces: [elsewhere]", false),
        // Any one that is named is meant.
        ("identities: [other], namespaces: [ns]", true),
    ] {
        let rules = "rules: [{name: r, action: Deny, match: {resources: [pods]}}]";
        let catalog = compile(&[
            &grant(ALL),
            &policy("p", &format!("subjects: {{{subjects}}}\n  {rules}")),
        ]);
        assert_eq!(!passes(&catalog, "GET /api/v1/pods"), fires, "{subjects}");
    }
}
