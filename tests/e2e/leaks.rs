//! Secrets stand in nothing that is written, whatever the log's level; and the search that says so reads every output.

use std::time::Duration;

use anyhow::{Result, ensure};
use picket_tests::leaks::outputs;
use picket_tests::secrets::{Reach, Secrets};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::crds::install;
use crate::identity::{self, REQUEST};
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    the_log_of_every_level_holds_no_secret,
    what_the_agent_writes_about_objects_is_in_the_servers_audit_log,
    a_planted_secret_is_found_in_each_output,
};

/// What clients send in the ways that there are: a header, a parameter, a subprotocol, a command.
const HEADER: &str = "a-bearer-of-the-trace";
const PARAMETER: &str = "a-parameter-of-the-trace";
const PROTOCOL: &str = "YS1zdWJwcm90b2NvbC1vZi10cmFjZXM";
const ARGUMENT: &str = "an-argument-of-the-trace";

/// The agent of the first node with this log, until `act` is over.
fn with_log(world: &mut World, filter: &str, act: fn(&mut World) -> Result<()>) -> Result<()> {
    let file = world.agent.config_file();
    let before = std::fs::read_to_string(&file)?;
    let mut config: Value = serde_json::from_str(&before)?;
    config["log"]["filter"] = json!(filter);
    world.agent.stop()?;
    std::fs::write(&file, config.to_string())?;
    world.agent.restart()?;
    let outcome = act(world);
    world.agent.stop()?;
    std::fs::write(&file, before)?;
    world.agent.restart()?;
    outcome
}

fn the_log_of_every_level_holds_no_secret(world: &mut World) -> Result<()> {
    for (name, value, reach) in [
        ("a header", HEADER, Reach::Everywhere),
        ("a parameter", PARAMETER, Reach::OfRequest),
        ("a subprotocol", PROTOCOL, Reach::Everywhere),
        ("an argument", ARGUMENT, Reach::OfRequest),
    ] {
        world.secrets.add(name, value, reach)?;
    }
    let length = |world: &World| std::fs::metadata(world.agent.log_file()).map(|file| file.len());
    let before = length(world)?;
    with_log(world, "trace", ways_to_send_a_secret)?;
    let log = std::fs::read(world.agent.log_file())?;
    let start = usize::try_from(before)?;
    let written = String::from_utf8_lossy(&log[start..]);
    ensure!(written.contains("TRACE"), "the level is not in force");
    world.search()
}

/// The pod's own token over both versions of HTTP, secrets of a client's, a token by TokenRequest, a terminal.
fn ways_to_send_a_secret(world: &mut World) -> Result<()> {
    let seed = "/api/v1/namespaces/lab/configmaps/seed";
    world.worker("kubectl get configmap seed -n lab")?.good()?;
    world.python("worker", REQUEST, &["GET", seed])?.good()?;
    let header = format!("Authorization=Bearer {HEADER}");
    world.python("worker", REQUEST, &["GET", seed, &header])?.good()?;
    let basic = format!("kubectl get --raw {seed} --username=admin --password={HEADER}");
    world.worker(&basic)?;
    let parameter = format!("{seed}?access_token={PARAMETER}");
    world.python("worker", REQUEST, &["GET", &parameter])?.good()?;
    let protocol = format!("Sec-WebSocket-Protocol=base64url.bearer.authorization.k8s.io.{PROTOCOL}");
    world
        .python("worker", REQUEST, &["GET", seed, &protocol])?
        .good()?;
    let command =
        format!("kubectl exec target -n lab -- sh -c 'echo --token={ARGUMENT} PASSWORD={ARGUMENT}'");
    world.worker(&command)?.good()?;
    identity::a_service_account_acts_by_its_own_token(world)
}

/// What Picket writes to the API server is searched in the server's log, which has the bodies.
fn what_the_agent_writes_about_objects_is_in_the_servers_audit_log(world: &mut World) -> Result<()> {
    let node = format!("picket:{}", world.cluster.node().name);
    let by_picket = |record: &Value| {
        record["user"]["username"] == node.as_str() && record["objectRef"]["apiGroup"] == "events.k8s.io"
    };
    let server = world.server_log();
    let pod = pod("told-of", "runsc");
    world.cluster.apply(&runtime_class("runsc"))?;
    world.cluster.apply(&pod)?;
    let event = server.wait("an Event", by_picket);
    world.admin(&["delete", "pod", "told-of", "-n", "agents", "--wait=false"])?;
    world.admin(&["delete", "runtimeclass", "runsc"])?;
    let event = event?;
    ensure!(event["requestObject"]["note"].is_string(), "{event:#}");
    Ok(())
}

fn runtime_class(name: &str) -> String {
    json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "runc"})
        .to_string()
}

/// A pod that has the identity `worker`, of a runtime that the agent tells of.
fn pod(name: &str, class: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "agents", "labels": {"app": "worker"}},
        "spec": {"runtimeClassName": class, "nodeName": "node1", "serviceAccountName": "worker", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "picket.test/tools:1", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "infinity"], "env": [{"name": "HOME", "value": "/tmp"}]}]}})
    .to_string()
}

/// A word that is part of the names of a pod, a RuntimeClass and an identity comes into every output by itself, as a secret
/// would that is printed by mistake.
fn a_planted_secret_is_found_in_each_output(world: &mut World) -> Result<()> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let word = format!("planted-{}", id.trim().replace('-', ""));
    let planted = Secrets::default();
    planted.add("the planted word", &word, Reach::Everywhere)?;
    install(world)?;
    world.cluster.apply(&runtime_class(&format!("gvisor-{word}")))?;
    world.cluster.apply(&pod(&word, &format!("gvisor-{word}")))?;
    let identity = format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {word}}}\nspec:\n  owner: o\n  \
         attest: {{pod: {{namespace: agents, serviceAccount: {word}}}}}\n"
    );
    world.cluster.apply(&identity)?;
    world.agent.write_objects("planted.yaml", &identity)?;
    let outcome = missed(world, &word, &planted);
    world.agent.remove_objects("planted.yaml")?;
    world.admin(&["delete", "agid", &word])?;
    world.admin(&["delete", "pod", &word, "-n", "agents", "--wait=false"])?;
    world.admin(&["delete", "runtimeclass", &format!("gvisor-{word}")])?;
    outcome
}

/// How the names of the outputs begin that have the word.
const BEARERS: [&str; 8] = [
    "picket.log of node1",
    "audit/audit-",
    "/metrics of node1",
    "/v1/objects of node1",
    "/v1/sessions of node1",
    "the API server's audit log",
    "Events",
    "objects agentidentities",
];

/// Fails where an output does not have the word in which it belongs, or where the search does not find it there.
fn missed(world: &World, word: &str, planted: &Secrets) -> Result<()> {
    world
        .cluster
        .wait_ready("agents", word, Duration::from_secs(60))?;
    let line = "kubectl get configmap seed -n lab -o name && kubectl get configmaps -n lab --watch -o name";
    let watch = world.start(word, line)?;
    watch.line_with("seed")?;
    until(|| {
        let outputs = outputs(world)?;
        let findings = planted.search(&outputs)?;
        let found = |begins: &str| findings.iter().any(|finding| finding.output.starts_with(begins));
        let missing: Vec<&str> = BEARERS.into_iter().filter(|begins| !found(begins)).collect();
        eprintln!("no planted word in {missing:?}");
        Ok(missing.is_empty().then_some(()))
    })
}
