//! Objects that the cluster keeps: a change at the API server counts at the agent at once, and a fault is told in the status.
//!
//! In: the CRDs of deploy/crds, and an agent with `objects: {cluster: true}` beside its files. Out: what its pods may do then, and
//! how soon.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::agent::Agent;
use picket_tests::output::Done;
use picket_tests::pair::Pair;
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::crds::install;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    an_identity_of_the_cluster_lives_by_kubectl,
    an_agent_on_two_nodes_from_create_to_revoke_by_the_command_line,
    without_the_api_server_the_last_objects_decide_and_a_restarted_agent_serves_nobody,
};

/// An identity for a pod that no file names, with a grant by which it acts as a user that the node may impersonate.
const OBJECTS: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: cluster-stranger}
spec:
  owner: lab@example.test
  attest: {pod: {namespace: agents, serviceAccount: stranger}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: cluster-grant}
spec:
  to: {identities: [cluster-stranger]}
  upstream: {impersonate: {user: "agent:worker", groups: ["agents:lab", "picket:agents"]}}
  rules: [{verbs: [get, list, watch], apiGroups: [""], resources: [configmaps]}]
"#;

const GET: &str = "kubectl get configmap seed -n lab -o name";

/// A fault is told within this time.
const TOLD: Duration = Duration::from_secs(10);

/// What a patch takes to kubectl's end, the watch event, the sweep and the client's own end; 100 ms are the agent's part of it.
const ENDED: Duration = Duration::from_secs(10);

fn an_identity_of_the_cluster_lives_by_kubectl(world: &mut World) -> Result<()> {
    install(world)?;
    let before = follow_cluster(&mut world.agent)?;
    let lived = life(world);
    world.cluster.kubectl(&["delete", "agid,aggr", "--all"])?;
    with_config(&mut world.agent, &before)?;
    lived
}

/// Starts an agent anew that follows the objects of the cluster beside its files; gives the configuration from before.
fn follow_cluster(agent: &mut Agent) -> Result<String> {
    let before = std::fs::read_to_string(agent.config_file())?;
    let mut config: Value = serde_json::from_str(&before)?;
    config["objects"] = json!({"files": [agent.objects_dir()], "cluster": true});
    with_config(agent, &config.to_string())?;
    Ok(before)
}

/// Starts an agent anew with this configuration.
fn with_config(agent: &mut Agent, text: &str) -> Result<()> {
    agent.stop()?;
    std::fs::write(agent.config_file(), text)?;
    agent.restart().map(drop)
}

fn patch(world: &World, object: [&str; 2], patch: &Value) -> Result<()> {
    let [kind, name] = object;
    let patch = patch.to_string();
    world
        .admin(&["patch", kind, name, "--type=merge", "-p", &patch])
        .map(drop)
}

/// The condition Ready of an object, once it is about the latest version.
fn ready(world: &World, object: [&str; 2]) -> Result<Option<Value>> {
    let [kind, name] = object;
    let shown = world.admin(&["get", kind, name, "-o", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    let conditions = shown["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| {
        condition["type"] == "Ready" && condition["observedGeneration"] == shown["metadata"]["generation"]
    });
    Ok(ready.cloned())
}

/// Waits for the condition Ready of the latest version, which must be told in time.
fn told(world: &World, object: [&str; 2]) -> Result<Value> {
    let began = Instant::now();
    let condition = until(|| ready(world, object)).with_context(|| format!("{object:?}"))?;
    eprintln!("{object:?} was told after {:?}", began.elapsed());
    // kubectl's own time comes on top.
    ensure!(
        began.elapsed() < TOLD + Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    Ok(condition)
}

fn stranger(world: &World) -> Result<bool> {
    Ok(world.run("agents", "stranger", &["sh", "-c", GET])?.code == 0)
}

fn life(world: &World) -> Result<()> {
    ensure!(!stranger(world)?, "the pod has an identity already");
    world.cluster.apply(OBJECTS)?;
    for object in [["agid", "cluster-stranger"], ["aggr", "cluster-grant"]] {
        let condition = told(world, object)?;
        ensure!(
            condition["status"] == "True" && condition["reason"] == "InForce",
            "{condition:#}"
        );
    }
    until(|| Ok(stranger(world)?.then_some(())))?;
    // The API server has no word against this one; the agent knows that no request is for it.
    let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["configmap"]}]);
    patch(
        world,
        ["aggr", "cluster-grant"],
        &json!({"spec": {"rules": rules}}),
    )?;
    let condition = told(world, ["aggr", "cluster-grant"])?;
    let message = condition["message"].as_str().unwrap_or_default();
    ensure!(
        condition["status"] == "False" && condition["reason"] == "Invalid",
        "{condition:#}"
    );
    ensure!(
        message.contains("did you mean `configmaps`") && message.contains("stays in force"),
        "{message}"
    );
    ensure!(stranger(world)?, "the last valid version is not in force");
    suspended_ends_what_runs(world)?;
    patch(
        world,
        ["agid", "cluster-stranger"],
        &json!({"spec": {"state": "Active"}}),
    )?;
    until(|| Ok(stranger(world)?.then_some(())))?;
    world.admin(&["delete", "agid", "cluster-stranger"])?;
    until(|| Ok((!stranger(world)?).then_some(())))?;
    what_is_missing_is_told_while_it_is(world)?;
    world.admin(&["delete", "agid", "cluster-stranger"])?;
    a_full_status_gives_this_node_a_place(world)
}

/// The message of a grant follows its identity, though nobody touches the grant.
fn what_is_missing_is_told_while_it_is(world: &World) -> Result<()> {
    let grant = ["aggr", "cluster-grant"];
    let missing = |is: bool| {
        let told = || {
            let condition = ready(world, grant)?.unwrap_or_default();
            let message = condition["message"].as_str().unwrap_or_default();
            let named = message.contains("no AgentIdentity is named \"cluster-stranger\"");
            Ok((condition["status"] == "True" && named == is).then_some(()))
        };
        until(told).with_context(|| format!("a message that names it: {is}"))
    };
    world.cluster.apply(OBJECTS)?;
    missing(false)?;
    for _ in 0..2 {
        world.admin(&["delete", "agid", "cluster-stranger"])?;
        missing(true)?;
        world.cluster.apply(OBJECTS)?;
        missing(false)?;
    }
    Ok(())
}

/// An identity of no pod yet, whose status has as many nodes as it can have.
const CROWDED: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: crowded}
spec:
  owner: lab@example.test
  attest: {pod: {namespace: agents, serviceAccount: nobody-yet}}
"#;

/// Applies the entries of nodes as a field manager, the way that an agent does.
fn apply_nodes(world: &World, manager: &str, nodes: &[Value]) -> Result<()> {
    let mut object = json!({"apiVersion": "picket.dev/v1alpha1", "kind": "AgentIdentity", "metadata": {"name": "crowded"}});
    if !nodes.is_empty() {
        object["status"] = json!({"nodes": nodes});
    }
    let manager = format!("--field-manager={manager}");
    let arguments = [
        "apply",
        "--server-side",
        "--subresource=status",
        &manager,
        "-f",
        "-",
    ];
    let done = Done::from(world.cluster.kubectl_stdin(&arguments, &object.to_string())?);
    done.good().map(drop)
}

/// The nodes in the status of `crowded`.
fn crowd(world: &World) -> Result<Vec<String>> {
    let names = "jsonpath={.status.nodes[*].node}";
    let shown = world.admin(&["get", "agid", "crowded", "-o", names])?;
    Ok(shown.split_whitespace().map(str::to_owned).collect())
}

/// This node takes the place of one without pods that was used before; the entry of another one goes by hand.
fn a_full_status_gives_this_node_a_place(world: &World) -> Result<()> {
    world.cluster.apply(CROWDED)?;
    let now = world.admin(&[
        "get",
        "agid",
        "crowded",
        "-o",
        "jsonpath={.metadata.creationTimestamp}",
    ])?;
    let entry = |node: &str, pods: u32, used: &str| json!({"node": node, "pods": pods, "lastUsed": used, "reviewDue": false});
    let busy: Vec<_> = (0..98)
        .map(|number| entry(&format!("busy-{number}"), 0, &now))
        .collect();
    apply_nodes(world, "lab", &busy)?;
    apply_nodes(
        world,
        "picket-node-crashed",
        &[entry("crashed", 1, "2020-01-01T00:00:00Z")],
    )?;
    apply_nodes(
        world,
        "picket-node-drained",
        &[entry("drained", 0, "2021-01-01T00:00:00Z")],
    )?;
    let failures = || {
        world
            .agent
            .metric("picket_object_status_writes_total", &["result=\"failure\""])
    };
    let before = failures()?;
    patch(
        world,
        ["agid", "crowded"],
        &json!({"spec": {"attest": {"pod": {"serviceAccount": "stranger"}}}}),
    )?;
    let has = |name: &str| Ok::<_, anyhow::Error>(crowd(world)?.iter().any(|node| node == name));
    until(|| Ok(has("node1")?.then_some(())))?;
    let nodes = crowd(world)?;
    ensure!(
        nodes.len() == 100 && !has("drained")? && has("crashed")? && failures()? == before,
        "{nodes:?}"
    );
    // As operations.md has it.
    apply_nodes(world, "picket-node-crashed", &[])?;
    ensure!(
        !has("crashed")? && crowd(world)?.len() == 99,
        "{:?}",
        crowd(world)?
    );
    Ok(())
}

/// A watch that runs ends when its identity is suspended, and the next request is refused.
fn suspended_ends_what_runs(world: &World) -> Result<()> {
    let argv = [
        "kubectl",
        "get",
        "configmap",
        "seed",
        "-n",
        "lab",
        "-o",
        "name",
        "--watch",
    ];
    let watching = Running::start(&world.cluster.kubectl_client(), "agents", "stranger", &argv)?;
    watching.line()?;
    patch(
        world,
        ["agid", "cluster-stranger"],
        &json!({"spec": {"state": "Suspended"}}),
    )?;
    let began = Instant::now();
    // kubectl prints the Status that ends the watch as one more object, or nothing more.
    let end = watching.line();
    eprintln!("the watch ended {:?} after the patch: {end:?}", began.elapsed());
    let goes_on = end.as_ref().is_ok_and(|line| line.starts_with("configmap/"));
    ensure!(
        !goes_on && began.elapsed() < ENDED,
        "{end:?} after {:?}",
        began.elapsed()
    );
    let said = world.run("agents", "stranger", &["sh", "-c", GET])?;
    said.refused(&["cluster-stranger is suspended"]).map(drop)
}

/// A second pod of the agent `roamer`, on the other node.
const TRAVELLER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: traveller, namespace: agents, labels: {app: stranger}}
spec:
  nodeName: node2
  serviceAccountName: stranger
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: picket.test/tools:1
    imagePullPolicy: IfNotPresent
    command: [sleep, infinity]
    env: [{name: HOME, value: /tmp}]
"#;

/// How long the revocation may take across nodes, from the command's end.
const ACROSS: Duration = Duration::from_secs(10);

/// What an agent's part of an end may take at most, from the notice of the change.
const ON_NODE: f64 = 1.0;

fn an_agent_on_two_nodes_from_create_to_revoke_by_the_command_line(world: &mut World) -> Result<()> {
    install(world)?;
    let first = follow_cluster(&mut world.agent)?;
    let second = follow_cluster(&mut world.other)?;
    world.cluster.apply(TRAVELLER)?;
    let lived = led_from_the_command_line(world);
    world.cluster.kubectl(&["delete", "agid,aggr", "--all"])?;
    world.admin(&["delete", "pod", "traveller", "-n", "agents"])?;
    with_config(&mut world.agent, &first)?;
    with_config(&mut world.other, &second)?;
    lived
}

/// Runs `picket` on the first node as a person with a kubeconfig; that the cluster is meant is in the node's configuration.
fn picket(world: &World, line: &str) -> Result<Done> {
    let config = world.agent.config_file().display().to_string();
    let mut command = world
        .agent
        .command(&line.split(' ').chain(["--config", &config]).collect::<Vec<_>>());
    command.env("KUBECONFIG", world.cluster.kubeconfig());
    world.agent.node().output(command).map(Done::from)
}

fn change(world: &World, line: &str) -> Result<()> {
    let said = picket(world, line)?.good().with_context(|| line.to_owned())?;
    ensure!(said.contains("In force in the cluster after "), "{line}: {said}");
    Ok(())
}

/// Reads a watch to its end, which must say these words; gives the moment.
fn end_of(watch: &Running, words: &str) -> Result<Instant> {
    let mut said = Vec::new();
    loop {
        let line = watch
            .line()
            .with_context(|| format!("the end of the watch; before: {said:?}"))?;
        if line.starts_with("over ") {
            break;
        }
        said.push(line);
    }
    let end = Instant::now();
    let said = said.join("\n");
    ensure!(said.contains(words), "the watch ended with {said}");
    Ok(end)
}

/// How many sessions an agent has ended after changes, and the seconds that took.
fn ends(agent: &Agent) -> Result<(f64, f64)> {
    let of = |part: &str| agent.metric(&format!("picket_session_end_duration_seconds_{part}"), &[]);
    Ok((of("count")?, of("sum")?))
}

fn led_from_the_command_line(world: &World) -> Result<()> {
    const GET_TICK: &str = "kubectl get configmap tick -n lab -o name";
    let get = |pod: &str| world.run("agents", pod, &["sh", "-c", GET_TICK]);
    world.admin(&[
        "wait",
        "pod/traveller",
        "-n",
        "agents",
        "--for=condition=Ready",
        "--timeout=60s",
    ])?;
    // Create and scope.
    change(
        world,
        "identity create roamer --owner lab@example.test --namespace agents --service-account stranger",
    )?;
    change(
        world,
        "grant create roamer-reads --to roamer --user agent:worker --as-group agents:lab,picket:agents --verb \
         get,list,watch --resource configmaps",
    )?;
    // What is there is not made a second time, and what the API server refuses is not made at all.
    for (line, words) in [
        (
            "grant create roamer-reads --to roamer --user u --verb get --resource pods",
            "already exists",
        ),
        (
            "grant create odd --to roamer --user u --verb get --resource configmap",
            "did you mean `configmaps`",
        ),
        (
            "identity suspend nobody",
            "no AgentIdentity \"nobody\" is in the cluster; there: roamer",
        ),
    ] {
        let done = picket(world, line)?;
        ensure!(done.code == 1 && done.err.contains(words), "{line}: {done:?}");
    }
    // Operate, on both nodes.
    for pod in ["stranger", "traveller"] {
        until(|| Ok((get(pod)?.code == 0).then_some(())))?;
    }
    for (node, pod) in [("node1", "stranger"), ("node2", "traveller")] {
        let entry = entry_of(world, node, |entry| entry["lastUsed"].is_string())?;
        ensure!(
            entry["pods"] == 1 && entry["podNames"] == json!([format!("agents/{pod}")]),
            "{entry:#}"
        );
        ensure!(
            entry["reviewDue"] == false && entry["conflicts"].is_null(),
            "{entry:#}"
        );
    }
    let described = picket(world, "identity describe roamer --cluster")?.good()?;
    for (node, pod) in [("node1", "agents/stranger"), ("node2", "agents/traveller")] {
        let row = described.lines().find(|line| line.trim_start().starts_with(node));
        ensure!(row.is_some_and(|row| row.contains(pod)), "{described}");
    }
    // Review.
    let list = picket(world, "identity list -o name")?.good()?;
    ensure!(list.trim() == "agentidentity.picket.dev/roamer", "{list}");
    let grants = picket(world, "grant list --identity roamer")?.good()?;
    ensure!(
        grants.contains("roamer-reads") && grants.contains("agent:worker"),
        "{grants}"
    );
    // Off and on.
    let said = picket(world, "identity suspend roamer --dry-run")?.good()?;
    ensure!(said.contains("suspended (dry run)"), "{said}");
    get("stranger")?.good()?;
    change(world, "identity suspend roamer --reason INC-1")?;
    get("stranger")?.refused(&["agent roamer is suspended"])?;
    change(world, "identity resume roamer")?;
    for pod in ["stranger", "traveller"] {
        until(|| Ok((get(pod)?.code == 0).then_some(())))?;
    }
    revoked_on_both_nodes(world)?;
    let again = picket(world, "identity resume roamer")?;
    ensure!(
        again.code == 1 && again.err.contains("a revoked agent does not come back"),
        "{again:?}"
    );
    let said = picket(world, "grant delete roamer-reads")?.good()?;
    ensure!(
        said.contains("agentgrant.picket.dev/roamer-reads deleted"),
        "{said}"
    );
    ensure!(
        picket(world, "grant list -o name")?.good()?.trim().is_empty(),
        "the grant is there"
    );
    Ok(())
}

/// What the identity's status says of a node, once it is as `wanted`. An entry is written again after 30 to 40 s.
fn entry_of(world: &World, node: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let began = Instant::now();
    loop {
        let shown = world.admin(&["get", "agid", "roamer", "-o", "json"])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let nodes = shown["status"]["nodes"].as_array();
        let entry = nodes.into_iter().flatten().find(|entry| entry["node"] == node);
        if let Some(entry) = entry.filter(|entry| wanted(entry)) {
            return Ok(entry.clone());
        }
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "the status has {:#}",
            shown["status"]["nodes"]
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Watches on both nodes end with a Status that says why, each in time, and another agent's goes on.
fn revoked_on_both_nodes(world: &World) -> Result<()> {
    let watches = [world.watch_tick("stranger")?, world.watch_tick("traveller")?];
    let others = world.watch_tick("worker")?;
    let before = [ends(&world.agent)?, ends(&world.other)?];
    let began = Instant::now();
    change(world, "identity revoke roamer --reason retired --yes")?;
    let told = began.elapsed();
    for (watch, node) in watches.iter().zip(["its node", "the other node"]) {
        let end = end_of(watch, "agent roamer is revoked")?;
        eprintln!(
            "the watch on {node} was over {:?} after the command began",
            end - began
        );
        ensure!(end - began < told + ACROSS, "on {node} after {:?}", end - began);
    }
    for (agent, (count, seconds)) in [&world.agent, &world.other].into_iter().zip(before) {
        let (ended, took) = ends(agent)?;
        let each = (took - seconds) / (ended - count);
        eprintln!(
            "{} sessions, each ended {:.1} ms after its agent saw the change",
            ended - count,
            each * 1000.0
        );
        ensure!(
            ended > count && each <= ON_NODE,
            "{} sessions in {each} s each",
            ended - count
        );
    }
    for pod in ["stranger", "traveller"] {
        let said = world.run(
            "agents",
            pod,
            &["sh", "-c", "kubectl get configmap tick -n lab -o name"],
        )?;
        said.refused(&["agent roamer is revoked; its owner is lab@example.test"])?;
    }
    ensure!(others.silent(), "another agent's watch ended too");
    entry_of(world, "node2", |entry| entry["lastDenied"].is_string())?;
    Ok(())
}

/// Asks for what the identity's grant gives and for what it does not, again and again, and prints nothing: what comes of it is in
/// Picket's records, which are there without an API server too.
const ASK_ON: &str = r#"
import os, ssl, time, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
base = "https://%s:%s" % (os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"])
token = open(account + "/token").read().strip()
while True:
    for path in ["configmaps/seed", "secrets/crown"]:
        request = urllib.request.Request(base + "/api/v1/namespaces/lab/" + path, headers={"Authorization": "Bearer " + token})
        try:
            context = ssl.create_default_context(cafile=account + "/ca.crt")
            urllib.request.urlopen(request, timeout=10, context=context).read()
        except Exception:
            pass
    time.sleep(0.2)
"#;

fn without_the_api_server_the_last_objects_decide_and_a_restarted_agent_serves_nobody(
    world: &mut World,
) -> Result<()> {
    install(world)?;
    let before = follow_cluster(&mut world.agent)?;
    world.cluster.apply(OBJECTS)?;
    let line = format!("python3 -c '{ASK_ON}' > /dev/null 2>&1 < /dev/null & echo $!");
    let pid = world.run("agents", "stranger", &["sh", "-c", &line])?.good()?;
    let lived = away(world);
    world.run("agents", "stranger", &["kill", pid.trim()])?.good()?;
    world.cluster.kubectl(&["delete", "agid,aggr", "--all"])?;
    with_config(&mut world.agent, &before)?;
    lived
}

fn away(world: &mut World) -> Result<()> {
    let of = |record: &Value, resource: &str, outcome: &str| {
        record["agent"]["pod"]["name"] == "stranger"
            && record["objectRef"]["resource"] == resource
            && record["decision"]["outcome"] == outcome
    };
    world
        .picket_log()
        .wait("a permitted get", |record| of(record, "configmaps", "allow"))?;
    {
        // The cut borrows the cluster alone, so that the agent can be ended meanwhile.
        let pair: &mut Pair = world;
        let cut = pair.cluster.cut_api_server_off()?;
        let log = pair.picket_log();
        // Both are judged as before; what is permitted finds nobody to ask.
        let tried = log.wait("a permitted get without an answer", |record| {
            of(record, "configmaps", "error")
        })?;
        let reason = tried["decision"]["reason"].as_str().unwrap_or_default();
        ensure!(reason.starts_with("upstream_"), "{tried:#}");
        let refused = log.wait("a refused get", |record| of(record, "secrets", "deny"))?;
        ensure!(refused["decision"]["reason"] == "no_grant", "{refused:#}");
        // An agent that has just started knows no object, and keeps none on disk.
        pair.agent.kill9()?;
        let log = pair.picket_log();
        pair.agent.begin()?;
        until(|| Ok(pair.agent.admin("/readyz").is_ok().then_some(())))?;
        let (code, said) = pair.agent.admin("/readyz")?;
        ensure!(code != 200 && said.contains("has not listed"), "{code}: {said}");
        std::thread::sleep(CLOSED_FOR);
        let served = log.all(|record| record["agent"]["pod"]["name"] == "stranger")?;
        let unlisted = |record: &Value| record["decision"]["reason"] == "objects_unlisted";
        ensure!(served.iter().all(unlisted), "{served:#?}");
        drop(cut);
    }
    world.agent.wait()?;
    let log = world.picket_log();
    log.wait("a permitted get after the outage", |record| {
        of(record, "configmaps", "allow")
    })?;
    log.wait("a refused get after the outage", |record| {
        of(record, "secrets", "deny")
    })
    .map(drop)
}

/// How long a restarted agent is watched: the pod asks ten times and more.
const CLOSED_FOR: Duration = Duration::from_secs(5);
