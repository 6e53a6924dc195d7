//! What all tests of the suite share: one cluster of two nodes, an agent on each, the pods, and a counting target outside.
//!
//! Namespaces: `agents` is enrolled and enforced, with the pods `worker`, `hosted` (on its node's network) and `remote` (on
//! the second node); `direct` is left alone, with a pod `worker` whose dials show that what is refused here works elsewhere.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use picket_tests::agent::test_binary;
use picket_tests::cluster::Cluster;
use picket_tests::harness;
use picket_tests::images::ExtraFile;
use picket_tests::net;
use picket_tests::pair::{Pair, PairOptions};
use picket_tests::pod::{RealPod, TestPod};
use serde_json::{Value, json};

use crate::target::{ENDPOINT, HOST, HOST6, Target};

/// The running cluster with everything in it.
#[derive(Debug)]
pub(crate) struct World {
    pair: Pair,
    /// The attacker on this machine's own file system.
    pub(crate) attack: PathBuf,
    target: Target,
    /// Whether attackers wait long for an answer.
    pub(crate) patient: AtomicBool,
}

impl Deref for World {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.pair
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Pair {
        &mut self.pair
    }
}

impl harness::World for World {
    fn up() -> Result<Self> {
        let attack = test_binary("picket-attack", "PICKET_ATTACK")?;
        let file = ExtraFile {
            inside: PathBuf::from("/usr/bin/picket-attack"),
            host: attack.clone(),
        };
        let pair = Pair::up(&PairOptions {
            name: "bypass",
            files: &[file],
            more: json!({"protectedEndpoints": {"apiServer": [format!("{HOST}:{ENDPOINT}"), format!("[{HOST6}]:{ENDPOINT}")]}}),
            manifests: include_str!("files/pods.yaml"),
            pods: &[
                ("agents", "worker"),
                ("agents", "hosted"),
                ("agents", "remote"),
                ("direct", "worker"),
            ],
            api_server: &[],
        })?;
        version_6(&pair.cluster)?;
        let target = Target::open(&pair.cluster, &attack)?;
        Ok(Self {
            pair,
            attack,
            target,
            patient: AtomicBool::new(false),
        })
    }

    fn inspect(&mut self) -> Result<()> {
        self.pair.search()
    }

    fn down(self) -> Result<()> {
        self.pair.down()
    }

    fn keep(self) -> Result<()> {
        self.pair.keep()
    }

    fn say(&self) -> String {
        self.pair.say()
    }
}

impl World {
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
