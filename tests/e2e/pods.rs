//! What a pod brings along: ports that it declares, and a runtime that keeps its sockets to itself.

use anyhow::{Result, ensure};
use picket_tests::port_taker::PortTaker;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::life::{GET_SEED, until};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_declared_port_is_never_the_listeners,
    a_listener_makes_room_where_a_pod_gives_out_every_port,
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

/// The pod's own range of ports holds Picket's, and one is declared: the listener takes another one, and leaves that too.
fn a_listener_makes_room_where_a_pod_gives_out_every_port(world: &mut World) -> Result<()> {
    let name = "wants";
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "agents", "labels": {"app": "worker"}}, "spec": {
        "nodeName": world.cluster.node().name, "serviceAccountName": "worker", "terminationGracePeriodSeconds": 0,
        "securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "1024 65535"}]},
        "containers": [{"name": "main", "image": "picket.test/tools:1", "command": ["sleep", "infinity"],
            "ports": [{"containerPort": 64_320}], "env": [{"name": "HOME", "value": "/tmp"}]}]}});
    world.cluster.apply(&pod.to_string())?;
    world
        .cluster
        .wait_ready("agents", name, std::time::Duration::from_secs(60))?;
    let works = || world.run("agents", name, &["sh", "-c", GET_SEED])?.good();
    works()?;
    let (mut program, port) = PortTaker::start(&world.cluster, "agents", name)?;
    ensure!(port != 64_320, "the listener has a declared port");
    let declared = program.take_port("0.0.0.0", 64_320)?;
    ensure!(
        (declared.tries, declared.error) == (1, None),
        "a declared port is not free: {declared:?}"
    );
    let taken = program.take("0.0.0.0")?;
    ensure!(taken.error.is_none() && taken.port == port, "{taken:?}");
    works()?;
    let came = program.stop()?;
    ensure!(came == 0, "{came} connections came to the program");
    world.admin(&["delete", "pod", name, "-n", "agents"])?;
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
        Ok(items.into_iter().find(|event| {
            event["reason"] == "RuntimeUnsupported" && event["involvedObject"]["name"] == "sandboxed"
        }))
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
