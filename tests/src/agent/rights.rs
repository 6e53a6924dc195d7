//! What the cluster must hold for an agent: the files of deploy/, the node's credential, and the authority that pods trust.
//!
//! In: a cluster. Out: objects applied to it, and files in its folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{AgentOptions, picket_binary};
use crate::cluster::{Cluster, TestNode};
use crate::pki::CertificateFiles;

/// The label that deploy/enrolment.yaml selects namespaces by.
const ENROLLED_LABEL: &str = "picket.dev/enrolled";
/// The label of nodes that take enrolled pods.
const AGENT_LABEL: &str = "picket.dev/agent=ready";
/// The ConfigMap that enrolled pods get instead of kube-root-ca.crt.
const CA_CONFIG_MAP: &str = "picket-ca.crt";
/// The group that deploy/rbac.yaml gives a node's rights to.
const NODES_GROUP: &str = "picket:nodes";
/// The repository's deploy folder.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// Makes namespaces whose pods are enrolled: the admission policy of deploy/, the label, and Picket's CA bundle. It makes
/// the bundle's certificate authority too, once per cluster, which every agent on the cluster's nodes then uses. The nodes get the label
/// by which enrolled pods find a node whose agent is Ready: no controller runs here that would tell.
///
/// # Errors
/// The API server refuses something, or there is no `picket` to make the authority with.
pub fn enrol(cluster: &Cluster, namespaces: &[&str]) -> Result<()> {
    let bundle = fs::read_to_string(certificate_authority(cluster)?.join("ca.crt"))?;
    cluster.apply(&enrolment(cluster)?)?;
    let label = ["label", "nodes", "--all", "--overwrite", AGENT_LABEL];
    cluster.kubectl_client().run(&label, None)?;
    let mut objects = Vec::new();
    for namespace in namespaces {
        objects.push(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {ENROLLED_LABEL: "true"}}}));
        objects.push(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": CA_CONFIG_MAP, "namespace": namespace}, "data": {"ca.crt": bundle}}));
    }
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    let in_force = || -> Result<bool> {
        // A policy takes a moment to reach the admission chain; until then a pod would come out as it went in.
        let Some(namespace) = namespaces.first() else {
            return Ok(true);
        };
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": namespace},
            "spec": {"containers": [{"name": "main", "image": "picket.test/busybox:1"}]}});
        let arguments = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
        let shown = cluster.kubectl_stdin(&arguments, &pod.to_string())?;
        Ok(String::from_utf8_lossy(&shown.stdout).contains(CA_CONFIG_MAP))
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !in_force()? {
        ensure!(
            Instant::now() < deadline,
            "deploy/enrolment.yaml is applied, but pods in {namespaces:?} do not change"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// deploy/enrolment.yaml, in the version of MutatingAdmissionPolicy that the cluster can run.
fn enrolment(cluster: &Cluster) -> Result<String> {
    let text = deploy_file("enrolment.yaml")?;
    if cluster.release().has_mutating_policies() {
        return Ok(text);
    }
    let kind =
        |version: &str| format!("admissionregistration.k8s.io/{version}\nkind: MutatingAdmissionPolicy");
    let older = text.replace(&kind("v1"), &kind("v1beta1"));
    ensure!(
        older != text,
        "deploy/enrolment.yaml has no MutatingAdmissionPolicy"
    );
    Ok(older)
}

/// The folder with the CA that the cluster's agents mint under, made by `picket ca create` when it is not there.
pub(super) fn certificate_authority(cluster: &Cluster) -> Result<PathBuf> {
    let folder = cluster.dir().join("picket-ca");
    if !folder.join("ca.crt").exists() {
        let mut command = Command::new(picket_binary()?);
        let made = command
            .args(["ca", "create", "--out"])
            .arg(&folder)
            .output()
            .context("run picket ca create")?;
        ensure!(
            made.status.success(),
            "picket ca create: {}",
            String::from_utf8_lossy(&made.stderr).trim()
        );
    }
    Ok(folder)
}

fn deploy_file(name: &str) -> Result<String> {
    let path = Path::new(DEPLOY).join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Applies deploy/rbac.yaml and deploy/flow-control.yaml, and beside it the right to impersonate whom the grants name.
pub(super) fn give_rights(cluster: &Cluster, options: &AgentOptions) -> Result<()> {
    cluster.apply(&deploy_file("rbac.yaml")?)?;
    cluster.apply(&deploy_file("flow-control.yaml")?)?;
    let constrained = cluster.release().has_constrained_impersonation();
    cluster.apply(&impersonation(options, constrained).to_string())
}

/// The node's credential at the API server, as deploy/rbac.yaml names it.
pub(super) fn node_certificate(cluster: &Cluster, node: &TestNode) -> Result<CertificateFiles> {
    let user = format!("picket:{}", node.name);
    cluster.client_certificate(&format!("picket-{}", node.name), &user, Some(NODES_GROUP))
}

/// The right to act as the users and groups that the grants name, beside what deploy/rbac.yaml gives every node. Its verbs do nothing
/// where the API server has no constrained impersonation: there the plain verb has all of them, as `picket grant rbac --plain` prints it.
fn impersonation(options: &AgentOptions, constrained: bool) -> Value {
    let name = "picket-node-impersonate-more";
    let (mut rules, mut groups) = (Vec::new(), options.groups.clone());
    let (of_people, verb) = if constrained {
        ("authentication.k8s.io", "impersonate:user-info")
    } else {
        groups.push("picket:agents".to_owned());
        let extras = ["identity", "pod", "session"].map(|of| format!("userextras/picket.dev/{of}"));
        rules.push(
            json!({"apiGroups": ["authentication.k8s.io"], "resources": extras, "verbs": ["impersonate"]}),
        );
        ("", "impersonate")
    };
    for (resource, names) in [("users", &options.users), ("groups", &groups)] {
        // Without names a rule would stand for every user there is.
        if !names.is_empty() {
            rules.push(
                json!({"apiGroups": [of_people], "resources": [resource], "verbs": [verb], "resourceNames": names}),
            );
        }
    }
    let api = "rbac.authorization.k8s.io/v1";
    let role = json!({"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let binding = json!({"apiVersion": api, "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"kind": "ClusterRole", "name": name, "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "Group", "name": NODES_GROUP, "apiGroup": "rbac.authorization.k8s.io"}]});
    json!({"apiVersion": "v1", "kind": "List", "items": [role, binding]})
}
