//! What the tests of the suite share: Helm, and a cluster of one node for those that install the chart.

use anyhow::Result;
use picket_tests::agent::picket_binary;
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::{harness, images};

use crate::helm::Helm;

/// Helm, and the cluster once a test asked for it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) helm: Helm,
    cluster: Option<Cluster>,
}

impl World {
    /// Helm, and the cluster, brought up now if it is not; it has the agent's image, and no agent.
    pub(crate) fn cluster(&mut self) -> Result<(&Helm, &Cluster)> {
        let cluster = match self.cluster.take() {
            Some(cluster) => cluster,
            None => Cluster::up(ClusterOptions {
                name: "chart".to_owned(),
                images: vec![images::kubectl()?, images::picket(&picket_binary()?)?],
                ..ClusterOptions::default()
            })?,
        };
        Ok((&self.helm, self.cluster.insert(cluster)))
    }
}

impl harness::World for World {
    fn up() -> Result<Self> {
        Ok(Self {
            helm: Helm::new()?,
            cluster: None,
        })
    }

    fn down(self) -> Result<()> {
        self.cluster.map_or(Ok(()), Cluster::down)
    }

    fn keep(self) -> Result<()> {
        if let Some(mut cluster) = self.cluster {
            cluster.keep()?;
            println!("kept: KUBECONFIG={}", cluster.kubeconfig().display());
        }
        Ok(())
    }

    fn say(&self) -> String {
        let shown = |cluster: &Cluster| {
            let pods = cluster.kubectl(&["get", "pods", "-A", "-o", "wide"]);
            let log = [
                "logs",
                "-n",
                "picket-system",
                "-l",
                "app.kubernetes.io/name=picket",
                "--prefix",
                "--tail=30",
            ];
            let text = |done: Result<std::process::Output>| {
                done.map_or_else(
                    |error| format!("{error:#}"),
                    |done| String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned(),
                )
            };
            format!("{}\n{}", text(pods), text(cluster.kubectl(&log)))
        };
        self.cluster.as_ref().map(shown).unwrap_or_default()
    }
}
