//! The cluster works as the suites need it, and goes without a trace.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::pod::TestPod;
use picket_tests::release::Release;
use picket_tests::state::{Cleaned, clean};
use picket_tests::tests;

use crate::Test;
use crate::sim::{is_victim, killed_owner};
use crate::trace::Traces;

pub(crate) const TESTS: &[Test] = tests! {
    two_nodes_run_pods_and_leave_nothing,
    a_killed_owner_leaves_what_clean_removes,
};

/// Both ways; ten seconds up and three down are usual, but the machine may be compiling beside it.
const LIMIT: Duration = Duration::from_secs(60);

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "picket.test/busybox:1", command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "picket.test/busybox:1", command: [sleep, infinity], resources: {requests: {cpu: 1m}}}]
"#;

/// A policy of the kind that enrols pods; it shows that the API server serves and runs them.
const MUTATION: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: mark}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: 'Object{metadata: Object.metadata{labels: {"marked": "yes"}}}'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: mark}
spec:
  policyName: mark
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}}
"#;

fn two_nodes_run_pods_and_leave_nothing() -> Result<()> {
    // Built before the clock starts.
    picket_tests::images::busybox()?;
    picket_tests::build::GoProgram::Cluster.path()?;
    let before = Traces::now()?;
    let started = Instant::now();
    let cluster = Cluster::up(ClusterOptions {
        nodes: 2,
        name: "testbed".to_owned(),
        images: Vec::new(),
        ..ClusterOptions::default()
    })?;
    let up = started.elapsed();
    let works = pods_work(&cluster)
        .and_then(|()| features_are_the_releases_own(&cluster))
        .and_then(|()| policies_work(&cluster))
        .and_then(|()| certificates_work(&cluster));
    let started = Instant::now();
    cluster.down()?;
    let down = started.elapsed();
    works?;
    println!(
        "two nodes: up in {:.1} s, down in {:.1} s",
        up.as_secs_f32(),
        down.as_secs_f32()
    );
    ensure!(up < LIMIT && down < LIMIT, "too slow: up {up:?}, down {down:?}");
    before.unchanged()
}

fn pods_work(cluster: &Cluster) -> Result<()> {
    cluster.apply(PODS)?;
    let one = cluster.wait_ready("default", "one", LIMIT)?;
    let two = cluster.wait_ready("default", "two", LIMIT)?;
    for (pod, node, class) in [
        (&one, &cluster.nodes()[0], "besteffort"),
        (&two, &cluster.nodes()[1], "burstable"),
    ] {
        let wanted = node.cgroup.join(format!("kubepods/{class}/pod{}", pod.uid()));
        ensure!(pod.cgroup() == wanted, "{} is in {:?}", pod.name(), pod.cgroup());
        let shown = String::from_utf8(pod.run(&["hostname"])?.stdout)?;
        ensure!(
            shown.trim() == pod.name(),
            "exec in {} says {shown:?}",
            pod.name()
        );
        let service = pod.run(&["nc", "-w", "3", "10.96.0.1", "443", "-e", "true"])?;
        ensure!(
            service.status.success(),
            "{} does not reach the API server's service address",
            pod.name()
        );
        let away = pod.run(&["nc", "-w", "3", "192.0.2.1", "80", "-e", "true"])?;
        ensure!(!away.status.success(), "{} reaches what is outside", pod.name());
    }
    let ping = one.run(&["ping", "-c", "1", "-W", "3", two.address()])?;
    ensure!(
        ping.status.success(),
        "the pods of two nodes do not reach each other"
    );
    let log = std::fs::read_to_string(cluster.audit_log())?;
    ensure!(
        log.contains("/api/v1/namespaces/default/pods/two/exec"),
        "the audit log lacks the exec"
    );
    Ok(())
}

/// What a feature gate is in the releases 1.34, 1.35 and 1.36 by default; none where the release does not know it.
const FEATURES: [(&str, [Option<bool>; 3]); 6] = [
    ("MutatingAdmissionPolicy", [Some(false), Some(false), Some(true)]),
    ("ConstrainedImpersonation", [None, Some(false), Some(true)]),
    ("PodCertificateRequest", [Some(false), Some(false), Some(false)]),
    ("ClusterTrustBundle", [Some(false), Some(false), Some(false)]),
    (
        "AuthorizePodWebsocketUpgradeCreatePermission",
        [None, Some(true), Some(true)],
    ),
    ("ExtendWebSocketsToKubelet", [None, None, Some(true)]),
];

/// The API server is of the release that was asked for, and has its defaults, as a managed cluster does.
fn features_are_the_releases_own(cluster: &Cluster) -> Result<()> {
    let client = cluster.kubectl_client();
    let version = format!("v{}", cluster.release().version());
    let said = client.run(&["version", "-o", "json"], None)?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    for side in ["clientVersion", "serverVersion"] {
        ensure!(
            said[side]["gitVersion"] == version.as_str(),
            "not {version}: {said}"
        );
    }
    let metrics = client.run(&["get", "--raw", "/metrics"], None)?;
    for (feature, defaults) in FEATURES {
        let of_it = format!("kubernetes_feature_enabled{{name=\"{feature}\",");
        let line = metrics.lines().find(|line| line.starts_with(&of_it));
        let found = line.map(|line| line.ends_with(" 1"));
        let known = Release::ALL.into_iter().zip(defaults);
        let wanted = known
            .filter(|(release, _)| *release == cluster.release())
            .find_map(|(_, default)| default);
        ensure!(
            found == wanted,
            "{feature} is {found:?}, not {wanted:?}: {line:?}"
        );
    }
    Ok(())
}

/// The API server takes a moment to see a new policy, so a few objects are tried. A release without such policies refuses it.
fn policies_work(cluster: &Cluster) -> Result<()> {
    let taken = cluster.apply(MUTATION);
    if !cluster.release().has_mutating_policies() {
        let said = taken.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(said.contains("no matches for kind"), "{said}");
        return Ok(());
    }
    taken?;
    let started = Instant::now();
    for number in 0.. {
        let name = format!("mark{number}");
        let client = cluster.kubectl_client();
        client.run(&["create", "configmap", &name], None)?;
        let label = client.run(
            &[
                "get",
                "configmap",
                &name,
                "-o",
                "jsonpath={.metadata.labels.marked}",
            ],
            None,
        )?;
        if label == "yes" {
            break;
        }
        ensure!(started.elapsed() < LIMIT, "no object is changed by the policy");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn certificates_work(cluster: &Cluster) -> Result<()> {
    let pair = cluster.client_certificate("nobody", "nobody-special", Some("picket:test"))?;
    let arguments = [
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username} {.status.userInfo.groups[0]}",
        "--client-certificate",
        &pair.cert.to_string_lossy(),
        "--client-key",
        &pair.key.to_string_lossy(),
    ];
    let shown = cluster.kubectl_client().run(&arguments, None)?;
    ensure!(
        shown == "nobody-special picket:test",
        "the API server sees {shown:?}"
    );
    Ok(())
}

fn a_killed_owner_leaves_what_clean_removes() -> Result<()> {
    let before = Traces::now()?;
    killed_owner("cluster")?;
    let done = clean(is_victim)?;
    ensure!(
        done.contains(&Cleaned::Removed("victim".to_owned())),
        "clean found only {done:?}"
    );
    before.unchanged()
}
