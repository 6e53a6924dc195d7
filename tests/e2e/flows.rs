//! Ways past the redirect: a dial of the pod's own listener, a dial before anyone has looked at the pod, a pod on the node's
//! network.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_direct_dial_of_the_listener_is_closed,
    the_first_instruction_finds_the_endpoint_shut,
};

/// Finds what listens on loopback in this network namespace, and dials each with a TLS handshake's first byte.
const DIAL: &str = r#"
import json, socket
def listening(path, loopback):
    for line in open(path).read().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        address, port = local.split(":")
        if state == "0A" and address == loopback:
            yield int(port, 16)
found = [("127.0.0.1", port) for port in listening("/proc/net/tcp", "0100007F")]
try:
    found += [("::1", port) for port in listening("/proc/net/tcp6", "00000000000000000000000001000000")]
except OSError:
    pass
results = []
for host, port in found:
    with socket.create_connection((host, port), timeout=20) as connection:
        try:
            connection.sendall(b"\x16")
            results.append([host, port, connection.recv(100).hex()])
        except (ConnectionResetError, BrokenPipeError):
            results.append([host, port, ""])
print(json.dumps(results))
"#;

fn a_direct_dial_of_the_listener_is_closed(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let unattributed = ["cause=\"unattributed_connection\""];
    let before = world
        .agent
        .metric("picket_unattributed_connections_total", &unattributed)?;
    let said = world.python("worker", DIAL, &[])?.good()?;
    let dialled: Value = serde_json::from_str(&said)?;
    let dialled = dialled.as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!dialled.is_empty(), "nothing listens in the pod");
    ensure!(
        dialled.iter().all(|one| one[2] == ""),
        "a listener answered: {said}"
    );
    let record = picket.wait("the connection", |record| {
        record["decision"]["reason"] == "unattributed_connection"
    })?;
    ensure!(
        record["agent"]["pod"]["name"] == "worker" && record["decision"]["outcome"] != "allow",
        "{record:#}"
    );
    until(|| {
        let now = world
            .agent
            .metric("picket_unattributed_connections_total", &unattributed)?;
        let counted = now - before;
        Ok((counted >= dialled.len() as f64).then_some(()))
    })
    .with_context(|| format!("not all are counted of {said}"))
}

/// Dials from its first instruction on, by the pod's bundle, until Picket has answered some times. What the API server itself
/// would answer is told apart by its certificate, which the bundle does not hold.
const EAGER: &str = r#"
import os, socket, ssl, time
context = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
counts = {}
def dial(host, port):
    try:
        with socket.create_connection((host, port), timeout=20) as plain:
            with context.wrap_socket(plain, server_hostname="kubernetes") as secure:
                return "answered"
    except ssl.SSLCertVerificationError:
        return "passed"
    except OSError as error:
        return "refused"
while counts.get("answered", 0) < 20:
    for host, port in ((os.environ["KUBERNETES_SERVICE_HOST"], 443), (os.environ["SERVER"], 6443)):
        outcome = dial(host, port)
        counts[outcome] = counts.get(outcome, 0) + 1
    if sum(counts.values()) == 2:
        print("first", counts, flush=True)
    time.sleep(0.002)
print("counts", counts.get("answered", 0), counts.get("refused", 0), counts.get("passed", 0), flush=True)
time.sleep(3600)
"#;

fn eager(world: &World, name: &str) -> Result<()> {
    let server = world.cluster.node().address.to_string();
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "agents", "labels": {"app": "worker"}},
        "spec": {"nodeName": "node1", "serviceAccountName": "worker", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "picket.test/tools:1", "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-u", "-c", EAGER], "env": [{"name": "SERVER", "value": server}]}]}});
    world.cluster.apply(&pod.to_string())?;
    world
        .cluster
        .wait_ready("agents", name, Duration::from_secs(90))
        .map(drop)
}

/// The agent stands still while the pod starts, so that nobody has looked at the pod when it dials first.
fn the_first_instruction_finds_the_endpoint_shut(world: &mut World) -> Result<()> {
    let pid = world.agent.pid().context("the agent does not run")?;
    let agent = |signal| kill(Pid::from_raw(pid.cast_signed()), signal).context("signal the agent");
    let logged = |word: &str| {
        until(|| {
            let log = world.admin(&["logs", "eager", "-n", "agents"])?;
            Ok(log
                .lines()
                .find_map(|line| line.strip_prefix(word))
                .map(str::to_owned))
        })
    };
    agent(Signal::SIGSTOP)?;
    let first = eager(world, "eager").and_then(|()| logged("first "));
    agent(Signal::SIGCONT)?;
    let first = first?;
    let counts = logged("counts ")?;
    world.admin(&["delete", "pod", "eager", "-n", "agents", "--wait=false"])?;
    ensure!(first == "{'refused': 2}", "the first two dials gave {first}");
    // Answered by Picket, refused, let through.
    ensure!(
        counts.ends_with(" 0"),
        "some dials reached the API server: {counts}"
    );
    Ok(())
}
