//! What all suites share: one cluster of two nodes, an agent on each, the pods, and the objects that say who may do what.
//!
//! Namespaces: `agents` is enrolled and enforced, with the pod `worker`; `direct` is left alone, with a pod of the same name
//! and rights, whose answers the others are compared with; `lab` holds what both work on; `vault` is outside every grant.
//! All are on the first node but `lab/target` and `agents/remote`, so that sessions cross from one node to the other.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use picket_tests::agent::{self, Agent, AgentOptions, test_binary};
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::harness;
use picket_tests::images::{self, ExtraFile};

use picket_tests::audit::Since;
use picket_tests::output::Done;
use picket_tests::running::Running;

/// How long a pod may take to be Ready; two seconds is usual.
const POD_LIMIT: Duration = Duration::from_secs(90);

const OBJECTS: &str = include_str!("files/objects.yaml");
const MANIFESTS: &str = include_str!("files/pods.yaml");

/// The running cluster with everything in it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) agent: Agent,
    /// The agent of the second node, on the same kernel.
    pub(crate) other: Agent,
}

impl harness::World for World {
    fn up() -> Result<Self> {
        let client = test_binary("picket-test-client", "PICKET_TEST_CLIENT")?;
        let python = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/compat.py"));
        let tools = images::tools(&[
            ExtraFile {
                inside: PathBuf::from("/usr/bin/picket-test-client"),
                host: client,
            },
            ExtraFile {
                inside: PathBuf::from("/usr/bin/compat.py"),
                host: python,
            },
        ])?;
        let options = ClusterOptions {
            nodes: 2,
            name: "way".to_owned(),
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
            ..AgentOptions::default()
        };
        let agent = Agent::start(&cluster, cluster.node(), &options)?;
        let other = Agent::start(&cluster, &cluster.nodes()[1], &options)?;
        cluster.apply(MANIFESTS)?;
        for (namespace, pod) in [
            ("agents", "worker"),
            ("agents", "sleeper"),
            ("agents", "stranger"),
            ("agents", "remote"),
            ("direct", "worker"),
            ("lab", "target"),
        ] {
            cluster
                .wait_ready(namespace, pod, POD_LIMIT)
                .with_context(|| format!("pod {namespace}/{pod}"))?;
        }
        Ok(Self {
            cluster,
            agent,
            other,
        })
    }

    fn down(self) -> Result<()> {
        let World {
            cluster,
            agent,
            other,
        } = self;
        let ended = [agent, other].map(|mut agent| {
            if agent.pid().is_some() {
                agent.stop()?;
            }
            agent.uninstall()
        });
        cluster.down()?;
        ended.into_iter().collect()
    }

    fn say(&self) -> String {
        format!("the agent's log ends:\n{}", self.agent.log_end())
    }
}

impl World {
    /// Runs a program in a pod's first container.
    pub(crate) fn run(&self, namespace: &str, pod: &str, argv: &[&str]) -> Result<Done> {
        let mut arguments = vec!["exec", "-n", namespace, pod, "--"];
        arguments.extend(argv);
        Ok(self.cluster.kubectl(&arguments)?.into())
    }

    /// Runs a shell line in the pod whose calls go through Picket.
    pub(crate) fn worker(&self, line: &str) -> Result<Done> {
        self.run("agents", "worker", &["sh", "-c", line])
    }

    /// Starts a shell line in that pod, to be read while it runs.
    pub(crate) fn start_worker(&self, line: &str) -> Result<Running> {
        Running::start(
            &self.cluster.kubectl_client(),
            "agents",
            "worker",
            &["sh", "-c", line],
        )
    }

    /// Runs a Python program in a pod; `arguments` follow it.
    pub(crate) fn python(&self, pod: &str, program: &str, arguments: &[&str]) -> Result<Done> {
        let mut argv = vec!["python3", "-c", program];
        argv.extend(arguments);
        self.run("agents", pod, &argv)
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
