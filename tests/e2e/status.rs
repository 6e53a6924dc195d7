//! What the agents say of their nodes, and what `picket status` makes of it.
//!
//! In: the CRDs of deploy/crds, and agents that start anew with them. Out: a PicketNode a node that the Node owns, and the command's
//! rows and exit codes while both agents run, and while one is stopped.

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::crds::install;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    each_node_tells_how_it_is_and_a_stopped_agent_shows,
};

/// `picket status` as JSON by the administrator's kubeconfig: the exit code, and the report.
fn status(world: &World, more: &[&str]) -> Result<(i32, Value)> {
    let kubeconfig = world.cluster.kubeconfig().display().to_string();
    let mut arguments = vec!["status", "--kubeconfig", &kubeconfig, "-o", "json"];
    arguments.extend(["--expiring-within", "1m"]);
    arguments.extend(more);
    let done = Done::from(world.agent.picket(&arguments)?);
    let report = serde_json::from_str(&done.out).with_context(|| format!("{}{}", done.out, done.err))?;
    Ok((done.code, report))
}

/// The states of the nodes in a report.
fn states(report: &Value) -> Vec<&str> {
    let nodes = report["nodes"].as_array().into_iter().flatten();
    nodes.filter_map(|node| node["state"].as_str()).collect()
}

fn each_node_tells_how_it_is_and_a_stopped_agent_shows(world: &mut World) -> Result<()> {
    install(world)?;
    // An agent that found no CRD tries again within two minutes; a new one at once.
    world.agent.stop()?;
    world.agent.restart()?;
    world.other.stop()?;
    world.other.restart()?;
    let nodes = until(|| {
        let shown = world.admin(&["get", "picketnodes", "-o", "json"])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let items = shown["items"].as_array().cloned().unwrap_or_default();
        let is_ready = |node: &Value| {
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            conditions
                .into_iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        Ok((items.len() == 2 && items.iter().all(is_ready)).then_some(items))
    })?;
    for node in &nodes {
        let name = node["metadata"]["name"].as_str().context("no name")?;
        let owner = &node["metadata"]["ownerReferences"][0];
        let uid = world.admin(&["get", "node", name, "-o", "jsonpath={.metadata.uid}"])?;
        ensure!(owner["kind"] == "Node" && owner["uid"] == uid.trim(), "{owner}");
        let status = &node["status"];
        ensure!(status["pods"]["enforced"].as_u64() > Some(0), "{status:#}");
        ensure!(
            status["kernel"]["attached"] == status["kernel"]["programs"],
            "{status:#}"
        );
        ensure!(
            status["policy"]["hash"] == nodes[0]["status"]["policy"]["hash"],
            "{status:#}"
        );
    }
    let table = world.admin(&["get", "pn"])?;
    ensure!(table.contains("ENFORCED") && table.contains("HEARD"), "{table}");

    let (code, report) = status(world, &[])?;
    ensure!(states(&report) == ["Ready", "Ready"], "{report:#}");
    let findings = report["findings"].as_array().context("no findings")?;
    let others = findings
        .iter()
        .filter(|finding| !finding.to_string().contains("without enrolment"));
    ensure!(others.count() == 0, "{report:#}");
    ensure!(
        code == i32::from(!findings.is_empty()),
        "exit code {code}: {report:#}"
    );

    world.other.stop()?;
    let told = stopped(world);
    world.other.restart()?;
    told?;
    until(|| Ok((states(&status(world, &[])?.1) == ["Ready", "Ready"]).then_some(())))?;
    cannot_ask(world)
}

/// What is told while the second node's agent is stopped.
fn stopped(world: &World) -> Result<()> {
    let (code, report) = status(world, &["--node", "node2"])?;
    ensure!(
        code == 1 && states(&report) == ["Stopped"],
        "exit code {code}: {report:#}"
    );
    let finding = report["findings"][0].as_str().unwrap_or_default();
    ensure!(
        finding.contains("node node2 is with an agent that stopped"),
        "{report:#}"
    );
    Ok(())
}

/// Without a cluster to ask, and about a node that is not there, the command says so.
fn cannot_ask(world: &World) -> Result<()> {
    let done = Done::from(world.agent.picket(&["status", "--kubeconfig", "/nonexistent"])?);
    ensure!(done.code == 2, "exit code {}: {}", done.code, done.err);
    let kubeconfig = world.cluster.kubeconfig().display().to_string();
    let absent = ["status", "--kubeconfig", &kubeconfig, "--node", "node9"];
    let done = Done::from(world.agent.picket(&absent)?);
    ensure!(
        done.code == 2 && done.err.contains("no node node9"),
        "exit code {}: {}",
        done.code,
        done.err
    );
    Ok(())
}
