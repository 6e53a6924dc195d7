//! What all tests of the suite share: one cluster of two nodes, an agent on each, the pods, and the objects that say who may do what.
//!
//! Namespaces: `agents` is enrolled and enforced, with the pod `worker`; `direct` is left alone, with a pod of the same name
//! and rights, whose answers the others are compared with; `lab` holds what both work on; `vault` is outside every grant.
//! All are on the first node but `lab/target` and `agents/remote`, so that sessions cross from one node to the other.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use anyhow::Result;
use picket_tests::agent::test_binary;
use picket_tests::build::GoProgram;
use picket_tests::harness;
use picket_tests::images::ExtraFile;
use picket_tests::output::Done;
use picket_tests::pair::{Pair, PairOptions};
use picket_tests::running::Running;
use serde_json::Value;

use crate::mcp;

/// The running cluster with everything in it.
#[derive(Debug)]
pub(crate) struct World(Pair);

impl Deref for World {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.0
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Pair {
        &mut self.0
    }
}

impl harness::World for World {
    fn up() -> Result<Self> {
        let client = test_binary("picket-test-client", "PICKET_TEST_CLIENT")?;
        let python = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/compat.py"));
        let files = [
            ExtraFile {
                inside: PathBuf::from("/usr/bin/picket-test-client"),
                host: client,
            },
            ExtraFile {
                inside: PathBuf::from("/usr/bin/compat.py"),
                host: python,
            },
            ExtraFile {
                inside: PathBuf::from("/usr/bin/kubectl.1.27"),
                host: GoProgram::KubectlOld.path()?,
            },
            ExtraFile {
                inside: PathBuf::from("/usr/bin/curl"),
                host: PathBuf::from("/usr/bin/curl"),
            },
            ExtraFile {
                inside: PathBuf::from("/usr/bin/informers"),
                host: GoProgram::Informers.path()?,
            },
            ExtraFile {
                inside: PathBuf::from(mcp::INSIDE),
                host: mcp::server()?,
            },
        ];
        let options = PairOptions {
            name: "e2e",
            files: &files,
            more: Value::Null,
            manifests: include_str!("files/pods.yaml"),
            pods: &[
                ("agents", "worker"),
                ("agents", "sleeper"),
                ("agents", "stranger"),
                ("agents", "remote"),
                ("direct", "worker"),
                ("lab", "target"),
            ],
            // Managed control planes do so too: of 50 requests over HTTP/2 one is answered with GOAWAY besides.
            api_server: &["--goaway-chance=0.02"],
        };
        Pair::up(&options).map(Self)
    }

    fn inspect(&mut self) -> Result<()> {
        self.0.search()?;
        self.0.compare_logs()
    }

    fn down(self) -> Result<()> {
        self.0.down()
    }

    fn keep(self) -> Result<()> {
        self.0.keep()
    }

    fn say(&self) -> String {
        self.0.say()
    }
}

/// A watch of one object.
const WATCH_TICK: &str = "kubectl get --raw '/api/v1/namespaces/lab/configmaps?watch=true&fieldSelector=metadata.name%3Dtick' \
    2>&1; echo over $?";

impl World {
    /// Runs a shell line in the pod whose calls go through Picket.
    pub(crate) fn worker(&self, line: &str) -> Result<Done> {
        self.run("agents", "worker", &["sh", "-c", line])
    }

    /// Starts a shell line in that pod, to be read while it runs.
    pub(crate) fn start_worker(&self, line: &str) -> Result<Running> {
        self.start("worker", line)
    }

    /// Starts a shell line in a pod of the agents, to be read while it runs.
    pub(crate) fn start(&self, pod: &str, line: &str) -> Result<Running> {
        Running::start(&self.cluster.kubectl_client(), "agents", pod, &["sh", "-c", line])
    }

    /// Starts a watch in a pod of the agents that ends with `over` and its exit code, and waits for its first event.
    pub(crate) fn watch_tick(&self, pod: &str) -> Result<Running> {
        let watch = self.start(pod, WATCH_TICK)?;
        watch.line_with("ADDED")?;
        Ok(watch)
    }

    /// Runs a Python program in a pod; `arguments` follow it.
    pub(crate) fn python(&self, pod: &str, program: &str, arguments: &[&str]) -> Result<Done> {
        let mut argv = vec!["python3", "-c", program];
        argv.extend(arguments);
        self.run("agents", pod, &argv)
    }
}
