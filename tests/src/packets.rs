//! What of a pod's traffic goes past the agent: the packets that leave the pod for the API server.
//!
//! In: a node and a pod on it. Out: a count by the node's own packet filter. A redirected connect sends no packet out of the pod.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::TestNode;
use crate::output::Done;
use crate::pod::{RealPod, TestPod as _};

/// Counts until it is dropped.
#[derive(Debug)]
pub struct PacketCounter {
    node: TestNode,
    table: String,
}

impl PacketCounter {
    /// Counts, in the node, the packets that come from the pod and are for a port of the API server's.
    ///
    /// # Errors
    /// nft is missing or fails.
    pub fn start(node: &TestNode, pod: &RealPod) -> Result<Self> {
        let table = format!("picket_test_{}_{}", pod.namespace(), pod.name());
        let rules = format!(
            "table ip {table} {{\nchain seen {{\ntype filter hook prerouting priority -400;\n\
             ip saddr {} tcp dport {{ 443, 6443 }} counter\n}}\n}}",
            pod.address()
        );
        let counter = Self {
            node: node.clone(),
            table,
        };
        counter.nft(&[&rules])?;
        Ok(counter)
    }

    /// How many there were.
    ///
    /// # Errors
    /// The node is gone.
    pub fn packets(&self) -> Result<u64> {
        let shown = self.nft(&["-j", "list", "table", "ip", &self.table])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let found = shown["nftables"].as_array().into_iter().flatten();
        found
            .filter_map(|one| one["rule"]["expr"].as_array())
            .flatten()
            .find_map(|one| one["counter"]["packets"].as_u64())
            .context("nft shows no counter")
    }

    fn nft(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("nft");
        command.args(arguments);
        Done::from(self.node.output(command)?).good()
    }
}

impl Drop for PacketCounter {
    fn drop(&mut self) {
        // The node's namespace goes with the cluster anyway.
        let _ = self.nft(&["delete", "table", "ip", &self.table]);
    }
}
