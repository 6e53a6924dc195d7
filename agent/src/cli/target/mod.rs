//! The objects that a command is about, and how it prints them: shared by `picket identity` and `picket grant`.
//!
//! In: `--files`, `--cluster`, or the configuration whose `objects` are meant. Out: [`Objects`], lists of them for people and for
//! programs, and word of when a change is in force.
//!
//! | file | holds |
//! |---|---|
//! | `api` | objects that the cluster keeps: listed, changed, and when they are in force |
//! | `moment` | moments as people write them: a date, or a time from now |
//! | `print` | objects as a table, JSON, YAML or names |
//! | `wait` | when a change is in force on this node |

mod api;
pub(super) mod moment;
pub(super) mod print;
pub(super) mod wait;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use picket_policy::{Document, PolicySet};

use super::sessions::block_on;
use crate::cluster::PersonalConfig;
use crate::config;
use crate::store::edit::ObjectFiles;
use api::ApiObjects;
use wait::{InForce, Waited};

/// Which objects a command is about.
#[derive(Debug, Args)]
pub(in crate::cli) struct Target {
    /// Files, or folders whose .yaml and .yml files are read. Default: those that `objects` names in the configuration.
    #[arg(short, long, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// The objects that the cluster keeps. Default where the configuration has `objects: {cluster: true}`.
    #[arg(long, conflicts_with = "files")]
    cluster: bool,
    /// The kubeconfig for --cluster, which it implies. Default: as kubectl has it, then the pod's own account, then the node's.
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context for --cluster, which it implies. Default: the current one.
    #[arg(long, value_name = "NAME", conflicts_with = "files")]
    context: Option<String>,
    /// The node's configuration file. Default: /etc/picket/agent.yaml where that file exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The objects of a [`Target`].
#[derive(Debug)]
pub(in crate::cli) enum Objects {
    /// In files.
    Files(ObjectFiles),
    /// In the cluster.
    Cluster(Box<ApiObjects>),
}

impl Objects {
    /// The objects.
    pub(in crate::cli) fn documents(&self) -> impl Iterator<Item = &Document> {
        let (files, cluster) = match self {
            Self::Files(files) => (Some(files.documents()), None),
            Self::Cluster(cluster) => (None, Some(cluster.documents())),
        };
        files.into_iter().flatten().chain(cluster.into_iter().flatten())
    }

    /// What the agent would make of them.
    pub(in crate::cli) fn set(&self) -> &PolicySet {
        match self {
            Self::Files(files) => files.set(),
            Self::Cluster(cluster) => cluster.set(),
        }
    }

    /// An object.
    ///
    /// # Errors
    /// Where there is none of that kind and name.
    pub(in crate::cli) fn find(&self, kind: &str, name: &str) -> anyhow::Result<&Document> {
        match self {
            Self::Files(files) => Ok(files.find(kind, name)?),
            Self::Cluster(cluster) => cluster.find(kind, name),
        }
    }
}

/// Where the objects of a [`Target`] are.
enum Place {
    Files(Vec<PathBuf>),
    Cluster(PersonalConfig),
}

impl Target {
    /// Reads the objects.
    ///
    /// # Errors
    /// Where it is not known which are meant, or they cannot be read, or are not valid.
    pub(in crate::cli) fn read(&self) -> anyhow::Result<Objects> {
        match self.place()? {
            Place::Files(paths) => Ok(Objects::Files(ObjectFiles::read(&paths)?)),
            Place::Cluster(person) => Ok(Objects::Cluster(Box::new(ApiObjects::read(&person)?))),
        }
    }

    /// Reads the objects to shut an agent out, which faults of other objects must not keep anybody from.
    ///
    /// # Errors
    /// Where it is not known which are meant, or they cannot be read.
    pub(in crate::cli) fn read_faulty(&self) -> anyhow::Result<Objects> {
        match self.place()? {
            Place::Files(paths) => Ok(Objects::Files(ObjectFiles::read_faulty(&paths)?)),
            // Objects of the cluster are judged one by one.
            Place::Cluster(_) => self.read(),
        }
    }

    fn place(&self) -> anyhow::Result<Place> {
        if !self.files.is_empty() {
            return Ok(Place::Files(self.files.clone()));
        }
        let config = super::configuration(self.config.as_deref())?;
        let is_cluster = self.cluster || self.kubeconfig.is_some() || self.context.is_some();
        if is_cluster || config.as_ref().is_some_and(|config| config.objects.cluster) {
            return Ok(Place::Cluster(PersonalConfig {
                kubeconfig: self.kubeconfig.clone(),
                context: self.context.clone(),
                otherwise: config.map(|config| config.cluster.kubeconfig),
            }));
        }
        let config = config.with_context(|| {
            format!(
                "which objects are meant? There is no {}, so name files or folders with --files, or the cluster with --cluster",
                config::DEFAULT_PATH
            )
        })?;
        Ok(Place::Files(config.objects.files))
    }

    /// The socket of this node's agent, as far as the configuration tells.
    pub(in crate::cli) fn socket(&self) -> PathBuf {
        let config = super::configuration(self.config.as_deref()).ok().flatten();
        config.map(|config| config.admin).unwrap_or_default().socket
    }
}

/// What a command that changes objects is told besides.
#[derive(Debug, Args)]
pub(in crate::cli) struct ChangeArgs {
    /// Check and say what would be done, and write nothing.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// How long to wait for the change to be in force, on this node or in the cluster, in seconds; 0 does not wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=60))]
    pub(in crate::cli) wait: u8,
    #[command(flatten)]
    pub(in crate::cli) target: Target,
}

impl ChangeArgs {
    /// Adds an object that YAML says. A dry run prints it.
    ///
    /// # Errors
    /// Where it cannot be added.
    pub(in crate::cli) fn add(
        &self,
        kind: &str,
        name: &str,
        yaml: &str,
        in_force: InForce,
    ) -> anyhow::Result<()> {
        let objects = self.target.read()?;
        let written = match &objects {
            Objects::Files(files) => Written::File(files.add(kind, name, yaml, self.dry_run)?),
            Objects::Cluster(cluster) => Written::Generation(cluster.add(kind, yaml, self.dry_run)?),
        };
        if self.dry_run {
            print!("{yaml}");
            return Ok(());
        }
        self.done(&objects, kind, name, "created", &written, &in_force)
    }

    /// Sets text fields of an object among `objects`; `done` is what became of it.
    ///
    /// # Errors
    /// Where they cannot be set.
    pub(in crate::cli) fn set(
        &self,
        objects: &Objects,
        kind: &str,
        name: &str,
        fields: &[(&[&str], &str)],
        done: &str,
        in_force: InForce,
    ) -> anyhow::Result<()> {
        let written = match objects {
            Objects::Files(files) => Written::File(files.set_fields(kind, name, fields, self.dry_run)?),
            Objects::Cluster(cluster) => {
                Written::Generation(cluster.set_fields(kind, name, fields, self.dry_run)?)
            }
        };
        self.done(objects, kind, name, done, &written, &in_force)
    }

    /// Takes an object out.
    ///
    /// # Errors
    /// Where it cannot be taken out.
    pub(in crate::cli) fn remove(&self, kind: &str, name: &str, in_force: InForce) -> anyhow::Result<()> {
        let objects = self.target.read()?;
        let written = match &objects {
            Objects::Files(files) => Written::File(files.remove(kind, name, self.dry_run)?),
            Objects::Cluster(cluster) => {
                cluster.remove(kind, name, self.dry_run)?;
                Written::Gone
            }
        };
        self.done(&objects, kind, name, "deleted", &written, &in_force)
    }

    /// Says what was done, as kubectl does, and when it is in force.
    fn done(
        &self,
        objects: &Objects,
        kind: &str,
        name: &str,
        done: &str,
        written: &Written,
        in_force: &InForce,
    ) -> anyhow::Result<()> {
        let reference = print::reference(kind, name);
        let place = match written {
            Written::File(file) => format!(" in {}", file.display()),
            Written::Generation(_) | Written::Gone => String::new(),
        };
        if self.dry_run {
            println!("{reference} {done}{place} (dry run)");
            return Ok(());
        }
        println!("{reference} {done}{place}");
        if self.wait == 0 {
            return Ok(());
        }
        let limit = Duration::from_secs(self.wait.into());
        let waited = match (written, objects) {
            (Written::File(file), _) => block_on(wait::wait(&self.target.socket(), file, limit, in_force))?,
            (Written::Generation(generation), Objects::Cluster(cluster)) => {
                cluster.wait(kind, name, *generation, limit)?
            }
            (Written::Generation(_) | Written::Gone, _) => Waited::GoneFromCluster,
        };
        println!("{}", waited.sentence());
        Ok(())
    }
}

/// What a change left behind.
enum Written {
    /// A file that was replaced.
    File(PathBuf),
    /// An object of this generation at the API server.
    Generation(i64),
    /// An object less there.
    Gone,
}
