//! Objects that the cluster keeps: a change at the API server counts at the agent at once, and a fault is told in the status.
//!
//! In: the CRDs of deploy/crds, and an agent with `objects: {cluster: true}` beside its files. Out: what its pods may do then, and
//! how soon.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::crds::install;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    an_identity_of_the_cluster_lives_by_kubectl,
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
const TOLD: Duration = Duration::from_secs(2);

/// What a patch takes to kubectl's end, the watch event, the sweep and the client's own end; 100 ms are the agent's part of it.
const ENDED: Duration = Duration::from_secs(2);

fn an_identity_of_the_cluster_lives_by_kubectl(world: &mut World) -> Result<()> {
    install(world)?;
    let before = std::fs::read_to_string(world.agent.config_file())?;
    let mut config: Value = serde_json::from_str(&before)?;
    config["objects"] = json!({"files": [world.agent.objects_dir()], "cluster": true});
    with_config(world, &config.to_string())?;
    let lived = life(world);
    world.cluster.kubectl(&["delete", "agid,aggr", "--all"])?;
    with_config(world, &before)?;
    lived
}

/// Starts the agent anew with this configuration.
fn with_config(world: &mut World, text: &str) -> Result<()> {
    world.agent.stop()?;
    std::fs::write(world.agent.config_file(), text)?;
    world.agent.restart().map(drop)
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
    ensure!(!stranger(world)?, "it may act after its identity was deleted");
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
