//! Rules about namespaces by their labels, and expressions that see the namespace.

use std::collections::BTreeMap;

use super::*;

const SELECTOR: &str = "namespaceSelector: {matchLabels: {env: prod}}";

/// Namespaces, each with the value of its label `env`; an empty one has no such label.
fn known(namespaces: &[(&str, &str)]) -> Arc<Namespaces> {
    let facts = |(name, env): &(&str, &str)| {
        let mut labels = BTreeMap::from([("env".to_owned(), (*env).to_owned())]);
        labels.retain(|_, value| !value.is_empty());
        let facts = NamespaceFacts::described(name, &labels, &BTreeMap::new());
        ((*name).to_owned(), facts)
    };
    Arc::new(Namespaces::listed(namespaces.iter().map(facts)))
}

/// One that is production, one that is not, and one that says nothing of it.
fn cluster() -> Arc<Namespaces> {
    known(&[("pay", "prod"), ("shop", "dev"), ("lab", "")])
}

fn decide(set: &PolicySet, line: &str, namespaces: &Arc<Namespaces>) -> Decision {
    let inputs = NOW.beside(Some(namespaces));
    set.decide(principal(set, "fixer"), canonical(line), inputs)
}

fn why(set: &PolicySet, line: &str, namespaces: &Arc<Namespaces>) -> String {
    match decide(set, line, namespaces) {
        Decision::Deny(denial) => denial.message().to_owned(),
        other => panic!("{line} was not refused: {other:?}"),
    }
}

fn rule(action: &str, matches: &str, more: &str) -> String {
    policy(
        "p",
        &format!("rules: [{{name: r, action: {action}, message: Not so., match: {{{matches}}}{more}}}]"),
    )
}

/// Whether a Deny rule with this match refuses the request in that cluster.
const TABLE: &str = "
yes | DELETE /api/v1/namespaces/pay/pods/x  | verbs: [delete], SELECTOR
no  | DELETE /api/v1/namespaces/shop/pods/x | verbs: [delete], SELECTOR
no  | DELETE /api/v1/namespaces/lab/pods/x  | verbs: [delete], SELECTOR
yes | DELETE /api/v1/namespaces/PAY/pods/x  | verbs: [delete], SELECTOR
no  | GET /api/v1/namespaces/pay/pods/x     | verbs: [delete], SELECTOR
# A namespace is in itself.
yes | DELETE /api/v1/namespaces/pay         | SELECTOR
no  | DELETE /api/v1/namespaces/shop        | SELECTOR
yes | GET /api/v1/namespaces/pay/status     | SELECTOR
# Over all namespaces some are production; what is in none is not.
yes | GET /api/v1/pods                      | SELECTOR
yes | GET /api/v1/pods?watch=1              | SELECTOR
no  | GET /api/v1/nodes                     | SELECTOR
no  | GET /api/v1/nodes/n                   | SELECTOR
no  | GET /apis/x.io/v1/widgets/a           | SELECTOR
no  | GET /api/v1/namespaces                | SELECTOR
no  | GET /version                          | SELECTOR
# One that the API server did not tell of may have been created just now.
yes | DELETE /api/v1/namespaces/new/pods/x  | SELECTOR
yes | DELETE /api/v1/namespaces/new/pods/x  | namespaceSelector: {matchExpressions: [{key: env, operator: DoesNotExist}]}
yes | GET /api/v1/namespaces/lab/pods/x     | namespaceSelector: {matchExpressions: [{key: env, operator: DoesNotExist}]}
no  | GET /api/v1/namespaces/pay/pods/x     | namespaceSelector: {matchExpressions: [{key: env, operator: DoesNotExist}]}
yes | GET /api/v1/namespaces/shop/pods/x    | namespaceSelector: {matchExpressions: [{key: env, operator: In, values: [test, dev]}]}
yes | GET /api/v1/namespaces/lab/pods/x     | namespaceSelector: {matchExpressions: [{key: env, operator: NotIn, values: [test, dev]}]}
no  | GET /api/v1/namespaces/lab/pods/x     | namespaceSelector: {matchExpressions: [{key: env, operator: Exists}]}
# All that is given must hold.
no  | GET /api/v1/namespaces/pay/pods/x     | SELECTOR, namespaces: [shop]
no  | GET /api/v1/namespaces/pay/pods/x     | SELECTOR, exceptNamespaces: [pay]
yes | GET /api/v1/namespaces/pay/pods/x     | SELECTOR, namespaces: ['p*']
no  | GET /api/v1/namespaces/new/pods/x     | SELECTOR, namespaces: [pay]
yes | POST /api/v1/namespaces/pay/pods/x/exec?command=ls | resources: [pods/exec], SELECTOR
";

#[test]
fn a_rule_by_labels_is_about_the_namespaces_that_have_them() {
    for (refused, line, matches) in rows(TABLE) {
        let matches = matches.replace("SELECTOR", SELECTOR);
        let set = compile(&[&grant(ALL), &rule("Deny", &matches, "")]);
        assert_eq!(set.namespace_use(), NamespaceUse::Labels);
        let is_refused = matches!(decide(&set, line, &cluster()), Decision::Deny(_));
        assert_eq!(is_refused, refused, "{line} by {matches}");
        let inputs = cluster();
        let traced = set.trace(
            &principal(&set, "fixer"),
            &request(line),
            NOW.beside(Some(&inputs)),
        );
        assert_eq!(traced.refused.is_some(), refused, "{line} by {matches}");
    }
}

#[test]
fn what_is_not_known_counts_as_a_match_and_the_refusal_says_why() {
    let set = compile(&[
        &grant(ALL),
        &rule("Deny", &format!("verbs: [delete], {SELECTOR}"), ""),
    ]);
    let line = "DELETE /api/v1/namespaces/shop/pods/x";
    assert!(matches!(decide(&set, line, &cluster()), Decision::Permit(_)));
    for (unknown, reason) in [
        (
            UnknownNamespace::NotListed,
            "the API server has not listed the namespaces yet",
        ),
        (
            UnknownNamespace::Forbidden,
            "the API server does not let Picket list namespaces",
        ),
        (
            UnknownNamespace::WatchFails,
            "Picket cannot watch the namespaces at present",
        ),
    ] {
        let namespaces = Arc::new(Namespaces::unknown(unknown));
        let message = why(&set, line, &namespaces);
        let wanted = format!(
            "(policy p, rule r): Not so. (the labels of namespace \"shop\" are not known, which counts as a match: {reason})"
        );
        assert!(message.contains(&wanted), "{message}");
        assert!(matches!(
            decide(&set, "GET /api/v1/namespaces/shop/pods/x", &namespaces),
            Decision::Permit(_)
        ));
    }
    // Whoever hands nothing in knows nothing.
    let message = denied(&set, line).message().to_owned();
    assert!(
        message.contains("it is none of the namespaces that were given"),
        "{message}"
    );
    // A policy that notes only says as much in the record.
    let rule = "rules: [{name: r, action: Deny, match: {namespaceSelector: {matchLabels: {env: prod}}}}]";
    let audit = policy("p", &format!("mode: Audit\n  {rule}"));
    let set = compile(&[&grant(ALL), &audit]);
    let permit = permitted(&set, line);
    assert!(
        permit.would_deny()[0]
            .message
            .contains("the labels of namespace \"shop\" are not known")
    );
}

#[test]
fn a_refusal_over_all_namespaces_names_the_labels_and_offers_nothing_that_may_not_pass() {
    let set = compile(&[
        &grant(ALL),
        &rule("Deny", &format!("resources: [pods], {SELECTOR}"), ""),
    ]);
    let message = why(&set, "GET /api/v1/pods", &cluster());
    assert!(
        message.contains(
            "the rule is about namespaces with labels env=prod, which a list over all namespaces includes"
        ),
        "{message}"
    );
    assert!(!message.contains("in one namespace"), "{message}");
    // Namespaces that a rule leaves alone are offered where they pass.
    let matches = format!("resources: [pods], {SELECTOR}, exceptNamespaces: [pay, lab]");
    let set = compile(&[&grant(ALL), &rule("Deny", &matches, "")]);
    let message = why(&set, "GET /api/v1/pods", &cluster());
    assert!(
        message.contains("list pods in one namespace of \"pay\", \"lab\""),
        "{message}"
    );
    let other = policy(
        "q",
        &format!("rules: [{{name: r, action: Deny, match: {{resources: [pods], {SELECTOR}}}}}]"),
    );
    let set = compile(&[&grant(ALL), &rule("Deny", &matches, ""), &other]);
    let message = why(&set, "GET /api/v1/pods", &cluster());
    assert!(
        message.contains("list pods in one namespace of \"lab\""),
        "{message}"
    );
}

#[test]
fn a_filter_by_labels_hides_what_has_them_and_what_is_not_known() {
    let set = compile(&[&grant(ALL), &rule("Filter", SELECTOR, "")]);
    let namespaces = cluster();
    for line in ["GET /api/v1/pods", "GET /api/v1/pods?watch=1"] {
        let Decision::Permit(permit) = decide(&set, line, &namespaces) else {
            panic!("{line} is refused");
        };
        let filter = permit.filter().expect("a filter");
        assert!(filter.reads_namespaces());
        for (namespace, hidden) in [
            ("pay", true),
            ("shop", false),
            ("lab", false),
            ("new", true),
            ("", false),
        ] {
            assert_eq!(filter.hides(namespace, "x"), hidden, "{namespace}");
        }
    }
    let Decision::Permit(permit) = decide(&set, "GET /api/v1/namespaces", &namespaces) else {
        panic!("namespaces cannot be listed");
    };
    let filter = permit.filter().expect("a filter");
    assert!(filter.hides("", "pay") && !filter.hides("", "shop") && filter.hides("", "new"));
    let in_one = |namespace: &str| format!("GET /api/v1/namespaces/{namespace}/pods");
    assert!(matches!(
        decide(&set, &in_one("pay"), &namespaces),
        Decision::Deny(_)
    ));
    assert!(matches!(
        decide(&set, &in_one("shop"), &namespaces),
        Decision::Permit(_)
    ));
    // A list without any object would look as if there were none.
    let unknown = Arc::new(Namespaces::unknown(UnknownNamespace::Forbidden));
    let message = why(&set, "GET /api/v1/pods", &unknown);
    assert!(
        message.contains("the labels of the namespaces are not known, which counts as a match"),
        "{message}"
    );
    let list = request("GET /api/v1/pods");
    let traced = set.trace(&principal(&set, "fixer"), &list, NOW.beside(Some(&unknown)));
    assert!(traced.refused.is_some());
    // A rule by names needs none.
    let by_name = compile(&[&grant(ALL), &rule("Filter", "namespaces: [pay]", "")]);
    let decision = decide(&by_name, "GET /api/v1/pods", &unknown);
    assert!(
        matches!(&decision, Decision::Permit(permit) if permit.filter().is_some()),
        "{decision:?}"
    );
    // So is one whose labels changed since.
    let labelled = known(&[("pay", "prod"), ("shop", "prod"), ("lab", "")]);
    assert!(filter.is_outdated(&labelled) && !filter.is_outdated(&namespaces));
    assert!(filter.hides_now(Some(&labelled), "", "shop"));
}

#[test]
fn a_watch_is_judged_again_by_the_labels_of_now() {
    let set = compile(&[
        &grant(ALL),
        &rule("Deny", &format!("verbs: [watch], {SELECTOR}"), ""),
    ]);
    let watch = request("GET /api/v1/namespaces/shop/pods?watch=1");
    let principal = principal(&set, "fixer");
    let again = |namespaces: &Arc<Namespaces>| {
        let judged = set.recheck(&principal, &watch, NOW.beside(Some(namespaces)));
        matches!(judged, Recheck::Permit { .. })
    };
    assert!(again(&cluster()));
    assert!(!again(&known(&[("shop", "prod")])));
    assert!(!again(&known(&[])));
}

const IS_PROD: &str = ", when: \"namespaceObject.metadata.?labels.?env.orValue('') == 'prod'\"";

#[test]
fn an_expression_sees_the_namespace_of_the_request_and_null_where_there_is_none() {
    let set = compile(&[
        &grant(ALL),
        &rule("Deny", "verbs: [get, delete], resources: ['*']", IS_PROD),
    ]);
    assert_eq!(set.namespace_use(), NamespaceUse::Objects);
    let refused = |line: &str| matches!(decide(&set, line, &cluster()), Decision::Deny(_));
    assert!(refused("DELETE /api/v1/namespaces/pay/pods/x"));
    assert!(!refused("DELETE /api/v1/namespaces/shop/pods/x"));
    assert!(!refused("DELETE /api/v1/namespaces/lab/pods/x"));
    let is_null = ", when: namespaceObject == null";
    let set = compile(&[&grant(ALL), &rule("Deny", "resources: ['*']", is_null)]);
    let refused = |line: &str| matches!(decide(&set, line, &cluster()), Decision::Deny(_));
    assert!(refused("GET /api/v1/nodes/n") && refused("GET /api/v1/nodes"));
    // As a ValidatingAdmissionPolicy has it of Namespaces themselves.
    assert!(refused("GET /api/v1/namespaces/pay") && refused("GET /api/v1/namespaces"));
    assert!(!refused("GET /api/v1/namespaces/pay/pods/x"));
    // Another resource of that name is in the namespaces that it says, and what is asked for by its name alone is in none.
    assert!(!refused("GET /apis/x.io/v1/namespaces/pay/namespaces/x"));
    let is_some = ", when: namespaceObject != null";
    let set = compile(&[&grant(ALL), &rule("Deny", "resources: ['*']", is_some)]);
    let refused = |line: &str| matches!(decide(&set, line, &cluster()), Decision::Deny(_));
    assert!(!refused("GET /apis/x.io/v1/widgets/a") && refused("GET /apis/x.io/v1/widgets"));
    let whole = "namespaceObject.metadata.name == 'pay' && namespaceObject.status.phase == 'Active' && \
                 namespaceObject.metadata.labels['kubernetes.io/metadata.name'] == 'pay'";
    let set = compile(&[
        &grant(ALL),
        &rule("Deny", "resources: ['*']", &format!(", when: \"{whole}\"")),
    ]);
    let refused = |line: &str| matches!(decide(&set, line, &cluster()), Decision::Deny(_));
    assert!(refused("GET /api/v1/namespaces/pay/pods/x") && !refused("GET /api/v1/namespaces/lab/pods/x"));
}

#[test]
fn no_failure_policy_lets_pass_what_a_client_can_bring_about() {
    let rules = format!("rules: [{{name: r, action: Deny, match: {{resources: [pods]}}{IS_PROD}}}]");
    let ignoring = policy("p", &format!("failurePolicy: Ignore\n  {rules}"));
    let set = compile(&[&grant(ALL), &ignoring]);
    let message = why(&set, "GET /api/v1/pods", &cluster());
    assert!(
        message.contains(
            "its `when` has no outcome here: the request is over all namespaces; that counts as true"
        ),
        "{message}"
    );
    let message = why(&set, "DELETE /api/v1/namespaces/new/pods/x", &cluster());
    assert!(
        message.contains("namespace \"new\" is not known, as the API server has told of no such namespace; that counts as true"),
        "{message}"
    );
    let unlisted = Arc::new(Namespaces::unknown(UnknownNamespace::NotListed));
    assert!(matches!(
        decide(&set, "GET /api/v1/namespaces/shop/pods/x", &unlisted),
        Decision::Deny(_)
    ));
    // By a variable as well.
    let variable = "failurePolicy: Ignore\n  variables: [{name: ns, expression: namespaceObject}]\n  \
                    rules: [{name: r, action: Deny, match: {resources: [pods]}, when: variables.ns == null}]";
    let set = compile(&[&grant(ALL), &policy("p", variable)]);
    assert_eq!(set.namespace_use(), NamespaceUse::Objects);
    assert!(matches!(
        decide(&set, "GET /api/v1/pods", &cluster()),
        Decision::Deny(_)
    ));
    assert!(matches!(
        decide(&set, "GET /api/v1/namespaces/lab/pods/x", &cluster()),
        Decision::Permit(_)
    ));
}

#[test]
fn a_body_is_read_only_where_the_namespace_has_the_labels() {
    let matches = format!("verbs: [create], resources: [pods], {SELECTOR}");
    let set = compile(&[
        &grant(ALL),
        &rule("Deny", &matches, ", when: object.spec.hostNetwork"),
    ]);
    let needs = |line: &str, namespaces: &Arc<Namespaces>| {
        let inputs = NOW.beside(Some(namespaces));
        set.needs(&principal(&set, "fixer"), &request(line), inputs)
            .object
    };
    let body = Some(ObjectSource::Body);
    assert_eq!(needs("POST /api/v1/namespaces/pay/pods", &cluster()), body);
    assert_eq!(needs("POST /api/v1/namespaces/shop/pods", &cluster()), None);
    assert_eq!(needs("POST /api/v1/namespaces/new/pods", &cluster()), body);
}

#[test]
fn a_trace_says_which_labels_the_namespace_lacks() {
    let set = compile(&[&grant(ALL), &rule("Deny", SELECTOR, "")]);
    let namespaces = cluster();
    let traced = |line: &str| {
        let inputs = NOW.beside(Some(&namespaces));
        let trace = set.trace(&principal(&set, "fixer"), &request(line), inputs);
        let step = trace
            .steps
            .into_iter()
            .find(|step| step.name == "p/r")
            .expect("the rule");
        step.outcome
    };
    let TraceOutcome::Silent(why) = traced("GET /api/v1/namespaces/shop/pods/x") else {
        panic!("it fired");
    };
    assert_eq!(
        why[0].to_string(),
        "namespaceSelector: env=prod; the request has shop"
    );
    let TraceOutcome::Silent(why) = traced("GET /api/v1/nodes") else {
        panic!("it fired");
    };
    assert_eq!(
        why[0].to_string(),
        "namespaceSelector: env=prod; the request has no namespace"
    );
}

#[test]
fn sets_without_such_rules_ask_for_nothing() {
    let set = compile(&[&grant(ALL), &deny("namespaces: [pay]")]);
    assert_eq!(set.namespace_use(), NamespaceUse::Nothing);
    assert_eq!(PolicySet::default().namespace_use(), NamespaceUse::Nothing);
}

#[test]
fn a_set_asks_for_all_that_one_of_its_rules_looks_at() {
    let objects =
        "{name: a, action: Deny, match: {verbs: [get], resources: [pods]}, when: namespaceObject == null}";
    let labels = format!("{{name: b, action: Deny, match: {{{SELECTOR}}}}}");
    let none = "{name: c, action: Deny, match: {namespaces: [pay]}}";
    for (rules, all) in [
        ([objects, &labels, none], NamespaceUse::Objects),
        ([none, &labels, objects], NamespaceUse::Objects),
        ([none, &labels, none], NamespaceUse::Labels),
    ] {
        let rules = rules.join(", ").replacen("name: c", "name: d", 1);
        let set = compile(&[&grant(ALL), &policy("p", &format!("rules: [{rules}]"))]);
        assert_eq!(set.namespace_use(), all, "{rules}");
    }
}
