//! What the tests of the suite share: Helm, a cluster of one node for those that install the chart, and after it one of two nodes.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use picket_tests::agent::picket_binary;
use picket_tests::build::GoProgram;
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::images::{self, ExtraFile, Image};
use picket_tests::release::Release;
use picket_tests::{harness, other_layout};

use crate::helm::Helm;

/// The archive of an image to install in place of the tests' own, as `cargo xtask image` writes it.
const IMAGE: &str = "PICKET_IMAGE";

/// In the image of the older build: gives a program another clock.
pub(crate) const WRONG_CLOCK: &str = "/usr/lib/wrong-clock.so";

/// What that image is called.
const REFERENCE: &str = concat!("picket.dev/picket:", env!("CARGO_PKG_VERSION"));

/// Helm, and the cluster once a test asked for it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) helm: Helm,
    /// The agent's image.
    pub(crate) image: Image,
    cluster: Option<Cluster>,
    /// The image of a build whose kernel maps have another layout, once a test asked for it.
    older: Option<Image>,
}

impl World {
    /// Helm, and the cluster, brought up now if it is not; it has the agent's image, and no agent.
    pub(crate) fn cluster(&mut self) -> Result<(&Helm, &Cluster)> {
        let options = |world: &Self| {
            Ok(ClusterOptions {
                name: "chart".to_owned(),
                images: vec![images::kubectl()?, world.image.clone()],
                // Pods that ask for a certificate, which the guards refuse. Not on by default.
                api_server: vec![
                    "--feature-gates=PodCertificateRequest=true".to_owned(),
                    Release::chosen()?.pod_certificates_api().to_owned(),
                ],
                ..ClusterOptions::default()
            })
        };
        self.of_nodes(1, options)?;
        let cluster = self.cluster.as_ref().context("no cluster")?;
        Ok((&self.helm, cluster))
    }

    /// Helm, a cluster of two nodes, and the image of an older build that the nodes have too.
    pub(crate) fn pair(&mut self) -> Result<(&Helm, &Cluster, &Image)> {
        let older = match self.older.take() {
            Some(older) => older,
            None => older_build()?,
        };
        let older = self.older.insert(older).clone();
        let informers = ExtraFile {
            inside: PathBuf::from("/usr/bin/informers"),
            host: GoProgram::Informers.path()?,
        };
        let options = |world: &Self| {
            Ok(ClusterOptions {
                nodes: 2,
                name: "life".to_owned(),
                images: vec![images::tools(&[informers])?, world.image.clone(), older],
                ..ClusterOptions::default()
            })
        };
        self.of_nodes(2, options)?;
        let cluster = self.cluster.as_ref().context("no cluster")?;
        let older = self.older.as_ref().context("no older build")?;
        Ok((&self.helm, cluster, older))
    }

    /// Has a cluster of so many nodes. One of another number is taken down first: the machine may be small.
    fn of_nodes(
        &mut self,
        nodes: usize,
        options: impl FnOnce(&Self) -> Result<ClusterOptions>,
    ) -> Result<()> {
        if self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.nodes().len() == nodes)
        {
            return Ok(());
        }
        self.cluster.take().map_or(Ok(()), Cluster::down)?;
        self.cluster = Some(Cluster::up(options(self)?)?);
        Ok(())
    }
}

/// The tests' own build with other maps, whatever image is installed, and with a library that changes its clock.
fn older_build() -> Result<Image> {
    let folder = tempfile::tempdir()?;
    let program = other_layout::write(&picket_binary()?, folder.path())?;
    let arch = env::consts::ARCH;
    let clock = ExtraFile {
        inside: PathBuf::from(WRONG_CLOCK),
        host: PathBuf::from(format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1")),
    };
    images::picket_as("picket.test/picket:older", &program, &[clock])
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
            older: None,
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
