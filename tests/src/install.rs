//! Picket on a cluster by its chart, as a user installs it.
//!
//! In: Helm, a cluster, the agent's image in its nodes. Out: a release, its agents, and its end.
//!
//! The nodes are prepared first: the nodes of one machine share a kernel, so each gets a BPF filesystem of its own, and its own part of
//! the cgroup tree at a path that all nodes have. A node of a user's has both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::{Cluster, TestNode};
use crate::helm::{CHART, Helm, NAMESPACE, said};

/// How long agents and pods may take. Seconds are usual; a machine that also compiles takes longer.
pub const LIMIT: Duration = Duration::from_secs(180);

/// The node's own part of the cgroup tree, as the node sees it.
const NODE_CGROUP: &str = "/run/node-cgroup";

/// Where the kernel's pins are.
const BPFFS: &str = "/sys/fs/bpf";

/// The pods of agents.
pub const AGENTS: &str = "app.kubernetes.io/component=agent";

/// Helm on the cluster, and the values that it has there.
#[derive(Debug)]
pub struct Installer<'w> {
    /// Helm.
    pub helm: &'w Helm,
    /// Where.
    pub cluster: &'w Cluster,
    values: Vec<String>,
}

impl<'w> Installer<'w> {
    /// For a cluster whose nodes have this image of the agent, and are prepared from here on.
    ///
    /// # Errors
    /// A node cannot be prepared.
    pub fn new(helm: &'w Helm, cluster: &'w Cluster, image: &str) -> Result<Self> {
        for node in cluster.nodes() {
            prepare(node).with_context(|| format!("prepare {}", node.name))?;
        }
        Ok(Self {
            helm,
            cluster,
            values: values(image)?,
        })
    }

    /// Adds a value.
    pub fn set(&mut self, value: &str) {
        self.values.extend(["--set".to_owned(), value.to_owned()]);
    }

    /// Runs Helm on the first node, with the release's values and these arguments.
    ///
    /// # Errors
    /// Helm fails; the error holds what it said.
    pub fn run(&self, verb: &[&str], more: &[&str]) -> Result<String> {
        let mut command = self.helm.command(verb);
        command
            .args(["picket", CHART, "--namespace", NAMESPACE])
            .args(&self.values)
            .args(more)
            .env("KUBECONFIG", self.cluster.kubeconfig());
        let done = self.cluster.node().output(command)?;
        said(done).with_context(|| format!("helm {}", verb.join(" ")))
    }

    /// `helm uninstall`.
    ///
    /// # Errors
    /// Helm fails.
    pub fn remove(&self, more: &[&str]) -> Result<()> {
        let mut command = self
            .helm
            .command(&["uninstall", "picket", "--namespace", NAMESPACE, "--wait"]);
        command.args(more).env("KUBECONFIG", self.cluster.kubeconfig());
        said(self.cluster.node().output(command)?)
            .context("helm uninstall")
            .map(drop)
    }

    /// kubectl as the administrator.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl_client().run(arguments, None)
    }

    /// The agents' pods, by name.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn agents(&self) -> Result<Vec<String>> {
        let names = self.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", AGENTS, "-o", "name"])?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Waits until each node has one agent, which is Ready and of the newest configuration.
    ///
    /// # Errors
    /// That does not come.
    pub fn wait_for_agents(&self) -> Result<Vec<String>> {
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        self.kubectl(&["-n", NAMESPACE, "rollout", "status", "daemonset/picket", &limit])?;
        let nodes = self.cluster.nodes().len();
        wait("one agent a node", || Ok(self.agents()?.len() == nodes))?;
        self.agents()
    }

    /// Waits until each replica of the controller is Ready.
    ///
    /// # Errors
    /// That does not come.
    pub fn wait_for_controller(&self) -> Result<()> {
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        let deployment = "deployment/picket-controller";
        self.kubectl(&["-n", NAMESPACE, "rollout", "status", deployment, &limit])
            .map(drop)
    }

    /// Waits until a pod that is created in this namespace would be enrolled.
    ///
    /// # Errors
    /// That does not come.
    pub fn wait_for_enrolment(&self, namespace: &str) -> Result<()> {
        let pod = restricted_pod(namespace, "probe", "x", &[]).to_string();
        let arguments = ["create", "--dry-run=server", "-o", "yaml", "-f", "-"];
        wait("the enrolment", || {
            let done = self.cluster.kubectl_stdin(&arguments, &pod)?;
            Ok(String::from_utf8_lossy(&done.stdout).contains("audience: picket.dev"))
        })
    }

    /// The folder of a node's kernel programs' links and maps.
    pub fn pins(&self, node: &TestNode) -> PathBuf {
        node.file(&Path::new(BPFFS).join("picket"))
    }
}

/// The values of the chart in a test: the image, and what is special about a node that shares its kernel with others.
fn values(image: &str) -> Result<Vec<String>> {
    let (repository, tag) = image.rsplit_once(':').context("an image without a tag")?;
    let set = [
        ("--set", format!("image.repository={repository}")),
        ("--set-string", format!("image.tag={tag}")),
        ("--set", format!("host.cgroup={NODE_CGROUP}")),
        ("--set", "shutdown.drainSeconds=2".to_owned()),
    ];
    let each = set.into_iter().map(|(flag, value)| [flag.to_owned(), value]);
    Ok(each.flatten().collect())
}

/// A pod of one container that runs once, and that Pod Security `restricted` takes.
#[must_use]
pub fn restricted_pod(namespace: &str, name: &str, image: &str, command: &[&str]) -> Value {
    let rights = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65534, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let container = json!({
        "name": "main", "image": image, "imagePullPolicy": "Never", "securityContext": rights, "command": command,
        "env": [{"name": "HOME", "value": "/tmp"}],
    });
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]},
    })
}

/// Gives the node its BPF filesystem and its part of the cgroup tree, once.
fn prepare(node: &TestNode) -> Result<()> {
    let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", node.holder))?;
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(NODE_CGROUP))
    {
        return Ok(());
    }
    let mount = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new("mount");
        command.arg("-n").args(arguments);
        said(node.output(command)?).context("mount").map(drop)
    };
    std::fs::create_dir_all(node.file(Path::new(NODE_CGROUP)))?;
    mount(&["-t", "bpf", "picket-node", BPFFS])?;
    mount(&["--bind", &node.cgroup.display().to_string(), NODE_CGROUP])
}

/// Waits until it holds.
///
/// # Errors
/// It does not in time, or cannot be known.
pub fn wait(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds()? {
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
