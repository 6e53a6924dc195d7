//! A real Kubernetes cluster of one or two nodes on this machine.
//!
//! In: a name, the number of nodes, images to load. Out: a control plane with RBAC and an audit log on the first node, nodes
//! that are Ready, and handles to all of it.
//!
//! Nodes are network namespaces on a bridge in an outer namespace that has no uplink, so that nothing dialled from inside
//! reaches the machine's network. There is no DNS: a client that dials `kubernetes.default.svc` needs `hostAliases: [{ip:
//! 10.96.0.1, hostnames: [kubernetes.default.svc]}]` in its pod.

mod backup;
mod config;
mod control;
mod daemons;
mod kubectl;
mod node;
mod outage;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::build::GoProgram;
use crate::images::{self, Image};
use crate::pki::{Authority, CertificateFiles, kubeconfig};
use crate::pod::RealPod;
use crate::release::Release;
use crate::state::{StateFolder, Thing};
use crate::{cgroup, net};

pub use backup::Backup;
pub use daemons::{PoweredOff, Stopped};
pub use kubectl::Kubectl;
pub use node::TestNode;
pub use outage::{CutOff, Paused};

/// The outer namespace's own address; nodes' default route leads there, and no further.
const GATEWAY: &str = "10.250.0.254";
/// How long nodes may take to become Ready. Ten seconds is usual; a machine that also compiles takes longer.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// What cluster to bring up.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// One or two.
    pub nodes: u8,
    /// 1 to 8 lower-case letters and digits; two clusters of different names live side by side.
    pub name: String,
    /// Images to load into every node, besides pause and busybox.
    pub images: Vec<Image>,
    /// More arguments of the API server.
    pub api_server: Vec<String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            nodes: 1,
            name: "play".to_owned(),
            images: Vec::new(),
            api_server: Vec::new(),
        }
    }
}

/// A running cluster. Dropping it takes it down, unless it was kept.
#[derive(Debug)]
pub struct Cluster {
    state: StateFolder,
    about: About,
    owned: bool,
}

/// What another process needs to use the cluster too.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    release: Release,
    nodes: Vec<TestNode>,
    server: String,
    program: PathBuf,
}

impl Cluster {
    /// Brings a cluster up: nodes Ready, the default service account there, service addresses reachable.
    ///
    /// # Errors
    /// Something does not start; what was made is gone again by then.
    pub fn up(options: ClusterOptions) -> Result<Self> {
        ensure!(
            (1..=2).contains(&options.nodes),
            "a cluster has one or two nodes, not {}",
            options.nodes
        );
        ensure!(nix::unistd::geteuid().is_root(), "a cluster needs root");
        // Built before anything is made: the first build takes minutes.
        let release = Release::chosen()?;
        let program = GoProgram::Cluster.path()?;
        let mut loaded = vec![images::pause()?, images::busybox()?];
        loaded.extend(options.images);
        let state = StateFolder::create(&options.name)?;
        let mut nodes = Vec::new();
        for number in 1..=options.nodes {
            nodes.push(TestNode::new(&state, number)?);
        }
        let server = format!("https://{}:6443", nodes[0].address);
        let mut cluster = Self {
            state,
            about: About {
                release,
                nodes,
                server,
                program,
            },
            owned: true,
        };
        // An error from here on drops the cluster, which takes down what there is.
        cluster
            .start(&loaded, &options.api_server)
            .with_context(|| format!("bring up cluster {}", options.name))?;
        Ok(cluster)
    }

    /// The cluster called `name` that another process brought up. Dropping it leaves it up.
    ///
    /// # Errors
    /// There is none, or it is not up entirely.
    pub fn open(name: &str) -> Result<Self> {
        let state = StateFolder::open(name)?;
        let about = fs::read(state.dir().join("cluster.json"))
            .with_context(|| format!("{name} is not a running cluster"))?;
        Ok(Self {
            about: serde_json::from_slice(&about)?,
            state,
            owned: false,
        })
    }

    /// Leaves the cluster up when this process ends.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn keep(&mut self) -> Result<()> {
        self.state.record(&Thing::Kept)?;
        self.owned = false;
        Ok(())
    }

    /// Takes the cluster down and leaves nothing of it.
    ///
    /// # Errors
    /// Something does not go away; `cargo xtask clean` may be tried again.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        self.state.teardown()
    }

    fn start(&mut self, images: &[Image], api_server: &[String]) -> Result<()> {
        let pki = Authority::create(&self.state.dir().join("pki"))?;
        let ca = pki.pair().cert;
        let admin = pki.client("admin", "picket-test-admin", Some("system:masters"))?;
        fs::write(self.kubeconfig(), kubeconfig(&self.about.server, &ca, &admin))?;
        let bin = self.state.dir().join("bin");
        fs::create_dir_all(&bin)?;
        // A copy of the program: a node's own view of the file system may not have the folder it was built in.
        let program = bin.join("cluster");
        if fs::hard_link(&self.about.program, &program).is_err() {
            fs::copy(&self.about.program, &program)?;
        }
        symlink("cluster", bin.join("kubectl"))?;
        self.about.program = program;

        self.make_network()?;
        self.state.record(&Thing::Cgroup(self.state.prefixed()))?;
        for node in &mut self.about.nodes {
            cgroup::create(&node.cgroup_name)?;
            cgroup::create(&format!("{}/system", node.cgroup_name))?;
            node.hold_mounts(&self.state)?;
        }
        self.state.save_sysctls()?;
        let cluster = &*self;
        std::thread::scope(|scope| -> Result<()> {
            let control = scope.spawn(|| control::start(cluster, &pki, api_server));
            let mut runtimes = Vec::new();
            for node in &cluster.about.nodes {
                runtimes.push(scope.spawn(move || cluster.start_runtime(node, images)));
            }
            control
                .join()
                .map_err(|_| anyhow::anyhow!("a start thread panicked"))??;
            for runtime in runtimes {
                runtime
                    .join()
                    .map_err(|_| anyhow::anyhow!("a start thread panicked"))??;
            }
            Ok(())
        })?;
        for node in &cluster.about.nodes {
            node.start_kubelet(&self.state, &self.about.program, &pki, &self.about.server)?;
            node.start_proxy(&self.state, &self.about.program, &pki, &self.about.server)?;
        }
        self.wait_for_nodes()?;
        self.tell_pod_ranges()?;
        Ok(fs::write(
            self.state.dir().join("cluster.json"),
            serde_json::to_vec(&self.about)?,
        )?)
    }

    fn start_runtime(&self, node: &TestNode, images: &[Image]) -> Result<()> {
        let pause = images.first().context("no sandbox image")?;
        node.start_containerd(&self.state, pause)?;
        images.iter().try_for_each(|image| node.load_image(image))
    }

    /// The outer namespace with its bridge, and each node's namespace with its end of a pair.
    fn make_network(&self) -> Result<()> {
        let outer_name = self.state.prefixed();
        let outer = net::path(&outer_name);
        self.state.record(&Thing::Netns(outer_name.clone()))?;
        net::create(&outer_name)?;
        // A packet for elsewhere is answered as unreachable at once, instead of being dropped.
        let mut lines = format!(
            "link set lo up\nlink add br0 type bridge\naddr add {GATEWAY}/24 dev br0\nlink set br0 up\n\
             route add unreachable default\n"
        );
        for (index, node) in self.about.nodes.iter().enumerate() {
            let number = index + 1;
            let name = format!("{outer_name}-n{number}");
            self.state.record(&Thing::Netns(name.clone()))?;
            net::create(&name)?;
            lines.push_str(&format!(
                "link add n{number} type veth peer name eth0 netns {name}\nlink set n{number} master br0 up\n\
                 route add {} via {}\n",
                node.pod_cidr, node.address
            ));
        }
        net::ip(&outer, &lines)?;
        net::sysctls(&outer, &[("ipv4/ip_forward", "1")])?;
        for node in &self.about.nodes {
            let mut lines = format!(
                "link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\nroute add default via {GATEWAY}\n",
                node.address
            );
            for other in self.about.nodes.iter().filter(|other| other.name != node.name) {
                lines.push_str(&format!("route add {} via {}\n", other.pod_cidr, other.address));
            }
            net::ip(&node.netns, &lines)?;
            // bridge-nf: answers between two pods of one node must pass the service rules backwards too.
            // ping_group_range: as systemd sets it on a machine; pods on the node's network ping without NET_RAW by it.
            net::sysctls(
                &node.netns,
                &[
                    ("ipv4/ip_forward", "1"),
                    ("bridge/bridge-nf-call-iptables", "1"),
                    ("ipv4/ping_group_range", "0 2147483647"),
                ],
            )?;
        }
        Ok(())
    }

    fn wait_for_nodes(&self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut pending = self.about.nodes.clone();
        while let Some(node) = pending.first() {
            let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status} {.spec.taints}"#;
            let shown = self
                .kubectl_client()
                .output(&["get", "node", &node.name, "-o", path], None)?;
            // Ready, and no taint left that keeps pods off.
            if String::from_utf8_lossy(&shown.stdout).trim() == "True" && proxy_is_ready(node) {
                pending.remove(0);
                continue;
            }
            if Instant::now() > deadline {
                bail!(
                    "{} does not become Ready; its kubelet's log ends:\n{}",
                    node.name,
                    node.log_end("kubelet")
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        while !self
            .kubectl(&["get", "serviceaccount", "default"])?
            .status
            .success()
        {
            ensure!(Instant::now() < deadline, "there is no default service account");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Notes each node's range of pod addresses in its object, as a controller manager that hands them out would.
    ///
    /// # Errors
    /// A node is not known.
    pub fn tell_pod_ranges(&self) -> Result<()> {
        for node in self.nodes() {
            let range = serde_json::json!({"spec": {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr]}});
            let arguments = ["patch", "node", &node.name, "-p", &range.to_string()];
            self.kubectl_client().run(&arguments, None)?;
        }
        Ok(())
    }

    /// The folder for everything of this cluster.
    pub fn dir(&self) -> &Path {
        self.state.dir()
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        self.state.name()
    }

    /// The release of Kubernetes that it runs.
    pub fn release(&self) -> Release {
        self.about.release
    }

    /// The nodes; the control plane runs on the first.
    pub fn nodes(&self) -> &[TestNode] {
        &self.about.nodes
    }

    /// The node that runs the control plane.
    pub fn node(&self) -> &TestNode {
        &self.about.nodes[0]
    }

    /// The outer network namespace, where no node or pod is: what dials from there comes from outside the cluster.
    pub fn outer_netns(&self) -> PathBuf {
        net::path(&self.state.prefixed())
    }

    /// The API server's URL on the nodes' network.
    pub fn server(&self) -> &str {
        &self.about.server
    }

    /// The certificate of the cluster's authority, PEM.
    pub fn ca_cert(&self) -> PathBuf {
        self.authority().pair().cert
    }

    /// The administrator's kubeconfig; it works from every node.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.dir().join("admin.kubeconfig")
    }

    /// The API server's audit log, one JSON event per line.
    pub fn audit_log(&self) -> PathBuf {
        self.state.dir().join("audit.log")
    }

    /// A folder with `kubectl` and `cluster`, for search paths.
    pub fn bin(&self) -> PathBuf {
        self.state.dir().join("bin")
    }

    fn authority(&self) -> Authority {
        Authority::open(&self.state.dir().join("pki"))
    }

    /// A client certificate of the cluster's authority; `file` names its files.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn client_certificate(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
    ) -> Result<CertificateFiles> {
        self.authority().client(file, user, group)
    }

    /// kubectl as the administrator.
    pub fn kubectl_client(&self) -> Kubectl {
        Kubectl {
            program: self.bin().join("kubectl"),
            kubeconfig: self.kubeconfig(),
            cache: self.state.dir().join("kubectl-cache"),
            netns: self.node().netns.clone(),
        }
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// It cannot be run; that it fails is in the output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_client().output(arguments, None)
    }

    /// As [`Cluster::kubectl`], with something to read.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn kubectl_stdin(&self, arguments: &[&str], input: &str) -> Result<Output> {
        self.kubectl_client().output(arguments, Some(input))
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// The API server refuses one.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl_client()
            .run(&["apply", "-f", "-"], Some(yaml))
            .map(drop)
    }

    /// Waits until a pod is Ready and gives it; its first container is the one that [`TestPod::run`] uses.
    ///
    /// [`TestPod::run`]: crate::pod::TestPod::run
    ///
    /// # Errors
    /// It is not Ready in time; the error holds what the pod's events say.
    pub fn wait_ready(&self, namespace: &str, pod: &str, limit: Duration) -> Result<RealPod> {
        let client = self.kubectl_client();
        let timeout = format!("--timeout={}ms", limit.as_millis());
        let waited = client.run(
            &[
                "wait",
                "-n",
                namespace,
                "--for=condition=Ready",
                &timeout,
                &format!("pod/{pod}"),
            ],
            None,
        );
        if let Err(error) = waited {
            let selector = format!("involvedObject.name={pod}");
            let events = client.run(
                &["get", "events", "-n", namespace, "--field-selector", &selector],
                None,
            );
            return Err(error.context(events.unwrap_or_default()));
        }
        // Of a node that boots, the API server shows what was before until the kubelet is back.
        let deadline = Instant::now() + limit;
        loop {
            match RealPod::find(self, namespace, pod) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
                found => return found,
            }
        }
    }

    /// Runs a program in a container of a pod, by the API.
    ///
    /// # Errors
    /// kubectl cannot be run; that the program fails is in the output.
    pub fn exec(&self, namespace: &str, pod: &str, container: &str, argv: &[&str]) -> Result<Output> {
        let mut arguments = vec!["exec", "-n", namespace, pod, "-c", container, "--"];
        arguments.extend(argv);
        self.kubectl(&arguments)
    }

    /// Puts an image into every node.
    ///
    /// # Errors
    /// A node's containerd refuses it.
    pub fn load_image(&self, image: &Image) -> Result<()> {
        self.about
            .nodes
            .iter()
            .try_for_each(|node| node.load_image(image))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if let Err(error) = self.state.teardown() {
            eprintln!(
                "cluster {} is not down: {error:#}; try `cargo xtask clean`",
                self.state.name()
            );
        }
    }
}

/// Whether the node's kube-proxy has programmed the service addresses at least once.
fn proxy_is_ready(node: &TestNode) -> bool {
    let answer = net::inside(&node.netns, || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect("127.0.0.1:10256")?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /livez HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    answer.is_ok_and(|text| text.split(' ').nth(1) == Some("200"))
}
