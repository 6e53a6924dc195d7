//! What the pods of the lab see while something happens to the release or the cluster.
//!
//! In: the [`crate::lab`]. Out: whether an enrolled pod was answered past its node's agent or dialled past it, and what failed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::packets::PacketCounter;

use crate::lab::{API_SERVER_CA, ENROLLED, EXEMPT, Lab, mark, node_ca};

/// What the pods see from a moment on.
pub(crate) struct Watched<'l, 'w> {
    lab: &'l Lab<'w>,
    packets: Vec<PacketCounter>,
    since: f64,
}

impl<'l, 'w> Watched<'l, 'w> {
    pub(crate) fn start(lab: &'l Lab<'w>) -> Result<Self> {
        let packets = lab.count_packets()?;
        let since = mark();
        // The loads count by quarters of a second.
        std::thread::sleep(Duration::from_millis(300));
        Ok(Self { lab, packets, since })
    }

    /// No enrolled pod was answered but through its node's agent, and none dialled past it. Gives what failed, by pod.
    pub(crate) fn nobody_went_past(&self) -> Result<BTreeMap<String, u64>> {
        let mut all = BTreeMap::new();
        for (node, packets) in self.lab.cluster.nodes().iter().zip(&self.packets) {
            let packets = packets.packets()?;
            ensure!(packets == 0, "{}: {packets} packets went past", node.name);
            self.lab.wait_answered(ENROLLED, node, self.since)?;
            let seen = self.lab.seen(ENROLLED, node, self.since)?;
            let by: Vec<&String> = seen.answered.keys().collect();
            ensure!(by == [&node_ca(node)], "{}: {seen:?}", node.name);
            for (why, count) in seen.failed {
                *all.entry(why).or_default() += count;
            }
        }
        Ok(all)
    }

    /// Pods that are left alone were answered by the API server, each time.
    pub(crate) fn the_exempt_notice_nothing(&self) -> Result<()> {
        for node in self.lab.cluster.nodes() {
            self.lab.wait_answered(EXEMPT, node, self.since)?;
            let seen = self.lab.seen(EXEMPT, node, self.since)?;
            let by: Vec<&String> = seen.answered.keys().collect();
            ensure!(
                by == [API_SERVER_CA] && seen.failed.is_empty(),
                "{}: {seen:?}",
                node.name
            );
        }
        Ok(())
    }

    /// Sessions that were open ended by themselves.
    pub(crate) fn sessions_were_whole(&self) -> Result<usize> {
        let log = self.lab.kubectl(&["-n", ENROLLED, "logs", "sessions"])?;
        let mut whole = 0;
        for line in log.lines() {
            let (time, said) = line.split_once(' ').context("a line of the sessions")?;
            if time.parse::<f64>().is_ok_and(|time| time > self.since + 1.0) {
                ensure!(said == "whole", "a session ended with: {said}");
                whole += 1;
            }
        }
        ensure!(whole >= 3, "{whole} sessions");
        Ok(whole)
    }

    pub(crate) fn answered(&self) -> Result<u64> {
        let mut all = 0;
        for node in self.lab.cluster.nodes() {
            let seen = self.lab.seen(ENROLLED, node, self.since)?;
            all += seen.answered.values().sum::<u64>();
        }
        Ok(all)
    }
}
