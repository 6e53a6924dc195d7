//! The numbers that an operator watches: that each grows with what it counts, and by no more.

use std::time::Duration;

use anyhow::{Result, ensure};
use picket_tests::tests;
use serde_json::json;

use crate::Test;
use crate::dial::{NewPod, Stand, Verdict};
use crate::traffic::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    what_the_kernel_does_to_pods_is_counted,
    a_selected_pod_outside_the_agents_tree_is_counted,
};

/// How long what is counted may take to show; maps are counted every thirty seconds, the rest sooner.
const LIMIT: Duration = Duration::from_secs(45);
/// How long a pod may take to be Ready; two seconds is usual.
const POD_LIMIT: Duration = Duration::from_secs(90);
/// Pods that nobody judges, each with an entry in the kernel: more than may have come and gone since a count.
const PODS: usize = 40;
/// How many that went before may still have been counted then.
const GOING: f64 = 8.0;
/// The kernel's maps.
const MAPS: [&str; 4] = ["endpoints", "classes", "netns", "flows"];

/// What is read before and after; `refused` in all, at kubelets and at clouds' metadata.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counts {
    redirected: f64,
    flows: f64,
    refused_by_kernel: f64,
    refused: [f64; 3],
    judged: f64,
    judged_seconds: f64,
}

impl Counts {
    fn read(world: &World) -> Result<Self> {
        let metric = |name: &str, labels: &[&str]| world.agent.metric(name, labels);
        let event = |event: &str| metric("picket_kernel_events_total", &[&format!("event=\"{event}\"")]);
        let refused = |labels: &[&str]| metric("picket_connects_denied_total", labels);
        Ok(Self {
            redirected: event("redirected")?,
            flows: event("flows_written")?,
            refused_by_kernel: event("denied_endpoint")?,
            refused: [
                refused(&[])?,
                refused(&["cause=\"denied_endpoint\"", "endpoint=\"kubelet\""])?,
                refused(&["cause=\"denied_endpoint\"", "endpoint=\"metadata\""])?,
            ],
            judged: metric("picket_pod_pending_seconds_count", &[])?,
            judged_seconds: metric("picket_pod_pending_seconds_sum", &[])?,
        })
    }
}

fn what_the_kernel_does_to_pods_is_counted(world: &mut World) -> Result<()> {
    let map = |what: &str, map: &str| {
        let name = format!("picket_kernel_map_{what}");
        world.agent.metric(&name, &[&format!("map=\"{map}\"")])
    };
    let (before, entries) = (Counts::read(world)?, map("entries", "classes")?);
    let _unjudged = (0..PODS)
        .map(|_| NewPod::new(world))
        .collect::<Result<Vec<_>>>()?;

    let worker = Stand::pod(&world.pod("agents", "worker")?)?;
    let kubelet = format!("{}:10250", world.cluster.node().address);
    for (endpoint, verdict) in [
        ("10.96.0.1:443", Verdict::Redirected),
        (&kubelet, Verdict::Forbidden),
        ("169.254.169.254:80", Verdict::Forbidden),
        ("169.254.169.254:80", Verdict::Forbidden),
    ] {
        world
            .expecting(verdict, |world| world.dial(&worker, &["tcp", endpoint]))?
            .expect(endpoint, verdict)?;
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "counted", "namespace": "agents", "labels": {"app": "worker"}},
        "spec": {"nodeName": "node1", "serviceAccountName": "worker", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "picket.test/tools:1", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "infinity"]}]}});
    world.cluster.apply(&pod.to_string())?;
    world.cluster.wait_ready("agents", "counted", POD_LIMIT)?;
    let mut after = before;
    let counted = until("all is counted", LIMIT, || {
        after = Counts::read(world)?;
        Ok(after.refused[0] - before.refused[0] >= 3.0 && after.judged > before.judged)
    });
    let grown = |of: fn(&Counts) -> f64| of(&after) - of(&before);
    let numbers = [
        grown(|one| one.redirected),
        grown(|one| one.flows),
        grown(|one| one.refused_by_kernel),
        grown(|one| one.refused[0]),
        grown(|one| one.refused[1]),
        grown(|one| one.refused[2]),
        grown(|one| one.judged),
    ];
    ensure!(
        numbers == [1.0, 1.0, 3.0, 3.0, 1.0, 2.0, 1.0],
        "redirects, flows, refusals (the kernel's, all, at the kubelet, at metadata), pods judged: {numbers:?}"
    );
    counted?;
    let took = grown(|one| one.judged_seconds);
    ensure!(
        took > 0.0 && took < POD_LIMIT.as_secs_f64(),
        "the pod was judged in {took} s"
    );

    until("the maps are counted", LIMIT, || {
        Ok(map("entries", "classes")? - entries >= PODS as f64 - GOING)
    })?;
    for name in MAPS {
        let (entries, capacity) = (map("entries", name)?, map("capacity", name)?);
        eprintln!("{name}: {entries} of {capacity}");
        ensure!(
            entries < capacity && (entries > 0.0 || name == "flows"),
            "{name}: {entries} of {capacity}"
        );
    }
    world
        .admin(&["delete", "pod", "counted", "-n", "agents", "--wait=false"])
        .map(drop)
}

/// The agent is told the pods of the second node, whose cgroups are elsewhere.
fn a_selected_pod_outside_the_agents_tree_is_counted(world: &mut World) -> Result<()> {
    let comes_to = |world: &World, wanted: f64| {
        until(&format!("{wanted} pods without a cgroup"), LIMIT, || {
            Ok(world.agent.metric("picket_pods", &["class=\"no_cgroup\""])? == wanted)
        })
    };
    comes_to(world, 0.0)?;
    world.configured(
        |config| config["nodeName"] = json!("node2"),
        |world| comes_to(world, 1.0),
    )?;
    comes_to(world, 0.0).map(drop)
}
