//! The life of a release under load, on two nodes: an upgrade and a rollback between builds whose maps and CRDs differ, the controller
//! away, the API server away, daemons of a node that start again, and a node drained, booted and new.
//!
//! In: the [`crate::lab`], whose pods ask without end. Out: what they saw. No enrolled pod is ever answered but through its node's agent,
//! and sends no packet to the API server; a pod that is left alone notices nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use picket_tests::cluster::TestNode;
use picket_tests::install::{LIMIT, wait};
use serde_json::{Value, json};

use crate::Test;
use crate::helm::NAMESPACE;
use crate::lab::{ENROLLED, Lab, lab, load_of, mark, node_ca, pod, second};
use crate::watched::Watched;
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    an_upgrade_under_load_fails_no_request,
    agents_start_and_serve_without_the_controller,
    an_outage_of_the_api_server_opens_nobody,
    a_kubelet_and_a_runtime_that_start_again_leave_pods_enforced,
    a_rollback_under_load_fails_no_request,
    a_drained_node_takes_its_pods_back,
    a_node_that_boots_serves_its_pods_again,
    a_new_node_takes_enrolled_pods_once_its_agent_serves,
};

/// For how many seconds the API server is away, where somebody has more time than the suite.
const OUTAGE: &str = "PICKET_OUTAGE";

/// The suite has no ten minutes: the pauses between an agent's tries end at five seconds, and its token and its node CA live for an hour
/// and for days.
const SHORT_OUTAGE: Duration = Duration::from_secs(25);

/// A pod that asks once and stays.
const ASKS_ONCE: [&str; 3] = [
    "sh",
    "-c",
    "kubectl -n lab get configmap tick -o name; sleep infinity",
];

/// Replaces each node's agent by one with other maps, and sees no request fail.
fn replaced_under_load(lab: &Lab<'_>, replace: impl FnOnce() -> Result<()>) -> Result<()> {
    let before: Vec<Vec<String>> = layouts(lab)?;
    let watched = Watched::start(lab)?;
    let begin = Instant::now();
    replace()?;
    let took = begin.elapsed();
    lab.tick("replaced")?;
    std::thread::sleep(Duration::from_secs(1));
    let failed = watched.nobody_went_past()?;
    ensure!(failed.is_empty(), "requests failed: {failed:?}");
    watched.the_exempt_notice_nothing()?;
    let (sessions, answered) = (watched.sessions_were_whole()?, watched.answered()?);
    eprintln!("two agents replaced in {took:.1?}: {answered} requests answered, {sessions} sessions whole");
    ensure!(answered > 20, "{answered} requests");
    for (node, before) in lab.cluster.nodes().iter().zip(before) {
        let agent = lab.agent_on(node)?;
        let log = lab.kubectl(&["-n", NAMESPACE, "logs", &agent])?;
        ensure!(log.contains("upgrade complete"), "{}: {log}", node.name);
        // One that comes soon after the one before it waits for its turn.
        let path = "jsonpath={.status.containerStatuses[0].restartCount}";
        let restarts = lab.kubectl(&["-n", NAMESPACE, "get", &agent, "-o", path])?;
        ensure!(
            restarts == "0",
            "{}: {agent} started {restarts} times again",
            node.name
        );
        let now = lab.layouts(node)?;
        ensure!(now.len() == 1 && now != before, "{before:?} before, now {now:?}");
    }
    lab.verify_records()
}

fn layouts(lab: &Lab<'_>) -> Result<Vec<Vec<String>>> {
    lab.cluster.nodes().iter().map(|node| lab.layouts(node)).collect()
}

fn an_upgrade_under_load_fails_no_request(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    ensure!(lab.is_older()?, "the newer build is installed already");
    // The CRDs of the older build do not know the field, and those of the newer do.
    let grant = json!({
        "apiVersion": "picket.dev/v1alpha1", "kind": "AgentGrant", "metadata": {"name": "later"},
        "spec": {
            "to": {"identities": ["worker"]}, "upstream": {"impersonate": {"user": "agent:worker"}},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
            "window": {"notBefore": "2999-01-01T00:00:00Z"},
        },
    });
    let kept = || -> Result<bool> {
        let arguments = [
            "create",
            "--dry-run=server",
            "--validate=false",
            "-o",
            "json",
            "-f",
            "-",
        ];
        let made = lab
            .cluster
            .kubectl_client()
            .run(&arguments, Some(&grant.to_string()))?;
        let made: Value = serde_json::from_str(&made)?;
        Ok(made["spec"]["window"]["notBefore"].is_string())
    };
    ensure!(!kept()?, "the older CRDs have the newer field");
    replaced_under_load(&lab, || lab.upgrade())?;
    ensure!(kept()?, "the newer CRDs lack the field");
    Ok(())
}

fn a_rollback_under_load_fails_no_request(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    if lab.is_older()? {
        lab.upgrade()?;
    }
    replaced_under_load(&lab, || {
        lab.roll_back()?;
        lab.wait_for_agents().map(drop)
    })?;
    ensure!(lab.is_older()?, "the newer build is still installed");
    Ok(())
}

/// As for a day: nothing that agents need of the controller falls due within two. An agent that starts takes its CA from the node's folder.
fn agents_start_and_serve_without_the_controller(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    let node = second(lab.cluster)?;
    let before = lab.node_ca_of(node);
    ensure!(before.is_some(), "the node has no CA");
    let watched = Watched::start(&lab)?;
    lab.scale_controller(0)?;
    lab.restart_agent(node)?;
    let back = mark();
    lab.wait_answered(ENROLLED, node, back)?;
    ensure!(lab.node_ca_of(node) == before, "the node has another CA");
    // A pod that comes meanwhile, by the bundle and the label that are there.
    a_new_pod_is_served(&lab, node)?;
    // Nobody is there to sign.
    let asked = || {
        lab.kubectl(&["get", "csr", "-o", "name"])
            .map(|all| all.lines().count())
    };
    let requests = asked()?;
    lab.forget_node_ca(node)?;
    wait("a request for a CA that waits", || Ok(asked()? > requests))?;
    let begin = mark();
    std::thread::sleep(Duration::from_secs(1));
    lab.wait_answered(ENROLLED, node, begin)?;
    lab.scale_controller(2)?;
    wait("the CA that was asked for", || {
        let now = lab.node_ca_of(node);
        Ok(now.is_some() && now != before)
    })?;
    lab.wait_for_agents()?;
    let failed = watched.nobody_went_past()?;
    // Where the one agent was away, and no other took over.
    ensure!(failed.keys().all(|why| is_of_a_restart(why)), "{failed:?}");
    watched.the_exempt_notice_nothing()?;
    lab.tick("led")
}

/// Makes a pod on this node that asks once, waits for its answer, and deletes it.
fn a_new_pod_is_served(lab: &Lab<'_>, node: &TestNode) -> Result<()> {
    lab.cluster
        .apply(&pod(ENROLLED, "late", node, &ASKS_ONCE).to_string())?;
    wait("a new pod is served", || {
        let log = lab.kubectl(&["-n", ENROLLED, "logs", "late"]).unwrap_or_default();
        Ok(log.contains("configmap/tick"))
    })?;
    lab.kubectl(&["-n", ENROLLED, "delete", "pod", "late"]).map(drop)
}

/// Whether a request may fail so while a node's only agent starts again: it is refused, or ends with the agent.
fn is_of_a_restart(why: &str) -> bool {
    why.starts_with("ConnectionRefusedError(") || is_of_an_end(why)
}

/// Whether a request fails so that was in flight when its agent was killed.
fn is_of_an_end(why: &str) -> bool {
    [
        "ConnectionResetError(",
        "RemoteDisconnected(",
        "SSLEOFError(",
        "BrokenPipeError(",
        "IncompleteRead(",
    ]
    .iter()
    .any(|word| why.starts_with(word))
}

/// Agents say why they are not ready, hold every pod, and go on by themselves.
fn an_outage_of_the_api_server_opens_nobody(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    let starts = || {
        let path = "jsonpath={.items[*].status.containerStatuses[0].restartCount} {.items[*].metadata.name}";
        let agents = picket_tests::install::AGENTS;
        lab.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", agents, "-o", path])
    };
    let before = starts()?;
    let watched = Watched::start(&lab)?;
    let outage = match std::env::var(OUTAGE) {
        Ok(seconds) => Duration::from_secs(seconds.parse().context(OUTAGE)?),
        Err(_) => SHORT_OUTAGE,
    };
    let cut = lab.cluster.cut_api_server_off()?;
    std::thread::sleep(outage);
    let told: Vec<(u16, String)> = lab
        .cluster
        .nodes()
        .iter()
        .map(|node| lab.readiness(node))
        .collect::<Result<_>>()?;
    drop(cut);
    for (code, text) in told {
        ensure!(
            code == 200,
            "an agent is not ready without the API server: {code} {text}"
        );
    }
    let back = mark();
    wait("the API server", || {
        Ok(lab.kubectl(&["get", "namespace", "lab"]).is_ok())
    })?;
    for node in lab.cluster.nodes() {
        let took = lab.wait_answered(ENROLLED, node, back)?;
        eprintln!("{}: answered again after {took:.1?}", node.name);
    }
    lab.wait_for_agents()?;
    lab.tick("back")?;
    let failed = watched.nobody_went_past()?;
    eprintln!("meanwhile: {failed:?}");
    ensure!(
        failed
            .keys()
            .all(|why| why.starts_with("status 50") || why.starts_with("TimeoutError(")),
        "an enrolled pod saw more than that the API server is away: {failed:?}"
    );
    ensure!(!failed.is_empty(), "the API server was not away");
    ensure!(
        starts()? == before,
        "agents started again: {before}, now {}",
        starts()?
    );
    lab.verify_records()
}

fn a_kubelet_and_a_runtime_that_start_again_leave_pods_enforced(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    let node = second(lab.cluster)?;
    let agent = lab.agent_on(node)?;
    let watched = Watched::start(&lab)?;
    for daemon in ["containerd", "kubelet"] {
        let stopped = lab.cluster.kill_daemon(node, daemon)?;
        std::thread::sleep(Duration::from_secs(2));
        stopped.start()?;
    }
    // Both know their pods again.
    wait("an exec", || {
        let exec = lab.kubectl(&["-n", ENROLLED, "exec", &load_of(node), "--", "true"]);
        Ok(exec.is_ok())
    })?;
    a_new_pod_is_served(&lab, node)?;
    let failed = watched.nobody_went_past()?;
    ensure!(failed.is_empty(), "requests failed: {failed:?}");
    watched.the_exempt_notice_nothing()?;
    lab.wait_for_agents()?;
    ensure!(lab.agent_on(node)? == agent, "another agent serves");
    lab.tick("restarted")
}

fn a_drained_node_takes_its_pods_back(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    let node = second(lab.cluster)?;
    let first = lab.cluster.node();
    let since = mark();
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    lab.kubectl(&[
        "drain",
        &node.name,
        "--ignore-daemonsets",
        "--force",
        "--delete-emptydir-data",
        &limit,
    ])?;
    // The agent stays, as every pod of a DaemonSet does, and so does the controller on the other node.
    let drained = lab.kubectl(&[
        "get",
        "pods",
        "-A",
        "--field-selector",
        &format!("spec.nodeName={}", node.name),
        "-o",
        "name",
    ])?;
    ensure!(
        drained.trim() == lab.agent_on(node)?,
        "on the drained node: {drained}"
    );
    lab.kubectl(&["uncordon", &node.name])?;
    lab.settle()?;
    let seen = lab.seen(ENROLLED, first, since)?;
    ensure!(
        seen.failed.is_empty(),
        "on the other node requests failed: {seen:?}"
    );
    served_by_the_agent_alone(&lab)
}

/// All its containers end at once, and its kernel programs are lost. What enrolled pods try before their agent serves reaches nobody as
/// them: they trust the agent alone, and their token is none of the API server's.
fn a_node_that_boots_serves_its_pods_again(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    let (node, first) = (second(lab.cluster)?, lab.cluster.node());
    let since = mark();
    let off = lab.cluster.power_off(node)?;
    ensure!(!lab.pins(node).exists(), "kernel programs are left");
    // Until the kubelet is back, the API server shows its pods as they were.
    let back = std::thread::scope(|scope| -> Result<f64> {
        let booted = scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            off.boot().map(|()| mark())
        });
        lab.settle()?;
        booted.join().map_err(|_| anyhow::anyhow!("the boot panicked"))?
    })?;
    let took = lab.wait_answered(ENROLLED, node, back)?;
    lab.wait_for_agents()?;
    let seen = lab.seen(ENROLLED, node, since)?;
    let by: Vec<&String> = seen.answered.keys().collect();
    ensure!(by == [&node_ca(node)], "{seen:?}");
    eprintln!(
        "a booted node answers after {took:.1?}; before: {:?}",
        seen.failed
    );
    let seen = lab.seen(ENROLLED, first, since)?;
    ensure!(
        seen.failed.is_empty(),
        "on the other node requests failed: {seen:?}"
    );
    served_by_the_agent_alone(&lab)
}

/// A node that the cluster does not know, with an empty disk as far as Picket's folders go: an enrolled pod waits for its agent.
fn a_new_node_takes_enrolled_pods_once_its_agent_serves(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    let node = second(lab.cluster)?;
    let off = lab.cluster.power_off(node)?;
    std::fs::remove_dir_all(node.file("/var/lib/picket".as_ref()))?;
    let of_node = format!("spec.nodeName={}", node.name);
    let all = [
        "delete",
        "pods",
        "-A",
        "--field-selector",
        &of_node,
        "--force",
        "--grace-period=0",
    ];
    lab.kubectl(&all)?;
    lab.kubectl(&["delete", "node", &node.name])?;
    lab.cluster
        .apply(&pod(ENROLLED, "waits", node, &ASKS_ONCE).to_string())?;
    off.boot()?;
    wait("the node is known", || Ok(lab.cluster.tell_pod_ranges().is_ok()))?;
    lab.cluster.wait_ready(ENROLLED, "waits", LIMIT)?;
    let when = |namespace: &str, pod: &str, path: &str| -> Result<String> {
        let path = format!("jsonpath={{{path}}}");
        lab.kubectl(&["-n", namespace, "get", pod, "-o", &path])
    };
    let ready = r#".status.conditions[?(@.type=="Ready")].lastTransitionTime"#;
    let started = when(
        ENROLLED,
        "pod/waits",
        ".status.containerStatuses[0].state.running.startedAt",
    )?;
    let serves = when(NAMESPACE, &lab.agent_on(node)?, ready)?;
    // Times of the API, which compare as texts.
    ensure!(
        !serves.is_empty() && serves <= started,
        "the pod started at {started}, and its agent was ready at {serves}"
    );
    wait("the first request is answered", || {
        let log = lab.kubectl(&["-n", ENROLLED, "logs", "waits"])?;
        ensure!(!log.contains("rror") && !log.contains("nable"), "{log}");
        Ok(log.contains("configmap/tick"))
    })?;
    lab.kubectl(&["-n", ENROLLED, "delete", "pod", "waits"])?;
    lab.settle()?;
    served_by_the_agent_alone(&lab)
}

/// For a second, each enrolled pod is answered through its agent, and sends nothing past it.
fn served_by_the_agent_alone(lab: &Lab<'_>) -> Result<()> {
    let watched = Watched::start(lab)?;
    std::thread::sleep(Duration::from_secs(1));
    let failed = watched.nobody_went_past()?;
    ensure!(failed.is_empty(), "requests failed: {failed:?}");
    watched.the_exempt_notice_nothing()
}
