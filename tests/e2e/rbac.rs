//! The rights that `picket grant rbac` prints are those that the grants take, and no more.
//!
//! For the length of the test they take the place of the impersonation rights of deploy/rbac.yaml, and the agent starts with them.

use anyhow::{Context as _, Result, ensure};
use picket_tests::output::Done;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    the_printed_rights_are_enough_and_no_more,
};

/// What gives the node the right to impersonate in the other tests.
const USUAL: [&str; 2] = ["picket-node-impersonate", "picket-node-impersonate-more"];

const NAME: &str = "picket-printed";

/// A grant in one namespace, as whose user nothing else is granted.
const NARROW: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: narrow}
spec:
  owner: lab@example.test
  attest: {pod: {namespace: agents, serviceAccount: stranger}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: narrow}
spec:
  to: {identities: [narrow]}
  namespaces: [vault]
  upstream: {impersonate: {user: "agent:narrow", groups: ["agents:vault"]}}
  rules:
  - {apiGroups: [""], resources: [secrets], verbs: [get]}
"#;

/// kubectl on the node, with the agent's own credential.
fn as_the_node(world: &World, line: &str) -> Result<Done> {
    let words: Vec<&str> = line.split(' ').collect();
    let mut command = world.cluster.kubectl_client().command(&words)?;
    command.env("KUBECONFIG", world.agent.dir().join("kubeconfig"));
    Ok(command.stdin(std::process::Stdio::null()).output()?.into())
}

/// The bindings of the usual rights, as they were applied.
fn usual_bindings(world: &World) -> Result<String> {
    let mut arguments = vec!["get", "clusterrolebinding", "-o", "json"];
    arguments.extend(USUAL);
    let mut list: Value = serde_json::from_str(&world.admin(&arguments)?)?;
    for item in list["items"].as_array_mut().into_iter().flatten() {
        item["metadata"] = json!({"name": item["metadata"]["name"]});
    }
    Ok(list.to_string())
}

fn the_printed_rights_are_enough_and_no_more(world: &mut World) -> Result<()> {
    world.agent.write_objects("narrow.yaml", NARROW)?;
    let before = usual_bindings(world)?;
    let outcome = with_the_printed_rights(world);
    world.agent.remove_objects("narrow.yaml")?;
    world.cluster.apply(&before)?;
    for kind in ["clusterrole,clusterrolebinding", "role,rolebinding"] {
        world.admin(&["delete", kind, NAME, "-n", "vault", "--ignore-not-found"])?;
    }
    if world.agent.pid().is_none() {
        world.agent.restart()?;
    }
    outcome
}

fn with_the_printed_rights(world: &mut World) -> Result<()> {
    let config = world.agent.config_file().display().to_string();
    let arguments = ["grant", "rbac", "--name", NAME, "--config", &config];
    let printed = Done::from(world.agent.picket(&arguments)?).good()?;
    // The sleeper is suspended and may be resumed, so that its rights are there.
    ensure!(printed.contains("agent:sleeper"), "{printed}");
    world.agent.stop()?;
    let mut delete = vec!["delete", "clusterrolebinding"];
    delete.extend(USUAL);
    world.admin(&delete)?;
    world.cluster.apply(&printed)?;
    world.agent.restart()?;
    // RBAC lets the user, and no grant gives it. What the API server remembers of the rights before expires.
    let probe = "create namespace probe --dry-run=server -o name --as=agent:worker --as-group=agents:lab";
    until(|| {
        let said = as_the_node(world, probe)?;
        Ok(said.refused(&["cannot impersonate-on:user-info:create"]).ok())
    })?;
    // What the grants give works: reads, writes, sessions by WebSocket, a watch.
    for line in [
        "kubectl get configmap seed -n lab -o name",
        "kubectl create configmap printed -n lab --from-literal=a=b",
        "kubectl delete configmap printed -n lab",
        "kubectl exec -n lab target -- true",
        "kubectl logs -n lab target",
        "timeout 20 kubectl wait --for=jsonpath='{.data.colour}'=green configmap/seed -n lab",
    ] {
        until(|| {
            let said = world.worker(line)?;
            Ok(said.good().ok())
        })?;
    }
    let read = world.run(
        "agents",
        "stranger",
        &["kubectl", "get", "secret", "crown", "-n", "vault"],
    )?;
    read.good()?;
    // The node's credential alone: the users of the grants, on what the grants name.
    let seed = "get configmap seed -n lab -o name";
    as_the_node(world, &format!("{seed} --as=agent:worker --as-group=agents:lab"))?.good()?;
    for (line, words) in [
        // Another user, another group, a master.
        (format!("{seed} --as=agent:other"), "cannot impersonate:user-info"),
        (
            format!("{seed} --as=agent:worker --as-group=agents:else"),
            "cannot impersonate:user-info",
        ),
        (
            format!("{seed} --as=agent:worker --as-group=system:masters"),
            "system:masters",
        ),
        // What no grant names, though RBAC lets the user: a secret outside the one namespace, another verb.
        (
            "get secret crown -n lab -o name --as=agent:narrow --as-group=agents:vault".to_owned(),
            "cannot impersonate-on:user-info:get",
        ),
        (
            "get secrets -n vault -o name --as=agent:narrow --as-group=agents:vault".to_owned(),
            "cannot impersonate-on:user-info:list",
        ),
        (
            "get clusterroles -o name --as=agent:worker --as-group=agents:lab".to_owned(),
            "cannot impersonate-on:user-info:list",
        ),
    ] {
        as_the_node(world, &line)?.refused(&["orbidden", words])?;
    }
    doctor_accepts_them(world, &config)?;
    doctor_misses_a_role(world, &config)
}

/// The row of the credential that agents' requests are sent with.
fn upstream_credential(world: &World, config: &str) -> Result<Value> {
    let said = Done::from(
        world
            .agent
            .picket(&["doctor", "--config", config, "-o", "json"])?,
    );
    let rows: Vec<Value> = serde_json::from_str(&said.out)?;
    let found = rows.into_iter().find(|row| row["name"] == "upstream credential");
    found.context("no row about the upstream credential")
}

fn doctor_accepts_them(world: &World, config: &str) -> Result<()> {
    let row = upstream_credential(world, config)?;
    ensure!(row["status"] == "ok", "{row:#}");
    Ok(())
}

/// The rights of a grant in one namespace are a Role there, which may be missing alone.
fn doctor_misses_a_role(world: &World, config: &str) -> Result<()> {
    world.admin(&["delete", "role", NAME, "-n", "vault"])?;
    // The authorizer learns of a role that is gone from its own watch.
    let row = until(|| {
        let row = upstream_credential(world, config)?;
        Ok((row["status"] == "missing").then_some(row))
    })?;
    let detail = row["detail"].as_str().unwrap_or_default();
    ensure!(
        detail
            == "may not send in namespace vault, as the grants' users: get secrets; no right impersonate-on:user-info:VERB there",
        "{row:#}"
    );
    Ok(())
}
