//! What the tests of the suite share: Helm, and a cluster of one node for those that install the chart.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use picket_tests::agent::picket_binary;
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::harness;
use picket_tests::images::{self, Image};
use picket_tests::release::Release;

use crate::helm::Helm;

/// The archive of an image to install in place of the tests' own, as `cargo xtask image` writes it.
const IMAGE: &str = "PICKET_IMAGE";

/// What that image is called.
const REFERENCE: &str = concat!("picket.dev/picket:", env!("CARGO_PKG_VERSION"));

/// Helm, and the cluster once a test asked for it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) helm: Helm,
    /// The agent's image.
    pub(crate) image: Image,
    cluster: Option<Cluster>,
}

impl World {
    /// Helm, and the cluster, brought up now if it is not; it has the agent's image, and no agent.
    pub(crate) fn cluster(&mut self) -> Result<(&Helm, &Cluster)> {
        let cluster = match self.cluster.take() {
            Some(cluster) => cluster,
            None => Cluster::up(ClusterOptions {
                name: "chart".to_owned(),
                images: vec![images::kubectl()?, self.image.clone()],
                // Pods that ask for a certificate, which the guards refuse. Not on by default.
                api_server: vec![
                    "--feature-gates=PodCertificateRequest=true".to_owned(),
                    Release::chosen()?.pod_certificates_api().to_owned(),
                ],
                ..ClusterOptions::default()
            })?,
        };
        Ok((&self.helm, self.cluster.insert(cluster)))
    }
}

fn image() -> Result<Image> {
    let Some(archive) = env::var_os(IMAGE) else {
        return images::picket(&picket_binary()?);
    };
    let archive = PathBuf::from(archive);
    let archive = archive
        .canonicalize()
        .with_context(|| format!("{IMAGE}: {}", archive.display()))?;
    let reference = REFERENCE.to_owned();
    Ok(Image { reference, archive })
}

impl harness::World for World {
    fn up() -> Result<Self> {
        Ok(Self {
            helm: Helm::new()?,
            image: image()?,
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
