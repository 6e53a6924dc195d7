//! The rights that grants take at the API server, by examples.

use picket_policy::api::AnyObject;

use super::*;

/// The rights of grants whose specs are these.
fn rights(mode: Mode, specs: &[&str]) -> Vec<Value> {
    let mut rights = Rights::new(mode);
    for (number, spec) in specs.iter().enumerate() {
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: g{number}}}\nspec: {{to: {{identities: [a]}}, {spec}}}\n"
        );
        let documents =
            picket_policy::read_documents("g.yaml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        let AnyObject::Grant(grant) = &documents[0].object else {
            panic!("{text}");
        };
        rights.add(&grant.metadata.name, &grant.spec);
    }
    rights.objects("r", &json!({"kind": "Group", "name": "nodes"}))
}

fn rules<'o>(objects: &'o [Value], kind: &str, namespace: Option<&str>) -> &'o Value {
    let is =
        |object: &&Value| object["kind"] == kind && object["metadata"]["namespace"].as_str() == namespace;
    let found = objects.iter().find(is);
    found
        .map(|object| &object["rules"])
        .unwrap_or_else(|| panic!("{kind} {namespace:?}: {objects:#?}"))
}

const READS: &str = "upstream: {impersonate: {user: 'agent:a', groups: [readers]}}, rules: [{apiGroups: [''], resources: \
    [pods, pods/log], verbs: [get, list]}]";

fn extras(verb: &str) -> Value {
    json!({"apiGroups": ["authentication.k8s.io"], "verbs": [verb],
        "resources": ["userextras/picket.dev/identity", "userextras/picket.dev/pod", "userextras/picket.dev/session"]})
}

/// What every grant gives besides.
fn implicit() -> [Value; 4] {
    let create = |group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": ["impersonate-on:user-info:create"]});
    [
        json!({"nonResourceURLs": DISCOVERY, "verbs": ["impersonate-on:user-info:get"]}),
        create("authentication.k8s.io", "selfsubjectreviews"),
        create("authorization.k8s.io", "selfsubjectaccessreviews"),
        create("authorization.k8s.io", "selfsubjectrulesreviews"),
    ]
}

/// The rules that say what may be sent, without those that every grant has.
fn on_rules_of(objects: &[Value]) -> Vec<Value> {
    let rules = rules(objects, "ClusterRole", None)
        .as_array()
        .expect("rules")
        .clone();
    let on = |rule: &Value| rule["verbs"].to_string().contains("impersonate-on");
    rules
        .into_iter()
        .filter(|rule| on(rule) && !implicit().contains(rule))
        .collect()
}

#[test]
fn a_user_is_named_and_what_is_sent_as_it_is_what_the_rules_give() {
    let objects = rights(Mode::Constrained, &[READS]);
    let [paths, one, two, three] = implicit();
    assert_eq!(
        *rules(&objects, "ClusterRole", None),
        json!([
            {"apiGroups": ["authentication.k8s.io"], "resources": ["groups"], "resourceNames": ["readers"],
             "verbs": ["impersonate:user-info"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": ["agent:a"],
             "verbs": ["impersonate:user-info"]},
            extras("impersonate:user-info"),
            {"apiGroups": [""], "resources": ["pods", "pods/log"],
             "verbs": ["impersonate-on:user-info:get", "impersonate-on:user-info:list"]},
            paths, one, two, three,
        ])
    );
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[1]["roleRef"]["kind"], "ClusterRole");
    assert_eq!(objects[1]["subjects"][0]["name"], "nodes");
}

#[test]
fn older_clusters_get_the_plain_verb_alone() {
    let objects = rights(Mode::Plain, &[READS]);
    assert_eq!(
        *rules(&objects, "ClusterRole", None),
        json!([
            {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["readers"], "verbs": ["impersonate"]},
            {"apiGroups": [""], "resources": ["users"], "resourceNames": ["agent:a"], "verbs": ["impersonate"]},
            extras("impersonate"),
        ])
    );
}

#[test]
fn rules_of_namespaces_are_roles_there_and_globs_are_named() {
    let with = |namespaces: &str| READS.replace("rules", &format!("namespaces: [{namespaces}], rules"));
    let objects = rights(Mode::Constrained, &[&with("shop, web")]);
    for namespace in ["shop", "web"] {
        assert_eq!(
            *rules(&objects, "Role", Some(namespace)),
            json!([{"apiGroups": [""], "resources": ["pods", "pods/log"],
                "verbs": ["impersonate-on:user-info:get", "impersonate-on:user-info:list"]}])
        );
    }
    assert_eq!(on_rules_of(&objects), [] as [Value; 0]);
    let objects = rights(Mode::Constrained, &[&with("shop, 'team-*'")]);
    assert_eq!(objects.len(), 2);
    assert_eq!(on_rules_of(&objects).len(), 1);
}

#[test]
fn whatever_a_rule_does_not_name_is_not_given() {
    let of = |rules: &str| {
        let spec = format!("upstream: {{impersonate: {{user: 'agent:a'}}}}, rules: [{rules}]");
        on_rules_of(&rights(Mode::Constrained, &[&spec]))
    };
    let every = of("{apiGroups: [apps], resources: [deployments], resourceNames: [web], verbs: ['*']}");
    assert_eq!(every[0]["resourceNames"], json!(["web"]));
    assert_eq!(every[0]["verbs"].as_array().map(Vec::len), Some(8));
    assert!(!every[0]["verbs"].to_string().contains('*'), "{every:?}");
    let paths = of("{nonResourceURLs: ['/healthz*'], verbs: [get]}");
    assert_eq!(
        paths,
        [json!({"nonResourceURLs": ["/healthz*"], "verbs": ["impersonate-on:user-info:get"]})]
    );
    // Verbs that no request has.
    assert_eq!(
        of("{apiGroups: [''], resources: [users], verbs: [impersonate]}"),
        [] as [Value; 0]
    );
}

#[test]
fn a_session_is_asked_for_by_get_too() {
    let of = |resources: &str, verbs: &str| {
        let spec = format!(
            "upstream: {{impersonate: {{user: 'agent:a'}}}}, rules: [{{apiGroups: [''], resources: [{resources}], verbs: [{verbs}]}}]"
        );
        on_rules_of(&rights(Mode::Constrained, &[&spec]))
    };
    let get = |resources: &[&str]| json!({"apiGroups": [""], "resources": resources, "verbs": ["impersonate-on:user-info:get"]});
    let exec = of("pods/exec", "create");
    assert_eq!(
        exec,
        [json!({"apiGroups": [""], "resources": ["pods/exec"],
            "verbs": ["impersonate-on:user-info:create", "impersonate-on:user-info:get"]})]
    );
    let all = of("'*'", "create");
    assert!(
        all.contains(&get(&["pods/attach", "pods/exec", "pods/portforward"])),
        "{all:?}"
    );
    assert!(of("'*/attach', pods", "create").contains(&get(&["pods/attach"])));
    assert_eq!(of("configmaps", "create").len(), 1);
    assert_eq!(of("pods/exec", "get, create").len(), 1);
}

#[test]
fn service_accounts_are_named_in_their_own_namespace() {
    let token = "upstream: {serviceAccount: {namespace: ci, name: bot}}, rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]";
    let objects = rights(Mode::Constrained, &[token]);
    assert_eq!(
        *rules(&objects, "Role", Some("ci")),
        json!([{"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["bot"], "verbs": ["create"]}])
    );
    // A token needs no impersonation, and takes back what the role gave before.
    assert_eq!(*rules(&objects, "ClusterRole", None), json!([]));
    let acted = "upstream: {impersonate: {user: 'system:serviceaccount:ci:bot', groups: [extra]}}, rules: [{apiGroups: \
        [''], resources: [pods], verbs: [get]}]";
    let objects = rights(Mode::Constrained, &[acted]);
    assert_eq!(
        *rules(&objects, "Role", Some("ci")),
        json!([{"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["bot"], "verbs": ["impersonate"]}])
    );
    assert_eq!(
        *rules(&objects, "ClusterRole", None),
        json!([
            {"apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"],
             "resourceNames": ["extra", "system:serviceaccounts", "system:serviceaccounts:ci"]},
            extras("impersonate"),
        ])
    );
}

#[test]
fn grants_of_the_same_rule_share_one() {
    let second = READS
        .replace("agent:a", "agent:b")
        .replace("[get, list]", "[watch]");
    let objects = rights(Mode::Constrained, &[READS, &second, READS]);
    let rules = rules(&objects, "ClusterRole", None).as_array().expect("rules");
    assert_eq!(rules.len(), 4 + implicit().len(), "{rules:#?}");
    assert_eq!(rules[1]["resourceNames"], json!(["agent:a", "agent:b"]));
    assert_eq!(rules[3]["verbs"].as_array().map(Vec::len), Some(3));
}

#[test]
fn people_are_named_where_a_grant_names_them_and_said_where_it_does_not() {
    let spec = json!({
        "to": {"identities": ["a"]},
        "upstream": {"onBehalfOf": {"issuers": ["https://i.example"], "users": ["ann", "*@x"], "groups": ["sre", "d*"]}},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
    });
    let spec: AgentGrantSpec = serde_json::from_value(spec).expect("a grant");
    for (mode, verb) in [(Mode::Constrained, CONSTRAINED), (Mode::Plain, PLAIN)] {
        let mut rights = Rights::new(mode);
        rights.add("people", &spec);
        let [said] = rights.wider() else {
            panic!("{:?}", rights.wider())
        };
        assert!(
            said.contains("AgentGrant people") && said.contains("*@x") && said.contains("group d*"),
            "{said}"
        );
        let objects = rights.objects("r", &json!({}));
        let rules = objects[0]["rules"].as_array().expect("rules");
        let names = |resource: &str| {
            let rule = rules
                .iter()
                .find(|rule| rule["resources"] == json!([resource]) && rule["verbs"] == json!([verb]));
            rule.expect("a rule")["resourceNames"].clone()
        };
        assert_eq!(
            (names("users"), names("groups")),
            (json!(["ann"]), json!(["sre"]))
        );
        let text = objects[0].to_string();
        assert!(text.contains("userextras/picket.dev/identity"), "{text}");
        assert_eq!(
            text.contains("impersonate-on:user-info:get"),
            mode == Mode::Constrained,
            "{text}"
        );
    }
}
