//! The chart on a real cluster: every object is taken, agents serve, are replaced and taken out again.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use picket_tests::agent::picket_binary;
use picket_tests::install::{Installer, restricted_pod, wait};
use serde_json::Value;

use crate::Test;
use crate::helm::NAMESPACE;
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    the_api_server_takes_every_object,
    agents_serve_are_replaced_and_taken_out,
};

/// An installer for a cluster that has the namespaces, and no release that a failed test left.
pub(crate) fn installer(world: &mut World) -> Result<Installer<'_>> {
    let reference = world.image.reference.clone();
    let (helm, cluster) = world.cluster()?;
    for namespace in [NAMESPACE, "agents"] {
        let made = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
        cluster.apply(&made)?;
    }
    let installer = Installer::new(helm, cluster, &reference)?;
    installer.remove(&["--ignore-not-found"])?;
    release(&installer)?;
    installer.kubectl(&[
        "-n",
        "agents",
        "delete",
        "pods",
        "--all",
        "--force",
        "--grace-period=0",
    ])?;
    Ok(installer)
}

/// Enrols `agents`, under the strictest level of Pod Security.
pub(crate) fn enrol(installer: &Installer<'_>) -> Result<()> {
    let labels = [
        "picket.dev/enrolled=true",
        "pod-security.kubernetes.io/enforce=restricted",
    ];
    installer.kubectl(&[&["label", "namespace", "agents"][..], &labels].concat())?;
    installer.wait_for_enrolment("agents")
}

/// Takes it back.
pub(crate) fn release(installer: &Installer<'_>) -> Result<()> {
    let labels = ["picket.dev/enrolled-", "pod-security.kubernetes.io/enforce-"];
    installer
        .kubectl(&[&["label", "namespace", "agents"][..], &labels].concat())
        .map(drop)
}

/// What a pod in `agents` prints that asks the API server for pods, once it has ended. Pod Security `restricted` takes the pod.
pub(crate) fn ask_in_pod(installer: &Installer<'_>, name: &str) -> Result<String> {
    let line = "kubectl get pods 2>&1; echo exit $?";
    let pod = restricted_pod("agents", name, "picket.test/kubectl:1", &["sh", "-c", line]);
    installer.cluster.apply(&pod.to_string())?;
    let mut log = String::new();
    wait("the pod's end", || {
        log = installer
            .kubectl(&["-n", "agents", "logs", name])
            .unwrap_or_default();
        Ok(log.contains("exit "))
    })?;
    Ok(log)
}

fn the_api_server_takes_every_object(world: &mut World) -> Result<()> {
    let installer = installer(world)?;
    let text = installer.run(
        &["template"],
        &[
            "--include-crds",
            "--dry-run=server",
            "--kube-version",
            installer.cluster.release().version(),
        ],
    )?;
    let arguments = [
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
    ];
    let taken = installer.cluster.kubectl_client().run(&arguments, Some(&text))?;
    let count = taken
        .lines()
        .filter(|line| line.contains("serverside-applied (server dry run)"))
        .count();
    let objects = crate::helm::documents(&text)?.len();
    ensure!(
        count == objects && count > 15,
        "{count} of {objects} objects:\n{taken}"
    );
    let warned = installer.cluster.kubectl_stdin(&arguments, &text)?;
    let warned = String::from_utf8_lossy(&warned.stderr).into_owned();
    ensure!(!warned.contains("Warning"), "{warned}");
    Ok(())
}

/// No agent: no node has such a label.
pub(crate) const NOWHERE: [&str; 2] = ["--set-string", "agent.nodeSelector.nowhere=true"];

fn agents_serve_are_replaced_and_taken_out(world: &mut World) -> Result<()> {
    let installer = installer(world)?;
    installer.run(&["install"], &[])?;
    let first = installer.wait_for_agents()?;
    // A pod that is older than the label: no admission changed it, and its namespace's label has it enforced.
    let again = ["sh", "-c", "while sleep 1; do kubectl get pods 2>&1; done"];
    let older = restricted_pod("agents", "older", "picket.test/kubectl:1", &again);
    installer.cluster.apply(&older.to_string())?;
    let last_line = || {
        let log = installer.kubectl(&["-n", "agents", "logs", "older", "--tail=1"]);
        log.unwrap_or_default()
    };
    wait("a pod that reaches the API server itself", || {
        Ok(last_line().contains("cannot list resource \"pods\""))
    })?;
    enrol(&installer)?;
    wait("the older pod's end of access", || {
        Ok(last_line().contains("certificate signed by unknown authority"))
    })?;
    refused(&installer, "first", &first[0])?;
    installer.cluster.apply(UNLISTED)?;
    let found = lacking(&installer)?;
    ensure!(
        found.len() == 1 && found[0].starts_with("the agents may not: impersonate user agent:unlisted."),
        "{found:#?}"
    );

    // A changed configuration: a second agent takes over from the first.
    let changes = ["log.filter=debug", "impersonate.users={agent:unlisted}"];
    installer.run(&["upgrade"], &["--set", changes[0], "--set", changes[1]])?;
    let second = installer.wait_for_agents()?;
    ensure!(first != second, "the pod is the same: {first:?}");
    let log = installer.kubectl(&["-n", NAMESPACE, "logs", &second[0]])?;
    ensure!(log.contains("upgrade complete"), "{log}");
    refused(&installer, "second", &second[0])?;
    let found = lacking(&installer)?;
    ensure!(found.is_empty(), "{found:#?}");
    installer
        .cluster
        .kubectl_client()
        .run(&["delete", "-f", "-"], Some(UNLISTED))?;

    let pins = installer.pins(installer.cluster.node());
    ensure!(pins.exists(), "no pins at {}", pins.display());
    installer.remove(&[])?;
    ensure!(!pins.exists(), "helm uninstall leaves {}", pins.display());
    release(&installer)?;
    let log = ask_in_pod(&installer, "after")?;
    ensure!(
        log.contains("cannot list resource \"pods\""),
        "the pod does not reach the API server itself: {log}"
    );
    Ok(())
}

/// A grant whose user the chart's lists do not have, for nobody who is there.
const UNLISTED: &str = "\
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: unlisted}
spec: {owner: o@example.test, attest: {pod: {namespace: nowhere, serviceAccount: nobody}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: unlisted}
spec:
  to: {identities: [unlisted]}
  upstream: {impersonate: {user: agent:unlisted}}
  rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
";

/// What `picket status` says that the agents may not do.
fn lacking(installer: &Installer<'_>) -> Result<Vec<String>> {
    let mut command = Command::new(picket_binary()?);
    let kubeconfig = installer.cluster.kubeconfig();
    command
        .args(["status", "-o", "json", "--kubeconfig"])
        .arg(kubeconfig);
    let done = installer.cluster.node().output(command)?;
    let text = String::from_utf8_lossy(&done.stdout);
    let said = String::from_utf8_lossy(&done.stderr);
    let report: Value = serde_json::from_str(&text).with_context(|| format!("{text}{said}"))?;
    ensure!(report["unknown"] == Value::Array(Vec::new()), "{report:#}");
    let findings = report["findings"].as_array().context("no findings")?;
    let findings = findings.iter().filter_map(Value::as_str);
    Ok(findings
        .filter(|finding| finding.contains("may not"))
        .map(str::to_owned)
        .collect())
}

/// The pod's call is refused by Picket, and the agent has a record of it.
fn refused(installer: &Installer<'_>, pod: &str, agent: &str) -> Result<()> {
    let log = ask_in_pod(installer, pod)?;
    ensure!(
        log.contains("is no known agent") && log.contains("exit 1"),
        "{pod}: {log}"
    );
    let records = on_node(installer, &["audit", "tail"], 0)?;
    let line = records
        .lines()
        .find(|line| line.contains(&format!("agents/{pod}")));
    ensure!(
        line.is_some_and(|line| line.contains("deny")),
        "no record of {pod}:\n{records}"
    );
    let health = installer.kubectl(&["-n", NAMESPACE, "exec", agent, "--", "/picket", "health", "--own"])?;
    ensure!(health.trim() == "ready", "{health}");
    // The exit code is that of the command on the node.
    on_node(installer, &["sessions", "kill", "--identity", "nobody"], 1)?;
    Ok(())
}

/// What a command about the node says that is run from elsewhere, and ends with this code.
fn on_node(installer: &Installer<'_>, arguments: &[&str], code: i32) -> Result<String> {
    let (cluster, node) = (installer.cluster, installer.cluster.node());
    let mut command = Command::new(picket_binary()?);
    command.args(arguments);
    command.args(["--node", &node.name, "--kubeconfig"]);
    command.arg(cluster.kubeconfig());
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", cluster.bin().display()));
    let done = node.output(command)?;
    ensure!(done.status.code() == Some(code), "{arguments:?}: {done:?}");
    Ok(String::from_utf8(done.stdout)?)
}
