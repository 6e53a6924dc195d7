//! A cluster of two nodes with an agent on each, and pods: what the worlds of the suites stand on.
//!
//! In: the pods, what their image holds beside the usual, and the agents' further options. Out: a [`Pair`]. Its namespace
//! `agents` is enrolled and enforced, by the objects of `e2e/files/objects.yaml`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{self, Agent, AgentOptions};
use crate::agreement;
use crate::audit::Since;
use crate::cluster::{Cluster, ClusterOptions};
use crate::images::{self, ExtraFile};
use crate::leaks;
use crate::output::Done;
use crate::release::Release;
use crate::secrets::Secrets;

/// How long a pod may take to be Ready; two seconds is usual.
const POD_LIMIT: Duration = Duration::from_secs(90);

/// How long the pods' manifests may be refused at first.
const APPLY_LIMIT: Duration = Duration::from_secs(30);

/// Who may do what.
const OBJECTS: &str = include_str!("../e2e/files/objects.yaml");

/// What a pair is made of.
#[derive(Debug)]
pub struct PairOptions<'a> {
    /// The cluster's name.
    pub name: &'a str,
    /// Programs of the pods' image.
    pub files: &'a [ExtraFile],
    /// More of the agents' configuration, as in [`AgentOptions::more`].
    pub more: Value,
    /// The pods, and what they need.
    pub manifests: &'a str,
    /// Those that are waited for, by namespace and name.
    pub pods: &'a [(&'a str, &'a str)],
    /// More arguments of the API server.
    pub api_server: &'a [&'a str],
}

/// The running cluster and its agents.
#[derive(Debug)]
pub struct Pair {
    /// The cluster.
    pub cluster: Cluster,
    /// The agent of the first node.
    pub agent: Agent,
    /// The agent of the second node, on the same kernel.
    pub other: Agent,
    /// What nobody may find in anything that is written; tests add the secrets that they make.
    pub secrets: Secrets,
}

impl Pair {
    /// Brings it all up.
    ///
    /// # Errors
    /// Something does not start.
    pub fn up(options: &PairOptions<'_>) -> Result<Self> {
        let cluster = Cluster::up(ClusterOptions {
            nodes: 2,
            name: options.name.to_owned(),
            images: vec![images::tools(options.files)?],
            api_server: [options.api_server, Release::chosen()?.mutating_policies()]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect(),
        })?;
        agent::enrol(&cluster, &["agents"])?;
        let told = AgentOptions {
            objects: vec![("objects.yaml".to_owned(), OBJECTS.to_owned())],
            namespaces: vec!["agents".to_owned()],
            users: vec!["agent:worker".to_owned(), "agent:sleeper".to_owned()],
            groups: vec!["agents:lab".to_owned()],
            log: "info,picket=debug".to_owned(),
            more: options.more.clone(),
            ..AgentOptions::default()
        };
        let agent = Agent::start(&cluster, cluster.node(), &told)?;
        let other = Agent::start(&cluster, &cluster.nodes()[1], &told)?;
        // A namespace's default account comes a moment after it, and pods are refused until then.
        let deadline = Instant::now() + APPLY_LIMIT;
        while let Err(error) = cluster.apply(options.manifests) {
            ensure!(Instant::now() < deadline, "{error:#}");
            std::thread::sleep(Duration::from_millis(500));
        }
        for (namespace, pod) in options.pods {
            cluster
                .wait_ready(namespace, pod, POD_LIMIT)
                .with_context(|| format!("pod {namespace}/{pod}"))?;
        }
        Ok(Self {
            cluster,
            agent,
            other,
            secrets: Secrets::default(),
        })
    }

    /// Searches all that was written for the suite's secrets, as the last test does and any may.
    ///
    /// # Errors
    /// One is found.
    pub fn search(&self) -> Result<()> {
        leaks::search(self)
    }

    /// Takes it all down.
    ///
    /// # Errors
    /// Something does not go away.
    pub fn down(self) -> Result<()> {
        let ended = [self.agent, self.other].map(|mut agent| {
            if agent.pid().is_some() {
                agent.stop()?;
            }
            agent.uninstall()
        });
        self.cluster.down()?;
        ended.into_iter().collect()
    }

    /// Leaves it all up when this process ends, and says on stderr how to use it and how to end it.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn keep(mut self) -> Result<()> {
        self.cluster.keep()?;
        let name = self.cluster.name();
        eprintln!(
            "the cluster is still up:\n  \
             cargo xtask cluster shell --name {name}   a shell with kubectl as its administrator\n  \
             {}   the first agent's files and its log\n  \
             cargo xtask cluster down --name {name}    end it",
            self.agent.dir().display()
        );
        self.agent.keep();
        self.other.keep();
        Ok(())
    }

    /// The end of the first agent's log.
    pub fn say(&self) -> String {
        // Whole certificates and sets of protected endpoints stand in some lines.
        let end = self.agent.log_end();
        let lines: Vec<String> = end.lines().map(|line| line.chars().take(300).collect()).collect();
        format!("the agent's log ends:\n{}", lines.join("\n"))
    }

    /// Runs a program in a pod's first container.
    ///
    /// # Errors
    /// It cannot be run; that it fails is in the output.
    pub fn run(&self, namespace: &str, pod: &str, argv: &[&str]) -> Result<Done> {
        let mut arguments = vec!["exec", "-n", namespace, pod, "--"];
        arguments.extend(argv);
        Ok(self.cluster.kubectl(&arguments)?.into())
    }

    /// kubectl as the administrator, which must succeed.
    ///
    /// # Errors
    /// It does not.
    pub fn admin(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl_client().run(arguments, None)
    }

    /// Compares what both audit logs say of each request since the beginning: Picket's, of the first agent, and the API server's.
    ///
    /// # Errors
    /// They differ, or have no request in common.
    pub fn compare_logs(&self) -> Result<()> {
        let found = agreement::compare(&self.agent.audit_directory(), &self.cluster.audit_log())?;
        println!(
            "{} events of the API server are about the {} answered requests of Picket's log",
            found.joined, found.answered
        );
        found.check()
    }

    /// Picket's audit log from now on.
    pub fn picket_log(&self) -> Since {
        Since::now(&self.agent.audit_directory())
    }

    /// The API server's audit log from now on.
    pub fn server_log(&self) -> Since {
        Since::now(&self.cluster.audit_log())
    }
}
