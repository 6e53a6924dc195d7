//! Another's program has the cgroup root for itself: the agent says so, and enforced pods are closed, not open.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::sys::bpf::Exclusive;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::dial::{Stand, Verdict};
use crate::target::{ENDPOINT, HOST};
use crate::traffic::{Counter, asks, until};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    while_another_is_alone_at_the_root_pods_are_closed,
};

/// How long the agent may take until it says what is wrong.
const LIMIT: Duration = Duration::from_secs(30);
/// How soon after the other's program has gone pods are served: as soon as after a link was lost.
const READY_LIMIT: Duration = Duration::from_secs(5);
/// What dials come to whose packets go nowhere, by a dropped SYN or an error of the kernel's.
const CLOSED: &[Verdict] = &[Verdict::Failed, Verdict::Forbidden, Verdict::Nothing];

/// Another's program has the connects of the node's cgroup for itself, so that ours cannot be attached there.
fn while_another_is_alone_at_the_root_pods_are_closed(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.agent.uninstall()?;
    let foreign = Exclusive::attach(&world.agent.node().cgroup).context("attach another's program");
    let open = foreign
        .is_ok()
        .then(|| dial_endpoints(world, &[Verdict::Reached], true));
    world.agent.begin()?;
    let outcome = foreign.and_then(|_foreign| {
        open.transpose().context("with no agent")?;
        named_and_closed(world)
    });
    // It is detached.
    let since = Instant::now();
    world.agent.wait()?;
    let took = since.elapsed();
    outcome?;
    eprintln!("ready {took:?} after the other's program went");
    ensure!(took < READY_LIMIT, "ready only {took:?} after");
    dial_endpoints(world, &[Verdict::Redirected], false)?;
    asks(world)?.good().map(drop)
}

fn named_and_closed(world: &World) -> Result<()> {
    let fails = || -> Result<Option<String>> {
        let Ok((code, body)) = world.agent.admin("/readyz") else {
            return Ok(None);
        };
        let report: Value = serde_json::from_str(&body)?;
        ensure!(code == 503 && report["ready"] == false, "{code}: {report}");
        let settled = report["waiting"].as_array().is_some_and(Vec::is_empty);
        let failing = report["failing"].as_array().into_iter().flatten();
        let mut kernel = failing.filter(|one| one["part"] == "kernel");
        let reason = kernel.next().and_then(|one| one["reason"].as_str());
        Ok(reason.filter(|_| settled).map(str::to_owned))
    };
    let mut reason = None;
    until("all but the kernel's part is up", LIMIT, || {
        reason = fails()?;
        Ok(reason.is_some())
    })?;
    let reason = reason.unwrap_or_default();
    eprintln!("not ready: {reason}");
    for part in [
        "connect4",
        "for itself alone",
        "bpftool cgroup tree",
        "it has to go",
    ] {
        ensure!(reason.contains(part), "no {part:?} in: {reason}");
    }
    dial_endpoints(world, CLOSED, false)?;
    let worker = Stand::pod(&world.pod("agents", "worker")?)?;
    let kubelet = format!("{}:10250", world.cluster.node().address);
    let report = world.dial(&worker, &["tcp", &kubelet])?;
    ensure!(CLOSED.contains(&report.verdict()), "the kubelet: {report}");
    ensure!(fails()?.is_some(), "it does not say so any more");
    Ok(())
}

/// The enforced pods of the first node dial the API server, which counts packets, and the target, which counts them too.
fn dial_endpoints(world: &World, wanted: &[Verdict], arrives: bool) -> Result<()> {
    let counted = Counter::start(world, "agents")?;
    world.arrived()?;
    for pod in ["worker", "hosted"] {
        let stand = Stand::pod(&world.pod("agents", pod)?)?;
        for endpoint in ["10.96.0.1:443", &format!("{HOST}:{ENDPOINT}")] {
            let report = world.dial(&stand, &["tcp", endpoint])?;
            let verdict = report.verdict();
            ensure!(wanted.contains(&verdict), "{pod} dials {endpoint}: {report}");
        }
    }
    let (packets, arrived) = (counted.packets()?, world.arrived()?);
    ensure!(
        (packets > 0, !arrived.is_empty()) == (arrives, arrives),
        "{packets} packets were sent to the API server, {} to the target: {arrived:?}",
        arrived.len()
    );
    Ok(())
}
