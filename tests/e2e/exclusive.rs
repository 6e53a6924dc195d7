//! An exclusive identity: one workload at a time, however many pods it has, and nobody while two claim it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::life::{GET_SEED, until};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    two_workloads_are_nobody_and_a_rollout_is_one,
};

const OBJECTS: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: solo}
spec:
  owner: lab@example.test
  exclusive: true
  attest:
    pod: {namespace: agents, serviceAccount: stranger, selector: {matchLabels: {app: solo}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: solo-reads}
spec:
  to: {identities: [solo]}
  upstream: {impersonate: {user: "agent:worker", groups: ["agents:lab", "picket:agents"]}}
  rules:
  - {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch]}
"#;

/// Its pods take that long to end, so that a rollout has two of them for a while.
const GRACE: u64 = 8;

fn deployment(world: &World, name: &str, version: &str) -> Result<()> {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "agents"}, "spec": {
        "selector": {"matchLabels": {"app": "solo", "of": name}},
        "template": {"metadata": {"labels": {"app": "solo", "of": name, "version": version}}, "spec": {
            "nodeName": world.cluster.node().name, "serviceAccountName": "stranger", "terminationGracePeriodSeconds": GRACE,
            "containers": [{"name": "main", "image": "picket.test/tools:1", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "infinity"], "env": [{"name": "HOME", "value": "/tmp"}]}]}}}});
    world.cluster.apply(&deployment.to_string())
}

/// The pods of a version of a Deployment that exist.
fn pods(world: &World, name: &str, version: &str) -> Result<Vec<String>> {
    let labels = format!("of={name},version={version}");
    let list = world.admin(&["get", "pods", "-n", "agents", "-l", &labels, "-o", "json"])?;
    let list: Value = serde_json::from_str(&list)?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect())
}

/// The pod of a version, once it is ready.
fn ready(world: &World, name: &str, version: &str) -> Result<String> {
    let pod = until(|| Ok(pods(world, name, version)?.pop()))?;
    world
        .cluster
        .wait_ready("agents", &pod, Duration::from_secs(60))?;
    Ok(pod)
}

/// Waits until the pod's request is permitted.
fn works(world: &World, pod: &str) -> Result<()> {
    until(|| {
        let said = world.run("agents", pod, &["sh", "-c", GET_SEED])?;
        Ok((said.code == 0).then_some(()))
    })
    .with_context(|| format!("{pod} is not served"))
}

/// Waits until the pod's request is refused because of another workload.
fn refused_for(world: &World, pod: &str, other: &str) -> Result<()> {
    until(|| {
        let said = world.run("agents", pod, &["sh", "-c", GET_SEED])?;
        let told = said.err.contains("agent solo is exclusive") && said.err.contains(other);
        Ok((said.code != 0 && told).then_some(()))
    })
    .with_context(|| format!("{pod} is not refused because of {other}"))
}

fn two_workloads_are_nobody_and_a_rollout_is_one(world: &mut World) -> Result<()> {
    world.agent.write_objects("solo.yaml", OBJECTS)?;
    let lived = life(world);
    for name in ["solo-a", "solo-b"] {
        let line = ["delete", "deployment", name, "-n", "agents", "--ignore-not-found"];
        world.admin(&line)?;
    }
    world.agent.remove_objects("solo.yaml")?;
    lived
}

fn life(world: &World) -> Result<()> {
    deployment(world, "solo-a", "1")?;
    let first = ready(world, "solo-a", "1")?;
    works(world, &first)?;
    // A rollout: for a while there are two pods, of two ReplicaSets.
    let log = world.picket_log();
    deployment(world, "solo-a", "2")?;
    let second = ready(world, "solo-a", "2")?;
    world.run("agents", &first, &["sh", "-c", GET_SEED])?.good()?;
    world.run("agents", &second, &["sh", "-c", GET_SEED])?.good()?;
    ensure!(
        pods(world, "solo-a", "1")? == [first],
        "the first pod was gone before both were asked"
    );
    let contested = |record: &Value| record["decision"]["reason"] == "identity_contested";
    let refusals = log.all(contested)?;
    ensure!(refusals.is_empty(), "{refusals:#?}");
    // Another workload: nobody can tell which of them is meant.
    let watch = world.watch_tick(&second)?;
    deployment(world, "solo-b", "1")?;
    let other = ready(world, "solo-b", "1")?;
    refused_for(world, &other, "Deployment/solo-a")?;
    refused_for(world, &second, "Deployment/solo-b")?;
    let end = watch.line()?;
    ensure!(
        end.contains("\"ERROR\"") && end.contains("agent solo is exclusive"),
        "{end}"
    );
    for pod in [&second, &other] {
        let record = log.wait("the refusal", |record| {
            contested(record) && record["agent"]["pod"]["name"] == *pod
        })?;
        ensure!(
            record["decision"]["outcome"] == "deny" && record["agent"]["identity"] == "solo",
            "{record:#}"
        );
    }
    shown(world)?;
    // One of them goes: the other is the agent again.
    world.admin(&["delete", "deployment", "solo-b", "-n", "agents"])?;
    works(world, &second)
}

/// The operator sees why.
fn shown(world: &World) -> Result<()> {
    let config = world.agent.config_file().display().to_string();
    let picket = |words: &[&str]| {
        let words: Vec<_> = words.iter().copied().chain(["--config", &config]).collect();
        picket_tests::output::Done::from(world.agent.picket(&words)?).good()
    };
    let status: Value = serde_json::from_str(&picket(&["policy", "status", "-o", "json"])?)?;
    let objects = status["objects"].as_array().cloned().unwrap_or_default();
    let solo = objects.iter().find(|object| object["name"] == "solo");
    let solo = solo.context("policy status has no such identity")?;
    let both = json!(["Deployment/solo-a", "Deployment/solo-b"]);
    ensure!(
        solo["workloads"] == both
            && solo["message"]
                .as_str()
                .is_some_and(|said| said.contains("every request")),
        "{solo:#}"
    );
    let described = picket(&["identity", "describe", "solo"])?;
    ensure!(
        described.contains("contested by Deployment/solo-a and Deployment/solo-b"),
        "{described}"
    );
    let (_, metrics) = world.agent.admin("/metrics")?;
    let told = until(|| {
        let (_, metrics) = world.agent.admin("/metrics")?;
        Ok(metrics.contains("picket_identities_contested 1").then_some(()))
    });
    told.context(metrics)
}
