//! The main story on the release of Kubernetes that was chosen, whatever it is: enrolment and impersonation differ between releases.
//!
//! In: Helm, and the suite's cluster (`cargo xtask test --kubernetes 1.35 chart versions`). Out: an install, an enrolled namespace, an
//! AI agent's pod that Picket refuses, and then serves within its grant.

use anyhow::{Context, Result, ensure};
use picket_tests::install::{Installer, restricted_pod, wait};

use crate::Test;
use crate::helm::{NAMESPACE, REQUIRED, Render as _};
use crate::installed::{ask_in_pod, enrol, installer, release};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    no_plain_right_reaches_a_name_of_kubernetes_own,
    an_agent_is_refused_and_then_served,
};

/// The right to impersonate one user and one group.
const NAMES: [&str; 4] = [
    "--set",
    "impersonate.users={agent:story}",
    "--set",
    "impersonate.groups={agents:story}",
];

/// The agent of the story, which may list pods, and what the API server lets its user do: more than that.
const OBJECTS: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: story}
spec:
  owner: lab@example.test
  attest: {pod: {namespace: agents, serviceAccount: default}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: story}
spec:
  to: {identities: [story]}
  namespaces: [agents]
  upstream:
    impersonate: {user: "agent:story", groups: ["agents:story"]}
  rules:
  - {apiGroups: [""], resources: [pods, configmaps], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: story, namespace: agents}
rules:
- {apiGroups: [""], resources: [pods, secrets], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: story, namespace: agents}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: story}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "agents:story"}]
"#;

fn no_plain_right_reaches_a_name_of_kubernetes_own(world: &mut World) -> Result<()> {
    for name in [
        "impersonate.groups={picket:agents,system:authenticated}",
        "impersonate.users={agent:story,system:serviceaccount:ci:deployer}",
    ] {
        let plain = ["--set", "impersonate.mode=plain", "--set", name];
        let said = world.helm.refuses(&[&REQUIRED[..], &plain].concat())?;
        ensure!(said.contains("is a name of Kubernetes' own"), "{name}: {said}");
        // The constrained verbs never reach it.
        world.helm.template(&[&REQUIRED[..], &["--set", name]].concat())?;
    }
    Ok(())
}

fn an_agent_is_refused_and_then_served(world: &mut World) -> Result<()> {
    let installer = installer(world)?;
    installer.run(&["install"], &NAMES)?;
    let agents = installer.wait_for_agents()?;
    let told = story(&installer, &agents[0]);
    let gone = ["delete", "--ignore-not-found", "-f", "-"];
    installer.cluster.kubectl_client().run(&gone, Some(OBJECTS))?;
    installer.remove(&[])?;
    release(&installer)?;
    let version = installer.cluster.release().version();
    told.with_context(|| format!("on Kubernetes {version}"))
}

/// What the pod is told before it is somebody's, and after.
fn story(installer: &Installer<'_>, agent: &str) -> Result<()> {
    enrol(installer)?;
    let log = ask_in_pod(installer, "nobody")?;
    ensure!(
        log.contains("is no known agent") && log.contains("exit 1"),
        "{log}"
    );

    installer.cluster.apply(OBJECTS)?;
    let line = "for what in pods configmaps secrets; do kubectl get $what -o name 2>&1; echo $what $?; done; \
                kubectl auth whoami 2>&1; echo the end";
    let mut log = String::new();
    wait("the grant's effect", || {
        let delete = [
            "-n",
            "agents",
            "delete",
            "pod",
            "story",
            "--ignore-not-found",
            "--now",
        ];
        installer.kubectl(&delete)?;
        let pod = restricted_pod("agents", "story", "picket.test/kubectl:1", &["sh", "-c", line]);
        installer.cluster.apply(&pod.to_string())?;
        wait("the pod's end", || {
            log = installer
                .kubectl(&["-n", "agents", "logs", "story"])
                .unwrap_or_default();
            Ok(log.contains("the end"))
        })?;
        Ok(!log.contains("is no known agent"))
    })?;
    // Granted and the API server lets its user; granted and it does not; not granted, and the API server would.
    for said in [
        "pod/story",
        "pods 0",
        "User \"agent:story\" cannot list resource \"configmaps\"",
        "configmaps 1",
        "no grant allows it",
        "secrets 1",
    ] {
        ensure!(log.contains(said), "no {said:?} in {log}");
    }
    ensure!(!log.contains("secret/"), "{log}");
    let doctor = ["-n", NAMESPACE, "exec", agent, "--", "/picket", "doctor"];
    let said = installer.cluster.kubectl(&doctor)?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let check = said
        .lines()
        .find(|line| line.contains("upstream credential"))
        .with_context(|| format!("no such check: {said}"))?;
    ensure!(check.contains("ok"), "{said}");
    Ok(())
}
