//! Rules with `when`: what expressions see, what they come to, and what happens where they come to nothing.

use std::sync::Arc;

use super::on_behalf_of::person;
use super::*;
use crate::request::{BODY_LIMIT, BodyInput, RequestObject};

/// A policy with one rule that has a condition.
pub(super) fn when(matches: &str, expression: &str) -> String {
    policy(
        "p",
        &format!(
            "rules: [{{name: r, action: Deny, message: Not so., match: {{{matches}}}, when: {expression:?}}}]"
        ),
    )
}

/// A request whose body was read.
pub(super) fn with_body(line: &str, body: &str) -> CanonicalRequest {
    let mut request = canonical(line);
    request
        .read_object(BodyInput::Whole(body.as_bytes()))
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    request
}

pub(super) fn fires(set: &PolicySet, request: CanonicalRequest) -> bool {
    matches!(
        set.decide(principal(set, "fixer"), request, NOW),
        Decision::Deny(_)
    )
}

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"team": "a"}},
    "spec": {"containers": [{"name": "c", "image": "registry.example/web:1", "securityContext": {"privileged": true}}]}}"#;

const PODS: &str = "POST /api/v1/namespaces/n/pods";

#[test]
fn expressions_see_the_request_the_agent_and_the_object() {
    let line = "POST /api/v1/namespaces/n/pods?dryRun=All";
    for expression in [
        "request.verb == 'create' && request.operation == 'CREATE'",
        "request.resource.group == '' && request.resource.version == 'v1' && request.resource.resource == 'pods'",
        "request.namespace == 'n' && request.subResource == '' && request.dryRun",
        "request.path == '/api/v1/namespaces/n/pods'",
        "request.name == 'web'",
        "request.userInfo.username == 'u' && 'a' in request.userInfo.groups",
        "agent.name == 'fixer' && agent.owner == 'team-a' && 'agents' in agent.groups",
        "agent.namespace == 'ns' && agent.pod == 'p' && agent.attestation == 'pod'",
        "!has(agent.onBehalfOf)",
        "object.kind == 'Pod' && object.metadata.labels.team == 'a'",
        "object.spec.containers.exists(c, c.?securityContext.?privileged.orValue(false))",
        "object.spec.containers.all(c, c.image.startsWith('registry.example/'))",
    ] {
        let rule = |expression: &str| {
            compile(&[
                &grant(ALL),
                &when("verbs: [create], resources: [pods]", expression),
            ])
        };
        assert!(fires(&rule(expression), with_body(line, POD)), "{expression}");
        let not = format!("!({expression})");
        assert!(!fires(&rule(&not), with_body(line, POD)), "{not}");
    }
}

#[test]
fn a_rule_can_ask_for_whom_an_agent_asks() {
    let people = "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: h}\nspec:\n  to: {identities: [fixer]}\n  \
                  upstream: {onBehalfOf: {issuers: ['https://i.example'], users: ['*']}}\n  rules: [{verbs: [get], apiGroups: [''], \
                  resources: [pods]}]\n";
    let of_ann =
        "has(agent.onBehalfOf) && agent.onBehalfOf.username == 'ann' && 'sre' in agent.onBehalfOf.groups";
    let set = compile(&[&grant(ALL), people, &when("resources: [pods]", of_ann)]);
    let agent = principal(&set, "fixer");
    let line = "GET /api/v1/namespaces/n/pods/x";
    for (who, is_denied) in [
        (None, false),
        (Some(person("ann", &["sre"])), true),
        (Some(person("ann", &["dev"])), false),
        (Some(person("bob", &["sre"])), false),
    ] {
        let agent = match who {
            Some(person) => Arc::new(agent.on_behalf_of(Arc::new(person))),
            None => Arc::clone(&agent),
        };
        let decision = set.decide(Arc::clone(&agent), canonical(line), NOW);
        assert_eq!(matches!(decision, Decision::Deny(_)), is_denied, "{agent:?}");
    }
}

#[test]
fn a_session_has_its_options_for_an_object() {
    let set = compile(&[
        &grant(ALL),
        &when(
            "verbs: [create], resources: [pods/exec]",
            "object.kind == 'PodExecOptions' && object.?tty.orValue(false)",
        ),
    ]);
    for method in ["GET", "POST"] {
        let exec = |tty: &str| {
            canonical(&format!(
                "{method} /api/v1/namespaces/n/pods/x/exec?command=ls{tty}"
            ))
        };
        assert!(fires(&set, exec("&tty=true")), "{method}");
        assert!(!fires(&set, exec("")), "{method}");
    }
}

#[test]
fn variables_are_shared_and_build_on_each_other() {
    let text = "variables: [{name: images, expression: 'object.spec.containers.map(c, c.image)'}, {name: bad, expression: \
                'variables.images.exists(i, i.startsWith(\"registry.example/\"))'}]\n  rules: [{name: r, action: Deny, match: {verbs: \
                [create], resources: [pods]}, when: 'variables.bad'}]";
    let set = compile(&[&grant(ALL), &policy("p", text)]);
    assert!(fires(&set, with_body(PODS, POD)));
    assert!(!fires(
        &set,
        with_body(PODS, &POD.replace("registry.example", "elsewhere.example"))
    ));
}

#[test]
fn an_expression_without_an_outcome_counts_as_the_policy_says() {
    let line = with_body(PODS, "{\"kind\": \"Pod\"}");
    let set = compile(&[
        &grant(ALL),
        &when("verbs: [create], resources: [pods]", "object.spec.hostNetwork"),
    ]);
    let Decision::Deny(denial) = set.decide(principal(&set, "fixer"), line, NOW) else {
        panic!("let through")
    };
    assert!(
        denial
            .message()
            .contains("(policy p, rule r): Not so. (its `when` has no outcome here:"),
        "{}",
        denial.message()
    );
    let ignore = "failurePolicy: Ignore\n  rules: [{name: r, action: Deny, match: {verbs: [create], resources: [pods]}, when: \
                  'object.spec.hostNetwork'}]";
    let set = compile(&[&grant(ALL), &policy("p", ignore)]);
    let decision = set.decide(
        principal(&set, "fixer"),
        with_body(PODS, "{\"kind\": \"Pod\"}"),
        NOW,
    );
    let Decision::Permit(permit) = decision else {
        panic!("{decision:?}")
    };
    let [noted] = permit.would_deny() else {
        panic!("{permit:?}")
    };
    assert!(
        noted.message.contains("has no outcome here:") && noted.message.ends_with("lets the request pass"),
        "{noted:?}"
    );
    // Where it has one, the policy refuses as others do.
    assert!(fires(
        &set,
        with_body(PODS, "{\"spec\": {\"hostNetwork\": true}}")
    ));
    assert!(!fires(
        &set,
        with_body(PODS, "{\"spec\": {\"hostNetwork\": false}}")
    ));
}

#[test]
fn a_rule_whose_object_cannot_be_seen_fires() {
    let set = compile(&[
        &grant(ALL),
        &when("verbs: [create, update], resources: [pods]", "object == null"),
    ]);
    let with = |object: RequestObject| {
        let mut request = canonical("PUT /api/v1/namespaces/n/pods/x");
        request.set_object(object);
        request
    };
    assert!(fires(&set, with(RequestObject::Unread)));
    assert!(fires(&set, with(RequestObject::TooLarge)));
    assert!(fires(&set, with(RequestObject::Absent)));
    assert!(!fires(
        &set,
        with(RequestObject::Read(Arc::new(serde_json::json!({}))))
    ));
    let mut request = canonical(PODS);
    assert_eq!(request.read_object(BodyInput::TooLarge), Ok(None));
    assert_eq!(request.kube().object, RequestObject::TooLarge);
}

#[test]
fn the_object_is_needed_only_where_a_rule_that_could_fire_looks_into_it() {
    let look = when(
        "verbs: [create, update], resources: [configmaps]",
        "object.data.size() > 1",
    );
    let set = compile(&[&grant(ALL), &look]);
    let needs = |set: &PolicySet, name, line| set.needs(&principal(set, name), &request(line), NOW).object;
    for (line, source) in [
        ("POST /api/v1/namespaces/n/configmaps", Some(ObjectSource::Body)),
        ("PUT /api/v1/namespaces/n/configmaps/c", Some(ObjectSource::Body)),
        (
            "PATCH /api/v1/namespaces/n/configmaps/c",
            Some(ObjectSource::Probe),
        ),
        ("DELETE /api/v1/namespaces/n/configmaps/c", None),
        ("GET /api/v1/namespaces/n/configmaps/c", None),
        ("POST /api/v1/namespaces/n/pods", None),
        ("POST /api/v1/namespaces/n/pods/p/exec?command=ls", None),
        ("POST /api/v1/namespaces/n/services/s/proxy/x", None),
    ] {
        assert_eq!(needs(&set, "fixer", line), source, "{line}");
    }
    let line = "POST /api/v1/namespaces/n/configmaps";
    let head = compile(&[
        &grant(ALL),
        &when("resources: [configmaps]", "request.name == 'x'"),
    ]);
    // The request's name is in the body.
    assert_eq!(needs(&head, "fixer", line), Some(ObjectSource::Body));
    let about = "subjects: {identities: [other]}\n  rules: [{name: r, action: Deny, match: {verbs: [create], resources: [configmaps]}, when: \
                 'object.data.size() > 1'}]";
    let both = grant(ALL).replace("[fixer]", "[fixer, other]");
    let set = compile(&[&both, &policy("p", about)]);
    assert_eq!(needs(&set, "fixer", line), None);
    assert_eq!(needs(&set, "other", line), Some(ObjectSource::Body));
    // By a variable too.
    let shared = "variables: [{name: v, expression: object.data}]\n  rules: [{name: r, action: Deny, match: {verbs: [create], resources: \
                  [configmaps]}, when: 'variables.v.size() > 1'}]";
    assert_eq!(
        needs(&compile(&[&grant(ALL), &policy("p", shared)]), "fixer", line),
        Some(ObjectSource::Body)
    );
}

#[test]
fn what_is_judged_is_what_is_sent() {
    let mut request = canonical(
        "POST /api/v1/namespaces/n/pods content-type:application/json;charset=utf-8 content-length:30",
    );
    let sent = request
        .read_object(BodyInput::Whole(b" {\"b\": 1.0,\t\"a\": \"\\u0041\"}"))
        .expect("read");
    let sent = sent.expect("a body");
    let value: serde_json::Value = serde_json::from_slice(&sent).expect("JSON");
    assert_eq!(request.kube().object, RequestObject::Read(Arc::new(value)));
    let headers = &request.head().headers;
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["content-length"], sent.len().to_string());
    let mut twice = canonical(
        "POST /api/v1/namespaces/n/pods content-type:application/json content-type:application/yaml",
    );
    assert!(twice.read_object(BodyInput::Whole(b"{}")).is_err());
    let mut as_patch = canonical("POST /api/v1/namespaces/n/pods content-type:application/merge-patch+json");
    let refused = as_patch
        .read_object(BodyInput::Whole(b"{}"))
        .expect_err("a patch");
    assert!(refused.is_media_type());
    let mut doubled = canonical(PODS);
    assert!(
        doubled
            .read_object(BodyInput::Whole(b"{\"a\": 1, \"a\": 2}"))
            .is_err()
    );
    assert_eq!(BODY_LIMIT, 1_572_864);
}

/// A patch of a pod whose result a rule looks into.
const PATCH: &str = "PATCH /api/v1/namespaces/n/pods/web?fieldManager=m content-type:application/merge-patch+json accept:text/plain";

#[test]
fn a_patch_is_asked_as_a_dry_run_first_and_judged_by_what_it_makes() {
    let set = compile(&[
        &grant(ALL),
        &when(
            "verbs: [update], resources: [pods]",
            "object.metadata.labels.team == 'b'",
        ),
    ]);
    let mut patch = canonical(PATCH);
    assert!(
        fires(&set, canonical(PATCH)),
        "an unknown object counts as matching"
    );
    let probe = patch.as_probe().expect("a probe");
    assert_eq!(
        probe.head().uri.to_string(),
        "/api/v1/namespaces/n/pods/web?fieldManager=m&dryRun=All"
    );
    assert_eq!(probe.head().headers["accept"], "application/json");
    assert_eq!(probe.head().headers["accept-encoding"], "identity");
    assert!(probe.kube().dry_run);
    // A patch that is a dry run already is asked as it is.
    let dry = "/api/v1/namespaces/n/pods/web?dryRun=All";
    let probed = canonical(&PATCH.replace("/api/v1/namespaces/n/pods/web?fieldManager=m", dry)).as_probe();
    assert_eq!(probed.expect("a probe").head().uri.to_string(), dry);
    let permit = set
        .decide_probe(principal(&set, "fixer"), probe, NOW)
        .expect("a permit");
    assert!(permit.request().dry_run);

    let made = serde_json::json!({"metadata": {"resourceVersion": "7", "labels": {"team": "a"}}});
    let sent = patch
        .bind_patch(b"{\"metadata\": {\"labels\": {\"team\": \"a\"}}}", made, false)
        .expect("bound");
    let sent: serde_json::Value = serde_json::from_slice(&sent.bytes).expect("JSON");
    assert_eq!(
        sent,
        serde_json::json!({"metadata": {"labels": {"team": "a"}, "resourceVersion": "7"}})
    );
    assert!(!fires(&set, patch));
    let mut other = canonical(PATCH);
    let made = serde_json::json!({"metadata": {"resourceVersion": "7", "labels": {"team": "b"}}});
    other
        .bind_patch(b"{\"metadata\": {\"labels\": {\"team\": \"b\"}}}", made, false)
        .expect("bound");
    assert!(fires(&set, other));
}

#[test]
fn nothing_but_a_probe_is_let_through_as_one() {
    let set = compile(&[
        &grant(ALL),
        &when("verbs: [update], resources: [pods]", "object.x"),
    ]);
    let decide = |request| set.decide_probe(principal(&set, "fixer"), request, NOW);
    assert!(matches!(decide(canonical(PATCH)), Err(None)));
    let mut claims = canonical(PATCH);
    claims.set_object(RequestObject::Sought);
    assert!(matches!(decide(claims), Err(None)), "no dry run");
    let dry = PATCH.replace("fieldManager=m", "dryRun=All");
    assert!(matches!(decide(canonical(&dry)), Err(None)), "a client's own");
    // The API server refuses two values of `dryRun`, and a later one may take the first.
    for value in ["", "None", "all"] {
        let odd = PATCH.replace("fieldManager=m", &format!("dryRun={value}"));
        assert!(canonical(&odd).as_probe().is_none(), "{value:?}");
    }
    for line in [
        "PUT /api/v1/namespaces/n/pods/web",
        "POST /api/v1/namespaces/n/pods",
        "PATCH /version",
        "PATCH /api/v1/namespaces/n/services/s/proxy/x",
    ] {
        assert!(canonical(line).as_probe().is_none(), "{line}");
    }
    // One that policy refuses whatever it makes is not sent.
    let refuses = compile(&[&grant(ALL), &deny("resources: [pods]")]);
    let probe = canonical(PATCH).as_probe().expect("a probe");
    let refused = refuses.decide_probe(principal(&refuses, "fixer"), probe, NOW);
    assert!(matches!(refused, Err(Some(denial)) if denial.rule() == Some("r")));
}

#[test]
fn a_patch_is_bound_to_the_version_it_was_judged_on() {
    let bound = |media: &str, patch: &str, version: &str| {
        let mut request = canonical(&format!(
            "PATCH /api/v1/namespaces/n/pods/web content-type:{media}"
        ));
        let made = serde_json::json!({"metadata": {"resourceVersion": version}});
        let sent = request.bind_patch(patch.as_bytes(), made, version.is_empty());
        sent.map(|sent| String::from_utf8(sent.bytes).expect("text"))
    };
    let merge = "application/merge-patch+json";
    for (media, patch, version, sent) in [
        (
            merge,
            r#"{"a":1}"#,
            "7",
            r#"{"a":1,"metadata":{"resourceVersion":"7"}}"#,
        ),
        (
            merge,
            r#"{"metadata":{"resourceVersion":"5"}}"#,
            "7",
            r#"{"metadata":{"resourceVersion":"5"}}"#,
        ),
        (
            merge,
            r#"{"metadata":{"resourceVersion":""}}"#,
            "7",
            r#"{"metadata":{"resourceVersion":"7"}}"#,
        ),
        // A new object has no version yet.
        (merge, r#"{"a":1}"#, "", r#"{"a":1}"#),
        (
            "application/json-patch+json",
            r#"[{"op":"remove","path":"/a"}]"#,
            "7",
            r#"[{"op":"remove","path":"/a"},{"op":"add","path":"/metadata/resourceVersion","value":"7"}]"#,
        ),
        (
            "application/strategic-merge-patch+json",
            r#"{"$setElementOrder/secrets":[],"metadata":{"$deleteFromPrimitiveList/finalizers":["f"]}}"#,
            "7",
            r#"{"$setElementOrder/secrets":[],"metadata":{"$deleteFromPrimitiveList/finalizers":["f"],"resourceVersion":"7"}}"#,
        ),
        (
            "application/strategic-merge-patch+json",
            r#"{"spec":{"$patch":"replace"}}"#,
            "7",
            r#"{"metadata":{"resourceVersion":"7"},"spec":{"$patch":"replace"}}"#,
        ),
    ] {
        assert_eq!(bound(media, patch, version).as_deref(), Ok(sent), "{patch}");
    }
    for patch in [
        r#"{"metadata":{"$retainKeys":["labels"]}}"#,
        r#"{"metadata":{"$unknown":["labels"]}}"#,
        r#"{"metadata":{"$patch":"replace"}}"#,
        r#"{"$patch":"delete"}"#,
        r#"{"$retainKeys":["spec"]}"#,
        r#"{"metadata":null}"#,
        r#""text""#,
        // The API server may take either last, so that the dry run and the patch can make different objects.
        r#"{"spec":{"template":{"hostNetwork":true,"$deleteFromPrimitiveList/hostNetwork":null}}}"#,
        r#"{"spec":{"list":[{"a":{"$deleteFromPrimitiveList/b":"text"}}]}}"#,
        r#"{"metadata":{"finalizers":["f"],"$deleteFromPrimitiveList/finalizers":["f"]}}"#,
        r#"{"metadata":{"finalizers":["f"],"$deleteFromPrimitiveList/finalizers":["f"],"$setElementOrder/finalizers":null}}"#,
        r#"{"spec":{"$deleteFromPrimitiveListOf/a":[]}}"#,
        // They could take away what the patch is held by.
        r#"{"metadata":{"$deleteFromPrimitiveList/resourceVersion":null}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/resourceVersion":[]}}"#,
        r#"{"metadata":{"$setElementOrder/resourceVersion":[]}}"#,
        r#"{"$setElementOrder/metadata":[]}"#,
    ] {
        let media = "application/strategic-merge-patch+json";
        assert!(bound(media, patch, "7").is_err(), "{patch}");
    }
    // kubectl's own way: what stays, its order, and what goes.
    let apply = r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"$setElementOrder/finalizers":["b"],"finalizers":["b"]}}"#;
    assert!(bound("application/strategic-merge-patch+json", apply, "7").is_ok());
    // Elsewhere such a key is a name like any other.
    let merge = r#"{"data":{"$deleteFromPrimitiveList/a":null,"a":"b"}}"#;
    assert!(bound("application/merge-patch+json", merge, "7").is_ok());
}

#[test]
fn expressions_that_cannot_stand_are_told_with_their_place() {
    for (spec, place, fault) in [
        (
            "rules: [{name: r, action: Deny, match: {resources: [pods]}, when: 'request.verb =='}]",
            "when",
            "not valid CEL",
        ),
        (
            "rules: [{name: r, action: Deny, match: {resources: [pods]}, when: 'who == 1'}]",
            "when",
            "variable `who` is not known",
        ),
        (
            "rules: [{name: r, action: Deny, match: {verbs: [update], resources: [pods]}, when: 'authorizer == null'}]",
            "when",
            "variable `authorizer` is not supported by this version yet",
        ),
        (
            "rules: [{name: r, action: Deny, match: {resources: [pods]}, when: 'oldObject == null'}]",
            "match",
            "the rule's `when` has `oldObject`, which requests that change or delete objects alone have: list them",
        ),
        (
            "variables: [{name: a, expression: oldObject.a}]\n  rules: [{name: r, action: Deny, match: {verbs: [get], resources: [pods]}, \
             when: variables.a}]",
            "get",
            "verb \"get\": the rule's `when` has `oldObject`",
        ),
        (
            "rules: [{name: r, action: Filter, match: {resources: [pods], namespaces: [n]}, when: 'oldObject.a'}]",
            "when",
            "no `oldObject`",
        ),
        (
            "rules: [{name: r, action: Deny, match: {resources: [pods]}, when: 'object.a'}]",
            "match",
            "list them",
        ),
        (
            "rules: [{name: r, action: Deny, match: {verbs: [get, create], resources: [pods]}, when: 'object.a'}]",
            "get",
            "verb \"get\": the rule's `when` has `object`",
        ),
        (
            "rules: [{name: r, action: Deny, match: {nonResourceURLs: [/x]}, when: 'object.a'}]",
            "when",
            "have no `object`",
        ),
        (
            "variables: [{name: 1a, expression: '1'}]\n  rules: [{name: r, action: Deny, match: {resources: [pods]}}]",
            "1a",
            "variable \"1a\"",
        ),
        (
            "variables: [{name: a, expression: variables.b}, {name: b, expression: '1'}]\n  rules: [{name: r, action: Deny, match: \
             {resources: [pods]}}]",
            "variables.b",
            "b",
        ),
        (
            "rules: [{name: r, action: Deny, match: {resources: [pods]}, when: 'variables.a'}]",
            "when",
            "a",
        ),
    ] {
        let text = format!("{BASE}{}", policy("p", spec));
        let errors = try_compile(&text).expect_err(spec);
        let said = errors[0].to_string();
        assert!(said.contains(fault), "wanted {fault}, found {said}");
        assert!(!place.is_empty());
    }
}

#[test]
fn a_rule_with_names_knows_the_name_of_a_new_object() {
    let set = compile(&[
        &grant(ALL),
        &deny("resources: [configmaps], names: ['prod-*', settings]"),
    ]);
    let maps = "/api/v1/namespaces/n/configmaps";
    let needs = |line: &str| set.needs(&principal(&set, "fixer"), &request(line), NOW).object;
    assert_eq!(needs(&format!("POST {maps}")), Some(ObjectSource::Body));
    assert_eq!(needs(&format!("PUT {maps}/web")), None);
    assert_eq!(needs("POST /api/v1/namespaces/n/pods"), None);
    for (metadata, is_denied) in [
        (r#"{"name": "prod-1"}"#, true),
        (r#"{"name": "settings"}"#, true),
        (r#"{"name": "web"}"#, false),
        (r#"{"generateName": "prod-"}"#, true),
        (r#"{"generateName": "pro"}"#, false),
        (r#"{"generateName": "set"}"#, true),
        (r#"{"generateName": "web-"}"#, false),
        (r#"{"name": "web", "generateName": "prod-"}"#, false),
        (r#"{"name": "", "generateName": "prod-"}"#, true),
        ("{}", false),
    ] {
        let request = with_body(&format!("POST {maps}"), &format!("{{\"metadata\": {metadata}}}"));
        assert_eq!(fires(&set, request), is_denied, "{metadata}");
    }
    assert!(
        fires(&set, canonical(&format!("POST {maps}"))),
        "a name that was not read counts as matching"
    );
    let mut large = canonical(&format!("POST {maps}"));
    large.set_object(RequestObject::TooLarge);
    assert!(fires(&set, large));
}

#[test]
fn built_ins_know_the_name_of_a_new_object() {
    // It knows no names.
    let except = policy(
        "exceptions",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/apiserver-configuration]",
    );
    let set = compile(&[&grant(ALL), &except]);
    for (line, mine, free) in [
        ("POST /api/v1/namespaces", "picket-system", "shop"),
        ("POST /api/v1/namespaces", "ns", "nsx"),
        ("POST /api/v1/namespaces/ns/configmaps", "picket-ca.crt", "web"),
        (
            "POST /apis/rbac.authorization.k8s.io/v1/clusterroles",
            "picket-node",
            "reader",
        ),
        (
            "POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            "agentgrants.picket.dev",
            "crons.example.com",
        ),
        (
            "POST /apis/apiregistration.k8s.io/v1/apiservices",
            "v1.picket.dev",
            "v1.example.com",
        ),
        (
            "POST /apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            "picket",
            "other",
        ),
        (
            "POST /apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
            "picket-enrolment",
            "other",
        ),
    ] {
        assert_eq!(
            set.needs(&principal(&set, "fixer"), &request(line), NOW).object,
            Some(ObjectSource::Body),
            "{line}"
        );
        for (name, is_denied) in [(mine, true), (free, false)] {
            let request = with_body(line, &format!("{{\"metadata\": {{\"name\": {name:?}}}}}"));
            assert_eq!(fires(&set, request), is_denied, "{line} {name}");
        }
        assert!(
            fires(&set, canonical(line)),
            "{line}: a name that was not read counts as Picket's"
        );
    }
    let generated = |beginning: &str| {
        let body = format!("{{\"metadata\": {{\"generateName\": {beginning:?}}}}}");
        fires(
            &set,
            with_body("POST /apis/rbac.authorization.k8s.io/v1/clusterroles", &body),
        )
    };
    assert!(generated("picket-") && !generated("picket") && !generated("web-"));
    // Elsewhere nothing is read in vain.
    for line in [
        "POST /api/v1/namespaces/shop/configmaps",
        "POST /apis/apps/v1/namespaces/shop/deployments",
    ] {
        assert_eq!(
            set.needs(&principal(&set, "fixer"), &request(line), NOW).object,
            None,
            "{line}"
        );
    }
}

/// Whether the name was read for another rule must make no difference.
#[test]
fn a_rule_that_leaves_names_alone_knows_the_name_of_a_new_object() {
    let except = deny("verbs: [create], resources: [configmaps], exceptNames: [mine]");
    let other = policy(
        "q",
        "rules: [{name: s, action: Deny, match: {verbs: [create], resources: [configmaps], names: [zzz]}}]",
    );
    let line = "POST /api/v1/namespaces/n/configmaps";
    for set in [
        compile(&[&grant(ALL), &except]),
        compile(&[&grant(ALL), &except, &other]),
    ] {
        let needs = set.needs(&principal(&set, "fixer"), &request(line), NOW).object;
        assert_eq!(needs, Some(ObjectSource::Body));
        for (metadata, is_denied) in [
            (r#"{"name": "mine"}"#, false),
            (r#"{"name": "yours"}"#, true),
            (r#"{"generateName": "mi"}"#, true),
        ] {
            let body = format!("{{\"metadata\": {metadata}}}");
            assert_eq!(fires(&set, with_body(line, &body)), is_denied, "{metadata}");
        }
    }
}

#[test]
fn what_a_client_can_bring_about_never_lets_it_pass() {
    let ignore = "failurePolicy: Ignore\n  rules: [{name: r, action: Deny, match: {verbs: [create, update], resources: [pods]}, when: \
                  'object.spec.hostNetwork'}]";
    let set = compile(&[&grant(ALL), &policy("p", ignore)]);
    for object in [RequestObject::TooLarge, RequestObject::Unread] {
        let mut request = canonical("PUT /api/v1/namespaces/n/pods/x");
        request.set_object(object.clone());
        assert!(fires(&set, request), "{object:?}");
    }
    // Nor a name that stands in a body that cannot be read.
    let name = "failurePolicy: Ignore\n  rules: [{name: r, action: Deny, match: {verbs: [create], resources: [pods]}, when: \
                'request.name == \"x\"'}]";
    let named = compile(&[&grant(ALL), &policy("p", name)]);
    for object in [RequestObject::TooLarge, RequestObject::Unread] {
        let mut request = canonical(PODS);
        request.set_object(object.clone());
        assert!(fires(&named, request), "{object:?}");
    }
    let steps = "failurePolicy: Ignore\n  rules: [{name: r, action: Deny, match: {verbs: [create], resources: [configmaps]}, when: \
                 'object.list.all(a, object.list.all(b, object.list.all(c, a + b + c > 0)))'}]";
    let set = compile(&[&grant(ALL), &policy("p", steps)]);
    let list = vec!["1"; 400].join(",");
    let body = format!("{{\"metadata\": {{\"name\": \"x\"}}, \"list\": [{list}]}}");
    assert!(fires(
        &set,
        with_body("POST /api/v1/namespaces/n/configmaps", &body)
    ));
}

#[test]
fn a_dry_run_that_deletes_is_none() {
    let set = compile(&[
        &grant(ALL),
        &when("resources: [pods, pods/exec]", "!request.dryRun"),
    ]);
    for line in [
        "DELETE /api/v1/namespaces/n/pods/x?dryRun=All",
        "DELETE /api/v1/namespaces/n/pods?dryRun=All",
        "POST /api/v1/namespaces/n/pods/x/exec?command=ls&dryRun=All",
    ] {
        assert!(fires(&set, canonical(line)), "{line}");
    }
    let dry = with_body("POST /api/v1/namespaces/n/pods?dryRun=All", POD);
    assert!(!fires(&set, dry));
}

#[test]
fn what_creates_is_a_creation_to_an_expression() {
    let rule = when(
        "verbs: [create, update], resources: [configmaps, services]",
        "request.operation == 'CREATE'",
    );
    let set = compile(&[&grant(ALL), &rule]);
    let made = |line: &str, version: &str| {
        let mut request = canonical(line);
        let made = serde_json::json!({"metadata": {"resourceVersion": version}});
        request.set_object(RequestObject::Read(Arc::new(made)));
        fires(&set, request)
    };
    let apply =
        "PATCH /api/v1/namespaces/n/configmaps/c?fieldManager=m content-type:application/apply-patch+yaml";
    assert!(made(apply, "") && !made(apply, "7"));
    let merge = "PATCH /api/v1/namespaces/n/configmaps/c content-type:application/merge-patch+json";
    assert!(!made(merge, "7"));
    // Whether a PUT creates a Service, the API server alone knows.
    assert!(made("PUT /api/v1/namespaces/n/services/s", "7"));
    assert!(!made("PUT /api/v1/namespaces/n/configmaps/c", "7"));
    // Nobody's failurePolicy lets pass a creation by which the rule fires.
    let ignoring = when(
        "verbs: [create, update], resources: [configmaps]",
        "request.operation == 'CREATE' || object.absent == 1",
    );
    let ignoring = ignoring.replace("rules:", "failurePolicy: Ignore\n  rules:");
    let ignoring = compile(&[&grant(ALL), &ignoring]);
    for (version, is_denied) in [("", true), ("7", false)] {
        let mut request = canonical(apply);
        let made = serde_json::json!({"metadata": {"resourceVersion": version}});
        request.set_object(RequestObject::Read(Arc::new(made)));
        assert_eq!(fires(&ignoring, request), is_denied, "{version:?}");
    }
    let update = when(
        "verbs: [update], resources: [services]",
        "request.operation == 'UPDATE'",
    );
    let set = compile(&[&grant(ALL), &update]);
    let mut request = canonical("PUT /api/v1/namespaces/n/services/s");
    request.set_object(RequestObject::Absent);
    assert!(fires(&set, request));
}

#[test]
fn a_body_without_its_namespace_is_of_the_paths() {
    let set = compile(&[
        &grant(ALL),
        &when(
            "verbs: [create], resources: [pods]",
            "object.metadata.namespace == 'n'",
        ),
    ]);
    assert!(fires(&set, with_body(PODS, POD)));
    let mut request = canonical("POST /api/v1/namespaces");
    let sent = request.read_object(BodyInput::Whole(b"{\"metadata\":{\"name\":\"n\"}}"));
    assert_eq!(sent, Ok(Some(b"{\"metadata\":{\"name\":\"n\"}}".to_vec())));
}

#[test]
fn rules_that_only_note_need_an_object_to_note_with() {
    let needs = |policies: &[&str]| {
        let mut parts = vec![grant(ALL)];
        parts.extend(policies.iter().map(|text| (*text).to_owned()));
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        let set = compile(&parts);
        let needs = set.needs(&principal(&set, "fixer"), &request(PODS), NOW);
        (needs.object.is_some(), needs.only_to_note)
    };
    let rule = |action: &str| {
        format!(
            "rules: [{{name: r, action: {action}, match: {{verbs: [create], resources: [pods]}}, when: object.x}}]"
        )
    };
    let audit = policy("a", &format!("mode: Audit\n  {}", rule("Deny")));
    let warn = policy("w", &rule("Warn"));
    let deny = policy("d", &rule("Deny"));
    assert_eq!(needs(&[&audit, &warn]), (true, true));
    assert_eq!(needs(&[&audit, &warn, &deny]), (true, false));
    let mut unreadable = canonical(PODS);
    unreadable.look_at_object(BodyInput::Whole(b"{\"a\": 1, \"a\": 2}"));
    assert_eq!(unreadable.kube().object, RequestObject::Unread);
}

#[test]
fn a_request_without_a_grant_is_refused_for_that_and_nothing_of_it_is_read() {
    let set = compile(&[
        &grant("[{verbs: [get], apiGroups: [''], resources: [pods]}]"),
        &when("verbs: [create], resources: [pods]", "object.x"),
    ]);
    assert_eq!(
        set.needs(&principal(&set, "fixer"), &request(PODS), NOW).object,
        None
    );
    for line in [PODS, "POST /apis/rbac.authorization.k8s.io/v1/clusterroles"] {
        assert_eq!(denied(&set, line).cause(), Cause::NoGrant, "{line}");
    }
}
