//! Pods that a kubelet runs from the node's own files: known in the API by a mirror alone, whose UID is not that of their cgroup.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use picket_tests::output::Done;
use picket_tests::pod::{RealPod, TestPod};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::dial::{NewPod, Stand, Verdict};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    one_is_redirected_as_its_mirror_says_and_another_is_left_alone,
    one_that_nobody_tells_of_is_closed_unless_the_operator_wants_it_open,
};

/// How long a kubelet may take for a pod.
const POD_LIMIT: Duration = Duration::from_secs(90);
/// How long until an agent has judged what it sees.
const JUDGED: Duration = Duration::from_secs(5);
/// The API server's Service.
const SERVER: &str = "10.96.0.1:443";

/// A manifest in the first node's folder; the pod goes with it.
pub(crate) struct Manifest(PathBuf);

impl Manifest {
    /// Of a pod of this namespace.
    pub(crate) fn of_pod(world: &World, namespace: &str) -> Result<Self> {
        let text = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "static", "namespace": namespace, "labels": {"app": "worker"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "picket.test/tools:1",
                "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", "echo kube-apiserver > /proc/self/comm; sleep infinity; true"]}]}});
        let path = world.cluster.node().manifests().join(format!("{namespace}.json"));
        // The kubelet reads no file whose name begins with a dot, so that it never sees half of one.
        let unseen = path.with_file_name(format!(".{namespace}"));
        fs::write(&unseen, text.to_string())?;
        fs::rename(&unseen, &path)?;
        Ok(Self(path))
    }
}

impl Drop for Manifest {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn one_is_redirected_as_its_mirror_says_and_another_is_left_alone(world: &mut World) -> Result<()> {
    for (namespace, wanted) in [("agents", Verdict::Redirected), ("direct", Verdict::Reached)] {
        let manifest = Manifest::of_pod(world, namespace)?;
        let pod = running(world, namespace)?;
        let stand = Stand::pod(&pod)?;
        let name = stand
            .cgroup
            .parent()
            .and_then(|pod| pod.file_name()?.to_str())
            .unwrap_or_default();
        ensure!(name.len() == "pod".len() + 32, "{name} is no static pod's cgroup");
        dials(world, &stand, wanted)?;
        doctor_tells(world)?;
        drop(manifest);
        gone(&pod)?;
    }
    Ok(())
}

/// The pod of a manifest, once it runs. Its mirror comes after the pod.
pub(crate) fn running(world: &World, namespace: &str) -> Result<RealPod> {
    let begun = Instant::now();
    loop {
        match world.cluster.wait_ready(namespace, "static-node1", POD_LIMIT) {
            Err(_) if begun.elapsed() < POD_LIMIT => std::thread::sleep(Duration::from_millis(200)),
            found => return found,
        }
    }
}

fn one_that_nobody_tells_of_is_closed_unless_the_operator_wants_it_open(world: &mut World) -> Result<()> {
    {
        let pod = NewPod::of_manifest(world)?;
        // An agent judges what it sees within milliseconds; before, any pod is closed. A kubelet soon removes what it does not know.
        std::thread::sleep(Duration::from_secs(1));
        dials(world, &pod.stand(world), Verdict::Forbidden)?;
    }
    let open = |config: &mut Value| config["enforce"]["staticPods"] = json!("failOpen");
    world.configured(open, |world| {
        let other = NewPod::new(world)?;
        let pod = NewPod::of_manifest(world)?;
        dials(world, &pod.stand(world), Verdict::Reached)?;
        dials(world, &other.stand(world), Verdict::Forbidden)
    })
}

/// `picket doctor` fails where a static pod is what runs the API server and the configuration does not provide for it.
fn doctor_tells(world: &World) -> Result<()> {
    let file = world.agent.config_file();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    config["enforce"]["staticPods"] = json!("failOpen");
    let other = file.with_file_name("static-pods.json");
    fs::write(&other, config.to_string())?;
    for (file, code, status) in [(&file, 1, "missing"), (&other, 0, "ok")] {
        let done = Done::from(
            world
                .agent
                .picket(&["doctor", "--config", &file.display().to_string()])?,
        );
        let row = done
            .out
            .lines()
            .find(|line| line.starts_with("static pods"))
            .unwrap_or_default();
        ensure!(
            done.code == code && row.contains(status) && row.contains("kube-apiserver"),
            "{}:\n{}",
            done.code,
            done.out
        );
    }
    Ok(())
}

/// Waits until nothing is left of a pod, so that others who count pods do not find it.
pub(crate) fn gone(pod: &RealPod) -> Result<()> {
    let begun = Instant::now();
    while pod.cgroup().exists() {
        ensure!(begun.elapsed() < POD_LIMIT, "{} stays", pod.cgroup().display());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Dials from there until what comes of it is what is wanted; nothing but a refusal comes before.
fn dials(world: &World, from: &Stand, wanted: Verdict) -> Result<()> {
    let begun = Instant::now();
    loop {
        let report = world.expecting(wanted, |world| world.dial(from, &["tcp", SERVER]))?;
        if report.verdict() == wanted || report.verdict() != Verdict::Forbidden || begun.elapsed() > JUDGED {
            return report.expect("a static pod's dial", wanted);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
