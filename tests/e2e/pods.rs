//! What a pod brings along: ports that it declares, and a runtime that keeps its sockets to itself.

use anyhow::{Result, ensure};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_declared_port_is_never_the_listeners,
    a_pod_of_a_runtime_with_its_own_network_stack_is_told_of,
};

fn a_declared_port_is_never_the_listeners(world: &mut World) -> Result<()> {
    let name = "declares";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "agents"}, "spec": {
        "serviceAccountName": "worker",
        "containers": [{"name": "main", "image": "picket.test/tools:1", "command": ["sleep", "infinity"],
            "ports": (64_320..64_340).map(|port| json!({"containerPort": port})).collect::<Vec<_>>()}]}});
    world.cluster.apply(&pod.to_string())?;
    world
        .cluster
        .wait_ready("agents", name, std::time::Duration::from_secs(60))?;
    // One that could not listen has ended by then, and a process that has ended has no program.
    let listens = "for p in $(seq 64320 64339); do nc -l -p $p & pids=\"$pids $!\"; done; sleep 1; n=0; \
         for p in $pids; do [ -n \"$(readlink /proc/$p/exe)\" ] && n=$((n+1)); done; kill $pids; echo $n";
    let said = world.run("agents", name, &["sh", "-c", listens])?.good()?;
    ensure!(
        said.trim() == "20",
        "of the declared ports only these could be listened on: {said}"
    );
    world.admin(&[
        "delete",
        "pod",
        name,
        "-n",
        "agents",
        "--force",
        "--grace-period=0",
    ])?;
    Ok(())
}

/// The handler is plain runc here; what Picket goes by is the RuntimeClass.
fn a_pod_of_a_runtime_with_its_own_network_stack_is_told_of(world: &mut World) -> Result<()> {
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}, "handler": "runc"});
    let pod = |name: &str, namespace: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"runtimeClassName": "gvisor",
        "nodeName": world.cluster.node().name, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "picket.test/tools:1", "command": ["sleep", "infinity"]}]}})
    };
    world.cluster.apply(&class.to_string())?;
    let pods = [("sandboxed", "agents"), ("sandboxed", "direct")];
    for (name, namespace) in pods {
        world.cluster.apply(&pod(name, namespace).to_string())?;
        world
            .cluster
            .wait_ready(namespace, name, std::time::Duration::from_secs(60))?;
    }
    let event = until(|| {
        let all = world.admin(&["get", "events", "-A", "-o", "json"])?;
        let all: Value = serde_json::from_str(&all)?;
        let items = all["items"].as_array().cloned().unwrap_or_default();
        Ok(items
            .into_iter()
            .find(|event| event["reason"] == "RuntimeUnsupported"))
    })?;
    let note = event["message"].as_str().unwrap_or_default();
    ensure!(event["involvedObject"]["namespace"] == "agents", "{event:#}");
    ensure!(
        note.contains("\"gvisor\"") && note.contains("reaches no API server"),
        "{event:#}"
    );
    let counted = || {
        world
            .agent
            .metric("picket_sandboxed_pods", &["runtime_class=\"gvisor\""])
    };
    until(|| Ok((counted()? == 1.0).then_some(())))?;
    for (name, namespace) in pods {
        world.admin(&["delete", "pod", name, "-n", namespace])?;
    }
    world.admin(&["delete", "runtimeclass", "gvisor"])?;
    until(|| Ok((counted()? == 0.0).then_some(())))
}
