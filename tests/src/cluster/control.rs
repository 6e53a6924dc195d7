//! The control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler on the first node.
//!
//! In: a cluster whose first node has its namespaces. Out: an API server that is ready.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{Cluster, config};
use crate::pki::{Authority, kubeconfig};

/// How long the API server may take; four seconds on an idle machine.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// What clients call the API server by, besides the first node's address.
const SERVER_NAMES: [&str; 8] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "10.96.0.1",
    "picket.test",
];

pub(super) fn start(cluster: &Cluster, pki: &Authority, more: &[String]) -> Result<()> {
    let (node, state, dir) = (cluster.node(), &cluster.state, cluster.state.dir());
    let part = |name: &str| {
        let mut command = Command::new(&cluster.about.program);
        command.arg(name);
        command
    };
    let mut etcd = part("etcd");
    etcd.arg("--data-dir").arg(dir.join("etcd"));
    node.daemon(state, "etcd", etcd)?;

    let address = node.address.to_string();
    let mut names = SERVER_NAMES.to_vec();
    names.push(&address);
    let serving = pki.server("kube-apiserver", &names)?;
    let to_kubelet = pki.client(
        "kube-apiserver-kubelet-client",
        "kube-apiserver-kubelet-client",
        Some("system:masters"),
    )?;
    let ca = pki.pair();
    let policy = dir.join("audit-policy.yaml");
    fs::write(&policy, config::AUDIT_POLICY)?;
    let mut apiserver = part("kube-apiserver");
    apiserver.args([
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--audit-log-mode=blocking",
        // Nobody resolves a node's name here.
        "--kubelet-preferred-address-types=InternalIP",
        // Requests by the hundred at once are what the tests make.
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
    ]);
    apiserver.arg(format!("--advertise-address={address}"));
    apiserver.arg(format!("--service-cluster-ip-range={}", config::SERVICE_RANGE));
    for (flag, path) in [
        ("client-ca-file", &ca.cert),
        ("tls-cert-file", &serving.cert),
        ("tls-private-key-file", &serving.key),
        ("kubelet-certificate-authority", &ca.cert),
        ("kubelet-client-certificate", &to_kubelet.cert),
        ("kubelet-client-key", &to_kubelet.key),
        ("service-account-signing-key-file", &pki.service_accounts().key),
        ("service-account-key-file", &pki.service_accounts().cert),
        ("audit-policy-file", &policy),
        ("audit-log-path", &cluster.audit_log()),
    ] {
        apiserver.arg(format!("--{flag}={}", path.display()));
    }
    apiserver.args(more);
    let pid = node.daemon(state, "kube-apiserver", apiserver)?;
    let client = cluster.kubectl_client();
    let ready = || {
        client
            .output(&["get", "--raw", "/readyz"], None)
            .is_ok_and(|done| done.status.success())
    };
    node.wait(pid, "kube-apiserver", READY_TIMEOUT, ready)?;

    for (name, user) in [
        ("kube-controller-manager", "system:kube-controller-manager"),
        ("kube-scheduler", "system:kube-scheduler"),
    ] {
        let login = dir.join(format!("{name}.kubeconfig"));
        let pair = pki.client(name, user, None)?;
        fs::write(&login, kubeconfig(&cluster.about.server, &ca.cert, &pair))?;
        let mut command = part(name);
        command
            .arg("--kubeconfig")
            .arg(&login)
            .args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        if name == "kube-controller-manager" {
            command.args([
                "--use-service-account-credentials=true",
                "--controllers=*,bootstrapsigner,tokencleaner",
            ]);
            command.arg("--root-ca-file").arg(&ca.cert);
            command
                .arg("--service-account-private-key-file")
                .arg(pki.service_accounts().key);
            command
                .arg("--cluster-signing-cert-file")
                .arg(&ca.cert)
                .arg("--cluster-signing-key-file")
                .arg(&ca.key);
        }
        node.daemon(state, name, command)?;
    }
    Ok(())
}
