//! What all suites share: one cluster of two nodes, an agent on each, the pods, and a counting target outside.
//!
//! Namespaces: `agents` is enrolled and enforced, with the pods `worker`, `hosted` (on its node's network) and `remote` (on
//! the second node); `direct` is left alone, with a pod `worker` whose dials show that what is refused here works elsewhere.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use picket_tests::agent::{self, Agent, AgentOptions, test_binary};
use picket_tests::audit::Since;
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::harness;
use picket_tests::images::{self, ExtraFile};
use picket_tests::net;
use picket_tests::output::Done;
use picket_tests::pod::{RealPod, TestPod};
use serde_json::{Value, json};

use crate::target::{DOOR, HOST, HOST6, Target};

/// How long a pod may take to be Ready; two seconds is usual.
const POD_LIMIT: Duration = Duration::from_secs(90);

const OBJECTS: &str = include_str!("../way/files/objects.yaml");
const MANIFESTS: &str = include_str!("files/pods.yaml");

/// The running cluster with everything in it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    /// The agent of the first node.
    pub(crate) agent: Agent,
    /// The agent of the second node, on the same kernel.
    pub(crate) other: Agent,
    /// The attacker on this machine's own file system.
    pub(crate) attack: PathBuf,
    target: Target,
}

impl harness::World for World {
    fn up() -> Result<Self> {
        let attack = test_binary("picket-attack", "PICKET_ATTACK")?;
        let tools = images::tools(&[ExtraFile {
            inside: PathBuf::from("/usr/bin/picket-attack"),
            host: attack.clone(),
        }])?;
        let options = ClusterOptions {
            nodes: 2,
            name: "kernel".to_owned(),
            images: vec![tools],
        };
        let cluster = Cluster::up(options)?;
        agent::enrol(&cluster, &["agents"])?;
        let options = AgentOptions {
            objects: vec![("objects.yaml".to_owned(), OBJECTS.to_owned())],
            namespaces: vec!["agents".to_owned()],
            users: vec!["agent:worker".to_owned(), "agent:sleeper".to_owned()],
            groups: vec!["agents:lab".to_owned()],
            log: "info,picket=debug".to_owned(),
            more: json!({"doors": [format!("{HOST}:{DOOR}"), format!("[{HOST6}]:{DOOR}")]}),
            ..AgentOptions::default()
        };
        let agent = Agent::start(&cluster, cluster.node(), &options)?;
        let other = Agent::start(&cluster, &cluster.nodes()[1], &options)?;
        cluster.apply(MANIFESTS)?;
        for (namespace, pod) in [
            ("agents", "worker"),
            ("agents", "hosted"),
            ("agents", "remote"),
            ("direct", "worker"),
        ] {
            cluster
                .wait_ready(namespace, pod, POD_LIMIT)
                .with_context(|| format!("pod {namespace}/{pod}"))?;
        }
        version_6(&cluster)?;
        let target = Target::open(&cluster, &attack)?;
        Ok(Self {
            cluster,
            agent,
            other,
            attack,
            target,
        })
    }

    fn down(self) -> Result<()> {
        let ended = [self.agent, self.other].map(|mut agent| {
            if agent.pid().is_some() {
                agent.stop()?;
            }
            agent.uninstall()
        });
        self.cluster.down()?;
        ended.into_iter().collect()
    }

    fn say(&self) -> String {
        // Whole certificates and sets of doors stand in some lines.
        let end = self.agent.log_end();
        let lines: Vec<String> = end.lines().map(|line| line.chars().take(300).collect()).collect();
        format!("the agent's log ends:\n{}", lines.join("\n"))
    }
}

impl World {
    /// Runs a program in a pod's first container.
    pub(crate) fn run(&self, namespace: &str, pod: &str, argv: &[&str]) -> Result<Done> {
        let mut arguments = vec!["exec", "-n", namespace, pod, "--"];
        arguments.extend(argv);
        Ok(self.cluster.kubectl(&arguments)?.into())
    }

    /// A running pod.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Result<RealPod> {
        RealPod::find(&self.cluster, namespace, name)
    }

    /// Does something while the first node's agent runs with another configuration; each change is a restart.
    pub(crate) fn configured<T>(
        &mut self,
        change: impl FnOnce(&mut Value),
        act: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let file = self.agent.config_file();
        let before = fs::read_to_string(&file)?;
        let mut config = serde_json::from_str(&before)?;
        change(&mut config);
        self.agent.stop()?;
        fs::write(&file, config.to_string())?;
        self.agent.restart()?;
        let outcome = act(self);
        self.agent.stop()?;
        fs::write(&file, before)?;
        self.agent.restart()?;
        outcome
    }

    /// What has come to the counting target since the last call.
    pub(crate) fn arrived(&self) -> Result<Vec<String>> {
        self.target.arrived(&self.cluster.node().netns)
    }

    /// kubectl as the administrator, which must succeed.
    pub(crate) fn admin(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl_client().run(arguments, None)
    }

    /// Picket's audit log from now on.
    pub(crate) fn picket_log(&self) -> Since {
        Since::now(&self.agent.audit_file())
    }

    /// The API server's audit log from now on.
    pub(crate) fn server_log(&self) -> Since {
        Since::now(&self.cluster.audit_log())
    }
}

/// Gives the first node, its pods and the target version 6 addresses, which a cluster of version 4 does not, and the target an
/// address that NAT64 would make of its own.
fn version_6(cluster: &Cluster) -> Result<()> {
    let node = &cluster.node().netns;
    let outer = cluster.outer_netns();
    let forward = [
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/all/forwarding", "1"),
    ];
    net::sysctls(node, &forward)?;
    net::sysctls(&outer, &forward)?;
    net::ip(
        &outer,
        &format!(
            "addr add {HOST6}/64 dev br0 nodad\naddr add 64:ff9b::{HOST}/128 dev lo nodad\n\
             route add fd00:244::/64 via fd00:250::1\n"
        ),
    )?;
    net::ip(
        node,
        &format!(
            "addr add fd00:250::1/64 dev eth0 nodad\naddr add fd00:244::1/64 dev cni0 nodad\n\
             route add 64:ff9b::/96 via {HOST6}\n"
        ),
    )?;
    let pod = RealPod::find(cluster, "agents", "worker")?;
    net::sysctls(pod.netns(), &[("ipv6/conf/all/disable_ipv6", "0")])?;
    net::ip(
        pod.netns(),
        "addr add fd00:244::2/64 dev eth0 nodad\nroute add default via fd00:244::1\n",
    )
}
