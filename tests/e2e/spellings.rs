//! One action in every spelling that clients have for it: one verdict, one rule, one message.
//!
//! In: kubectl of two releases, curl and the Python client in a pod, and a policy that refuses an object, a command and a deletion. Out:
//! for each client, encoding, kind of patch and protocol the same refusal, and one like it in the record. The same without what is
//! refused passes.

use anyhow::{Context, Result};
use picket_tests::encodings::{cbor, yaml};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::action::Action;
use crate::life::until;
use crate::lines::{Line, kubectl, old_kubectl, python, send, send_encoded, upgrade};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    an_object_is_refused_in_every_spelling,
    a_command_is_refused_in_every_spelling,
    a_deletion_is_refused_in_every_spelling,
};

const FILE: &str = "spellings.yaml";

const POLICY: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: spellings}
spec:
  subjects: {identities: [worker]}
  rules:
  - name: not-wild
    match: {verbs: [create, update], resources: [configmaps], namespaces: [lab]}
    when: object.?data.?mode.orValue('') == 'wild'
    action: Deny
    message: Mode wild is for people.
  - name: no-packages
    match: {resources: [pods/exec], commands: ["apk *"]}
    action: Deny
    message: Containers are not changed.
  - name: keep
    match: {verbs: [delete], resources: [pods], names: [kept]}
    action: Deny
    message: This pod stays.
"#;

fn with_policy(world: &mut World, work: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    world.agent.write_objects(FILE, POLICY)?;
    let done = (|| {
        until(|| {
            let said = world
                .worker("kubectl create configmap probe -n lab --from-literal=mode=wild --dry-run=server")?;
            Ok(said.err.contains("policy spellings, rule not-wild").then_some(()))
        })
        .context("the policy is not in force")?;
        work(world)
    })();
    world.agent.remove_objects(FILE)?;
    absent(world, "")?;
    world.admin(&["delete", "pod", "-n", "lab", "-l", "spelt", "--force"])?;
    done
}

/// No state at all. The API server's log has what came before the answer.
fn nothing(world: &World, _: &str) -> Result<String> {
    world.admin(&["get", "namespace", "lab", "-o", "jsonpath={.none}"])
}

fn ready(_: &World, _: &str) -> Result<()> {
    Ok(())
}

const MAPS: &str = "/api/v1/namespaces/lab/configmaps";
const MAP: &str = "/api/v1/namespaces/lab/configmaps/spelt";

fn map(mode: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "spelt", "namespace": "lab"}, "data": {"mode": mode}})
}

/// The mode of the ConfigMap; empty where there is none.
fn mode(world: &World, _: &str) -> Result<String> {
    let show = "jsonpath={.data.mode}";
    world.admin(&[
        "get",
        "configmap",
        "spelt",
        "-n",
        "lab",
        "--ignore-not-found",
        "-o",
        show,
    ])
}

fn absent(world: &World, _: &str) -> Result<()> {
    let delete = ["delete", "configmap", "spelt", "-n", "lab", "--ignore-not-found"];
    world.admin(&delete).map(drop)
}

fn present(world: &World, _: &str) -> Result<()> {
    if mode(world, "")?.is_empty() {
        world.admin(&[
            "create",
            "configmap",
            "spelt",
            "-n",
            "lab",
            "--from-literal=mode=calm",
        ])?;
    }
    Ok(())
}

fn creations(mode: &str) -> Vec<Line> {
    let object = map(mode);
    let mut lines = Vec::from(send_encoded("POST", MAPS, &object));
    lines.extend([
        kubectl("create", Some(&object)),
        kubectl("apply", Some(&object)),
        kubectl(
            &format!("create configmap spelt --from-literal=mode={mode}"),
            None,
        ),
        kubectl(&format!("create --raw {MAPS}"), Some(&object)),
        old_kubectl("create", Some(&object)),
        python(
            "CoreV1Api",
            "create_namespaced_config_map",
            &json!({"namespace": "lab", "body": object}),
        ),
    ]);
    lines
}

fn updates(mode: &str) -> Vec<Line> {
    let object = map(mode);
    let mut lines = Vec::from(send_encoded("PUT", MAP, &object));
    lines.extend([
        kubectl("replace", Some(&object)),
        kubectl(&format!("replace --raw {MAP}"), Some(&object)),
        old_kubectl("replace", Some(&object)),
        python(
            "CoreV1Api",
            "replace_namespaced_config_map",
            &json!({"name": "spelt", "namespace": "lab", "body": object}),
        ),
    ]);
    lines
}

/// By a method of the Python client that patches the ConfigMap.
fn python_patch(media: &str, body: &Value) -> Line {
    let mut given = json!({"name": "spelt", "namespace": "lab", "body": body, "_content_type": media});
    if media.contains("apply") {
        given["field_manager"] = "spelt".into();
        given["force"] = true.into();
    }
    python("CoreV1Api", "patch_namespaced_config_map", &given)
}

/// Server-side applies, which make the object where there is none.
fn applies(mode: &str) -> Vec<Line> {
    let object = map(mode);
    let path = format!("{MAP}?fieldManager=spelt&force=true");
    let media = "application/apply-patch+yaml";
    vec![
        kubectl("apply --server-side --force-conflicts", Some(&object)),
        old_kubectl("apply --server-side --force-conflicts", Some(&object)),
        send("PATCH", &path, media, yaml(&object)),
        send("PATCH", &path, media, object.to_string()),
        send("PATCH", &path, "application/apply-patch+cbor", cbor(&object)),
        python_patch(media, &object),
    ]
}

fn patches(mode: &str) -> Vec<Line> {
    let operations = json!([{"op": "replace", "path": "/data/mode", "value": mode}]);
    let merge = json!({"data": {"mode": mode}});
    let mut lines = applies(mode);
    for (kind, patch) in [("json", &operations), ("merge", &merge), ("strategic", &merge)] {
        let media = match kind {
            "strategic" => "application/strategic-merge-patch+json".to_owned(),
            kind => format!("application/{kind}-patch+json"),
        };
        lines.extend([
            kubectl(&format!("patch configmap spelt --type={kind} -p '{patch}'"), None),
            send("PATCH", MAP, &media, patch.to_string()),
            python_patch(&media, patch),
        ]);
    }
    lines.push(kubectl("apply", Some(&map(mode))));
    let edit = format!(
        "SHELL=/bin/sh KUBE_EDITOR=\"sed -i 's/mode: .*/mode: {mode}/'\" kubectl -n lab edit configmap spelt"
    );
    lines.push(Line::new(edit).prints_message());
    lines
}

fn an_object_is_refused_in_every_spelling(world: &mut World) -> Result<()> {
    type Case = (
        &'static str,
        fn(&World, &str) -> Result<()>,
        fn(&str) -> Vec<Line>,
    );
    let cases: [Case; 4] = [
        ("create configmaps in namespace \"lab\"", absent, creations),
        ("patch configmaps \"spelt\" in namespace \"lab\"", absent, applies),
        (
            "update configmaps \"spelt\" in namespace \"lab\"",
            present,
            updates,
        ),
        (
            "patch configmaps \"spelt\" in namespace \"lab\"",
            present,
            patches,
        ),
    ];
    with_policy(world, |world| {
        for (asked, prepare, lines) in cases {
            let action = Action {
                asked,
                rule: "spellings/not-wild",
                message: "Mode wild is for people.",
                forbidden: "wild",
                lines,
                prepare,
                state: mode,
            };
            action.is_refused(world)?;
            action.passes_otherwise(world, |mode| mode)?;
        }
        Ok(())
    })
}

/// The command `apk add apk` in the pod `target`, or one that says another word.
fn commands(word: &str) -> Vec<Line> {
    let program = if word == "apk" { "/sbin/apk" } else { "echo" };
    let exec =
        |line: &str| Line::new(format!("{line} exec target -n lab -- {program} add {word}")).prints_message();
    let path = format!(
        "/api/v1/namespaces/lab/pods/target/exec?stdout=true&command={program}&command=add&command={word}"
    );
    let given =
        json!({"name": "target", "namespace": "lab", "command": [program, "add", word], "stdout": true});
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let websocket = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", key];
    let protocol = |name| [&websocket[..], &[name]].concat();
    vec![
        exec("kubectl"),
        exec("KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false kubectl"),
        exec("kubectl.1.27"),
        Line::new(format!(
            "kubectl exec target -n lab -- sh -c 'cd /; {program} add {word}'"
        ))
        .prints_message(),
        python("CoreV1Api", "connect_get_namespaced_pod_exec", &given),
        python("CoreV1Api", "connect_post_namespaced_pod_exec", &given),
        upgrade(
            "POST",
            &path,
            &[
                "Upgrade: SPDY/3.1",
                "X-Stream-Protocol-Version: v4.channel.k8s.io",
            ],
        ),
        upgrade(
            "GET",
            &path,
            &[
                "Upgrade: SPDY/3.1",
                "X-Stream-Protocol-Version: v4.channel.k8s.io",
            ],
        ),
        upgrade(
            "GET",
            &path,
            &protocol("Sec-WebSocket-Protocol: v5.channel.k8s.io"),
        ),
        upgrade(
            "GET",
            &path,
            &protocol("Sec-WebSocket-Protocol: v4.base64.channel.k8s.io"),
        ),
    ]
}

fn a_command_is_refused_in_every_spelling(world: &mut World) -> Result<()> {
    with_policy(world, |world| {
        let action = Action {
            asked: "create pods/exec \"target\" in namespace \"lab\"",
            rule: "spellings/no-packages",
            message: "Containers are not changed.",
            forbidden: "apk",
            lines: commands,
            prepare: ready,
            state: nothing,
        };
        action.is_refused(world)?;
        action.passes_otherwise(world, |_| "")
    })
}

/// Makes a pod that no node runs, so that its deletion takes no time.
fn pod(world: &World, name: &str) -> Result<()> {
    let container = json!({"name": "main", "image": "picket.test/busybox:1"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "lab", "labels": {"spelt": "yes"}},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": "none"}, "containers": [container]}});
    let apply = ["apply", "-f", "-"];
    world
        .cluster
        .kubectl_client()
        .run(&apply, Some(&pod.to_string()))
        .map(drop)
}

/// The pod's UID, and since when it is to go; empty where there is none.
fn life(world: &World, name: &str) -> Result<String> {
    let show = "jsonpath={.metadata.uid}{.metadata.deletionTimestamp}";
    world.admin(&["get", "pod", name, "-n", "lab", "--ignore-not-found", "-o", show])
}

const PODS: &str = "/api/v1/namespaces/lab/pods";

fn deletions(name: &str) -> Vec<Line> {
    let path = format!("{PODS}/{name}");
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    let [as_json, as_yaml, as_protobuf, as_cbor] = send_encoded("DELETE", &path, &options);
    let given = json!({"name": name, "namespace": "lab"});
    let with_body = json!({"name": name, "namespace": "lab", "body": options});
    vec![
        Line::new(format!("ask DELETE {path}")),
        Line::new(format!(
            "ask DELETE '{path}?propagationPolicy=Background' --http1.1"
        )),
        as_json,
        as_yaml,
        as_protobuf,
        // No rule looks into it, so it would go on as it is, which API servers do not take by default.
        as_cbor.refused_upstream(),
        kubectl(&format!("delete pod {name}"), None),
        kubectl(&format!("delete pod {name} --grace-period=0 --force"), None),
        kubectl(&format!("delete --raw {path}"), None),
        old_kubectl(&format!("delete pod {name}"), None),
        python("CoreV1Api", "delete_namespaced_pod", &given),
        python("CoreV1Api", "delete_namespaced_pod", &with_body),
    ]
}

fn evictions(name: &str) -> Vec<Line> {
    let path = format!("{PODS}/{name}/eviction");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "lab"}});
    let mut lines = Vec::from(send_encoded("POST", &path, &eviction));
    let given = json!({"name": name, "namespace": "lab", "body": eviction});
    lines.extend([
        kubectl(&format!("create --raw {path}"), Some(&eviction)),
        python("CoreV1Api", "create_namespaced_pod_eviction", &given),
    ]);
    lines
}

fn collections(_: &str) -> Vec<Line> {
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    let mut lines = Vec::from(send_encoded("DELETE", PODS, &options));
    let given = json!({"namespace": "lab", "label_selector": "spelt"});
    lines.extend([
        Line::new(format!("ask DELETE '{PODS}?labelSelector=spelt'")),
        kubectl(&format!("delete --raw {PODS}?labelSelector=spelt"), None),
        python("CoreV1Api", "delete_collection_namespaced_pod", &given),
    ]);
    lines
}

fn a_deletion_is_refused_in_every_spelling(world: &mut World) -> Result<()> {
    type Case = (&'static str, fn(&str) -> Vec<Line>);
    let cases: [Case; 3] = [
        ("delete pods \"kept\" in namespace \"lab\"", deletions),
        ("create pods/eviction \"kept\" in namespace \"lab\"", evictions),
        ("deletecollection pods in namespace \"lab\"", collections),
    ];
    with_policy(world, |world| {
        let actions = cases.map(|(asked, lines)| Action {
            asked,
            rule: "spellings/keep",
            message: "This pod stays.",
            forbidden: "kept",
            lines,
            prepare: pod,
            state: life,
        });
        actions.iter().try_for_each(|action| action.is_refused(world))?;
        // Of the others the agent has no grant.
        actions[0].passes_otherwise(world, |_| "")
    })
}
