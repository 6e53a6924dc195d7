//! What the chart renders: the same objects as the files of deploy/, a configuration that the agent takes, and a pod with no more rights
//! than it needs.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use picket_tests::agent::picket_binary;
use serde_json::{Value, json};

use crate::Test;
use crate::helm::{CHART, NAMESPACE, REQUIRED, Render as _, deployed, documents, object};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    the_crds_are_those_of_deploy,
    the_rights_are_those_of_deploy,
    nobody_is_impersonated_without_a_name,
    the_policies_and_the_flow_schema_are_those_of_deploy,
    what_is_switched_off_is_not_rendered,
    a_quota_lets_the_pods_in_where_the_class_takes_one,
    the_agent_takes_its_configuration,
    the_pod_has_few_rights,
    replicas_of_the_controller_are_spread_among_those_of_their_revision,
    no_pod_is_bound_to_another_systems_node,
    the_pod_sees_few_folders_of_the_node,
    what_cleans_a_node_sees_the_records_only_where_they_go,
    the_uninstallation_waits_for_what_drains,
    a_name_that_looks_like_no_text_stays_a_name,
    a_changed_configuration_replaces_the_agents,
};

/// Values that set everything which ends in the agent's configuration.
const ALL: &str = r#"
enforce: {unclassifiedPods: failOpen, staticPods: failOpen}
protectedEndpoints: {apiServer: ["10.96.0.1:443"], deny: ["metadata.example:80"], allow: ["192.0.2.1:80"]}
tls: {extraNames: [api.example.com]}
audit:
  maxSegmentSize: 8Mi
  maxSegmentAge: 1h30m
  maxTotalSize: 16Mi
  sinks: [{name: stdout, stdout: {}}, {name: copy, file: {path: /var/log/picket/copy.jsonl}}]
log: {format: json, filter: "info,picket::kernel=debug"}
shutdown: {drainSeconds: 300}
"#;

/// Values with the users and groups of deploy/rbac.yaml, and the accounts of the policies.
const EXAMPLES: &str = r#"
impersonate:
  users: ["agent:triage", "agent:janitor"]
  groups: ["agents:readers", "agents:writers", "picket:agents"]
tokenSecrets: {accounts: ["system:serviceaccount:ci:deployer"]}
enrol: {serviceAccounts: ["ci/builder"]}
"#;

/// The objects of the chart with these values besides.
pub(crate) fn with(world: &World, values: &str) -> Result<Vec<Value>> {
    let file = world.helm.file("values.yaml", values)?;
    let file = file.to_string_lossy();
    let arguments: Vec<&str> = REQUIRED.into_iter().chain(["--values", &file]).collect();
    world.helm.template(&arguments)
}

/// An object without what Helm adds to it.
fn bare(object: &Value) -> Value {
    let mut bare = object.clone();
    if let Some(metadata) = bare["metadata"].as_object_mut() {
        metadata.remove("labels");
    }
    bare
}

fn the_crds_are_those_of_deploy(_: &mut World) -> Result<()> {
    let files = |folder: &str| -> Result<BTreeSet<(String, String)>> {
        let entries = std::fs::read_dir(folder)?.map(|entry| {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((name, std::fs::read_to_string(entry.path())?))
        });
        entries.collect()
    };
    let (chart, deploy) = (
        files(&format!("{CHART}/crds"))?,
        files(&format!("{CHART}/../../crds"))?,
    );
    ensure!(deploy.len() == 4, "{} CRDs", deploy.len());
    ensure!(
        chart == deploy,
        "deploy/charts/picket/crds differs from deploy/crds: run `cargo xtask generate`"
    );
    Ok(())
}

/// A rule as a set of what it gives: what is written in another order, or in several rules, is the same.
fn rights(role: &Value) -> BTreeSet<String> {
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let words = rule[key].as_array().into_iter().flatten();
        let words: Vec<String> = words.filter_map(Value::as_str).map(str::to_owned).collect();
        if words.is_empty() {
            vec![String::from("-")]
        } else {
            words
        }
    };
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let mut parts = vec![String::new()];
        for key in [
            "apiGroups",
            "resources",
            "resourceNames",
            "nonResourceURLs",
            "verbs",
        ] {
            let each = words(rule, key);
            parts = parts
                .iter()
                .flat_map(|part| each.iter().map(move |word| format!("{part} {key}={word}")))
                .collect();
        }
        all.extend(parts);
    }
    all
}

fn the_rights_are_those_of_deploy(world: &mut World) -> Result<()> {
    let (chart, deploy) = (with(world, EXAMPLES)?, deployed("rbac.yaml")?);
    for name in ["picket-node", "picket-node-impersonate"] {
        let (ours, theirs) = (
            object(&chart, "ClusterRole", name)?,
            object(&deploy, "ClusterRole", name)?,
        );
        let (ours, theirs) = (rights(ours), rights(theirs));
        ensure!(theirs.len() > 10, "{name}: {theirs:?}");
        let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
        ensure!(
            differ.is_empty(),
            "{name} differs from deploy/rbac.yaml: {differ:#?}"
        );
        let binding = object(&chart, "ClusterRoleBinding", name)?;
        ensure!(
            binding["subjects"]
                == json!([{"kind": "ServiceAccount", "name": "picket", "namespace": NAMESPACE}]),
            "{binding:#}"
        );
        ensure!(binding["roleRef"]["name"] == name, "{binding:#}");
    }
    let is_role = |object: &&Value| {
        let metadata = &object["metadata"];
        let is = |key: &str, test: &dyn Fn(&str) -> bool| metadata[key].as_str().is_some_and(test);
        object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role"))
            // The controller's are in no file of deploy/, and those of the uninstallation exist for its moment.
            && !is("name", &|name| name.starts_with("picket-controller"))
            && metadata["annotations"]["helm.sh/hook"].is_null()
    };
    let roles = |all: &[Value]| all.iter().filter(is_role).count();
    ensure!(roles(&chart) == roles(&deploy), "the chart has other roles too");
    Ok(())
}

fn nobody_is_impersonated_without_a_name(world: &mut World) -> Result<()> {
    for values in ["", "impersonate: {users: [], groups: []}"] {
        let chart = with(world, values)?;
        let role = object(&chart, "ClusterRole", "picket-node-impersonate")?;
        let rules = role["rules"].as_array().context("rules")?;
        let of_people = rules.iter().filter(|rule| {
            let mut resources = rule["resources"].as_array().into_iter().flatten();
            resources.any(|name| name == "users" || name == "groups")
        });
        for rule in of_people {
            let names = rule["resourceNames"].as_array();
            ensure!(names.is_some_and(|names| !names.is_empty()), "{rule:#}");
        }
    }
    Ok(())
}

fn the_policies_and_the_flow_schema_are_those_of_deploy(world: &mut World) -> Result<()> {
    let chart = with(world, EXAMPLES)?;
    let files = [
        ("enrolment.yaml", 5),
        ("admission-guards.yaml", 25),
        ("service-guards.yaml", 6),
        ("token-secrets.yaml", 2),
        ("flow-control.yaml", 2),
        ("node-bound.yaml", 2),
    ];
    for (file, count) in files {
        let objects = deployed(file)?;
        ensure!(objects.len() == count, "{file} has {} objects", objects.len());
        for theirs in &objects {
            let (kind, name) = (
                theirs["kind"].as_str().context("kind")?,
                theirs["metadata"]["name"].as_str().context("name")?,
            );
            let mut ours = bare(object(&chart, kind, name)?);
            let mut theirs = theirs.clone();
            for expression in [&mut ours, &mut theirs].into_iter().flat_map(expressions) {
                let text = expression.as_str().unwrap_or_default();
                *expression = json!(text.split_whitespace().collect::<String>());
            }
            ensure!(
                ours == theirs,
                "{kind} {name} differs from {file}:\n{ours:#}\n{theirs:#}"
            );
        }
    }
    Ok(())
}

/// The expressions of a policy in which the chart writes lists, which may be spaced differently.
fn expressions(policy: &mut Value) -> Vec<&mut Value> {
    let Some(spec) = policy.get_mut("spec").and_then(Value::as_object_mut) else {
        return Vec::new();
    };
    let parts = spec
        .iter_mut()
        .filter(|(key, _)| ["variables", "matchConditions"].contains(&key.as_str()));
    parts
        .flat_map(|(_, list)| list.as_array_mut().into_iter().flatten())
        .filter_map(|entry| entry.get_mut("expression"))
        .collect()
}

fn a_quota_lets_the_pods_in_where_the_class_takes_one(world: &mut World) -> Result<()> {
    let cases = [
        (
            "networking.gke.io/v1",
            "auto",
            "",
            Some(json!(["system-node-critical"])),
        ),
        ("example.com/v1", "auto", "", None),
        ("networking.gke.io/v1", "never", "", None),
        (
            "example.com/v1",
            "always",
            "",
            Some(json!(["system-node-critical"])),
        ),
        (
            "example.com/v1",
            "always",
            "agent.priorityClassName=mine",
            Some(json!(["system-node-critical"])),
        ),
        (
            "example.com/v1",
            "always",
            "agent.priorityClassName=mine,controller.priorityClassName=system-cluster-critical",
            Some(json!(["system-cluster-critical"])),
        ),
        (
            "example.com/v1",
            "always",
            "agent.priorityClassName=,controller.priorityClassName=other",
            None,
        ),
    ];
    for (served, create, classes, expected) in cases {
        let create = format!("resourceQuota.create={create}");
        let mut arguments = REQUIRED.to_vec();
        arguments.extend(["--api-versions", served, "--set", &create, "--set", classes]);
        let chart = world.helm.template(&arguments)?;
        let quota = chart.iter().find(|object| object["kind"] == "ResourceQuota");
        let of = quota.map(|quota| quota["spec"]["scopeSelector"]["matchExpressions"][0]["values"].clone());
        ensure!(of == expected, "{served}, {create}, {classes}: {quota:#?}");
    }
    Ok(())
}

fn what_is_switched_off_is_not_rendered(world: &mut World) -> Result<()> {
    let kinds = |values: &str| -> Result<BTreeSet<String>> {
        let name =
            |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]).replace('"', "");
        Ok(with(world, values)?.iter().map(name).collect())
    };
    let all = kinds("")?;
    let without =
        |values: &str| -> Result<Vec<String>> { Ok(all.difference(&kinds(values)?).cloned().collect()) };
    let cases: [(&str, &[&str]); 5] = [
        (
            "enrol: {admission: none}",
            &[
                "MutatingAdmissionPolicy enrolment-accounts.picket.dev",
                "MutatingAdmissionPolicy enrolment.picket.dev",
                "MutatingAdmissionPolicyBinding enrolment-accounts.picket.dev",
                "MutatingAdmissionPolicyBinding enrolment-pods.picket.dev",
                "MutatingAdmissionPolicyBinding enrolment.picket.dev",
            ],
        ),
        (
            "enrol: {guards: false}",
            &[
                "MutatingAdmissionPolicy agent-workloads.picket.dev",
                "MutatingAdmissionPolicyBinding agent-workloads.picket.dev",
                "ValidatingAdmissionPolicy agent-pods.picket.dev",
                "ValidatingAdmissionPolicy agent-revisions.picket.dev",
                "ValidatingAdmissionPolicy agent-volumes.picket.dev",
                "ValidatingAdmissionPolicy agent-workloads.picket.dev",
                "ValidatingAdmissionPolicy enrolled-bundles.picket.dev",
                "ValidatingAdmissionPolicy enrolled-pods.picket.dev",
                "ValidatingAdmissionPolicy enrolled-secrets.picket.dev",
                "ValidatingAdmissionPolicy enrolment-labels.picket.dev",
                "ValidatingAdmissionPolicy enrolment-namespaces.picket.dev",
                "ValidatingAdmissionPolicy enrolment-nodes.picket.dev",
                "ValidatingAdmissionPolicy kubernetes-service.picket.dev",
                "ValidatingAdmissionPolicy picket-namespace.picket.dev",
                "ValidatingAdmissionPolicy picket-objects.picket.dev",
                "ValidatingAdmissionPolicy service-addresses.picket.dev",
                "ValidatingAdmissionPolicyBinding agent-pods.picket.dev",
                "ValidatingAdmissionPolicyBinding agent-revisions.picket.dev",
                "ValidatingAdmissionPolicyBinding agent-volumes.picket.dev",
                "ValidatingAdmissionPolicyBinding agent-workloads.picket.dev",
                "ValidatingAdmissionPolicyBinding enrolled-bundles.picket.dev",
                "ValidatingAdmissionPolicyBinding enrolled-pods-elsewhere.picket.dev",
                "ValidatingAdmissionPolicyBinding enrolled-pods.picket.dev",
                "ValidatingAdmissionPolicyBinding enrolled-secrets.picket.dev",
                "ValidatingAdmissionPolicyBinding enrolment-labels.picket.dev",
                "ValidatingAdmissionPolicyBinding enrolment-namespaces.picket.dev",
                "ValidatingAdmissionPolicyBinding enrolment-nodes.picket.dev",
                "ValidatingAdmissionPolicyBinding kubernetes-service.picket.dev",
                "ValidatingAdmissionPolicyBinding picket-namespace.picket.dev",
                "ValidatingAdmissionPolicyBinding picket-objects.picket.dev",
                "ValidatingAdmissionPolicyBinding service-addresses.picket.dev",
            ],
        ),
        (
            "tokenSecrets: {create: false}",
            &[
                "ValidatingAdmissionPolicy token-secrets.picket.dev",
                "ValidatingAdmissionPolicyBinding token-secrets.picket.dev",
            ],
        ),
        (
            "flowControl: {create: false}",
            &[
                "FlowSchema picket-agents",
                "PriorityLevelConfiguration picket-agents",
            ],
        ),
        (
            "impersonate: {create: false}",
            &[
                "ClusterRole picket-node-impersonate",
                "ClusterRoleBinding picket-node-impersonate",
            ],
        ),
    ];
    for (values, gone) in cases {
        ensure!(
            without(values)? == gone,
            "{values}: {:?} are gone",
            without(values)?
        );
    }
    Ok(())
}

fn the_agent_takes_its_configuration(world: &mut World) -> Result<()> {
    for values in ["", ALL] {
        let chart = with(world, values)?;
        let text = object(&chart, "ConfigMap", "picket")?["data"]["agent.yaml"]
            .as_str()
            .context("agent.yaml")?
            .to_owned();
        let file = world.helm.file("agent.yaml", &text)?;
        let asked = |node: Option<&str>| -> Result<String> {
            let mut command = Command::new(picket_binary()?);
            command.args(["health", "--config"]).arg(&file);
            command.env_remove("PICKET_NODE_NAME");
            command.envs(node.map(|node| ("PICKET_NODE_NAME", node)));
            Ok(String::from_utf8_lossy(&command.output()?.stderr).into_owned())
        };
        // The command reads the configuration first, and asks an agent then; there is none.
        let said = asked(Some("node-1"))?;
        ensure!(
            said.contains("no agent answers at /run/picket/admin.sock"),
            "{values}: {said}"
        );
        let said = asked(None)?;
        ensure!(
            said.contains("field `nodeName` is required"),
            "the name is the pod's: {said}"
        );
    }
    Ok(())
}

/// The DaemonSet that the uninstallation makes.
fn cleaner(chart: &[Value]) -> Result<Value> {
    let text = object(chart, "ConfigMap", "picket-uninstall")?["data"]["daemonset.json"].as_str();
    Ok(serde_json::from_str(text.context("daemonset.json")?)?)
}

fn the_pod_has_few_rights(world: &mut World) -> Result<()> {
    let chart = with(world, "")?;
    let agents = object(&chart, "DaemonSet", "picket")?.clone();
    for (set, kind) in [(agents, "containers"), (cleaner(&chart)?, "initContainers")] {
        let pod = &set["spec"]["template"]["spec"];
        ensure!(
            pod["hostNetwork"] == true && pod["hostPID"] == true && pod["hostIPC"].is_null(),
            "{pod:#}"
        );
        ensure!(pod[kind].as_array().is_some_and(|all| all.len() == 1), "{pod:#}");
        let container = &pod[kind][0];
        let rights = &container["securityContext"];
        ensure!(
            rights["privileged"] == false && rights["allowPrivilegeEscalation"] == false,
            "{rights:#}"
        );
        ensure!(rights["readOnlyRootFilesystem"] == true, "{rights:#}");
        ensure!(rights["seccompProfile"]["type"] == "RuntimeDefault", "{rights:#}");
        let wanted = json!({"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]});
        ensure!(rights["capabilities"] == wanted, "{rights:#}");
        // A port would be open on the node's network, and hold up the second pod of an upgrade.
        ensure!(container["ports"].is_null(), "{container:#}");
        ensure!(pod["tolerations"] == json!([{"operator": "Exists"}]), "{pod:#}");
    }
    let chart = with(world, ALL)?;
    let set = &object(&chart, "DaemonSet", "picket")?["spec"];
    ensure!(
        set["updateStrategy"]["rollingUpdate"] == json!({"maxSurge": 1, "maxUnavailable": 0}),
        "{set:#}"
    );
    // An agent that took over refuses its own replacement for 60 s; the older pod must be gone by then.
    ensure!(
        set["minReadySeconds"]
            .as_u64()
            .is_some_and(|seconds| seconds < 30),
        "{set:#}"
    );
    // Any other agent's answer would have the controller delete the older pod before the newer agent serves.
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let command = &set["template"]["spec"]["containers"][0][probe]["exec"]["command"];
        let words = command.as_array().context("a probe")?;
        ensure!(
            words.contains(&json!("--own")),
            "{probe} may ask another agent: {command}"
        );
        ensure!(
            words.contains(&json!("--live")) == (probe != "readinessProbe"),
            "{probe}: {command}"
        );
    }
    let grace = &set["template"]["spec"]["terminationGracePeriodSeconds"];
    ensure!(grace == 340, "the drain time is 300 s, and the pod has {grace} s");
    Ok(())
}

/// The label of a revision keeps the replicas of the last one out of the count: an upgrade would leave both new ones on one node.
fn replicas_of_the_controller_are_spread_among_those_of_their_revision(world: &mut World) -> Result<()> {
    let chart = with(world, "")?;
    let controller = &object(&chart, "Deployment", "picket-controller")?["spec"];
    let spread = &controller["template"]["spec"]["topologySpreadConstraints"];
    ensure!(
        spread[0]["labelSelector"] == controller["selector"]
            && spread[0]["topologyKey"] == "kubernetes.io/hostname",
        "{spread:#}"
    );
    ensure!(
        spread[0]["matchLabelKeys"] == json!(["pod-template-hash"]),
        "{spread:#}"
    );
    Ok(())
}

/// A pod of the image would never start on a node of Windows, and `helm install --wait` and `helm uninstall` would not end.
fn no_pod_is_bound_to_another_systems_node(world: &mut World) -> Result<()> {
    let own = r#"
agent: {nodeSelector: {pool: agents, kubernetes.io/os: windows}}
controller: {nodeSelector: {pool: system, kubernetes.io/os: windows}}
"#;
    let linux = json!({"kubernetes.io/os": "linux"});
    let of_pool = |name: &str| json!({"kubernetes.io/os": "linux", "pool": name});
    let cases = [
        ("", linux.clone(), linux.clone()),
        (own, of_pool("agents"), of_pool("system")),
        (
            "agent: {nodeSelector: null}\ncontroller: {nodeSelector: null}",
            linux.clone(),
            linux.clone(),
        ),
    ];
    for (values, agents, controllers) in cases {
        let chart = with(world, values)?;
        let selector = |of: &Value| of["spec"]["template"]["spec"]["nodeSelector"].clone();
        let of = |kind: &str, name: &str| Ok::<_, anyhow::Error>(selector(object(&chart, kind, name)?));
        ensure!(of("DaemonSet", "picket")? == agents, "{values}");
        ensure!(of("DaemonSet", "picket-uninstall")? == agents, "{values}");
        ensure!(selector(&cleaner(&chart)?) == agents, "{values}");
        ensure!(of("Deployment", "picket-controller")? == controllers, "{values}");
        // Where the agents' nodes do not answer, the Job still runs.
        ensure!(of("Job", "picket-uninstall")? == linux, "{values}");
    }
    Ok(())
}

fn the_pod_sees_few_folders_of_the_node(world: &mut World) -> Result<()> {
    let chart = with(world, "")?;
    let pod = &object(&chart, "DaemonSet", "picket")?["spec"]["template"]["spec"];
    let (written, looked_at) = (
        BTreeSet::from(["/run/picket", "/sys/fs/bpf", "/var/lib/picket", "/var/log/picket"]),
        BTreeSet::from(["/sys/fs/cgroup"]),
    );
    let all = &written | &looked_at;
    ensure!(of_node(pod)? == all, "{:?}", of_node(pod)?);
    let mounts = pod["containers"][0]["volumeMounts"]
        .as_array()
        .context("mounts")?;
    let writable: BTreeSet<&str> = mounts
        .iter()
        .filter(|mount| mount["readOnly"] != true)
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    ensure!(writable == written, "{writable:?}");
    Ok(())
}

/// The node's folders that a pod sees.
fn of_node(pod: &Value) -> Result<BTreeSet<&str>> {
    let volumes = pod["volumes"].as_array().context("volumes")?;
    let paths = volumes
        .iter()
        .filter_map(|volume| volume["hostPath"]["path"].as_str());
    Ok(paths.collect())
}

fn what_cleans_a_node_sees_the_records_only_where_they_go(world: &mut World) -> Result<()> {
    let usual = BTreeSet::from([
        "/run",
        "/run/picket",
        "/sys/fs/bpf",
        "/var/lib",
        "/var/lib/picket",
    ]);
    let with_records = &usual | &BTreeSet::from(["/var/log"]);
    for (values, folders) in [("", &usual), ("uninstall: {deleteRecords: true}", &with_records)] {
        let chart = with(world, values)?;
        let set = cleaner(&chart)?;
        let pod = &set["spec"]["template"]["spec"];
        ensure!(of_node(pod)? == *folders, "{values}: {:?}", of_node(pod)?);
        let arguments = pod["initContainers"][0]["args"].as_array().context("args")?;
        let removes = arguments.contains(&json!("--remove-folder=/host/log/picket"));
        ensure!(removes == folders.contains("/var/log"), "{arguments:?}");
        // What stays until all nodes are clean has no right at all.
        let stays = &pod["containers"][0];
        ensure!(stays["volumeMounts"].is_null(), "{stays:#}");
        ensure!(
            stays["securityContext"]["capabilities"] == json!({"drop": ["ALL"]})
                && stays["securityContext"]["runAsNonRoot"] == true,
            "{stays:#}"
        );
    }
    Ok(())
}

/// An agent with an open watch ends after `shutdown.drainSeconds` only.
fn the_uninstallation_waits_for_what_drains(world: &mut World) -> Result<()> {
    for (values, timeout) in [
        ("", 200),
        (
            "shutdown: {drainSeconds: 300}\nuninstall: {timeoutSeconds: 60}",
            360,
        ),
        // The most that the schema takes of each.
        (
            "shutdown: {drainSeconds: 3600}\nuninstall: {timeoutSeconds: 3480}",
            7080,
        ),
    ] {
        let chart = with(world, values)?;
        let job = &object(&chart, "Job", "picket-uninstall")?["spec"];
        let arguments = &job["template"]["spec"]["containers"][0]["args"];
        let arguments = arguments.as_array().context("args")?;
        let arguments: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
        ensure!(
            arguments.contains(&format!("--timeout={timeout}").as_str())
                && job["activeDeadlineSeconds"] == timeout + 60,
            "{values}: {job:#}"
        );
        // The command takes the arguments, and finds no DaemonSet here.
        let done = Command::new(picket_binary()?).args(&arguments).output()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(
            said.contains("cannot read /etc/picket/daemonset.json"),
            "{arguments:?}: {said}"
        );
    }
    Ok(())
}

/// YAML reads `null`, `no` and `1e3` as no text where they are not quoted.
fn a_name_that_looks_like_no_text_stays_a_name(world: &mut World) -> Result<()> {
    let names = r#"tls.extraNames=["null","no","1e3"]"#;
    let [set, address] = REQUIRED;
    let chart = world.helm.template(&[set, address, "--set-json", names])?;
    let text = object(&chart, "ConfigMap", "picket")?["data"]["agent.yaml"].as_str();
    let read = documents(text.context("agent.yaml")?)?;
    let names = &read[0]["tls"]["extraNames"];
    ensure!(*names == json!(["null", "no", "1e3"]), "{names}");
    Ok(())
}

fn a_changed_configuration_replaces_the_agents(world: &mut World) -> Result<()> {
    let template = |values: &str| -> Result<Value> {
        let chart = with(world, values)?;
        Ok(object(&chart, "DaemonSet", "picket")?["spec"]["template"].clone())
    };
    ensure!(template("")? == template("")?, "two equal renderings differ");
    ensure!(
        template("")? != template("log: {filter: debug}")?,
        "the configuration changed, and no pod does"
    );
    Ok(())
}
