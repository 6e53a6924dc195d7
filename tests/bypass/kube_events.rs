//! What people find with kubectl at a pod or a node: Kubernetes Events for what calls for them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use picket_tests::pod::TestPod;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::static_pods::gone;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    what_a_pod_was_refused_stands_at_the_pod,
};

/// How long a kubelet may take for a pod.
const POD_LIMIT: Duration = Duration::from_secs(90);
/// Events are posted seldom, and after a failure not for a minute.
const EVENT_LIMIT: Duration = Duration::from_secs(90);

/// Dials a kubelet, and then the API server as one who does not trust Picket.
const ATTEMPTS: &str = r#"
import socket, ssl
with socket.socket() as one:
    print(one.connect_ex(("10.250.0.1", 10250)))
try:
    with socket.create_connection(("10.96.0.1", 443)) as one:
        ssl.create_default_context().wrap_socket(one, server_hostname="kubernetes")
except ssl.SSLCertVerificationError:
    print("distrusted")
"#;

fn what_a_pod_was_refused_stands_at_the_pod(world: &mut World) -> Result<()> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "told", "namespace": "agents", "labels": {"app": "worker"}},
        "spec": {"nodeName": "node1", "serviceAccountName": "worker", "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": "picket.test/tools:1", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"]}]}});
    world.cluster.apply(&pod.to_string())?;
    let pod = world.cluster.wait_ready("agents", "told", POD_LIMIT)?;
    let (mut refused, mut distrusted) = (None, None);
    let (begun, mut judged) = (Instant::now(), false);
    while refused.is_none() || distrusted.is_none() {
        ensure!(
            begun.elapsed() < EVENT_LIMIT,
            "there are {refused:?} and {distrusted:?}"
        );
        let said = world.run("agents", "told", &["python3", "-c", ATTEMPTS])?;
        // Until it is judged its dial of the API server is refused too.
        judged |= said.code == 0;
        ensure!(
            said.out.lines().next() == Some("1")
                && (!judged || said.clone().good()?.lines().eq(["1", "distrusted"])),
            "{said:?}"
        );
        std::thread::sleep(Duration::from_secs(1));
        refused = find(world, "agents", pod.uid(), "AccessDenied", "10.250.0.1:10250")?;
        distrusted = find(
            world,
            "agents",
            pod.uid(),
            "CertificateRejected",
            "picket.dev/enrolled=true",
        )?;
    }
    for event in [refused, distrusted].into_iter().flatten() {
        ensure!(event["type"] == "Warning", "{event:#}");
        ensure!(event["reportingComponent"] == "picket.dev/agent", "{event:#}");
    }
    let shown = world.admin(&["describe", "pod", "told", "-n", "agents"])?;
    ensure!(
        shown.contains("AccessDenied") && shown.contains("python3"),
        "{shown}"
    );
    world.admin(&["delete", "pod", "told", "-n", "agents", "--wait=false"])?;
    gone(&pod)
}

/// The Event of this reason about the object with this UID, waited for; nodes are told of under their name.
pub(crate) fn event(world: &World, namespace: &str, uid: &str, reason: &str) -> Result<Value> {
    let begun = Instant::now();
    while begun.elapsed() < EVENT_LIMIT {
        if let Some(found) = find(world, namespace, uid, reason, "")? {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("there is no Event {reason} about {uid} in {namespace}")
}

/// One whose note has these words.
fn find(world: &World, namespace: &str, uid: &str, reason: &str, words: &str) -> Result<Option<Value>> {
    let which = format!("reason={reason},involvedObject.uid={uid}");
    let events = world.admin(&[
        "get",
        "events",
        "-n",
        namespace,
        "--field-selector",
        &which,
        "-o",
        "json",
    ])?;
    let events: Value = serde_json::from_str(&events)?;
    let mut found = events["items"].as_array().into_iter().flatten();
    let says = |event: &&Value| event["message"].as_str().is_some_and(|note| note.contains(words));
    Ok(found.rfind(says).cloned())
}
