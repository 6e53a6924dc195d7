//! Tests of what enrolment changes in a pod. tests/chart/webhook.rs compares it with the policies on a real API server.

use super::super::patch::testing::apply;
use super::super::review::RequestedResource;
use super::*;

fn request(operation: &str, sub_resource: &str, object: &Value, before: &Value) -> AdmissionRequest {
    AdmissionRequest {
        uid: "u".to_owned(),
        resource: RequestedResource {
            group: String::new(),
            version: "v1".to_owned(),
            resource: "pods".to_owned(),
        },
        sub_resource: sub_resource.to_owned(),
        operation: operation.to_owned(),
        object: object.clone(),
        old_object: before.clone(),
    }
}

/// A pod of one container, with more in its spec.
fn pod(more: &Value) -> Value {
    let mut pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main", "image": "x"}]}});
    for (key, value) in more.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn created(object: &Value) -> Value {
    let made = patch(&request("CREATE", "", object, &Value::Null)).unwrap();
    let after = apply(object, &made);
    let again = patch(&request("CREATE", "", &after, &Value::Null)).unwrap();
    assert_eq!(again, [], "a second time: {after}");
    after
}

#[test]
fn a_plain_pod_gets_the_label_the_selector_and_drops_raw_packets() {
    let wanted = json!({"metadata": {"name": "p", "labels": {ENROLLED: "true"}}, "spec": {
        "nodeSelector": {"picket.dev/agent": "ready"},
        "containers": [{"name": "main", "image": "x", "securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}]}});
    assert_eq!(created(&pod(&json!({}))), wanted);
}

#[test]
fn labels_and_selectors_of_the_manifest_stay_but_for_pickets_own() {
    let mut manifest = pod(&json!({"nodeSelector": {"disk": "ssd", "picket.dev/agent": "any"}}));
    manifest["metadata"]["labels"] = json!({"app": "a", ENROLLED: "no"});
    let after = created(&manifest);
    assert_eq!(after["metadata"]["labels"], json!({"app": "a", ENROLLED: "true"}));
    assert_eq!(
        after["spec"]["nodeSelector"],
        json!({"disk": "ssd", "picket.dev/agent": "ready"})
    );
}

#[test]
fn tokens_and_bundles_become_pickets_in_each_volume() {
    let token = |more: Value| {
        let mut token = json!({"path": "t", "expirationSeconds": 3600});
        token
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"serviceAccountToken": token})
    };
    let trust = |more: Value| {
        let mut trust = json!({"path": "b.pem"});
        trust
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"clusterTrustBundle": trust})
    };
    let of_picket =
        json!({"configMap": {"name": "picket-ca.crt", "items": [{"key": "ca.crt", "path": "b.pem"}]}});
    let rows = [
        (token(json!({})), token(json!({"audience": "picket.dev"}))),
        (
            token(json!({"audience": ""})),
            token(json!({"audience": "picket.dev"})),
        ),
        (
            token(json!({"audience": "vault"})),
            token(json!({"audience": "vault"})),
        ),
        (
            json!({"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "c"}]}}),
            json!({"configMap": {"name": "picket-ca.crt", "items": [{"key": "ca.crt", "path": "c"}]}}),
        ),
        (
            json!({"configMap": {"name": "mine"}}),
            json!({"configMap": {"name": "mine"}}),
        ),
        (
            trust(json!({"signerName": "kubernetes.io/kube-apiserver-serving", "labelSelector": {}})),
            of_picket.clone(),
        ),
        (
            trust(json!({"name": "kubernetes.io:kube-apiserver-serving:one"})),
            of_picket,
        ),
        (
            trust(json!({"signerName": "a/b"})),
            trust(json!({"signerName": "a/b"})),
        ),
        (trust(json!({"name": "mine"})), trust(json!({"name": "mine"}))),
        (json!({"secret": {"name": "s"}}), json!({"secret": {"name": "s"}})),
    ];
    let (before, after): (Vec<Value>, Vec<Value>) = rows.into_iter().unzip();
    let volumes = json!([
        {"name": "none", "emptyDir": {}},
        {"name": "one", "projected": {"sources": before}},
        {"name": "two", "projected": {"sources": [token(json!({}))]}},
        {"name": "empty", "projected": {}},
        {"name": "plain", "configMap": {"name": "kube-root-ca.crt", "defaultMode": 420}},
        {"name": "other", "configMap": {"name": "mine"}},
    ]);
    let wanted = json!([
        {"name": "none", "emptyDir": {}},
        {"name": "one", "projected": {"sources": after}},
        {"name": "two", "projected": {"sources": [token(json!({"audience": "picket.dev"}))]}},
        {"name": "empty", "projected": {}},
        {"name": "plain", "configMap": {"name": "picket-ca.crt", "defaultMode": 420}},
        {"name": "other", "configMap": {"name": "mine"}},
    ]);
    assert_eq!(
        created(&pod(&json!({"volumes": volumes})))["spec"]["volumes"],
        wanted
    );
}

/// What containers have as securityContext, and what they get.
fn contexts() -> Vec<(Value, Value)> {
    let capabilities = |of: Value| json!({"capabilities": of});
    vec![
        (Value::Null, capabilities(json!({"drop": ["NET_RAW"]}))),
        (
            json!({"runAsUser": 7}),
            json!({"runAsUser": 7, "capabilities": {"drop": ["NET_RAW"]}}),
        ),
        (
            capabilities(json!({"add": ["CHOWN"]})),
            capabilities(json!({"add": ["CHOWN"], "drop": ["NET_RAW"]})),
        ),
        (
            capabilities(json!({"drop": ["KILL"]})),
            capabilities(json!({"drop": ["KILL", "NET_RAW"]})),
        ),
        (
            capabilities(json!({"drop": []})),
            capabilities(json!({"drop": ["NET_RAW"]})),
        ),
        // containerd would drop a capability CAP_CAP_NET_RAW for these.
        (
            capabilities(json!({"drop": ["CAP_NET_RAW"]})),
            capabilities(json!({"drop": ["CAP_NET_RAW", "NET_RAW"]})),
        ),
        (
            capabilities(json!({"drop": ["cap_net_raw"]})),
            capabilities(json!({"drop": ["cap_net_raw", "NET_RAW"]})),
        ),
        (
            capabilities(json!({"drop": ["KILL", "NET_RAW"]})),
            capabilities(json!({"drop": ["KILL", "NET_RAW"]})),
        ),
        (
            capabilities(json!({"drop": ["ALL"]})),
            capabilities(json!({"drop": ["ALL"]})),
        ),
        // The guards refuse these by name.
        (
            capabilities(json!({"add": ["Net_Raw"]})),
            capabilities(json!({"add": ["Net_Raw"]})),
        ),
        (
            capabilities(json!({"add": ["ALL"]})),
            capabilities(json!({"add": ["ALL"]})),
        ),
        (json!({"privileged": true}), json!({"privileged": true})),
        (
            json!({"privileged": false}),
            json!({"privileged": false, "capabilities": {"drop": ["NET_RAW"]}}),
        ),
    ]
}

/// Containers with these securityContexts, before and after.
fn containers() -> (Value, Value) {
    let made = |(at, context): (usize, &Value)| match context {
        Value::Null => json!({"name": format!("c{at}")}),
        context => json!({"name": format!("c{at}"), "securityContext": context}),
    };
    let (before, after): (Vec<Value>, Vec<Value>) = contexts().into_iter().unzip();
    let all = |contexts: &[Value]| contexts.iter().enumerate().map(made).collect();
    (all(&before), all(&after))
}

#[test]
fn each_container_drops_raw_packets_unless_it_asks_for_them_by_name() {
    let (before, wanted) = containers();
    for list in CREATED {
        let after = created(&pod(&json!({list: before})));
        assert_eq!(after["spec"][list], wanted, "{list}");
    }
    let windows = created(&pod(
        &json!({"os": {"name": "windows"}, "initContainers": before}),
    ));
    assert_eq!(windows["spec"]["initContainers"], before);
}

#[test]
fn a_debug_container_drops_raw_packets_and_the_rest_stays() {
    let (new, wanted) = containers();
    let older = json!({"name": "older"});
    let list = |of: &Value| {
        let mut list = vec![older.clone()];
        list.extend(of.as_array().unwrap().clone());
        Value::from(list)
    };
    let before =
        pod(&json!({EPHEMERAL: [older], "volumes": [{"name": "v", "configMap": {"name": ROOT_CA}}]}));
    let mut after = before.clone();
    after["spec"][EPHEMERAL] = list(&new);
    let made = patch(&request("UPDATE", "ephemeralcontainers", &after, &before)).unwrap();
    let mut expected = before.clone();
    expected["spec"][EPHEMERAL] = list(&wanted);
    assert_eq!(apply(&after, &made), expected);
    let again = patch(&request("UPDATE", "ephemeralcontainers", &expected, &before)).unwrap();
    assert_eq!(again, []);
}

#[test]
fn another_request_or_object_is_refused() {
    let with = |change: &dyn Fn(&mut AdmissionRequest)| {
        let mut request = request("CREATE", "", &pod(&json!({})), &Value::Null);
        change(&mut request);
        patch(&request).is_err()
    };
    assert!(!with(&|_| {}));
    assert!(with(&|request| request.operation = "UPDATE".to_owned()));
    assert!(with(&|request| request.operation = "DELETE".to_owned()));
    assert!(with(
        &|request| request.sub_resource = "ephemeralcontainers".to_owned()
    ));
    assert!(with(&|request| request.sub_resource = "binding".to_owned()));
    assert!(with(&|request| request.resource.resource = "services".to_owned()));
    assert!(with(&|request| request.resource.group = "other".to_owned()));
    assert!(with(&|request| request.object = Value::Null));
    assert!(with(&|request| request.object["spec"] = Value::Null));
    assert!(with(&|request| request.object["metadata"] = Value::Null));
}
