//! `helm uninstall` alone leaves nothing: neither in the cluster, nor in the kernel and the folders of a node.

use std::path::Path;

use anyhow::{Result, ensure};
use picket_tests::footprint::Footprint;
use picket_tests::install::{Installer, wait};

use crate::Test;
use crate::helm::{CHART, NAMESPACE};
use crate::installed::{ask_in_pod, installer};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    nothing_is_left,
    a_node_whose_agent_does_not_run_is_cleaned,
    a_node_that_cannot_be_cleaned_is_named,
};

/// Puts the CRDs away too, which Helm keeps.
fn delete_crds(installer: &Installer<'_>) -> Result<()> {
    let crds = format!("{CHART}/crds");
    installer
        .kubectl(&["delete", "--ignore-not-found", "--wait", "-f", &crds])
        .map(drop)
}

fn nothing_is_left(world: &mut World) -> Result<()> {
    let mut installer = installer(world)?;
    installer.set("uninstall.deleteRecords=true");
    let node = installer.cluster.node();
    // The records that an installation before has left.
    let records = node.file(Path::new("/var/log/picket"));
    if records.exists() {
        std::fs::remove_dir_all(records)?;
    }
    // The folders of a node's pods are there before too.
    ask_in_pod(&installer, "before")?;
    installer.kubectl(&["-n", "agents", "delete", "pods", "--all", "--wait"])?;
    delete_crds(&installer)?;
    let before = Footprint::take(installer.cluster)?;
    ensure!(before.len() > 100, "{} things were seen", before.len());

    installer.run(&["install"], &[])?;
    installer.wait_for_agents()?;
    installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled=true"])?;
    installer.wait_for_enrolment("agents")?;
    let log = ask_in_pod(&installer, "asks")?;
    ensure!(log.contains("is no known agent"), "{log}");
    let during = before.differences(installer.cluster)?;
    let seen = |what: &str| during.iter().any(|line| line.contains(what));
    for what in [
        "DaemonSet picket-system picket",
        "Secret picket-system picket-root-ca",
        "lease.coordination.k8s.io/picket-controller",
        "CertificateSigningRequest null picket-node-ca-",
        "ConfigMap agents picket-ca.crt",
        "PicketNode null node1",
        "label picket.dev/agent",
        "label picket.dev/enrolled",
        " pin picket/",
        "cgroup /: 1 programs of attach type 10",
        "/run/picket",
        "/var/lib/picket",
        "/var/log/picket",
    ] {
        ensure!(seen(what), "the snapshot does not see {what}: {during:#?}");
    }

    installer.remove(&[])?;
    // At this moment, not a little later: no program of Picket's is in the way of any connection.
    ensure!(!installer.pins(node).exists(), "pins are left");
    installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled-"])?;
    installer.kubectl(&["-n", "agents", "delete", "pods", "--all", "--wait"])?;
    delete_crds(&installer)?;
    let mut left = Vec::new();
    let gone = wait("the end of all that Picket made", || {
        left = before.differences(installer.cluster)?;
        Ok(left.is_empty())
    });
    ensure!(gone.is_ok(), "helm uninstall leaves: {left:#?}");
    Ok(())
}

/// Such a node closes new pods to the API server: the hook's Job is one.
fn a_node_whose_agent_does_not_run_is_cleaned(world: &mut World) -> Result<()> {
    let installer = installer(world)?;
    installer.run(&["install"], &[])?;
    installer.wait_for_agents()?;
    // The agent goes, and its programs stay.
    let nowhere = r#"{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":"true"}}}}}"#;
    installer.kubectl(&[
        "-n",
        NAMESPACE,
        "patch",
        "daemonset",
        "picket",
        "--type=merge",
        "-p",
        nowhere,
    ])?;
    wait("the end of the agent", || Ok(installer.agents()?.is_empty()))?;
    let pins = installer.pins(installer.cluster.node());
    ensure!(pins.exists(), "the agent took its programs with it");
    let log = ask_in_pod(&installer, "closed")?;
    ensure!(
        log.contains("operation not permitted"),
        "new pods are not closed: {log}"
    );
    installer.remove(&[])?;
    ensure!(!pins.exists(), "helm uninstall leaves {}", pins.display());
    Ok(())
}

/// An uninstallation that cannot do its work fails, and a second one goes on.
fn a_node_that_cannot_be_cleaned_is_named(world: &mut World) -> Result<()> {
    let mut installer = installer(world)?;
    installer.set("uninstall.timeoutSeconds=30");
    installer.run(&["install"], &[])?;
    installer.wait_for_agents()?;
    let node = installer.cluster.node();
    // A folder that cannot be removed, as it is a mount of somebody's.
    let kept = Path::new("/var/lib/picket/kept");
    let mount = |arguments: &[&str]| -> Result<()> {
        let mut command = std::process::Command::new(arguments[0]);
        command.args(&arguments[1..]).arg(kept);
        picket_tests::helm::said(node.output(command)?).map(drop)
    };
    mount(&["mkdir"])?;
    mount(&["mount", "-n", "-t", "tmpfs", "tmpfs"])?;

    let Err(error) = installer.remove(&[]) else {
        anyhow::bail!("helm uninstall succeeds where a node is not clean");
    };
    let log = installer.kubectl(&["-n", NAMESPACE, "logs", "job/picket-uninstall"])?;
    let wanted = format!("{}: picket: cannot remove /host/state/picket", node.name);
    ensure!(log.contains(&wanted), "{error:#}\n{log}");
    ensure!(log.contains("helm uninstall --no-hooks"), "{log}");
    // What cleans the node goes on meanwhile, and the second try finds it.
    installer.kubectl(&["-n", NAMESPACE, "get", "daemonset", "picket-uninstall"])?;
    mount(&["umount", "-n"])?;
    installer.remove(&[])?;
    let left = installer.kubectl(&["-n", NAMESPACE, "get", "all,secrets,configmaps", "-o", "name"])?;
    ensure!(!left.contains("picket"), "{left}");
    Ok(())
}
