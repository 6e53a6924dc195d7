//! Real and simulated pods behind one small API.
//!
//! In: a pod. Out: who it is, where it is, and programs run inside it.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result};

use crate::cgroup;
use crate::cluster::{Cluster, Kubectl};

/// A pod that a test can look at and run programs in.
pub trait TestPod {
    /// Its name.
    fn name(&self) -> &str;
    /// Its Kubernetes namespace.
    fn namespace(&self) -> &str;
    /// Its UID, as in the API.
    fn uid(&self) -> &str;
    /// Its cgroup in the unified hierarchy; the containers' are below it.
    fn cgroup(&self) -> &Path;
    /// A handle of its network namespace.
    fn netns(&self) -> &Path;
    /// Runs a program inside it to its end.
    ///
    /// # Errors
    /// The program cannot be run; that it fails is in the output.
    fn run(&self, argv: &[&str]) -> Result<Output>;
}

/// A pod that a kubelet runs.
#[derive(Debug, Clone)]
pub struct RealPod {
    client: Kubectl,
    name: String,
    namespace: String,
    uid: String,
    node: String,
    address: String,
    container: String,
    cgroup: PathBuf,
    netns: PathBuf,
}

impl RealPod {
    /// The running pod of that name.
    ///
    /// # Errors
    /// There is none, or it has no process.
    pub fn find(cluster: &Cluster, namespace: &str, name: &str) -> Result<Self> {
        let client = cluster.kubectl_client();
        let wanted = "jsonpath={.metadata.uid}\n{.status.qosClass}\n{.spec.nodeName}\n{.status.podIP}\n{.spec.containers[0].name}\n\
                      {.metadata.annotations.kubernetes\\.io/config\\.mirror}";
        let shown = client.run(&["get", "pod", "-n", namespace, name, "-o", wanted], None)?;
        let mut lines = shown.lines().map(str::to_owned);
        let mut next = || {
            lines
                .next()
                .with_context(|| format!("pod {namespace}/{name} has not started"))
        };
        let (uid, qos, node, address, container) = (next()?, next()?, next()?, next()?, next()?);
        // A static pod's cgroup carries the hash of its manifest, which its mirror in the API tells.
        let manifest = next().ok().filter(|hash| !hash.is_empty());
        let home = cluster.nodes().iter().find(|candidate| candidate.name == node);
        let home = home.with_context(|| format!("pod {namespace}/{name} is on no node of this cluster"))?;
        let class = if qos == "Guaranteed" {
            String::new()
        } else {
            format!("{}/", qos.to_lowercase())
        };
        let of_cgroup = manifest.as_ref().unwrap_or(&uid);
        let cgroup = home.cgroup.join(format!("kubepods/{class}pod{of_cgroup}"));
        let pid = cgroup::processes(&cgroup).first().copied();
        let pid = pid.with_context(|| format!("no process in {}", cgroup.display()))?;
        let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
        Ok(Self {
            client,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            uid,
            node,
            address,
            container,
            cgroup,
            netns,
        })
    }

    /// The node it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The container that [`TestPod::run`] uses.
    pub fn container(&self) -> &str {
        &self.container
    }
}

impl TestPod for RealPod {
    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    fn netns(&self) -> &Path {
        &self.netns
    }

    fn run(&self, argv: &[&str]) -> Result<Output> {
        let mut arguments = vec![
            "exec",
            "-n",
            &self.namespace,
            &self.name,
            "-c",
            &self.container,
            "--",
        ];
        arguments.extend(argv);
        self.client.output(&arguments, None)
    }
}
