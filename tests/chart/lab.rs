//! A release on two nodes, and pods that ask the API server without end.
//!
//! In: the chart, and a cluster of two nodes. Out: a [`Lab`], which the tests of [`crate::life`], [`crate::restore`] and [`crate::trust`]
//! share: the first of them installs an older build with older CRDs. Each node has an enrolled pod and one that is left alone.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use picket_tests::agent::ask;
use picket_tests::cgroup;
use picket_tests::cluster::{Cluster, TestNode};
use picket_tests::images::Image;
use picket_tests::install::{AGENTS, Installer, LIMIT, wait};
use picket_tests::packets::PacketCounter;
use picket_tests::pod::{RealPod, TestPod as _};
use serde_json::{Value, json};

use crate::helm::{CHART, NAMESPACE, documents, said};
use crate::world::World;

/// The namespace of the pods that are enrolled, and of those that are not.
pub(crate) const ENROLLED: &str = "agents";
pub(crate) const EXEMPT: &str = "direct";

/// What the pods' clients do.
const LOAD: &str = include_str!("files/load.py");
/// Who the agents are.
const OBJECTS: &str = include_str!("files/lab.yaml");

/// A session of a second, again and again.
const SESSIONS: &str = "while :; do said=$(kubectl -n lab exec target -- sh -c 'sleep 1; echo whole' 2>&1); \
                        echo \"$(date +%s)\" $said; sleep 0.1; done";

/// How long requests in flight and sessions may take to end. More than the sessions' second by far, since the machine may be busy.
const DRAIN: &str = "shutdown.drainSeconds=8";

/// Where a node keeps its CA.
const NODE_CA: &str = "/var/lib/picket/node-ca.pem";

/// The name of the authority that signed the API server's own certificate.
pub(crate) const API_SERVER_CA: &str = "picket test cluster";

/// The release, and the cluster.
pub(crate) struct Lab<'w> {
    installer: Installer<'w>,
    /// The image of the older build.
    pub(crate) older: &'w Image,
}

impl<'w> Deref for Lab<'w> {
    type Target = Installer<'w>;

    fn deref(&self) -> &Installer<'w> {
        &self.installer
    }
}

/// What the clients of a pod saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By who signed the server's certificate.
    pub(crate) answered: BTreeMap<String, u64>,
    /// By what went wrong.
    pub(crate) failed: BTreeMap<String, u64>,
}

/// The lab, with all its pods served. The first call installs the older build.
pub(crate) fn lab(world: &mut World) -> Result<Lab<'_>> {
    let reference = world.image.reference.clone();
    let (helm, cluster, older) = world.pair()?;
    let mut installer = Installer::new(helm, cluster, &reference)?;
    for value in [
        DRAIN,
        "impersonate.users={agent:worker}",
        "impersonate.groups={agents:lab}",
    ] {
        installer.set(value);
    }
    let lab = Lab { installer, older };
    let found = lab.kubectl(&["get", "daemonset", "-A", "-o", "name"])?;
    if !found.contains("daemonset.apps/picket") {
        lab.install()?;
    }
    lab.settle()?;
    Ok(lab)
}

impl Lab<'_> {
    /// The older build by older CRDs, which Helm leaves as they are.
    fn install(&self) -> Result<()> {
        let namespaces = [NAMESPACE, ENROLLED].map(|name| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string()
        });
        for namespace in namespaces {
            self.cluster.apply(&namespace)?;
        }
        self.apply_crds(|crd| {
            if crd["metadata"]["name"] == "agentgrants.picket.dev" {
                let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
                let fields = schema["properties"]["spec"]["properties"].as_object_mut();
                let fields = fields.context("the fields of a grant")?;
                fields.remove("window").context("no field `window`")?;
            }
            Ok(())
        })?;
        self.run(&["install"], &self.older_build()?)?;
        self.wait_for_agents()?;
        self.kubectl(&["label", "namespace", ENROLLED, "picket.dev/enrolled=true"])?;
        self.wait_for_enrolment(ENROLLED)?;
        self.cluster.apply(OBJECTS)?;
        wait("the grant", || {
            let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
            Ok(self.kubectl(&["get", "agentgrant", "worker", "-o", path])? == "True")
        })
    }

    /// Values that choose the older build.
    fn older_build(&self) -> Result<[&str; 4]> {
        let (_, tag) = self.older.reference.rsplit_once(':').context("no tag")?;
        ensure!(tag == "older", "{}", self.older.reference);
        Ok([
            "--set",
            "image.repository=picket.test/picket",
            "--set-string",
            "image.tag=older",
        ])
    }

    /// Applies the chart's CRDs as deploy/docs/upgrade.md says, each changed before.
    pub(crate) fn apply_crds(&self, change: impl Fn(&mut Value) -> Result<()>) -> Result<()> {
        let mut all = Vec::new();
        for file in std::fs::read_dir(Path::new(CHART).join("crds"))? {
            all.extend(documents(&std::fs::read_to_string(file?.path())?)?);
        }
        ensure!(all.len() >= 4, "{} CRDs", all.len());
        all.iter_mut().try_for_each(change)?;
        let list = json!({"apiVersion": "v1", "kind": "List", "items": all}).to_string();
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.cluster
            .kubectl_client()
            .run(&arguments, Some(&list))
            .map(drop)
    }

    /// Whether the older build is installed.
    pub(crate) fn is_older(&self) -> Result<bool> {
        let path = "jsonpath={.spec.template.spec.containers[0].image}";
        let image = self.kubectl(&["-n", NAMESPACE, "get", "daemonset", "picket", "-o", path])?;
        Ok(image == self.older.reference)
    }

    /// Makes the pods that are not there, and waits until each is Ready and its requests are answered.
    pub(crate) fn settle(&self) -> Result<()> {
        self.make_pods()?;
        for (namespace, name) in self.pods() {
            self.cluster.wait_ready(&namespace, &name, LIMIT)?;
        }
        let mark = mark();
        for node in self.cluster.nodes() {
            self.wait_answered(ENROLLED, node, mark)?;
            self.wait_answered(EXEMPT, node, mark)?;
        }
        self.tick("settled")
    }

    fn pods(&self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> =
            [("lab", "target"), (ENROLLED, "informers"), (ENROLLED, "sessions")]
                .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
                .into();
        for node in self.cluster.nodes() {
            all.extend([ENROLLED, EXEMPT].map(|namespace| (namespace.to_owned(), load_of(node))));
        }
        all
    }

    /// The pods of both namespaces: those of a node stay on it.
    fn make_pods(&self) -> Result<()> {
        let nodes = self.cluster.nodes();
        let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
        let configmap = "/api/v1/namespaces/lab/configmaps/tick";
        let informers = ["informers", "--namespace=lab", "--name=tick", "--count=5"];
        let mut all = vec![
            pod("lab", "target", first, &["sleep", "infinity"]),
            pod(ENROLLED, "informers", last, &informers),
            pod(ENROLLED, "sessions", first, &["sh", "-c", SESSIONS]),
        ];
        for node in nodes {
            let load = ["python3", "-c", LOAD, configmap, "2"];
            all.push(pod(ENROLLED, &load_of(node), node, &load));
            all.push(pod(
                EXEMPT,
                &load_of(node),
                node,
                &["python3", "-c", LOAD, "/version", "1"],
            ));
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": all}).to_string();
        // The account of a new namespace comes a moment after it, and one that Helm's hooks leave may be there.
        wait("the pods of the lab", || Ok(self.cluster.apply(&list).is_ok()))
    }

    /// What the clients on this node have seen since then.
    pub(crate) fn seen(&self, namespace: &str, node: &TestNode, since: f64) -> Result<Seen> {
        let log = self.kubectl(&["-n", namespace, "logs", &load_of(node)])?;
        let mut seen = Seen::default();
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            if line["from"].as_f64().is_some_and(|from| from >= since) {
                count(&mut seen.answered, &line["answered"]);
                count(&mut seen.failed, &line["failed"]);
            }
        }
        Ok(seen)
    }

    /// Waits until the clients on this node have had answers since then; gives how long that took.
    pub(crate) fn wait_answered(&self, namespace: &str, node: &TestNode, since: f64) -> Result<Duration> {
        let begin = Instant::now();
        let mut seen = Seen::default();
        wait("an answer", || {
            seen = self.seen(namespace, node, since).unwrap_or_default();
            Ok(!seen.answered.is_empty())
        })
        .with_context(|| format!("{namespace}/{}: {seen:?}", load_of(node)))?;
        Ok(begin.elapsed())
    }

    /// Counts what leaves the enrolled pod of each node for the API server.
    pub(crate) fn count_packets(&self) -> Result<Vec<PacketCounter>> {
        let nodes = self.cluster.nodes().iter();
        nodes
            .map(|node| {
                let pod = RealPod::find(self.cluster, ENROLLED, &load_of(node))?;
                PacketCounter::start(node, &pod)
            })
            .collect()
    }

    /// Writes a value that the informers in an enrolled pod then see.
    pub(crate) fn tick(&self, value: &str) -> Result<()> {
        let value = format!("{value}-{:.3}", mark());
        let patch = json!({"data": {"count": value}}).to_string();
        self.kubectl(&[
            "-n",
            "lab",
            "patch",
            "configmap",
            "tick",
            "--type=merge",
            "-p",
            &patch,
        ])?;
        wait("the informers go on", || {
            // A container that is made anew has no log for a moment.
            let log = self.kubectl(&["-n", ENROLLED, "logs", "informers", "--tail=20"]);
            let log = log.unwrap_or_default();
            Ok(log.contains(&format!("all have {value}")))
        })
    }

    /// The agent's pod on this node.
    pub(crate) fn agent_on(&self, node: &TestNode) -> Result<String> {
        let field = format!("spec.nodeName={}", node.name);
        let arguments = [
            "get",
            "pods",
            "-o",
            "name",
            "-l",
            AGENTS,
            "--field-selector",
            &field,
        ];
        let names = self.kubectl(&[&["-n", NAMESPACE], &arguments[..]].concat())?;
        let mut names = names.lines();
        let name = names
            .next()
            .with_context(|| format!("no agent on {}", node.name))?;
        ensure!(names.next().is_none(), "two agents on {}", node.name);
        Ok(name.to_owned())
    }

    /// What a command of `picket` prints in the agent's pod of this node.
    pub(crate) fn picket(&self, node: &TestNode, arguments: &[&str]) -> Result<String> {
        let agent = self.agent_on(node)?;
        let exec = ["-n", NAMESPACE, "exec", &agent, "--", "/picket"];
        self.kubectl(&[&exec, arguments].concat())
    }

    /// Whether the agent of this node is ready, as it tells on the node itself: without the API server.
    pub(crate) fn readiness(&self, node: &TestNode) -> Result<(u16, String)> {
        ask(&node.file(Path::new("/run/picket/admin.sock")), "/readyz")
    }

    /// The folders of a node's maps, one for each layout.
    pub(crate) fn layouts(&self, node: &TestNode) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.pins(node))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            all.extend(name.starts_with("v1-").then_some(name));
        }
        Ok(all)
    }

    /// The records of each node are whole.
    pub(crate) fn verify_records(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            self.picket(node, &["audit", "verify"])?;
        }
        Ok(())
    }

    /// Ends the agent of this node as a crash does, and waits until another process of its pod serves.
    pub(crate) fn restart_agent(&self, node: &TestNode) -> Result<()> {
        let agent = self.agent_on(node)?;
        let name = agent.trim_start_matches("pod/");
        let found = RealPod::find(self.cluster, NAMESPACE, name)?;
        let processes = cgroup::processes(found.cgroup());
        let is_agent = |pid: &&i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"/picket\0agent\0")
        };
        let pid = processes.iter().find(is_agent).context("no agent's process")?;
        let path =
            "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
        let before = self.kubectl(&["-n", NAMESPACE, "get", &agent, "-o", path])?;
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
        wait("the agent starts again", || {
            let now = self.kubectl(&["-n", NAMESPACE, "get", &agent, "-o", path])?;
            Ok(now != before && now.ends_with("true"))
        })
    }

    /// Has so many replicas of the controller, and waits until they are there or gone.
    pub(crate) fn scale_controller(&self, replicas: u8) -> Result<()> {
        let (deployment, count) = ("deployment/picket-controller", format!("--replicas={replicas}"));
        self.kubectl(&["-n", NAMESPACE, "scale", deployment, &count])?;
        if replicas > 0 {
            return self.wait_for_controller();
        }
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        let selector = "app.kubernetes.io/component=controller";
        let delete = ["wait", "--for=delete", "pod", "-l", selector, &limit];
        self.kubectl(&[&["-n", NAMESPACE], &delete[..]].concat())
            .map(drop)
    }

    /// Has the agent of a node ask for another CA, as deploy/docs/trust.md says.
    pub(crate) fn forget_node_ca(&self, node: &TestNode) -> Result<()> {
        std::fs::remove_file(node.file(Path::new(NODE_CA))).context("remove the node's CA")
    }

    /// The CA of a node and its key; `None` where there is none.
    pub(crate) fn node_ca_of(&self, node: &TestNode) -> Option<Vec<u8>> {
        std::fs::read(node.file(Path::new(NODE_CA))).ok()
    }

    /// `helm rollback` to the revision before.
    pub(crate) fn roll_back(&self) -> Result<()> {
        let mut command = self
            .helm
            .command(&["rollback", "picket", "--namespace", NAMESPACE]);
        command.env("KUBECONFIG", self.cluster.kubeconfig());
        let done = self.cluster.node().output(command)?;
        said(done).context("helm rollback").map(drop)
    }

    /// Upgrades to the newer build.
    pub(crate) fn upgrade(&self) -> Result<()> {
        self.apply_crds(|_| Ok(()))?;
        self.run(&["upgrade"], &["--set", "log.filter=info"])?;
        self.wait_for_agents().map(drop)
    }
}

fn count(all: &mut BTreeMap<String, u64>, more: &Value) {
    for (name, number) in more.as_object().into_iter().flatten() {
        *all.entry(name.clone()).or_default() += number.as_u64().unwrap_or_default();
    }
}

/// Now, as the loads tell time. What follows is counted wholly from here on: a line of theirs has a quarter of a second.
pub(crate) fn mark() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

/// The name of a node's pod that asks without end.
pub(crate) fn load_of(node: &TestNode) -> String {
    format!("load-{}", node.name)
}

/// The name of who signs the certificates of a node's agent.
pub(crate) fn node_ca(node: &TestNode) -> String {
    format!("picket node CA {}", node.name)
}

/// A pod on this node, by the scheduler, which waits for its agent.
pub(crate) fn pod(namespace: &str, name: &str, node: &TestNode, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node.name}, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "picket.test/tools:1", "imagePullPolicy": "Never", "command": command,
                "env": [{"name": "HOME", "value": "/tmp"}],
            }],
        },
    })
}

/// The node without the control plane.
pub(crate) fn second(cluster: &Cluster) -> Result<&TestNode> {
    cluster.nodes().get(1).context("no second node")
}
