//! Each right that the chart gives is needed: the API server's audit log has a use of each, and the agent fails without each capability.
//!
//! In: the chart on a cluster, and a story that brings about whatever the release's accounts do. Out: the rights that nobody used, which
//! must be those of [`UNUSED`], each with its reason; and what becomes of an agent that lacks a capability.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use picket_tests::audit::Since;
use picket_tests::install::{AGENTS, Installer, wait};
use serde_json::{Value, json};

use crate::Test;
use crate::helm::{NAMESPACE, documents};
use crate::installed::{NOWHERE, ask_in_pod, enrol, installer, release};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    each_right_is_used,
    older_connections_end_with_net_admin_alone,
    no_agent_serves_without_its_capabilities,
};

/// Rights that the story does not use: the role, the right, and why.
const UNUSED: [(&str, &str, &str); 17] = [
    (
        "picket-node",
        COUNTED,
        "an Event alike is counted on the first one a minute later at the earliest",
    ),
    ("picket-node", "create picket.dev/picketnodes", APPLIED),
    ("picket-controller", "create configmaps", APPLIED),
    ("picket-controller", "approve certificates.k8s.io/signers", ASKED),
    ("picket-controller", "sign certificates.k8s.io/signers", ASKED),
    ("picket-uninstall", "enrol picket.dev/enrolments", ASKED),
    ("picket-uninstall", "release picket.dev/enrolments", ASKED),
    (
        "picket-controller",
        "create coordination.k8s.io/leases",
        "the chart makes the Lease, and the controller where somebody deleted it",
    ),
    (
        "picket-controller",
        "update secrets",
        "a root is rotated once in years; the suite's test of bundles asks for it",
    ),
    (
        "picket-controller-events",
        COUNTED,
        "an Event alike is counted on the first one a minute later at the earliest",
    ),
    ("picket-node-impersonate", "head *", HTTP),
    ("picket-node-impersonate", "post *", HTTP),
    ("picket-node-impersonate", "put *", HTTP),
    ("picket-node-impersonate", "patch *", HTTP),
    ("picket-node-impersonate", "delete *", HTTP),
    ("picket-node-impersonate", "options *", HTTP),
    (
        "picket-node-impersonate",
        "groups picket:agents",
        "the story's grant has a group of its own",
    ),
];
/// Used where an Event alike comes a minute after the first one, as on a slow machine.
const COUNTED: &str = "patch events.k8s.io/events";
/// The audit log has no record of its own for these.
const APPLIED: &str = "the API server asks for it within a server-side apply that makes the object";
const ASKED: &str = "the API server's admission asks for it within another request";
const HTTP: &str = "a grant may name paths of any extension of the API server; its own are read";

/// An agent that may do a lot, and a rule by which the nodes watch namespaces.
const OBJECTS: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: prober}
spec:
  owner: lab@example.test
  attest: {pod: {namespace: agents, serviceAccount: default}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: prober}
spec:
  to: {identities: [prober]}
  upstream:
    impersonate: {user: "agent:prober", groups: ["agents:lab"]}
  rules:
  - {apiGroups: [""], resources: [configmaps, pods, pods/exec], verbs: ["*"]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: guarded}
spec:
  rules:
  - name: guarded
    match: {verbs: [delete], resources: [secrets], namespaceSelector: {matchLabels: {guarded: "yes"}}}
    action: Deny
    message: Not here.
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: prober}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "agent:prober"}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: "picket.test/busybox:1", imagePullPolicy: Never, command: [sleep, infinity]}]
"#;

/// A request of each verb, a session, and a dial of the kubelet, which is refused and told of in an Event.
const STORY: &str = r#"set -ex
kubectl version
kubectl create configmap one --from-literal=a=b
kubectl get configmaps
timeout 10 kubectl get configmaps --watch || true
kubectl label configmap one x=y
kubectl get configmap one -o yaml | kubectl replace -f -
kubectl -n default exec web -- true
kubectl delete configmap one
kubectl delete --raw '/api/v1/namespaces/default/pods?labelSelector=is%3Dnowhere'
nc -w 2 NODE 10250 </dev/null || echo refused by the kernel
echo the end of the story
"#;

/// One right of a role: what may be done, in words of [`UNUSED`], and the name of the object where only one is meant.
type Right = (String, String, String);

fn each_right_is_used(world: &mut World) -> Result<()> {
    let mut installer = installer(world)?;
    for value in [
        "impersonate.users={agent:prober}",
        "impersonate.groups={agents:lab,picket:agents}",
    ] {
        installer.set(value);
    }
    let template = [
        "--dry-run=server",
        "--kube-version",
        installer.cluster.release().version(),
    ];
    let chart = documents(&installer.run(&["template"], &template)?)?;
    let rights = rights(&chart)?;
    ensure!(rights.len() > 50, "{rights:#?}");
    let log = Since::now(&installer.cluster.audit_log());

    installer.run(&["install"], &[])?;
    installer.wait_for_agents()?;
    installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled=true"])?;
    installer.wait_for_enrolment("agents")?;
    tell(&installer)?;
    let bundle = [
        "-n",
        "agents",
        "get",
        "configmap",
        "picket-ca.crt",
        "--ignore-not-found",
        "-o",
        "name",
    ];
    installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled-"])?;
    wait("the end of the bundle", || {
        Ok(installer.kubectl(&bundle)?.is_empty())
    })?;
    installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled=true"])?;
    wait("the bundle", || Ok(!installer.kubectl(&bundle)?.is_empty()))?;
    installer.remove(&[])?;

    let records = log.records()?;
    let refused: Vec<String> = records
        .iter()
        .filter(|record| is_of_picket(record) && record["impersonatedUser"].is_null())
        .filter(|record| record["annotations"]["authorization.k8s.io/decision"] == "forbid")
        .map(|record| format!("{} {}", record["verb"], record["requestURI"]))
        .collect();
    ensure!(refused.is_empty(), "rights are missing: {refused:#?}");
    let used = uses(&records);
    let unused = rights.difference(&used);
    let unused: BTreeSet<(&str, &str)> = unused
        .map(|(role, right, _)| (role.as_str(), right.as_str()))
        .collect();
    let known: BTreeSet<(&str, &str)> = UNUSED.iter().map(|(role, right, _)| (*role, *right)).collect();
    // A story that takes longer than a minute counts an Event.
    let differ: Vec<_> = unused
        .symmetric_difference(&known)
        .filter(|right| right.1 != COUNTED || unused.contains(*right))
        .collect();
    ensure!(
        differ.is_empty(),
        "rights that nobody used and that have no reason, or that have one and were used: {differ:#?}"
    );
    Ok(())
}

/// The story, and the end of what it made.
fn tell(installer: &Installer<'_>) -> Result<()> {
    installer.cluster.apply(OBJECTS)?;
    installer
        .cluster
        .wait_ready("default", "web", picket_tests::install::LIMIT)?;
    wait("the grant", || {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        Ok(installer.kubectl(&["get", "agentgrant", "prober", "-o", path])? == "True")
    })?;
    let story = STORY.replace("NODE", &installer.cluster.node().address.to_string());
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "story", "namespace": "agents"}, "spec": {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [{"name": "main",
        "image": "picket.test/kubectl:1", "imagePullPolicy": "Never", "command": ["sh", "-c", story]}]}});
    installer.cluster.apply(&pod.to_string())?;
    let mut log = String::new();
    let told = wait("the end of the story", || {
        log = installer
            .kubectl(&["-n", "agents", "logs", "story"])
            .unwrap_or_default();
        let path = "jsonpath={.status.phase}";
        let phase = installer.kubectl(&["-n", "agents", "get", "pod", "story", "-o", path])?;
        ensure!(phase != "Failed", "{log}");
        Ok(phase == "Succeeded")
    });
    told.with_context(|| log.clone())?;
    wait("an Event", || {
        let events = installer.kubectl(&["-n", "agents", "get", "events", "-o", "name"])?;
        let shown = installer.kubectl(&[
            "-n",
            "agents",
            "get",
            "events",
            "-o",
            "jsonpath={.items[*].reason}",
        ])?;
        Ok(!events.is_empty() && shown.contains("AccessDenied"))
    })?;
    installer
        .cluster
        .kubectl_client()
        .run(&["delete", "--wait", "-f", "-"], Some(OBJECTS))?;
    installer
        .kubectl(&["-n", "agents", "delete", "pod", "story"])
        .map(drop)
}

/// Whether a request is one of a release's accounts.
fn is_of_picket(record: &Value) -> bool {
    let user = record["user"]["username"].as_str();
    user.is_some_and(|user| user.starts_with("system:serviceaccount:picket-system:picket"))
}

fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// What the chart's roles give, one by one.
fn rights(chart: &[Value]) -> Result<BTreeSet<Right>> {
    let mut all = BTreeSet::new();
    let is_role = |object: &&Value| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role"));
    for role in chart.iter().filter(is_role) {
        let name = role["metadata"]["name"]
            .as_str()
            .context("a role without a name")?;
        for rule in role["rules"].as_array().context("rules")? {
            for verb in texts(&rule["verbs"]) {
                let mut objects = texts(&rule["resourceNames"]);
                // Of a user the name is in the words.
                if objects.is_empty() || verb.starts_with("impersonate") {
                    objects = vec![""];
                }
                for right in of_rule(rule, verb) {
                    let of = |object: &&str| (name.to_owned(), right.clone(), (*object).to_owned());
                    all.extend(objects.iter().map(of));
                }
            }
        }
    }
    Ok(all)
}

/// What one verb of a rule gives, in words.
fn of_rule(rule: &Value, verb: &str) -> Vec<String> {
    let on = verb.strip_prefix("impersonate-on:user-info:");
    if !rule["nonResourceURLs"].is_null() {
        return vec![format!("{} *", on.unwrap_or(verb))];
    }
    let groups = texts(&rule["apiGroups"]);
    let resources = texts(&rule["resources"]);
    let mut all = Vec::new();
    for resource in resources {
        if verb == "impersonate:user-info" {
            let names = texts(&rule["resourceNames"]);
            match resource.strip_prefix("userextras/") {
                Some(key) => all.push(format!("userextras {key}")),
                None => all.extend(names.iter().map(|name| format!("{resource} {name}"))),
            }
            continue;
        }
        for group in &groups {
            let what = format!("{group}/{resource}");
            all.push(format!(
                "{} {}",
                on.map_or_else(|| verb.to_owned(), |on| format!("as a user: {on}")),
                what.trim_start_matches('/')
            ));
        }
    }
    all
}

/// The rights that requests used, as far as the API server tells: by the role that allowed a request, and of requests as a user by what
/// the node had to be allowed for them.
fn uses(records: &[Value]) -> BTreeSet<Right> {
    let mut all = BTreeSet::new();
    for record in records.iter().filter(|record| is_of_picket(record)) {
        let object = &record["objectRef"];
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let verb = record["verb"].as_str().unwrap_or_default();
        if !record["impersonatedUser"].is_null() {
            let mut used = |right: String| {
                all.insert(("picket-node-impersonate".to_owned(), right, String::new()));
            };
            let user = &record["impersonatedUser"];
            used(format!("users {}", user["username"].as_str().unwrap_or_default()));
            texts(&user["groups"])
                .iter()
                .for_each(|group| used(format!("groups {group}")));
            let extras = user["extra"].as_object().into_iter().flatten();
            extras.for_each(|(key, _)| used(format!("userextras {key}")));
            used(if object.is_null() {
                format!("{verb} *")
            } else {
                format!("as a user: {verb} */*")
            });
            continue;
        }
        let annotations = &record["annotations"];
        if annotations["authorization.k8s.io/decision"] != "allow" {
            continue;
        }
        let reason = annotations["authorization.k8s.io/reason"]
            .as_str()
            .unwrap_or_default();
        // `RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "r" to ServiceAccount "s/n"`
        let Some(role) = reason
            .split("Role \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
        else {
            continue;
        };
        let mut resource = text("resource").to_owned();
        if !text("subresource").is_empty() {
            resource = format!("{resource}/{}", text("subresource"));
        }
        let what = format!("{}/{resource}", text("apiGroup"));
        let right = format!("{verb} {}", what.trim_start_matches('/'));
        all.insert((role.to_owned(), right.clone(), text("name").to_owned()));
        all.insert((role.to_owned(), right, String::new()));
    }
    all
}

/// The installer's chart without a capability of the agent's container. No node has an agent until [`everywhere`].
fn without(installer: &Installer<'_>, place: usize, name: &str) -> Result<()> {
    installer.run(&["install"], &NOWHERE)?;
    let rights = "/spec/template/spec/containers/0/securityContext/capabilities/add";
    let patch = json!([
        {"op": "test", "path": format!("{rights}/{place}"), "value": name},
        {"op": "remove", "path": format!("{rights}/{place}")},
    ]);
    let arguments = [
        "-n",
        NAMESPACE,
        "patch",
        "daemonset",
        "picket",
        "--type=json",
        "-p",
        &patch.to_string(),
    ];
    installer.kubectl(&arguments)?;
    everywhere(installer)
}

/// Gives every node what [`NOWHERE`] asks for.
fn everywhere(installer: &Installer<'_>) -> Result<()> {
    installer
        .kubectl(&["label", "node", "--all", "nowhere=true"])
        .map(drop)
}

/// Ends what [`without`] began.
fn take_out(installer: &Installer<'_>) -> Result<()> {
    installer.remove(&[])?;
    installer
        .kubectl(&["label", "node", "--all", "nowhere-"])
        .map(drop)
}

/// A watch that a pod began before there was an agent ends when the pod is enforced.
fn older_connections_end_with_net_admin_alone(world: &mut World) -> Result<()> {
    let installer = installer(world)?;
    let binding = "create clusterrolebinding older --clusterrole=view --serviceaccount=agents:default";
    installer.kubectl(&binding.split(' ').collect::<Vec<_>>())?;
    for (pod, has_right) in [("older", true), ("oldest", false)] {
        let line = "kubectl get configmaps --watch; echo exit $?";
        let run = "-n agents run POD --image=picket.test/kubectl:1 --image-pull-policy=Never --restart=Never --command -- sh -c";
        let mut words: Vec<&str> = run
            .split(' ')
            .map(|word| if word == "POD" { pod } else { word })
            .collect();
        words.push(line);
        installer.kubectl(&words)?;
        let log = || installer.kubectl(&["-n", "agents", "logs", pod]);
        wait("the watch", || {
            Ok(log().unwrap_or_default().contains("kube-root-ca.crt"))
        })?;

        if has_right {
            installer.run(&["install"], &NOWHERE)?;
            everywhere(&installer)?;
        } else {
            without(&installer, 0, "NET_ADMIN")?;
        }
        let agents = installer.wait_for_agents()?;
        installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled=true"])?;
        if has_right {
            wait("the end of the watch", || Ok(log()?.contains("exit ")))?;
        } else {
            // The agent counts what it found and could not end.
            wait("what is left of older connections", || {
                let said = installer.kubectl(&["-n", NAMESPACE, "logs", &agents[0]])?;
                Ok(said.contains("destroyed: 0, gone: 0, left: 1"))
            })?;
            ensure!(!log()?.contains("exit "), "the watch ended: {}", log()?);
        }
        installer.kubectl(&["-n", "agents", "delete", "pod", pod, "--now"])?;
        release(&installer)?;
        take_out(&installer)?;
    }
    installer
        .kubectl(&["delete", "clusterrolebinding", "older"])
        .map(drop)
}

fn no_agent_serves_without_its_capabilities(world: &mut World) -> Result<()> {
    let installer = installer(world)?;
    // The agent can load no program, nor enter a pod's network namespace, and ends.
    without(&installer, 1, "SYS_ADMIN")?;
    let path = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    let restarts = ["-n", NAMESPACE, "get", "pods", "-l", AGENTS, "-o", path];
    wait("the end of an agent without SYS_ADMIN", || {
        Ok(installer
            .kubectl(&restarts)?
            .trim()
            .parse::<u32>()
            .is_ok_and(|count| count > 0))
    })?;
    take_out(&installer)?;

    // The agent cannot find a pod's network namespace, and the pod stays closed.
    without(&installer, 2, "SYS_PTRACE")?;
    installer.wait_for_agents()?;
    enrol(&installer)?;
    let log = ask_in_pod(&installer, "unseen")?;
    ensure!(
        log.contains("operation not permitted"),
        "a pod is served without SYS_PTRACE: {log}"
    );
    release(&installer)?;
    take_out(&installer)
}
