//! Rules that hide objects of lists, and refuse whatever else shows them.

use super::*;

/// A Filter rule with this match.
fn filter(matches: &str) -> String {
    policy(
        "p",
        &format!("rules: [{{name: r, action: Filter, message: Not yours., match: {{{matches}}}}}]"),
    )
}

/// What becomes of a request, the request, the match: it passes whole, it is `filtered`, or it is refused.
const TABLE: &str = "
filtered | GET /api/v1/pods                           | resources: [pods], namespaces: [pay]
filtered | GET /api/v1/pods?watch=1                   | resources: [pods], namespaces: [pay]
filtered | GET /api/v1/watch/pods                     | resources: [pods], namespaces: [pay]
filtered | GET /api/v1/pods                           | namespaces: [pay]
filtered | GET /api/v1/pods                           | exceptNamespaces: [pay]
filtered | GET /api/v1/namespaces/pay/pods            | resources: [pods], names: ['db-*']
filtered | GET /api/v1/namespaces/pay/pods            | resources: [pods], namespaces: [pay], exceptNames: [web]
filtered | GET /apis/events.k8s.io/v1/events          | apiGroups: [''], resources: [events], namespaces: [pay]
# A namespace is in itself.
filtered | GET /api/v1/namespaces                     | namespaces: [pay]
filtered | GET /api/v1/namespaces                     | resources: [namespaces], names: [pay]
filtered | GET /api/v1/namespaces?watch=true          | namespaces: [pay]
filtered | GET /api/v1/Namespaces                     | namespaces: [pay]
refused  | GET /api/v1/namespaces/pay                 | namespaces: [pay]
# What names only what is hidden, or shows it in another way.
refused  | GET /api/v1/namespaces/pay/pods            | resources: [pods], namespaces: [pay]
refused  | GET /api/v1/namespaces/pay/pods/x          | resources: [pods], namespaces: [pay]
refused  | GET /api/v1/namespaces/pay/pods?fieldSelector=metadata.name%3Ddb-1 | names: ['db-*']
refused  | PATCH /api/v1/namespaces/pay/pods/x        | resources: [pods], namespaces: [pay]
refused  | DELETE /api/v1/namespaces/pay/pods         | resources: [pods], names: ['db-*']
refused  | GET /api/v1/pods?fieldSelector=metadata.name%3Ddb-1 | names: ['db-*']
refused  | GET /api/v1/watch/pods/x/status            | resources: [pods/status], namespaces: [pay]
refused  | GET /api/v1/namespaces/pay/pods/x/status   | resources: [pods], namespaces: [pay]
refused  | GET /api/v1/pods?watch=1 connection:upgrade upgrade:websocket | resources: [pods], namespaces: [pay]
refused  | GET /api/v1/namespaces?watch=1 connection:upgrade upgrade:websocket | namespaces: [pay]
passes   | GET /api/v1/namespaces/pay/pods/x          | verbs: [list, watch], resources: [pods], namespaces: [pay]
filtered | GET /api/v1/pods?watch=1                   | verbs: [list], resources: [pods], namespaces: [pay]
passes   | POST /api/v1/namespaces/pay/pods           | resources: [pods], namespaces: [pay]
passes   | GET /api/v1/namespaces/shop/pods           | resources: [pods], namespaces: [pay]
passes   | GET /api/v1/namespaces/shop/pods/x         | resources: [pods], namespaces: [pay]
passes   | GET /api/v1/nodes                          | namespaces: [pay]
passes   | GET /api/v1/services                       | resources: [pods], namespaces: [pay]
";

#[test]
fn a_list_passes_without_what_is_hidden_and_nothing_else_shows_it() {
    for row in TABLE
        .lines()
        .map(str::trim)
        .filter(|row| !row.is_empty() && !row.starts_with('#'))
    {
        let columns: Vec<_> = row.split(" | ").map(str::trim).collect();
        let [outcome, line, matches] = columns[..] else {
            panic!("three columns: {row}")
        };
        let set = compile(&[&grant(ALL), &filter(matches)]);
        let found = match decide_as(&set, "fixer", line) {
            Decision::Permit(permit) => match permit.filter() {
                Some(filter) => {
                    assert_eq!(filter.to_string(), "p/r", "{row}");
                    assert_eq!(permit.warnings()[0].message, "Not yours.", "{row}");
                    "filtered"
                }
                None => "passes",
            },
            Decision::Deny(denial) => {
                assert_eq!((denial.policy(), denial.rule()), (Some("p"), Some("r")), "{row}");
                "refused"
            }
            Decision::Ask(ask) => panic!("{row}: {:?}", ask.rules()),
        };
        assert_eq!(found, outcome, "{row}");
        let traced = set.trace(&principal(&set, "fixer"), &request(line), NOW);
        assert_eq!(traced.refused.is_some(), outcome == "refused", "{row}");
        let step = traced.steps.iter().find(|step| step.name == "p/r");
        let fired = step.is_some_and(|step| step.outcome == TraceOutcome::Fired);
        assert_eq!(fired, outcome != "passes", "{row}");
    }
}

#[test]
fn what_a_list_hides_cannot_be_had_by_name_and_what_can_is_shown() {
    let parts = [
        "namespaces: [pay]",
        "namespaces: ['p*'], exceptNamespaces: [pay]",
        "exceptNamespaces: [shop]",
        "names: ['db-*']",
        "namespaces: [pay, shop], exceptNames: ['*-1']",
        "names: [web-1], exceptNamespaces: [pay]",
    ];
    let resources = ["pods", "secrets", "namespaces", "'*'"];
    for (part, resource) in parts
        .iter()
        .flat_map(|part| resources.map(|resource| (part, resource)))
    {
        let Ok(set) = try_compile(&format!(
            "{BASE}{}{}",
            grant(ALL),
            filter(&format!("resources: [{resource}], {part}"))
        )) else {
            continue;
        };
        for list in ["pods", "secrets", "configmaps", "namespaces"] {
            let hidden = permitted(&set, &format!("GET /api/v1/{list}"));
            let hidden = hidden.filter();
            for (namespace, name) in ["pay", "shop", "pets"]
                .into_iter()
                .flat_map(|namespace| ["db-1", "web-1", "x"].map(|name| (namespace, name)))
            {
                let (line, hides) = match list {
                    "namespaces" => (
                        format!("GET /api/v1/namespaces/{namespace}"),
                        hidden.is_some_and(|hidden| hidden.hides("", namespace)),
                    ),
                    _ => (
                        format!("GET /api/v1/namespaces/{namespace}/{list}/{name}"),
                        hidden.is_some_and(|hidden| hidden.hides(namespace, name)),
                    ),
                };
                assert_eq!(hides, !passes(&set, &line), "{line} by {resource}, {part}");
            }
        }
    }
}

#[test]
fn a_list_of_all_secrets_hides_picket_s_own() {
    let set = compile(&[&grant(ALL)]);
    for line in ["GET /api/v1/secrets", "GET /api/v1/secrets?watch=true"] {
        let permit = permitted(&set, line);
        let filter = permit.filter().expect("a filter");
        assert!(filter.hides("picket-system", "picket-ca") && !filter.hides("shop", "picket-ca"));
        assert_eq!(filter.to_string(), "builtin/picket-namespace");
        assert!(permit.warnings().is_empty());
    }
    assert_eq!(denied(&set, "DELETE /api/v1/secrets").cause(), Cause::Builtin);
    let upgraded = "GET /api/v1/secrets?watch=1 connection:upgrade upgrade:websocket";
    assert_eq!(denied(&set, upgraded).cause(), Cause::Builtin);
    let except = policy(
        "e",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/picket-namespace]",
    );
    assert!(
        permitted(&compile(&[&grant(ALL), &except]), "GET /api/v1/secrets")
            .filter()
            .is_none()
    );
    let silent = compile(&[&grant(ALL), &filter("namespaces: [pay]")]);
    let filter = permitted(&silent, "GET /api/v1/secrets")
        .filter()
        .cloned()
        .expect("a filter");
    assert_eq!(filter.to_string(), "builtin/picket-namespace, p/r");
}

#[test]
fn a_filter_of_a_policy_in_mode_audit_hides_nothing_and_is_noted() {
    let audit = filter("namespaces: [pay]").replace("spec:\n", "spec:\n  mode: Audit\n");
    let permit = permitted(&compile(&[&grant(ALL), &audit]), "GET /api/v1/pods");
    assert!(permit.filter().is_none());
    assert_eq!(permit.would_deny()[0].rule, "r");
}

#[test]
fn a_filter_with_a_condition_hides_where_it_holds_or_has_no_outcome() {
    for (when, hides) in [
        ("agent.name == 'fixer'", true),
        ("agent.name == 'other'", false),
        ("request.noSuchField == 1", true),
    ] {
        let rule =
            format!("rules: [{{name: r, action: Filter, match: {{namespaces: [pay]}}, when: \"{when}\"}}]");
        let set = compile(&[&grant(ALL), &policy("p", &rule)]);
        let permit = permitted(&set, "GET /api/v1/pods");
        assert_eq!(permit.filter().is_some(), hides, "{when}");
        // Only a rule with a message is told of.
        let told = when.starts_with("request");
        assert_eq!(!permit.warnings().is_empty(), told, "{:?}", permit.warnings());
    }
}

#[test]
fn the_order_of_rules_makes_no_other_filter_and_another_rule_does() {
    let one = policy(
        "a",
        "rules: [{name: r, action: Filter, match: {namespaces: [pay]}}]",
    );
    let two = policy("b", "rules: [{name: r, action: Filter, match: {names: [x]}}]");
    let of = |parts: &[&str]| {
        let set = compile(parts);
        let Recheck::Permit { filter, .. } =
            set.recheck(&principal(&set, "fixer"), &request("GET /api/v1/pods"), NOW)
        else {
            panic!("not permitted")
        };
        filter
    };
    let all = grant(ALL);
    assert_eq!(of(&[&all, &one, &two]), of(&[&two, &all, &one]));
    assert_ne!(of(&[&all, &one, &two]), of(&[&all, &one]));
    assert_ne!(of(&[&all, &one]), None);
    assert_eq!(of(&[&all]), None);
}

#[test]
fn a_filter_that_could_hide_everything_or_nothing_is_refused() {
    for (matches, reason) in [
        (
            "resources: [pods]",
            "needs namespaces, namespaceSelector, names, exceptNamespaces or exceptNames",
        ),
        (
            "namespaces: ['*']",
            "needs namespaces, namespaceSelector, names, exceptNamespaces or exceptNames",
        ),
        (
            "verbs: [delete], namespaces: [pay]",
            "a Filter rule is about get, list and watch",
        ),
        (
            "verbs: ['*'], namespaces: [pay]",
            "a Filter rule is about get, list and watch",
        ),
        ("nonResourceURLs: [/metrics]", "a Filter rule is about resources"),
    ] {
        let errors = try_compile(&format!("{BASE}{}", filter(matches))).expect_err("not valid");
        assert!(errors[0].to_string().contains(reason), "{matches}: {errors:?}");
    }
}

#[test]
fn a_list_of_all_namespaces_that_a_rule_refuses_is_offered_where_it_passes() {
    let line = "GET /api/v1/pods";
    for (matches, allowed) in [
        (
            "namespaces: [pay, 'vault-*']",
            "list pods in one namespace other than \"pay\", \"vault-*\"",
        ),
        (
            "exceptNamespaces: [shop, pay]",
            "list pods in one namespace of \"shop\", \"pay\"",
        ),
    ] {
        let set = compile(&[&grant(ALL), &deny(&format!("resources: [pods], {matches}"))]);
        assert_eq!(denied(&set, line).allowed(), allowed, "{matches}");
    }
    // Nor is a namespace where a built-in refuses it.
    let own = deny("resources: [pods], exceptNamespaces: [picket-system, shop]");
    let set = compile(&[&grant(ALL), &own]);
    assert_eq!(
        denied(&set, line).allowed(),
        "list pods in one namespace of \"shop\""
    );
    // Where it passes in no namespace, it is not offered.
    let none = compile(&[&grant(ALL), &deny("resources: [pods], namespaces: ['*']")]);
    assert!(!denied(&none, line).allowed().contains("in one namespace"));
    let both = [
        deny("resources: [pods], exceptNamespaces: [shop, pay]"),
        policy(
            "q",
            "rules: [{name: q, action: Deny, match: {resources: [pods], namespaces: [pay]}}]",
        ),
    ];
    let set = compile(&[&grant(ALL), &both[0], &both[1]]);
    assert_eq!(
        denied(&set, line).allowed(),
        "list pods in one namespace of \"shop\""
    );
}

#[test]
fn another_resource_of_the_name_namespaces_is_in_the_namespaces_that_it_says() {
    let set = compile(&[&grant(ALL), &filter("namespaces: [pay]")]);
    let permit = permitted(&set, "GET /apis/example.org/v1/namespaces");
    let filter = permit.filter().expect("a filter");
    assert!(filter.hides("pay", "x") && !filter.hides("shop", "pay") && !filter.hides("", "pay"));
}

#[test]
fn a_list_of_namespaces_is_left_alone_by_a_rule_that_refuses_what_is_in_one() {
    let set = compile(&[&grant(ALL), &deny("namespaces: [pay]")]);
    assert!(passes(&set, "GET /api/v1/namespaces"));
    assert!(!passes(&set, "GET /api/v1/pods"));
}
